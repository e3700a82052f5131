"""What each task has given to a run: asked against got, in examples, tokens and supervised tokens; epochs.

Everything here follows from the plan, so that a run that was stopped and went on counts as one that never was.
Legend: K tasks.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping
from typing import Any

import numpy as np

from itune.data.manifest import Manifest
from itune.data.packing import fit
from itune.data.plan_tasks import PlanTask
from itune.data.schedule import Plan

COUNTS = ("examples", "tokens", "supervised_tokens", "truncated", "truncated_targets", "dropped")
COLUMNS = (
    "share_asked",
    "share_got",
    "share_of_examples",
    "share_of_tokens",
    "share_of_supervised_tokens",
    "epochs",
    *COUNTS,
    "examples_available",
    "skipped_in_prepare",
)


def proportions(plan: Plan, manifest: Manifest, split: str, *, steps: int, batch_size: int) -> dict[str, Any]:
    """The effective proportions of updates [0, steps), JSON-able: plan.json for all of a run, proportions.json so far.

      {"L", "T", "S", "digest", "steps", "batch_size",
       "summary": {"rows", "fill", "totals": {count: sum over tasks}, "tasks": {name: {...}}}}

    A task has what `Plan.summary` says, its shares of all examples, tokens and supervised tokens (0..1), its cluster,
    the examples of its split, those that prepare skipped as bad, and, if any were dropped, "dropped_because":
    {reason: records of the split that it holds for}.
    """
    summary = plan.summary(0, steps * batch_size)
    tasks = summary["tasks"]
    totals = {name: sum(task[name] for task in tasks.values()) for name in (*COUNTS, "pairs")}
    for planned, task in zip(plan.tasks, manifest.train, strict=True):
        prepared, row = task.splits[split], tasks[task.name]
        for name in ("examples", "tokens", "supervised_tokens"):
            row[f"share_of_{name}"] = row[name] / max(1, totals[name])
        row |= {
            "cluster": task.cluster,
            "examples_available": prepared.examples,
            "skipped_in_prepare": prepared.skipped,
        }
        if row["dropped"]:
            row["dropped_because"] = drop_reasons(planned, plan)
    shapes = {"L": plan.L, "T": plan.T, "S": plan.S, "digest": plan.digest}
    return shapes | {"steps": steps, "batch_size": batch_size, "summary": summary | {"totals": totals}}


def drop_reasons(task: PlanTask, plan: Plan) -> dict[str, int]:
    """{reason: records of the task's split that are not drawn for it}; of lengths the first that applies counts."""
    inputs, targets = task.index.inputs, task.index.targets
    dropped = fit(inputs, targets, np.full(len(inputs), task.overlong == "drop"), plan.limits).dropped
    empty = fit(inputs, targets, np.zeros(len(inputs), bool), plan.limits).dropped
    long_targets = targets > min(plan.limits.targets, plan.limits.supervised)
    excluded = np.repeat(task.excluded, task.variants) if task.excluded is not None else np.zeros_like(dropped)
    reasons = {
        "shares_text_with_evaluation": excluded,
        "no_target_to_predict": dropped & empty,
        "targets_too_long": dropped & ~empty & long_targets,
        "inputs_too_long": dropped & ~empty & ~long_targets,
    }
    return {name: int(found.sum()) for name, found in reasons.items() if found.any()}


def by_share(record: Mapping[str, Any]) -> list[tuple[str, Mapping[str, Any]]]:
    """(task, its row) of a record of `proportions`, the largest shares first."""
    return sorted(record["summary"]["tasks"].items(), key=lambda item: -item[1]["share_got"])


def as_csv(record: Mapping[str, Any]) -> str:
    """A line a task, in the mixture's order."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["task", "cluster", *COLUMNS])
    for name, row in record["summary"]["tasks"].items():
        writer.writerow([name, row["cluster"], *(row[column] for column in COLUMNS)])
    return out.getvalue()


class Tally:
    """How often each task was drawn in rows [0, row) of a plan, kept up to date for microseconds a row.

    `Plan.summary` says the same, but for all K tasks at once and so for milliseconds: it is asked where the tally
    begins. row: where to begin.

    Attributes: drawn, int64 [K]; supervised_tokens, int64 [K], of rows before the first.
    """

    def __init__(self, plan: Plan, row: int):
        self._plan, self._row = plan, row
        tasks = plan.summary(0, row)["tasks"].values()
        self.drawn, self.supervised_tokens = (
            np.array([task[name] for task in tasks], np.int64) for name in ("examples", "supervised_tokens")
        )

    def advance(self, row: int) -> None:
        """Counts rows up to `row` in."""
        for i in range(self._row, row):
            for segment in self._plan.row(i).segments:
                self.drawn[segment.task] += 1
        self._row = max(self._row, row)

    def epochs(self, task: int) -> float:
        """Passes over those of the task's examples that are drawn."""
        return int(self.drawn[task]) / max(1, self._plan.drawable[task])
