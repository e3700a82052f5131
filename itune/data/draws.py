"""The draw stream: draw i is an example of a task, in one of its renderings.

    stages      which rates hold at draw i                    Stage: until so many draws
    task, n     draw i is the n-th draw of task k             Allocation: virtual time, random access
    example     of the task's epoch n // size                 keyed order, without replacement
    record      the example's variant of this epoch           keyed offset + epoch

Only examples that can be placed are drawn, so rates hold for what is learnt. All is integer arithmetic.
"""

from __future__ import annotations

import collections
import itertools
from collections.abc import Iterator, Sequence

import numpy as np

from itune.data.allocation import RATE_UNIT, Allocation
from itune.data.keyed import hash64, key64, keyed_order
from itune.data.plan_tasks import Placeable, PlanTask
from itune.data.rates import Stage

_CACHED_ORDERS = 1 << 25  # examples, at 4 bytes


def by_task(task: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(k, where task == k), for each k that occurs."""
    order = np.argsort(task, kind="stable")
    edges = [0, *(np.flatnonzero(np.diff(task[order])) + 1).tolist(), len(task)]
    for a, b in itertools.pairwise(edges if len(task) else []):
        yield int(task[order[a]]), order[a:b]


class DrawStream:
    """Random access to the stream of draws.

    tasks: in the mixture's order, which numbers them.  placeable: their examples that can be placed, None for a task
    that is never drawn.  stages: rates and how long they hold.  limits: most draws of each task, or None for no end.

    Attributes total: draws in all, None if there is no end.
    """

    def __init__(
        self,
        tasks: Sequence[PlanTask],
        placeable: Sequence[Placeable | None],
        stages: Sequence[Stage],
        limits: Sequence[int | None],
        *,
        seed: int,
    ):
        self._tasks, self._placeable, self._seed = tuple(tasks), tuple(placeable), seed
        self._orders: collections.OrderedDict[tuple[int, int], np.ndarray] = collections.OrderedDict()
        self._kept = 0
        keys = _allocation_keys(tasks, seed)
        # Of each stage: its first draw, and how often each task was drawn before it.
        self._stages: list[tuple[int, np.ndarray, Allocation]] = []
        first, before = 0, np.zeros(len(tasks), np.int64)
        self.total: int | None = None
        for stage in stages:
            if stage.until is not None and stage.until <= first:
                continue
            left = [None if n is None else max(0, n - int(m)) for n, m in zip(limits, before, strict=True)]
            allocation = Allocation(stage.rates, [key % RATE_UNIT for key in keys], left, keys)
            self._stages.append((first, before, allocation))
            if stage.until is None:
                self.total = None if allocation.total is None else first + allocation.total
                break
            length = stage.until - first
            if allocation.total is not None:
                length = min(length, allocation.total)  # its tasks are used up: the next stage begins early
            first, before = first + length, before + allocation.counts_of(length)

    def stage_starts(self) -> list[int]:
        """The first draw of each stage."""
        return [first for first, _, _ in self._stages]

    def shares(self, first: int, last: int) -> np.ndarray:
        """float64 [K]: the share of the draws first..last-1 that the rates ask for, by task; the stream's if none."""
        asked = np.zeros(len(self._tasks))
        for begin, end, allocation in self._overlaps(first, max(last, first + 1)):
            asked += (end - begin) * allocation.rates.astype(np.float64) / RATE_UNIT
        return asked / max(1, last - first)

    def draws(self, first: int, last: int) -> dict[str, np.ndarray]:
        """int64 columns task, record and epoch of the draws first..last-1; fewer where the stream ends."""
        if self.total is not None:
            last = min(last, self.total)
        task, n = np.zeros(0, np.int64), np.zeros(0, np.int64)
        for begin, end, allocation in self._overlaps(first, last):
            start, before, _ = self._stages[self._number(begin)]
            tasks, number = allocation.draws(begin - start, end - start)
            task, n = np.concatenate([task, tasks]), np.concatenate([n, number + before[tasks]])
        record, epoch = np.empty_like(n), np.empty_like(n)
        for k, mine in by_task(task):
            record[mine], epoch[mine] = self._records(k, n[mine])
        return {"task": task, "record": record, "epoch": epoch}

    def _number(self, draw: int) -> int:
        return max(s for s, (first, _, _) in enumerate(self._stages) if first <= draw)

    def _overlaps(self, first: int, last: int) -> Iterator[tuple[int, int, Allocation]]:
        ends = [begin for begin, _, _ in self._stages[1:]] + [max(last, self._stages[-1][0] + 1)]
        for (begin, _, allocation), end in zip(self._stages, ends, strict=True):
            if max(first, begin) < min(last, end):
                yield max(first, begin), min(last, end), allocation

    def _records(self, k: int, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(record, epoch) of the n-th draws of a task."""
        task, placeable = self._tasks[k], self._placeable[k]
        assert placeable is not None, "a task that is never drawn"
        epoch, place = np.divmod(n, len(placeable.examples))
        example = np.empty_like(n)
        for e, mine in by_task(epoch):
            example[mine] = self._order(k, e, placeable)[place[mine]]
        if task.variants == 1:
            return example, epoch
        offset = hash64(key64("variant", self._seed, task.identity), task.example_keys[example])
        variant = (offset % np.uint64(task.variants)).astype(np.int64) + epoch
        return placeable.record(example, variant), epoch

    def _order(self, k: int, epoch: int, placeable: Placeable) -> np.ndarray:
        """int32: a task's examples in the order of an epoch, by (seed, identity, epoch) alone; the last used are kept.

        Leaving examples out doesn't change the order of the others.
        """
        order = self._orders.pop((k, epoch), None)
        if order is None:
            task, examples = self._tasks[k], placeable.examples
            key = key64("order", self._seed, task.identity, epoch)
            order = examples[keyed_order(key, task.example_keys[examples])].astype(np.int32)
            self._kept += len(order)
            while self._orders and self._kept > _CACHED_ORDERS:
                self._kept -= len(self._orders.popitem(last=False)[1])
        self._orders[k, epoch] = order
        return order


def _allocation_keys(tasks: Sequence[PlanTask], seed: int) -> list[int]:
    """By identity, so that the arms of a study draw alike; numbered, so that two views in one mixture differ."""
    seen: collections.Counter[str] = collections.Counter()
    keys = []
    for task in tasks:
        keys.append(key64("allocation", seed, task.identity, seen[task.identity]))
        seen[task.identity] += 1
    return keys
