"""What a paper says that a mixture is made of, to be shown beside what it is made of here. Imports no SeqIO."""

from __future__ import annotations

import collections
import dataclasses
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from itune.data.registry import TaskInfo


@dataclasses.dataclass(frozen=True, kw_only=True)
class Published:
    """source: the paper, and what of it.  shares: of its parts, by name.  part_of: the part that a task belongs to."""

    source: str
    shares: Mapping[str, float]
    part_of: Callable[[TaskInfo], str]


_published: dict[str, Published] = {}


def publish(mixture: str, published: Published) -> None:
    """Makes known what a paper says of a mixture, for `python -m itune.tasks show`."""
    _published[mixture] = published


def published(mixture: str) -> Published | None:
    return _published.get(mixture)


def shares_by(
    rated: Iterable[tuple[TaskInfo, float]], key: Callable[[TaskInfo], str]
) -> dict[str, tuple[float, int, int]]:
    """Of each part: its share of the rates, how many tasks and how many data sets it has; the largest first."""
    rates: dict[str, float] = collections.defaultdict(float)
    tasks: dict[str, set[str]] = collections.defaultdict(set)
    data_sets: dict[str, set[str]] = collections.defaultdict(set)
    for info, rate in rated:
        part = key(info)
        rates[part] += rate
        tasks[part].add(info.name)
        data_sets[part].add(info.identity)
    total = sum(rates.values())
    largest = sorted(rates.items(), key=lambda item: -item[1])
    return {part: (rate / total, len(tasks[part]), len(data_sets[part])) for part, rate in largest}
