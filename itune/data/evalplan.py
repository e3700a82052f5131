"""The evaluation's plan: every chosen example once, in one packing, in whole batches.

It knows no seed: two runs, or two arms of a study, evaluate the same examples of the same split.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator, Mapping, Sequence

import numpy as np

from itune.data.keyed import key64, keyed_order
from itune.data.packing import PACKER_VERSION, Limits, choose_budgets, fit, pack_windows
from itune.data.plan_tasks import PlanTask, plan_digest
from itune.data.schedule import PlannedRow, Segment

EVAL_PLAN_VERSION = 2
_WINDOW = 8192  # examples packed together; more would fill rows no better
_CHOICE_KEY = key64("examples_per_task")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Chosen:
    """What is evaluated of one task, and what its policy for overlong examples did. `truncated` counts any cut."""

    examples: int
    truncated: int
    truncated_targets: int
    dropped: int


class SequentialPlan:
    """Rows that hold every chosen example once, in its variant 0; then rows without segments, to whole batches.

    tasks: what to evaluate; rates play no part.  examples_per_task: at most so many, by keyed hash of the example's
    key; 0 for all. The others are as for `schedule.Plan`.

    Attributes L, T, S, Le; converter; digest; num_rows: a multiple of batch_size; chosen: one `Chosen` per task;
    where: (task, record) -> (row, segment from 0).
    """

    def __init__(
        self,
        tasks: Sequence[PlanTask],
        *,
        batch_size: int,
        row_length: int,
        supervised_per_row: int = 0,
        segments_per_row: int = 0,
        converter: str = "causal",
        encoder_row_length: int = 0,
        feature_lengths: Mapping[str, int],
        examples_per_task: int = 0,
    ):
        self.tasks = tuple(tasks)
        self.L, self.Le, self.converter = row_length, encoder_row_length, converter
        if converter == "encoder_decoder":
            supervised_per_row = row_length
        self.batch_size = batch_size
        limits = Limits(
            inputs=feature_lengths["inputs"],
            targets=feature_lengths["targets"],
            row_length=row_length,
            supervised=supervised_per_row or row_length,
            encoder=encoder_row_length,
        )
        self.chosen: list[Chosen] = []
        segments: list[Segment] = []
        predictions: list[int] = []
        for number, task in enumerate(self.tasks):
            mine, counts = _choose(number, task, limits, examples_per_task)
            self.chosen.append(counts)
            segments += [segment for segment, _ in mine]
            predictions += [n for _, n in mine]
        tokens = np.array([s.num_inputs + (0 if self.Le else s.num_targets) for s in segments], np.int64)
        supervised = np.array(predictions, np.int64)
        sizes = np.diff(np.minimum(np.arange(-(-len(segments) // _WINDOW) + 1) * _WINDOW, len(segments)))
        starts = np.cumsum(sizes) - sizes
        length = self.Le or row_length
        self.T, self.S = choose_budgets(
            [(tokens[first:][:n], supervised[first:][:n]) for first, n in zip(starts, sizes, strict=True)],
            row_length=length,
            supervised=supervised_per_row,
            segments=segments_per_row,
            min_supervised=max(predictions, default=1),
        )
        self._rows: list[tuple[Segment, ...]] = []
        packed = pack_windows(tokens, supervised, sizes, row_length=length, supervised=self.T, segments=self.S)
        for first, p in zip(starts.tolist(), packed, strict=True):
            order = [segments[first + i] for i in p.order.tolist()]
            self._rows += [tuple(order[a:b]) for a, b in itertools.pairwise(p.start.tolist())]
        self._rows += [()] * (-len(self._rows) % batch_size)
        self.where = {(task, record): (row, slot) for row, slot, task, record in self.examples()}
        self.digest = self._digest(dict(feature_lengths), examples_per_task)

    @property
    def num_rows(self) -> int:
        return len(self._rows)

    @property
    def most_rows(self) -> int:
        return len(self._rows)

    def row(self, i: int) -> PlannedRow:
        """Raises IndexError past the end."""
        if not 0 <= i < len(self._rows):
            raise IndexError(f"row {i} of a plan of {len(self._rows)} rows")
        return PlannedRow(window=0, row=i, segments=self._rows[i])

    def examples(self) -> Iterator[tuple[int, int, int, int]]:
        """(row, segment from 0, task, record) of every example: `nll[row, segment]` of the eval step is its own."""
        for row, segments in enumerate(self._rows):
            for slot, segment in enumerate(segments):
                yield row, slot, segment.task, segment.record

    def _digest(self, feature_lengths: dict[str, int], examples_per_task: int) -> str:
        inputs = {
            "eval_plan_version": EVAL_PLAN_VERSION,
            "packer_version": PACKER_VERSION,
            "shape": [self.converter, self.L, self.T, self.S, self.Le, self.batch_size],
            "feature_lengths": feature_lengths,
            "examples_per_task": examples_per_task,
            "tasks": [[t.name, t.identity, t.variants, t.overlong, t.truncate_side, t.fingerprint] for t in self.tasks],
        }
        return plan_digest(inputs, self.tasks)


def _choose(
    number: int, task: PlanTask, limits: Limits, examples_per_task: int
) -> tuple[list[tuple[Segment, int]], Chosen]:
    """A task's segments, each with its number of predictions. More examples asked for only ever add to fewer."""
    record = np.arange(task.num_examples) * task.variants
    drop = np.full(len(record), task.overlong == "drop")
    fitted = fit(task.index.inputs[record], task.index.targets[record], drop, limits)
    order = keyed_order(_CHOICE_KEY, task.example_keys)
    order = order[~fitted.dropped[order]]
    if examples_per_task:
        order = order[:examples_per_task]
    cut_targets = fitted.cut_targets[order]
    chosen = [
        (Segment(task=number, record=r, epoch=0, num_inputs=n, num_targets=m), p)
        for r, n, m, p in zip(
            record[order].tolist(),
            fitted.num_inputs[order].tolist(),
            fitted.num_targets[order].tolist(),
            fitted.predictions[order].tolist(),
            strict=True,
        )
    ]
    return chosen, Chosen(
        examples=len(chosen),
        truncated=int((fitted.cut_inputs[order] | cut_targets).sum()),
        truncated_targets=int(cut_targets.sum()),
        dropped=int(fitted.dropped.sum()),
    )
