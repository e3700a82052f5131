"""Reads the steps' sums late and together, and turns them into metrics, a status line and blame."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np

from itune.batch import Batch
from itune.config.run import RunConfig
from itune.data.proportions import Tally
from itune.training.clock import RunClock
from itune.training.data_side import DataSide
from itune.training.interval import Interval
from itune.training.metrics import MetricsWriter, NoMetrics
from itune.training.step import StepMetrics

# Steps that may be dispatched and not done: more would only hold their batches on the device.
IN_FLIGHT = 8
READ_EVERY = 1.0  # seconds; slower steps are read one by one


@dataclasses.dataclass(frozen=True)
class _Dispatched:
    """A step whose sums have not been read. room: tokens that its rows could hold."""

    step: int
    room: int
    metrics: StepMetrics
    rate: float


class MetricsReader:
    """Reads the sums of a line's steps at once, a step after its last, and writes it; keeps what the bar shows.

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
        clock: RunClock | None = None,
    ):
        self.config, self.data, self.writer, self.clock = config, data, writer, clock
        size = config.train.batch_size
        self._names = data.task_names
        self._tally = Tally(data.plan, first_step * size)
        self._supervised = self._tally.supervised_tokens.copy()
        self._interval = Interval.of(len(self._names), interval)
        self._pending: list[_Dispatched] = []
        self._last = time.perf_counter()
        self.newest = 0  # steps dispatched
        self.status = ""

    def push(self, step: int, batch: Batch, metrics: StepMetrics, rate: float) -> str | None:
        """Takes step n's metrics, still being computed; returns what was wrong in those before it, once they are read.

        They are read when step n - 1 ended a line, or when the last reading is READ_EVERY ago.
        """
        waiting, room = self._pending, self.config.train.batch_size * batch.tokens.shape[1]
        # Several processes read at the same steps: what they find wrong there stops all.
        stale = jax.process_count() == 1 and time.perf_counter() - self._last > READ_EVERY
        problem = self.flush() if waiting and (stale or self._ends_line(waiting[-1].step)) else None
        if len(self._pending) >= IN_FLIGHT:
            jax.block_until_ready(self._pending[-IN_FLIGHT].metrics.finite)
        self._pending.append(_Dispatched(step, room, metrics, rate))
        self.newest = step + 1
        return problem

    def restart_clock(self) -> None:
        """After something that wasn't a step."""
        self._last = time.perf_counter()

    def interval(self) -> dict[str, Any]:
        """What a checkpoint keeps of the line that is being summed up."""
        return self._interval.stored()

    def flush(self) -> str | None:
        """Reads all steps that are waiting, in one transfer. Returns what was wrong in them, in one line.

        Where a run stops at what is wrong, nothing after that step is counted.
        """
        if not self._pending:
            return None
        steps, self._pending = self._pending, []
        read = jax.device_get([one.metrics for one in steps])
        now = time.perf_counter()
        seconds, self._last = (now - self._last) / len(steps), now
        if self.clock is not None:
            self.clock.add_steps(seconds * len(steps))
        problems = []
        for one, m in zip(steps, read, strict=True):
            problems += self._add(one, m, seconds)
            if problems and self.config.train.on_nonfinite == "stop":
                break
        tokens, supervised = sum(int(m.tokens) for m in read), sum(float(m.task_tokens.sum()) for m in read)
        loss, spent = read[-1].loss_sum / max(read[-1].weight, 1e-9), seconds * len(steps)
        self.status = f"loss {loss:.3f}  {tokens / spent:.0f} tok/s  {supervised / spent:.0f} supervised/s"
        return "; ".join(problems) or None

    def _add(self, one: _Dispatched, m: Any, seconds: float) -> list[str]:
        """Adds a step's sums, and writes a line if it ends there; returns what was wrong in it, if anything."""
        step = one.step
        self._interval.add(m, room=one.room, seconds=seconds)
        self._supervised += m.task_tokens.astype(np.int64)
        self._tally.advance((step + 1) * self.config.train.batch_size)
        guilty, everyone = ([], []) if m.finite else self._blame(step, m)
        if self._ends_line(step) or not m.finite:
            blamed = {} if m.finite else {"nonfinite_examples": guilty or everyone}
            self.writer.write(self._record(step, m, one.rate) | blamed)
            self._interval = Interval.of(len(self._names))
            if self.clock is not None:
                self.clock.tick()
        return [] if m.finite else [_problem(step, guilty, everyone)]

    def _ends_line(self, step: int) -> bool:
        return (step + 1) % self.config.train.log_every == 0 or step + 1 == self.config.train.steps

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
            **({} if self.clock is None else {"goodput": round(self.clock.goodput, 4)}),
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
