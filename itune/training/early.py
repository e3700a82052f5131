"""When to stop early, and which step was best: a pure function of the dev losses so far, which checkpoints keep."""

from __future__ import annotations

import math
from collections.abc import Mapping

from itune.evaluation.config import STOPPED_EARLY, EvalConfig


class DevLosses:
    """The losses that a run is judged by, one an evaluation between steps: see `EvalConfig.choose_by`.

    losses: {step: nats per target token}, ascending.
    """

    def __init__(self, config: EvalConfig, stored: Mapping[str, float | None] | None = None):
        """stored: what a checkpoint kept, of `stored`."""
        self.patience, self.min_gain = config.patience, config.min_gain
        self.losses: dict[int, float] = {}
        for step, loss in sorted((stored or {}).items(), key=lambda item: int(item[0])):
            self.add(int(step), loss)

    def add(self, step: int, loss: float | None) -> None:
        """A loss that is not finite, or None, is no better than any."""
        self.losses[step] = math.inf if loss is None or not math.isfinite(loss) else loss

    @property
    def best(self) -> int | None:
        """The first step with the lowest loss; None while none is finite."""
        step = min(self.losses, key=self.losses.__getitem__, default=None)
        return step if step is not None and math.isfinite(self.losses[step]) else None

    @property
    def since_better(self) -> int:
        """Evaluations since one that was lower, by more than `min_gain`, than the last such one."""
        mark, since = math.inf, 0
        for loss in self.losses.values():
            better = loss < mark - self.min_gain
            mark, since = (loss, 0) if better else (mark, since + 1)
        return since

    @property
    def over(self) -> bool:
        """Whether `patience` evaluations in a row have brought nothing better."""
        return bool(self.patience) and self.since_better >= self.patience

    def stored(self) -> dict[str, float | None]:
        """For JSON, which has no infinity."""
        return {str(step): loss if math.isfinite(loss) else None for step, loss in self.losses.items()}

    def line(self) -> dict[str, float | int | None]:
        """Of the newest evaluation, for metrics.jsonl; no best step before there is one."""
        loss = next(reversed(self.losses.values()))
        best = {} if self.best is None else {"best_step": self.best}
        return {"dev_loss": loss if math.isfinite(loss) else None, "since_better": self.since_better, **best}

    def told(self, done: int, steps: int) -> dict[str, str]:
        """For readers of the results, of a run that ended before its last step; {} of others."""
        if not self.over or done >= steps:
            return {}
        best = self.best
        kept = f"the best was {self.losses[best]:.4f} at step {best} (--step=best)" if best is not None else "none was"
        return {
            STOPPED_EARLY: f"at step {done} of {steps}: no better dev loss in {self.since_better} evaluations; {kept}"
        }
