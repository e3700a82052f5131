"""Tasks that are registered when they are asked for, so that importing a library of hundreds costs next to nothing.

A provider stands for a name and all that begins with it and "/": "rte" for "rte/zs_opt". It can say what it would
register without doing so, for listings. Imports neither SeqIO nor TensorFlow.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path

from itune.errors import UserError

Loader = Callable[[], object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Summary:
    """A task, or a mixture, in a line of a listing.

    Attributes:
      collection: what it came with: "library", "niv2", ...
      identity: its source data set.
      examples: training rows as its owner publishes them; None where that is not known.
      mixture: whether it is one; it has no cluster and no licence then.
    """

    name: str
    cluster: str = ""
    licence: str = ""
    collection: str = ""
    identity: str = ""
    description: str = ""
    examples: int | None = None
    mixture: bool = False


Describe = Callable[[], Iterable[Summary]]


@dataclasses.dataclass(frozen=True)
class _Provider:
    loader: Loader
    describe: Describe | None


_pending: dict[str, list[_Provider]] = {}


def provide(names: Iterable[str], loader: Loader, describe: Describe | None = None) -> None:
    """Asking for one of `names`, or for a task that begins with one and "/", runs `loader` once, which registers it.

    describe: what it would register; without it a listing has to load.
    """
    provider = _Provider(loader, describe)
    for name in names:
        _pending.setdefault(name, []).append(provider)


def provide_module(names: Iterable[str], module: str, describe: Describe | None = None) -> None:
    """The same with a module, which registers on import."""
    provide(names, functools.partial(importlib.import_module, module), describe)


def provide_catalogue(path: str | Path) -> None:
    """Makes known what modules register, from a JSON file: {module: [a `Summary`'s fields, ...]}."""
    for module, listed in json.loads(Path(path).read_text("utf-8")).items():
        found = [Summary(**fields) for fields in listed]
        provide_module([summary.name for summary in found], module, functools.partial(list, found))


def load(name: str) -> bool:
    """Runs the loaders that stand for `name`, or for what it begins with; False where there are none (any more)."""
    parts = name.split("/")
    for end in range(len(parts), 0, -1):
        if providers := _pending.get("/".join(parts[:end])):
            for provider in list(providers):
                _run(provider)
            return True
    return False


def load_all() -> None:
    """Runs every loader that has not run."""
    while _pending:
        _run(next(iter(_pending.values()))[0])


def pending() -> list[str]:
    """The names that loaders stand for, sorted."""
    return sorted(_pending)


def summaries(*, strict: bool = True) -> list[Summary]:
    """What the loaders that have not run would register. Those that cannot say it are run, and left out here.

    Raises: UserError of the first that fails; where not `strict`, such a one is passed over.
    """
    found: list[Summary] = []
    for provider in dict.fromkeys(provider for providers in list(_pending.values()) for provider in providers):
        try:
            if provider.describe is None:
                _run(provider)
            else:
                found += provider.describe()
        except UserError:
            if strict:
                raise
    return found


def _run(provider: _Provider) -> None:
    # Taken out first: what it loads may ask for names of its own, and a failed one is not tried again and again.
    for name, providers in list(_pending.items()):
        _pending[name] = [other for other in providers if other is not provider]
        if not _pending[name]:
            del _pending[name]
    provider.loader()
