"""Reads the step's sums one step late, and turns them into metrics, a status line and blame."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from itune.batch import Batch
from itune.config.run import RunConfig
from itune.data.proportions import Tally
from itune.training.data_side import DataSide
from itune.training.interval import Interval
from itune.training.metrics import MetricsWriter, NoMetrics
from itune.training.step import StepMetrics


class MetricsReader:
    """Reads metrics one step late and writes them; keeps what the progress bar shows.

    first_step: where the run goes on.  interval: what a checkpoint kept of the line that it came in the middle of.
    """

    def __init__(
        self,
        config: RunConfig,
        data: DataSide,
        writer: MetricsWriter | NoMetrics,
        *,
        first_step: int = 0,
        interval: Mapping[str, Any] | None = None,
    ):
        self.config, self.data, self.writer = config, data, writer
        size = config.train.batch_size
        self._names = data.task_names
        self._tally = Tally(data.plan, first_step * size)
        self._supervised = self._tally.supervised_tokens.copy()
        self._interval = Interval.of(len(self._names), interval)
        self._pending: tuple[int, Batch, StepMetrics, float] | None = None
        self._last = time.perf_counter()
        self.newest = 0  # steps dispatched
        self.status = ""

    def push(self, step: int, batch: Batch, metrics: StepMetrics, rate: float) -> str | None:
        """Takes step n's metrics, still being computed, and reads step n - 1's; returns what was wrong there."""
        problem = self.flush()
        self._pending = (step, batch, metrics, rate)
        self.newest = step + 1
        return problem

    def restart_clock(self) -> None:
        """After something that wasn't a step."""
        self._last = time.perf_counter()

    def interval(self) -> dict[str, Any]:
        """What a checkpoint keeps of the line that is being summed up."""
        return self._interval.stored()

    def flush(self) -> str | None:
        if self._pending is None:
            return None
        (step, batch, metrics, rate), self._pending = self._pending, None
        m = jax.device_get(metrics)
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        self._interval.add(m, room=self.config.train.batch_size * batch.tokens.shape[1], seconds=seconds)
        self._supervised += m.task_tokens.astype(np.int64)
        self._tally.advance((step + 1) * self.config.train.batch_size)
        guilty, everyone = ([], []) if m.finite else self._blame(step, m)
        if (step + 1) % self.config.train.log_every == 0 or step + 1 == self.config.train.steps or not m.finite:
            blamed = {} if m.finite else {"nonfinite_examples": guilty or everyone}
            self.writer.write(self._record(step, m, rate) | blamed)
            self._interval = Interval.of(len(self._names))
        supervised = float(m.task_tokens.sum())
        loss = m.loss_sum / max(m.weight, 1e-9)
        self.status = f"loss {loss:.3f}  {m.tokens / seconds:.0f} tok/s  {supervised / seconds:.0f} supervised/s"
        return None if m.finite else _problem(step, guilty, everyone)

    def _record(self, step: int, m: Any, rate: float) -> dict[str, Any]:
        """A line: sums and means over the steps since the last one; *_total and epochs since step 0.

        Of the tasks, those that the interval has seen: with thousands, most lines name few of them.
        """
        done, names = self._interval, self._names
        present = done.present()
        supervised = int(done.task_tokens.sum())
        return {
            "step": step + 1,
            "steps": done.steps,
            "loss": done.loss(),
            "task_loss": {names[n]: done.task_loss(n) for n in present},
            "task_tokens": {names[n]: int(done.task_tokens[n]) for n in present},
            "task_tokens_total": {names[n]: int(self._supervised[n]) for n in present},
            "task_epochs": {names[n]: round(self._tally.epochs(n), 6) for n in present},
            "tokens": done.tokens,
            "supervised_tokens": supervised,
            "supervised_tokens_total": int(self._supervised.sum()),
            "tokens_per_s": round(done.tokens / done.seconds, 2),
            "supervised_tokens_per_s": round(supervised / done.seconds, 2),
            "fill": round(done.tokens / done.room, 4),
            "learning_rate": rate,
            "grad_norm": _finite(m.grad_norm),
            "finite": done.finite,
            "seconds": round(done.seconds, 4),
            "row": (step + 1) * self.config.train.batch_size,
        }

    def _blame(self, step: int, m: Any) -> tuple[list[str], list[str]]:
        """("task:id" of the examples whose own loss is not finite, of all of the step's): from the plan, no text."""
        first = step * self.config.train.batch_size
        guilty, everyone = [], []
        for b in range(self.config.train.batch_size):
            for s, segment in enumerate(self.data.plan.row(first + b).segments):
                name = f"{self._names[segment.task]}:{self.data.reader.record(segment.task, segment.record).id}"
                everyone.append(name)
                if not np.isfinite(m.example_nll[b, s]):
                    guilty.append(name)
        return guilty, everyone


def _problem(step: int, guilty: list[str], everyone: list[str]) -> str:
    """One line."""
    names = guilty or everyone
    what = "loss of" if guilty else "gradient is not finite; the step's examples are"
    shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more (metrics.jsonl has all)" if len(names) > 8 else "")
    tail = " is not finite" if guilty else ""
    return f"step {step + 1}: {what} {shown}{tail}; the update was not applied"


def _finite(x: Any) -> float | None:
    return float(x) if np.isfinite(x) else None
