"""Which example goes in which packed row: a pure function of (seed, rates, what was prepared), as index arithmetic.

    draw stream    draw i is a record of task k               draws.DrawStream, random access
    window         `window` draws, packed alone               rows permuted by key (seed, window)
    chunk          windows planned at once                    an example of each in a step of numpy
    row i          found in the cumulative row counts         the plan grows ahead of training

Nothing here knows hosts, devices, batch sizes or restarts. Legend: K tasks, L tokens, T supervised predictions, S
segments a row, Le encoder tokens a row.
"""

from __future__ import annotations

import bisect
import collections
import dataclasses
import itertools
import threading
from collections.abc import Mapping, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from itune.data.allocation import UNLIMITED
from itune.data.draws import DrawStream, by_task
from itune.data.keyed import key64, permutation
from itune.data.packing import PACKER_VERSION, Fitted, Limits, choose_budgets, fit, pack_windows
from itune.data.plan_tasks import PlanTask, TaskIndex, capped, placeable, plan_digest, with_templates
from itune.data.rates import lookup, nested, override, quantise_stages, scaled, spelt, stage_rates

if TYPE_CHECKING:
    from itune.data.config import DataConfig
    from itune.data.manifest import Manifest

__all__ = ["Plan", "PlanTask", "PlannedRow", "RowPlan", "Segment", "TaskIndex"]

PLAN_VERSION = 2
_CHUNK_DRAWS = 1 << 14
_CACHED_CHUNKS = 32
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
    converter: str
    L: int
    T: int
    S: int
    Le: int

    def row(self, i: int) -> PlannedRow: ...
    @property
    def most_rows(self) -> int: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Chunk:
    """Packed windows: columns per example, by row; row r is start[r]:start[r + 1], window w has rows[w]:rows[w + 1]."""

    rows: np.ndarray
    start: np.ndarray
    task: np.ndarray
    record: np.ndarray
    epoch: np.ndarray
    num_inputs: np.ndarray
    num_targets: np.ndarray
    predictions: np.ndarray
    cut: np.ndarray
    cut_targets: np.ndarray


