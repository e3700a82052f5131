"""The rates of a run: the mixture's own, what the run says instead, and stages of a curriculum.

A run names tasks by their names, by patterns ("clinic/*"), by their cluster ("cluster:nli") or by their source data
set, under any of its names ("source:super_glue/rte"); a name goes before all else, then what is said first.
"""

from __future__ import annotations

import dataclasses
import fnmatch
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from itune.data.allocation import quantise_rates
from itune.data.identities import canonical
from itune.data.keyed import key64
from itune.errors import UserError, nearest

if TYPE_CHECKING:
    from itune.data.config import DataConfig

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage:
    """Rates that hold until so many examples have been drawn in all; None: to the end. rates: integers, sum 2^32."""

    until: int | None
    rates: tuple[int, ...]


class Known(Protocol):
    """A task as rates may name it. identity: its source data set's."""

    @property
    def name(self) -> str: ...
    @property
    def cluster(self) -> str: ...
    @property
    def identity(self) -> str: ...


CLUSTER, SOURCE = "cluster:", "source:"


def fits(task: Known, key: str) -> bool:
    if key.startswith(CLUSTER):
        return task.cluster == key.removeprefix(CLUSTER)
    if key.startswith(SOURCE):
        return canonical(task.identity) == canonical(key.removeprefix(SOURCE))
    return task.name == key or fnmatch.fnmatchcase(task.name, key)


def by_name(tasks: Sequence[Known], said: Mapping[str, T], where: str) -> dict[str, T]:
    """`said` as it is, where it names no cluster and no source; else what it says of each task that something fits.

    Raises: UserError, with the nearest, for a cluster or source that none of the tasks has.
    """
    if not any(key.startswith((CLUSTER, SOURCE)) for key in said):
        return dict(said)
    for key in said:
        if not any(fits(task, key) for task in tasks):
            there = [
                *(t.name for t in tasks),
                *(CLUSTER + t.cluster for t in tasks),
                *(SOURCE + t.identity for t in tasks),
            ]
            raise UserError(f"{where}: no task of the mixture is called {key!r}.{nearest(key, sorted(set(there)))}")
    found = {}
    for task in tasks:
        first = next((key for key in said if fits(task, key)), None)
        if first is not None:
            found[task.name] = said[task.name if task.name in said else first]
    return found


def spelt(data: DataConfig, tasks: Sequence[Known]) -> DataConfig:
    """With the names of tasks for what it names by cluster or source. Raises: UserError, as `by_name`."""
    said = {f: getattr(data, f) for f in ("rates", "rate_factors", "task_epochs")}
    stages = tuple(
        (until, by_name(tasks, rates, f"DataConfig.curriculum[{n}]"))
        for n, (until, rates) in enumerate(data.curriculum)
    )
    named: dict[str, Any] = {f: by_name(tasks, rates, f"DataConfig.{f}") for f, rates in said.items()}
    return dataclasses.replace(data, curriculum=stages, **named)


def lookup(names: Sequence[str], said: Mapping[str, float], where: str) -> list[float | None]:
    """What `said` gives to each task, or None. UserError, with the nearest name, for an entry that fits no task."""
    used: set[str] = set()
    found: list[float | None] = []
    for name in names:
        key = name if name in said else next((key for key in said if fnmatch.fnmatchcase(name, key)), None)
        used.update(key for key in said if fnmatch.fnmatchcase(name, key) or key == name)
        found.append(None if key is None else said[key])
    for key in said:
        if key not in used:
            raise UserError(f"{where}: no task of the mixture is called {key!r}.{nearest(key, names)}")
    return found


def override(names: Sequence[str], rates: Sequence[float], said: Mapping[str, float], where: str) -> list[float]:
    """`rates`, but for the tasks that `said` names. Raises UserError as `lookup`, and where no task is left."""
    changed = [old if new is None else new for old, new in zip(rates, lookup(names, said, where), strict=True)]
    if not any(changed):
        raise UserError(f"{where}: every task of the mixture has the rate 0")
    return changed


def nested(tasks: Sequence[tuple[str, str]], max_tasks: int, max_clusters: int) -> set[str]:
    """Names of so many tasks of so many clusters (0: all), of (name, cluster): what fewer choose, more choose too.

    Raises: UserError where there are fewer.
    """
    clusters = sorted({cluster for _, cluster in tasks}, key=lambda cluster: key64("max_clusters", cluster))
    _check_count("max_clusters", max_clusters, len(clusters))
    left = [name for name, cluster in tasks if not max_clusters or cluster in clusters[:max_clusters]]
    _check_count("max_tasks", max_tasks, len(left))
    left.sort(key=lambda name: key64("max_tasks", name))
    return set(left[:max_tasks] if max_tasks else left)


def _check_count(field: str, asked: int, there: int) -> None:
    if asked > there:
        raise UserError(f"DataConfig.{field}={asked}: there are {there}")


def scaled(
    names: Sequence[str], mixture_rates: Sequence[float], said: Mapping[str, float], factors: Mapping[str, float]
) -> list[float]:
    """The mixture's rates, replaced as `said`, times `factors`. Raises UserError as `override`."""
    base = override(names, mixture_rates, said, "DataConfig.rates")
    found = lookup(names, factors, "DataConfig.rate_factors")
    changed = [rate if factor is None else rate * factor for rate, factor in zip(base, found, strict=True)]
    if not any(changed):
        raise UserError("DataConfig.rate_factors: every task of the mixture has the rate 0")
    return changed


def stage_rates(
    names: Sequence[str],
    mixture_rates: Sequence[float],
    rates: Mapping[str, float],
    curriculum: Sequence[tuple[int, Mapping[str, float]]],
) -> list[tuple[int | None, list[float]]]:
    """(until, rate of each task) of each stage; the last one has no end.

    mixture_rates: the mixture's own.  rates: what the run says instead.  curriculum: (until example, rates that replace
    these) of stages before that, in order.
    """
    base = override(names, mixture_rates, rates, "DataConfig.rates")
    stages: list[tuple[int | None, list[float]]] = []
    for number, (until, said) in enumerate(curriculum):
        stages.append((until, override(names, base, said, f"DataConfig.curriculum[{number}]")))
    return [*stages, (None, base)]


def quantise_stages(stages: Sequence[tuple[int | None, Sequence[float]]], unit_size: Sequence[Fraction]) -> list[Stage]:
    """Stages in whole numbers of examples. unit_size: of each task, the mean over its examples of what rates are shares
    of: a task of long examples is drawn less often."""
    return [
        Stage(
            until=until,
            rates=tuple(quantise_rates([Fraction(r) / size for r, size in zip(rates, unit_size, strict=True)])),
        )
        for until, rates in stages
    ]
