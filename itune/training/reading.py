"""Reads the step's sums one step late, and turns them into metrics, a status line and blame."""

from __future__ import annotations

import time
from typing import Any

import jax
import numpy as np

from itune.batch import Batch
from itune.config.run import RunConfig
from itune.training.data_side import DataSide
from itune.training.metrics import MetricsWriter
from itune.training.step import StepMetrics


class MetricsReader:
    """Reads metrics one step late and writes them; keeps what the progress bar shows."""

    def __init__(self, config: RunConfig, data: DataSide, writer: MetricsWriter):
        self.config, self.data, self.writer = config, data, writer
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

    def flush(self) -> str | None:
        if self._pending is None:
            return None
        (step, batch, metrics, rate), self._pending = self._pending, None
        m = jax.device_get(metrics)
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        if (step + 1) % self.config.train.log_every == 0 or not m.finite:
            self.writer.write(self._record(step, m, rate, seconds, batch))
        supervised = float(m.task_tokens.sum())
        loss = m.loss_sum / max(m.weight, 1e-9)
        self.status = f"loss {loss:.3f}  {m.tokens / seconds:.0f} tok/s  {supervised / seconds:.0f} supervised/s"
        return None if m.finite else self._blame(step, m)

    def _record(self, step: int, m: Any, rate: float, seconds: float, batch: Batch) -> dict[str, Any]:
        names = self.data.task_names
        present = [n for n in range(len(names)) if m.task_tokens[n] > 0]
        supervised = int(m.task_tokens.sum())
        return {
            "step": step + 1,
            "loss": _finite(m.loss_sum / max(m.weight, 1e-9)),
            "task_loss": {names[n]: _finite(m.task_nll[n] / m.task_tokens[n]) for n in present},
            "task_tokens": {names[n]: int(m.task_tokens[n]) for n in present},
            "tokens": int(m.tokens),
            "supervised_tokens": supervised,
            "tokens_per_s": round(float(m.tokens) / seconds, 2),
            "supervised_tokens_per_s": round(supervised / seconds, 2),
            "fill": round(float(m.tokens) / batch.tokens.size, 4),
            "learning_rate": rate,
            "grad_norm": _finite(m.grad_norm),
            "finite": bool(m.finite),
            "seconds": round(seconds, 4),
            "row": (step + 1) * self.config.train.batch_size,
        }

    def _blame(self, step: int, m: Any) -> str:
        """One line: the examples whose own loss is not finite, or else all of the step's."""
        first = step * self.config.train.batch_size
        guilty, everyone = [], []
        for b in range(self.config.train.batch_size):
            for s, segment in enumerate(self.data.plan.row(first + b).segments):
                name = (
                    f"{self.data.task_names[segment.task]}:{self.data.reader.record(segment.task, segment.record).id}"
                )
                everyone.append(name)
                if not np.isfinite(m.example_nll[b, s]):
                    guilty.append(name)
        names = guilty or everyone
        what = "loss of" if guilty else "gradient is not finite; the step's examples are"
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        tail = " is not finite" if guilty else ""
        return f"step {step + 1}: {what} {shown}{tail}; the update was not applied"


def _finite(x: Any) -> float | None:
    return float(x) if np.isfinite(x) else None
