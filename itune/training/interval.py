"""The steps between two lines of metrics.jsonl, summed. Legend: N tasks."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

_SCALARS = ("steps", "loss_sum", "weight", "tokens", "room", "seconds", "finite")


@dataclasses.dataclass
class Interval:
    """Sums over steps, in float64: whoever adds the same steps in the same order has the same sums.

    loss_sum, weight: of steps with a finite loss.  room: tokens that the rows could hold.  finite: every update was
    made.  task_nll, task_weight [N]: of the steps in which the task's own sum is finite.  task_tokens [N]: of all.
    """

    task_nll: np.ndarray
    task_weight: np.ndarray
    task_tokens: np.ndarray
    steps: int = 0
    loss_sum: float = 0.0
    weight: float = 0.0
    tokens: int = 0
    room: int = 0
    seconds: float = 0.0
    finite: bool = True

    @classmethod
    def of(cls, num_tasks: int, stored: Mapping[str, Any] | None = None) -> Interval:
        """An empty one, or what `stored` was made of."""
        new = cls(np.zeros(num_tasks), np.zeros(num_tasks), np.zeros(num_tasks))
        if stored:
            for name in _SCALARS:
                setattr(new, name, stored[name])
            for task, sums in stored["tasks"].items():
                new.task_nll[int(task)], new.task_weight[int(task)], new.task_tokens[int(task)] = sums
        return new

    def stored(self) -> dict[str, Any]:
        """JSON-able, and exact: a checkpoint between two lines carries it."""
        columns = (self.task_nll, self.task_weight, self.task_tokens)
        tasks = {str(n): [float(column[n]) for column in columns] for n in self.present()}
        return {name: getattr(self, name) for name in _SCALARS} | {"tasks": tasks}

    def add(self, metrics: Any, *, room: int, seconds: float) -> None:
        """One step's `StepMetrics`, on the host."""
        self.steps += 1
        self.tokens, self.room, self.seconds = (
            self.tokens + int(metrics.tokens),
            self.room + room,
            self.seconds + seconds,
        )
        self.finite = self.finite and bool(metrics.finite)
        if np.isfinite(metrics.loss_sum):
            self.loss_sum, self.weight = self.loss_sum + float(metrics.loss_sum), self.weight + float(metrics.weight)
        fine = np.isfinite(metrics.task_nll)
        self.task_nll += np.where(fine, metrics.task_nll, 0.0)
        self.task_weight += np.where(fine, metrics.task_tokens, 0.0)
        self.task_tokens += metrics.task_tokens

    def present(self) -> list[int]:
        """Tasks with supervised tokens, in order."""
        return [int(n) for n in np.flatnonzero(self.task_tokens)]

    def loss(self) -> float | None:
        """None if no step's loss was finite."""
        return self.loss_sum / max(self.weight, 1e-9) if self.weight else None

    def task_loss(self, task: int) -> float | None:
        """Nats per supervised token; None if no step's was finite."""
        return float(self.task_nll[task] / self.task_weight[task]) if self.task_weight[task] else None
