"""Which tasks and mixtures there are, by cluster, licence, collection and size. Loads SeqIO only where it must."""

from __future__ import annotations

import collections
import importlib
import os
import sys
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

from itune.data import lazy
from itune.data.lazy import Summary
from itune.errors import UserError, nearest

if TYPE_CHECKING:
    from itune.data import registry

OTHER = "registered"  # the collection of what a module registers itself


def summaries(modules: Sequence[str]) -> list[Summary]:
    """Every task and mixture that the modules make known, sorted by name. Raises: UserError for a module."""
    import_modules(modules)
    return known(strict=True)


def known(*, strict: bool = False) -> list[Summary]:
    """Every task and mixture that is registered, or that a loader would register, sorted by name.

    Raises: UserError of a loader that cannot say it, where `strict`; else that one is passed over.
    """
    found = {summary.name: summary for summary in lazy.summaries(strict=strict)}
    if "itune.data.registry" in sys.modules:
        from itune.data import registry

        for info in registry.TASKS.values():
            found.setdefault(info.name, _summary(info))
        for name in registry.mixture_names():
            found.setdefault(name, Summary(name=name, collection=OTHER, mixture=True))
    return [found[name] for name in sorted(found)]


def import_modules(modules: Sequence[str]) -> None:
    """Imports what registers tasks, "tasks" where none is named. Raises: UserError for a module that is not there."""
    for name in modules or ("tasks",):
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UserError(f"--module_import={name}: no module named {error.name!r}") from None


def load_registry() -> None:
    """Imports what loads SeqIO and TensorFlow, without the lines that these write before they can be told not to."""
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")  # of no use to it here
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "w") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        importlib.import_module("itune.data.registry")
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _summary(info: registry.TaskInfo) -> Summary:
    return Summary(
        name=info.name,
        cluster=info.cluster,
        licence=info.licence,
        collection=OTHER,
        identity=info.identity,
        description=info.description,
    )


def matching(
    summaries: Iterable[Summary],
    *,
    cluster: str = "",
    licence: str = "",
    collection: str = "",
    at_least: int | None = None,
    at_most: int | None = None,
) -> list[Summary]:
    """Those of that cluster and collection, of a licence that holds the words, of so many published examples.

    Raises: UserError with the nearest name for a cluster or collection that there is not.
    """
    found = list(summaries)
    for field, asked in (("cluster", cluster), ("collection", collection)):
        there = {getattr(summary, field) for summary in found} - {""}
        if asked and asked not in there:
            hint = nearest(asked, there) or f" There are {', '.join(sorted(there))}."
            raise UserError(f"--{field}={asked}: no task is of it.{hint}")
        found = [summary for summary in found if asked in ("", getattr(summary, field))]
    found = [summary for summary in found if licence.casefold() in summary.licence.casefold()]
    if at_least is not None or at_most is not None:
        found = [
            s for s in found if s.examples is not None and (at_least or 0) <= s.examples <= (at_most or s.examples)
        ]
    return found


def counts(summaries: Iterable[Summary], field: str) -> dict[str, int]:
    """Number of tasks by "cluster" or "collection", the most first."""
    found = collections.Counter(getattr(s, field) for s in summaries if not s.mixture)
    return dict(sorted(found.items(), key=lambda item: (-item[1], item[0])))


def by_data_set(summaries: Iterable[Summary]) -> list[tuple[Summary, list[str]]]:
    """A line for each data set: its summary with its variants ("rte": zs, zs_opt, ...); other tasks by themselves."""
    groups: dict[tuple[str, str], list[Summary]] = collections.defaultdict(list)
    for summary in summaries:
        head = summary.name.rpartition("/")[0]
        key = (head, summary.collection) if summary.collection == "library" else (summary.name, summary.collection)
        groups[key].append(summary)
    return [
        (found[0], [s.name.rpartition("/")[2] for s in found] if found[0].name != name else [])
        for (name, _), found in groups.items()
    ]