class Plan:
    """The training schedule. Thread-safe; identical on every host and after any restart.

    tasks: in the mixture's order, which numbers them.  seed: the run's.  row_length: L.  supervised_per_row,
    segments_per_row: T and S, chosen from the lengths of each stage's first windows where 0.  window: draws packed
    together.  feature_lengths: {"inputs": n, "targets": m}, most tokens of an example.  The others are as in
    `DataConfig`.

    Attributes L, T, S, Le; converter; draws: the stream; drawable: examples of each task that are ever
    drawn; limits: most tokens of an example; digest: sha256 of
    everything that rows depend on.
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
        converter: str = "causal",
        encoder_row_length: int = 0,
        rates: Mapping[str, float] | None = None,
        rate_unit: str = "examples",
        curriculum: Sequence[tuple[int, Mapping[str, float]]] = (),
        max_epochs: int = 0,
        task_epochs: Mapping[str, int] | None = None,
        feature_lengths: Mapping[str, int],
    ):
        self.tasks = tuple(tasks)
        self.seed, self.L, self.Le, self.window = seed, row_length, encoder_row_length, window
        self.converter, self.rate_unit = converter, rate_unit
        self._feature_lengths = dict(feature_lengths)
        self._lock = threading.RLock()
        self._drop = np.array([t.overlong == "drop" for t in tasks])
        if converter == "encoder_decoder":
            supervised_per_row = row_length  # a decoder predicts at every position
        self.limits = Limits(
            inputs=feature_lengths["inputs"],
            targets=feature_lengths["targets"],
            row_length=row_length,
            supervised=supervised_per_row or row_length,
            encoder=encoder_row_length,
        )
        names = [task.name for task in tasks]
        self._epochs = [
            int(max_epochs if epochs is None else epochs)
            for epochs in lookup(names, task_epochs or {}, "DataConfig.task_epochs")
        ]
        stages = stage_rates(names, [task.rate for task in tasks], rates or {}, curriculum)
        drawn = [any(of_stage[k] for _, of_stage in stages) for k in range(len(names))]
        self._placeable = [placeable(t, self.limits) if d else None for t, d in zip(tasks, drawn, strict=True)]
        self.drawable = [0 if p is None else len(p.examples) for p in self._placeable]
        unit_size = [Fraction(1) if p is None else p.means[rate_unit] for p in self._placeable]
        self._stages = quantise_stages(stages, unit_size)
        limits = [epochs * n if n and epochs else None for n, epochs in zip(self.drawable, self._epochs, strict=True)]
        self.draws = DrawStream(tasks, self._placeable, self._stages, limits, seed=seed)
        self._chunks: collections.OrderedDict[int, _Chunk] = collections.OrderedDict()
        self._first_rows = [0]  # of each planned window, and of the next one
        self.T, self.S = choose_budgets(
            self._sample() if not (supervised_per_row and segments_per_row) else [],
            row_length=self.Le or row_length,
            supervised=supervised_per_row,
            segments=segments_per_row,
            min_supervised=max(p.longest for p in self._placeable if p is not None),
        )
        self.limits = dataclasses.replace(self.limits, supervised=self.T)
        self.digest = plan_digest(self._inputs(), self.tasks)

    @classmethod
    def from_manifest(
        cls, manifest: Manifest, data: DataConfig, *, seed: int, excluded: Mapping[str, np.ndarray] | None = None
    ) -> Plan:
        """The plan of a run. excluded: by task, bool [examples], those that must not be trained on."""
        data = spelt(data, manifest.train)
        whole = (PlanTask.from_manifest(task, data.split) for task in manifest.train)
        tasks = [dataclasses.replace(task, excluded=(excluded or {}).get(task.name)) for task in whole]
        if data.rate_cap:
            counted = [float(min(task.num_examples, data.rate_cap)) if task.rate else 0.0 for task in tasks]
            tasks = [dataclasses.replace(task, rate=rate) for task, rate in zip(tasks, counted, strict=True)]
        rates: Mapping[str, float] = data.rates
        if data.rate_factors:
            by_task = scaled([t.name for t in tasks], [t.rate for t in tasks], rates, data.rate_factors)
            tasks = [dataclasses.replace(t, rate=rate) for t, rate in zip(tasks, by_task, strict=True)]
            rates = {}
        if data.max_tasks or data.max_clusters:
            chosen = nested([(task.name, task.cluster) for task in manifest.train], data.max_tasks, data.max_clusters)
            by_task = override([t.name for t in tasks], [t.rate for t in tasks], rates, "DataConfig.rates")
            kept = [rate if t.name in chosen else 0.0 for t, rate in zip(tasks, by_task, strict=True)]
            tasks, rates = [dataclasses.replace(t, rate=rate) for t, rate in zip(tasks, kept, strict=True)], {}
        return cls(
            [with_templates(capped(task, data.max_examples), data.max_templates) for task in tasks],
            seed=seed,
            row_length=data.row_length,
            supervised_per_row=data.supervised_per_row,
            segments_per_row=data.segments_per_row,
            window=data.window,
            converter=data.converter,
            encoder_row_length=data.encoder_row_length,
            rates=rates,
            rate_unit=data.rate_unit,
            curriculum=data.curriculum,
            max_epochs=data.max_epochs,
            task_epochs=data.task_epochs,
            feature_lengths=data.feature_lengths,
        )

    # Rows.

    def row(self, i: int) -> PlannedRow:
        """Row i of the run. Raises IndexError past the end of a plan that ends."""
        window, row = self.locate(i)
        chunk, r = self._chunk_of(window, row)
        columns = (chunk.task, chunk.record, chunk.epoch, chunk.num_inputs, chunk.num_targets)
        cells = zip(*(column[chunk.start[r] : chunk.start[r + 1]].tolist() for column in columns), strict=True)
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
        """Rows in all; None where a task has no limit. The first call plans to the end."""
        return None if self.draws.total is None else self.ensure_rows(self.most_rows)

    @property
    def most_rows(self) -> int:
        """A bound on num_rows that costs nothing."""
        return UNLIMITED if self.draws.total is None else self.draws.total

    # What rows hold.

    def examples_of_step(self, step: int, batch_size: int) -> list[tuple[str, int]]:
        """(task, record) of every example in update `step`, from 0; `Reader.record` gives a record's id."""
        first = step * batch_size
        rows = [self.row(i) for i in range(first, min(first + batch_size, self.ensure_rows(first + batch_size)))]
        return [(self.tasks[s.task].name, s.record) for row in rows for s in row.segments]

    def summary(self, first_row: int, last_row: int) -> dict[str, Any]:
        """What rows [first_row, last_row) hold, JSON-able.

          {"rows": n,
           "rate_unit": "examples",
           "tasks": {name: {"share_asked", "share_got", "examples", "tokens", "supervised_tokens", "pairs",
                            "truncated", "truncated_targets", "dropped", "epochs"}},
           "fill": {"tokens", "supervised", "segments"}}

        Shares are of the rates' unit, in 0..1; what is asked of windows that are partly in the stretch counts whole. Of
        `examples`, `truncated` lost tokens, `truncated_targets` their EOS too. dropped: examples of the task that are
        never drawn, too long for its policy or excluded. epochs: passes within the stretch, over the examples that are
        drawn. pairs: of a query and a key that it sees, in a decoder without windows. Fills are of L, T and S, in 0..1;
        only the scarcest of the three can be near 1. Of an encoder-decoder "encoder" stands beside them, and "tokens"
        are the decoder's.
        """
        last_row = min(last_row, self.ensure_rows(last_row + 1))
        sums = self._sums(first_row, last_row)
        asked, got = self._shares_asked(first_row, last_row), sums[self.rate_unit]
        tasks: dict[str, dict[str, float]] = {}
        for k, (task, drawn) in enumerate(zip(self.tasks, self.drawable, strict=True)):
            shares = {"share_asked": float(asked[k]), "share_got": int(got[k]) / max(1, int(got.sum()))}
            counts = {name: int(column[k]) for name, column in sums.items() if name != "encoder_tokens"}
            counts["dropped"] = task.num_examples - drawn if drawn else 0
            tasks[task.name] = shares | counts | {"epochs": int(sums["examples"][k]) / max(1, drawn)}
        rows = max(0, last_row - first_row)
        encoder = int(sums["encoder_tokens"].sum()) if self.Le else 0
        used = {
            "tokens": (int(sums["tokens"].sum()) - encoder, self.L),
            "supervised": (int(sums["supervised_tokens"].sum()), self.T),
            "segments": (int(sums["examples"].sum()), self.S),
        } | ({"encoder": (encoder, self.Le)} if self.Le else {})
        fill = {name: n / (max(1, rows) * budget) for name, (n, budget) in used.items()}
        return {"rows": rows, "rate_unit": self.rate_unit, "tasks": tasks, "fill": fill}

    def _sums(self, first_row: int, last_row: int) -> dict[str, np.ndarray]:
        """Counts by task, int64 [K] each, named as in `summary`, over rows that are planned."""
        names = ("examples", "tokens", "supervised_tokens", "truncated", "truncated_targets", "encoder_tokens", "pairs")
        sums = {name: np.zeros(len(self.tasks), np.int64) for name in names}
        while first_row < last_row:
            window, row = self.locate(first_row)
            chunk, r = self._chunk_of(window, row)
            end = min(len(chunk.start) - 1, r + last_row - first_row)
            part = slice(chunk.start[r], chunk.start[end])
            tokens = chunk.num_inputs + chunk.num_targets
            inputs, decoder = chunk.num_inputs, chunk.num_targets if self.Le else tokens
            pairs = decoder * (decoder + 1) // 2
            if self.converter == "prefix_lm":
                pairs = pairs + inputs * (inputs - 1) // 2
            ones = np.ones_like(tokens)
            columns = (ones, tokens, chunk.predictions, chunk.cut, chunk.cut_targets, inputs, pairs)
            for name, column in zip(names, columns, strict=True):
                # float64 holds these sums exactly.
                sums[name] += np.bincount(chunk.task[part], column[part], len(self.tasks)).astype(np.int64)
            first_row += end - r
        return sums

    def _shares_asked(self, first_row: int, last_row: int) -> np.ndarray:
        """float64 [K], of the rates' unit, averaged over the stages that the rows' windows are in."""
        first = self.locate(first_row)[0] if last_row > first_row else 0
        last = self.locate(last_row - 1)[0] + 1 if last_row > first_row else 0
        draws = self.draws.shares(first * self.window, last * self.window)
        units = draws * [0.0 if p is None else float(p.means[self.rate_unit]) for p in self._placeable]
        return units / units.sum()

    def describe(self) -> dict[str, Any]:
        """JSON-able: everything that `digest` is of, but for the digest of each task's arrays, and the digest."""
        return self._inputs() | {"digest": self.digest}

    # How windows are made.

    @property
    def _windows_per_chunk(self) -> int:
        return max(1, _CHUNK_DRAWS // self.window)

    def _fit(self, draws: dict[str, np.ndarray]) -> Fitted:
        lengths = np.empty((2, len(draws["task"])), np.int64)
        for k, mine in by_task(draws["task"]):
            index = self.tasks[k].index
            lengths[:, mine] = index.inputs[draws["record"][mine]], index.targets[draws["record"][mine]]
        return fit(lengths[0], lengths[1], self._drop[draws["task"]], self.limits)

    def _sample(self) -> list[tuple[np.ndarray, np.ndarray]]:
        """The sizes of the examples in the first windows of each stage."""
        starts = self.draws.stage_starts()
        count = max(1, min(_SAMPLE_WINDOWS, _SAMPLE_DRAWS // self.window) // len(starts))
        return [
            self._fit(draws).sizes(self.limits)
            for start in starts
            for first in range(start, start + count * self.window, self.window)
            if len((draws := self.draws.draws(first, first + self.window))["task"])
        ]

    def _plan_chunk(self, number: int) -> _Chunk:
        """Its last window is shorter where the stream ends; past the end it has none."""
        first = number * self._windows_per_chunk
        draws = self.draws.draws(first * self.window, (first + self._windows_per_chunk) * self.window)
        n = len(draws["task"])
        sizes = np.diff(np.minimum(np.arange(-(-n // self.window) + 1) * self.window, n))
        fitted = self._fit(draws)
        assert not fitted.dropped.any(), "only what can be placed is drawn"
        packed = pack_windows(
            *fitted.sizes(self.limits), sizes, row_length=self.Le or self.L, supervised=self.T, segments=self.S
        )
        # Best-fit-decreasing leaves rows ordered by length; a curriculum nobody asked for.
        packed = [
            p.permuted(permutation(key64("rows", self.seed, first + w), p.num_rows)) for w, p in enumerate(packed)
        ]
        starts = np.cumsum(sizes) - sizes
        order = np.concatenate([np.zeros(0, np.int64), *(s + p.order for s, p in zip(starts, packed, strict=True))])
        start = np.concatenate([*(s + p.start[:-1] for s, p in zip(starts, packed, strict=True)), [n]])
        return _Chunk(
            rows=np.concatenate([[0], np.cumsum([p.num_rows for p in packed], dtype=np.int64)]),
            start=start.astype(np.int64),
            **{name: column[order] for name, column in draws.items()},
            num_inputs=fitted.num_inputs[order],
            num_targets=fitted.num_targets[order],
            predictions=fitted.predictions[order],
            cut=(fitted.cut_inputs | fitted.cut_targets)[order],
            cut_targets=fitted.cut_targets[order],
        )

    def _chunk(self, number: int) -> _Chunk:
        with self._lock:
            chunk = self._chunks.pop(number, None) or self._plan_chunk(number)
            self._chunks[number] = chunk
            if len(self._chunks) > _CACHED_CHUNKS:
                self._chunks.popitem(last=False)
            return chunk

    def _chunk_of(self, window: int, row: int) -> tuple[_Chunk, int]:
        """(the chunk that holds a row of a planned window, its number there)."""
        number, inside = divmod(window, self._windows_per_chunk)
        chunk = self._chunk(number)
        return chunk, int(chunk.rows[inside]) + row

    def _grow(self) -> bool:
        """Plan the next chunk of windows; False at the end of the stream."""
        windows = len(self._first_rows) - 1
        if windows % self._windows_per_chunk:
            return False  # the last chunk was not whole
        rows = self._chunk(windows // self._windows_per_chunk).rows
        self._first_rows += (self._first_rows[-1] + rows[1:]).tolist()
        return len(rows) > 1

    def _inputs(self) -> dict[str, Any]:
        tasks = [
            {
                "name": t.name,
                "identity": t.identity,
                "examples": t.num_examples,
                "variants": t.variants,
                "overlong": t.overlong,
                "truncate_side": t.truncate_side,
                "fingerprint": t.fingerprint,
                "epochs": epochs,
            }
            for t, epochs in zip(self.tasks, self._epochs, strict=True)
        ]
        return {
            "plan_version": PLAN_VERSION,
            "packer_version": PACKER_VERSION,
            "converter": self.converter,
            "seed": self.seed,
            "L": self.L,
            "T": self.T,
            "S": self.S,
            "Le": self.Le,
            "window": self.window,
            "rate_unit": self.rate_unit,
            "stages": [[stage.until, list(stage.rates)] for stage in self._stages],
            "feature_lengths": dict(sorted(self._feature_lengths.items())),
            "tasks": tasks,
        }
