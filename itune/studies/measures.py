"""What a study compares, by evaluated example: the loss, an option's rank, or a metric of generated text. No JAX."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from itune.config.run import RunConfig
from itune.errors import UserError, nearest
from itune.evaluation.losses import read_losses
from itune.evaluation.results import RANK_METRICS, read_lines, read_predictions

LOSSES = "losses.jsonl"
LOSS = "loss"
RANKED = RANK_METRICS[:2]  # those that an example has by itself, without the others of its task

Example = tuple[str, str]  # (task, id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Measure:
    """name: "loss", "rank_accuracy" or a metric's.  unit: of its values.  better: -1 where less is better, else 1."""

    name: str
    unit: str
    better: int

    @classmethod
    def of(cls, name: str) -> Measure:
        if name == LOSS:
            return cls(name=name, unit="nats per target token", better=-1)
        return cls(name=name, unit="points", better=1)

    @property
    def words(self) -> str:
        """ "rank accuracy" """
        return self.name.replace("_", " ")

    def say(self, size: float) -> str:
        """ "0.300 nats per target token", "3.1 points" """
        return f"{size:.3f} {self.unit}" if self.name == LOSS else f"{size:.1f} {self.unit}"

    def values(self, folder: Path, group: str) -> dict[Example, float]:
        """Of a run that is done, of each example of the group that has it; metrics are 0 to 100."""
        if self.name == LOSS:
            records = [r for r in read_losses(folder / LOSSES) if r["group"] == group]
            return {(r["task"], r["id"]): math.nan if r["after"] is None else float(r["after"]) for r in records}
        if self.name in RANKED:
            path = folder / "ranked.jsonl"
            records = [r for r in read_lines(path) if r.get("group") == group] if path.is_file() else []
            return {(r["task"], r["id"]): 100.0 * (_best(r, self.name) == r["target"]) for r in records}
        path = folder / "predictions.jsonl"
        found = [p for p in read_predictions(path) if p.group == group] if path.is_file() else []
        scores = {(p.task, p.id): (p.scores or {}).get("after", {}).get(self.name) for p in found}
        return {example: float(score) for example, score in scores.items() if score is not None}

    def check(self, config: RunConfig) -> None:
        """Raises: UserError where the runs would not evaluate it."""
        if self.name == LOSS:
            return
        field = "rank_per_task" if self.name in RANKED else "generate_per_task"
        if not getattr(config.evaluation, field):
            hint = nearest(self.name, [LOSS, *RANKED])
            raise UserError(f"StudyConfig.measure={self.name!r}: needs EvalConfig.{field} of 1 or more.{hint}")


def _best(record: Mapping[str, Any], way: str) -> int:
    """The place of the option with the highest score: of its tokens' sum, or of their mean."""
    scores = [float(score) for score in record["logprob"]]
    by: Callable[[int], float] = lambda n: scores[n]  # noqa: E731
    if way == "rank_accuracy_norm":
        by = lambda n: scores[n] / record["tokens"][n]  # noqa: E731
    return max(range(len(scores)), key=by)
