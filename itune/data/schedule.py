"""Which example goes in which packed row: a pure function of (seed, rates, what was prepared), as index arithmetic.

    draw stream    draw i is the n-th draw of task k          Allocation: virtual time, random access
    example        draw n of k is an example of its epoch     keyed order, without replacement
    window         `window` draws, packed alone               rows permuted by key (seed, window)
    row i          found in the cumulative row counts         the plan grows ahead of training

Nothing here knows hosts, devices, batch sizes or restarts. Legend: K tasks, L tokens, T supervised predictions, S
segments a row.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import itertools
import threading
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from itune.data.allocation import RATE_UNIT, UNLIMITED, Allocation, quantise_rates
from itune.data.keyed import hash64, key64, keyed_order, permutation
from itune.data.packing import PACKER_VERSION, Limits, choose_budgets, fit, pack
from itune.data.plan_tasks import PlanTask, TaskIndex, check_tasks, plan_digest

if TYPE_CHECKING:
    from itune.data.config import DataConfig
    from itune.data.manifest import Manifest

__all__ = ["Plan", "PlanTask", "PlannedRow", "RowPlan", "Segment", "TaskIndex"]

PLAN_VERSION = 1
_CACHED_DRAWS = 1 << 20  # of planned windows, at 60 bytes
_CACHED_ORDERS = 1 << 25  # examples, at 4 bytes
_SAMPLE_WINDOWS, _SAMPLE_DRAWS = 8, 8192


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Segment:
    """One example in a row, after truncation. task: its number in the plan.  record: its number in the task's split."""

    task: int
    record: int
    epoch: int
    num_inputs: int
    num_targets: int


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class PlannedRow:
    """Segment s (from 1, in order of placement) of the row is `segments[s - 1]`. Padding rows have none."""

    window: int
    row: int
    segments: tuple[Segment, ...]


class RowPlan(Protocol):
    """What the feed needs of a plan: for training (Plan) and for evaluation (evalplan.SequentialPlan)."""

    tasks: tuple[PlanTask, ...]
    L: int
    T: int
    S: int

    def row(self, i: int) -> PlannedRow: ...
    @property
    def most_rows(self) -> int: ...


def groups(task: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """(k, where task == k), for each k that occurs."""
    order = np.argsort(task, kind="stable")
    edges = [0, *(np.flatnonzero(np.diff(task[order])) + 1).tolist(), len(task)]
    for a, b in itertools.pairwise(edges if len(task) else []):
        yield int(task[order[a]]), order[a:b]


class _Orders:
    """Each task's examples in the order of an epoch, by (seed, identity, epoch) alone; the last used are kept."""

    def __init__(self, tasks: Sequence[PlanTask], seed: int):
        self._tasks, self._seed = tasks, seed
        self._kept: collections.OrderedDict[tuple[int, int], np.ndarray] = collections.OrderedDict()
        self._size = 0

    def examples(self, task: np.ndarray, n: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(example, epoch) of the n-th draws of tasks, int64 arrays of one length."""
        sizes = np.array([t.num_examples for t in self._tasks])[task]
        epoch, place = np.divmod(n, sizes)
        example = np.empty_like(n)
        for k, where in groups(task):
            for e, inside in groups(epoch[where]):
                mine = where[inside]
                example[mine] = self._order(k, e)[place[mine]]
        return example, epoch

    def _order(self, task: int, epoch: int) -> np.ndarray:
        order = self._kept.pop((task, epoch), None)
        if order is None:
            t = self._tasks[task]
            order = keyed_order(key64("order", self._seed, t.identity, epoch), t.example_keys).astype(np.int32)
            self._size += len(order)
            while self._kept and self._size > _CACHED_ORDERS:
                self._size -= len(self._kept.popitem(last=False)[1])
        self._kept[task, epoch] = order
        return order


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Window:
    """A packed window: columns per placed example, by row; row r is start[r]:start[r + 1].  dropped: int64 [K]."""

    start: np.ndarray
    task: np.ndarray
    record: np.ndarray
    epoch: np.ndarray
    num_inputs: np.ndarray
    num_targets: np.ndarray
    predictions: np.ndarray
    cut: np.ndarray
    cut_targets: np.ndarray
    dropped: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.start) - 1


class Plan:
    """The training schedule. Thread-safe; identical on every host and after any restart.

    tasks: in the mixture's order, which numbers them.  seed: the run's.  row_length: L.  supervised_per_row,
    segments_per_row: T and S, chosen from the first windows' lengths where 0.  window: draws packed together.
    max_epochs: each task stops after so many passes; 0 for no end.  feature_lengths: {"inputs": n, "targets": m}, most
    tokens of an example.

    Attributes L, T, S; limits: most tokens of an example; digest: sha256 of everything that rows depend on.
    Raises UserError for a task without examples, and if no example fits.
    """

    def __init__(
        self,
        tasks: Sequence[PlanTask],
        *,
        seed: int,
        row_length: int,
        supervised_per_row: int = 0,
        segments_per_row: int = 0,
        window: int = 1024,
        max_epochs: int = 0,
        feature_lengths: Mapping[str, int],
    ):
        self.tasks = tuple(tasks)
        self.seed, self.L, self.window, self.max_epochs = seed, row_length, window, max_epochs
        self._feature_lengths = dict(feature_lengths)
        self._lock = threading.RLock()
        self._drop = np.array([t.overlong == "drop" for t in tasks])
        self._rates = quantise_rates([t.rate for t in tasks])
        self.limits = Limits(
            inputs=feature_lengths["inputs"],
            targets=feature_lengths["targets"],
            row_length=row_length,
            supervised=supervised_per_row or row_length,
        )
        longest = check_tasks([t for t, rate in zip(tasks, self._rates, strict=True) if rate], self.limits)
        self._allocation = self._allocate()
        self._orders = _Orders(self.tasks, seed)
        self._windows: collections.OrderedDict[int, _Window] = collections.OrderedDict()
        self._first_rows = [0]  # of each planned window, and of the next one
        self.T, self.S = choose_budgets(
            self._sample() if not (supervised_per_row and segments_per_row) else [],
            row_length=row_length,
            supervised=supervised_per_row,
            segments=segments_per_row,
            min_supervised=longest,
        )
        self.limits = dataclasses.replace(self.limits, supervised=self.T)
        self.digest = plan_digest(self._inputs(), self.tasks)

    @classmethod
    def from_manifest(cls, manifest: Manifest, data: DataConfig, *, seed: int) -> Plan:
        """The plan of a run."""
        return cls(
            [PlanTask.from_manifest(task, data.split) for task in manifest.train],
            seed=seed,
            row_length=data.row_length,
            supervised_per_row=data.supervised_per_row,
            segments_per_row=data.segments_per_row,
            window=data.window,
            max_epochs=data.max_epochs,
            feature_lengths=data.feature_lengths,
        )

    # Rows.

    def row(self, i: int) -> PlannedRow:
        """Row i of the run. Raises IndexError past the end of a plan that ends."""
        window, row = self.locate(i)
        w = self._window(window)
        columns = (w.task, w.record, w.epoch, w.num_inputs, w.num_targets)
        cells = zip(*(column[w.start[row] : w.start[row + 1]].tolist() for column in columns), strict=True)
        segments = tuple(Segment(task=k, record=r, epoch=e, num_inputs=n, num_targets=m) for k, r, e, n, m in cells)
        return PlannedRow(window=window, row=row, segments=segments)

    def locate(self, i: int) -> tuple[int, int]:
        """(window, row in it) of row i. Raises IndexError as `row`."""
        if i < 0 or self.ensure_rows(i + 1) <= i:
            raise IndexError(f"row {i} of a plan of {self._first_rows[-1]} rows")
        window = bisect.bisect_right(self._first_rows, i) - 1
        return window, i - self._first_rows[window]

    def index_of(self, window: int, row: int) -> int:
        """The inverse of `locate`."""
        counts = self.rows_in_windows(window + 1)
        if not (0 <= window < len(counts) and 0 <= row < counts[window]):
            raise IndexError(f"the plan has no row {row} in window {window}")
        return self._first_rows[window] + row

    def ensure_rows(self, n: int) -> int:
        """Plan ahead to at least n rows, or to the end; returns the number of rows planned."""
        with self._lock:
            while self._first_rows[-1] < n and self._grow():
                pass
            return self._first_rows[-1]

    def rows_in_windows(self, n_windows: int) -> list[int]:
        """Rows in each of the first windows; fewer than asked if the plan ends."""
        with self._lock:
            while len(self._first_rows) <= n_windows and self._grow():
                pass
            starts = self._first_rows[: n_windows + 1]
            return [last - first for first, last in itertools.pairwise(starts)]

    @property
    def num_rows(self) -> int | None:
        """Rows in all; None without max_epochs. The first call plans to the end."""
        return None if self._allocation.total is None else self.ensure_rows(self.most_rows)

    @property
    def most_rows(self) -> int:
        """A bound on num_rows that costs nothing."""
        return UNLIMITED if self._allocation.total is None else self._allocation.total

    # What rows hold.

    def examples_of_step(self, step: int, batch_size: int) -> list[tuple[str, int]]:
        """(task, record) of every example in update `step`, from 0; `Reader.record` gives a record's id."""
        first = step * batch_size
        rows = [self.row(i) for i in range(first, min(first + batch_size, self.ensure_rows(first + batch_size)))]
        return [(self.tasks[s.task].name, s.record) for row in rows for s in row.segments]

    def summary(self, first_row: int, last_row: int) -> dict[str, Any]:
        """What rows [first_row, last_row) hold, JSON-able.

          {"rows": n,
           "tasks": {name: {"share_asked", "share_got", "examples", "tokens", "supervised_tokens", "truncated",
                            "truncated_targets", "dropped", "epochs"}},
           "fill": {"tokens", "supervised", "segments"}}

        Shares are of draws, in 0..1. Of `examples`, those placed, `truncated` lost tokens, `truncated_targets` their
        EOS too. dropped: drawn but not placed; they count with their window's first row. epochs: passes within the
        stretch. Fills are of L, T and S, in 0..1; only the scarcest of the three can be near 1.
        """
        last_row = min(last_row, self.ensure_rows(last_row + 1))
        sums = self._sums(first_row, last_row)
        drawn = sums["examples"] + sums["dropped"]
        tasks: dict[str, dict[str, float]] = {}
        for k, task in enumerate(self.tasks):
            shares = {"share_asked": self._rates[k] / RATE_UNIT, "share_got": int(drawn[k]) / max(1, int(drawn.sum()))}
            counts = {name: int(column[k]) for name, column in sums.items()}
            tasks[task.name] = shares | counts | {"epochs": int(drawn[k]) / max(1, task.num_examples)}
        rows = max(0, last_row - first_row)
        budgets = {
            "tokens": ("tokens", self.L),
            "supervised": ("supervised_tokens", self.T),
            "segments": ("examples", self.S),
        }
        fill = {name: int(sums[of].sum()) / (max(1, rows) * budget) for name, (of, budget) in budgets.items()}
        return {"rows": rows, "tasks": tasks, "fill": fill}

    def _sums(self, first_row: int, last_row: int) -> dict[str, np.ndarray]:
        """Counts by task, int64 [K] each, named as in `summary`, over rows that are planned."""
        names = ("examples", "tokens", "supervised_tokens", "truncated", "truncated_targets", "dropped")
        sums = {name: np.zeros(len(self.tasks), np.int64) for name in names}
        starts = self._first_rows
        ends = self.ensure_rows(last_row + 1) == last_row
        # A window of dropped examples alone has no row of its own: it counts where the next row does, or with the last.
        first = bisect.bisect_left(starts, first_row)
        if first == len(starts) or starts[first] > first_row:
            first -= 1
        stop = len(starts) - 1 if ends else bisect.bisect_left(starts, last_row)
        for number in range(first, stop):
            base, w = starts[number], self._window(number)
            rows = slice(w.start[max(0, first_row - base)], w.start[min(w.num_rows, last_row - base)])
            columns = (np.ones_like(w.task), w.num_inputs + w.num_targets, w.predictions, w.cut, w.cut_targets)
            for name, column in zip(names, columns, strict=False):
                np.add.at(sums[name], w.task[rows], column[rows])
            if first_row <= base:
                sums["dropped"] += w.dropped
        return sums

    def describe(self) -> dict[str, Any]:
        """JSON-able: everything that `digest` is of, but for the digest of each task's arrays, and the digest."""
        return self._inputs() | {"digest": self.digest}

    # How windows are made.

    def _allocate(self) -> Allocation:
        seen: collections.Counter[str] = collections.Counter()
        keys = []
        for task in self.tasks:
            # By identity, so that the arms of a study draw alike; numbered, so that two views in one mixture differ.
            keys.append(key64("allocation", self.seed, task.identity, seen[task.identity]))
            seen[task.identity] += 1
        limits = [self.max_epochs * t.num_examples for t in self.tasks] if self.max_epochs else None
        return Allocation(self._rates, [key % RATE_UNIT for key in keys], limits, keys)

    def _draw(self, window: int) -> dict[str, np.ndarray]:
        """Columns of a window's draws, in the stream's order: task, record, epoch; empty past the end."""
        first, last = window * self.window, (window + 1) * self.window
        if self._allocation.total is not None:
            last = min(last, self._allocation.total)
        if last <= first:
            return {}
        task, n = self._allocation.draws(first, last)
        example, epoch = self._orders.examples(task, n)
        record = np.empty_like(example)
        for k, mine in groups(task):
            t = self.tasks[k]
            if t.variants == 1:
                record[mine] = example[mine]
                continue
            key = key64("variant", self.seed, t.identity)
            offset = hash64(key, t.example_keys[example[mine]]) % np.uint64(t.variants)
            variant = (offset.astype(np.int64) + epoch[mine]) % t.variants
            record[mine] = example[mine] * t.variants + variant
        return {"task": task, "record": record, "epoch": epoch}

    def _lengths(self, draws: dict[str, np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
        """(inputs, targets) of draws, before truncation."""
        lengths = np.empty((2, len(draws["task"])), np.int64)
        for k, mine in groups(draws["task"]):
            index = self.tasks[k].index
            lengths[:, mine] = index.inputs[draws["record"][mine]], index.targets[draws["record"][mine]]
        return lengths[0], lengths[1]

    def _sample(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """(tokens, predictions) of the first windows' placed examples."""
        windows = []
        for number in range(max(1, min(_SAMPLE_WINDOWS, _SAMPLE_DRAWS // self.window))):
            if draws := self._draw(number):
                fitted = fit(*self._lengths(draws), self._drop[draws["task"]], self.limits)
                windows.append((fitted.tokens[~fitted.dropped], fitted.predictions[~fitted.dropped]))
        return windows

    def _plan_window(self, number: int) -> _Window | None:
        if not (draws := self._draw(number)):
            return None
        fitted = fit(*self._lengths(draws), self._drop[draws["task"]], self.limits)
        kept = np.flatnonzero(~fitted.dropped)
        packed = pack(
            fitted.tokens[kept], fitted.predictions[kept], row_length=self.L, supervised=self.T, segments=self.S
        )
        # Best-fit-decreasing leaves rows ordered by length; a curriculum nobody asked for.
        packed = packed.permuted(permutation(key64("rows", self.seed, number), packed.num_rows))
        order = kept[packed.order]
        return _Window(
            start=packed.start,
            **{name: column[order] for name, column in draws.items()},
            num_inputs=fitted.num_inputs[order],
            num_targets=fitted.num_targets[order],
            predictions=fitted.predictions[order],
            cut=(fitted.cut_inputs | fitted.cut_targets)[order],
            cut_targets=fitted.cut_targets[order],
            dropped=np.bincount(draws["task"][fitted.dropped], minlength=len(self.tasks)),
        )

    def _window(self, number: int) -> _Window:
        with self._lock:
            window = self._windows.pop(number, None) or self._plan_window(number)
            assert window is not None, "only planned windows are asked for"
            self._windows[number] = window
            if len(self._windows) > max(4, _CACHED_DRAWS // self.window):
                self._windows.popitem(last=False)
            return window

    def _grow(self) -> bool:
        """Plan the next window; False at the end of the stream."""
        number = len(self._first_rows) - 1
        if self._allocation.total is not None and number * self.window >= self._allocation.total:
            return False
        self._first_rows.append(self._first_rows[-1] + self._window(number).num_rows)
        return True

    def _inputs(self) -> dict[str, Any]:
        tasks = [
            {
                "name": t.name,
                "identity": t.identity,
                "rate": rate,
                "examples": t.num_examples,
                "variants": t.variants,
                "overlong": t.overlong,
                "truncate_side": t.truncate_side,
                "fingerprint": t.fingerprint,
            }
            for t, rate in zip(self.tasks, self._rates, strict=True)
        ]
        return {
            "plan_version": PLAN_VERSION,
            "packer_version": PACKER_VERSION,
            "converter": "causal",
            "seed": self.seed,
            "L": self.L,
            "T": self.T,
            "S": self.S,
            "window": self.window,
            "max_epochs": self.max_epochs,
            "feature_lengths": dict(sorted(self._feature_lengths.items())),
            "tasks": tasks,
        }
