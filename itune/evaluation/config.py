"""What a run evaluates. Importing this loads neither TensorFlow nor JAX."""

from __future__ import annotations

import dataclasses
import fnmatch

CHOOSE_BY = ("held_in", "held_out")
REASONING = ("", "on", "off")
STOPPED_EARLY = "stopped early"  # the label, among the facts of its results, of a run that `patience` ended


@dataclasses.dataclass(frozen=True, kw_only=True)
class EvalConfig:
    """Before and after training, and every `every` steps between (loss only).

    Attributes:
      held_in: tasks or mixtures whose `split` is evaluated; their train split may be trained on. () means the
        training mixture.
      held_out: tasks or mixtures that are evaluated and kept out of training, and with them their clusters and their
        source data sets under whatever name.
      held_out_clusters: clusters that must not be trained on, evaluated or not.
      held_out_sources: source data sets that must not be trained on, by any of their names ("rte", "super_glue/rte").
      unseen: held-out tasks, by name or pattern, that are measured before and after training alone: nothing is chosen
        by them, no checkpoint, no end of training, no mixture that `itune.ablate --propose` proposes. The other
        held-out tasks are "dev".
      choose_by: whose loss chooses the best checkpoint and stops early: "held_in", or "held_out" for the dev tasks.
      patience: stop once so many evaluations in a row have brought no better loss of `choose_by`; 0 never does.
        Needs `every`.
      min_gain: nats per target token that a loss must be lower by, at least, for `patience` to begin anew.
      shots: exemplars before each question; -1 is as many as the task's own templates have. Tasks that are trained on,
        too, keep to their own.
      reasoning: "on" asks for a chain of thought before the answer, "off" for the answer alone, in place of tasks that
        do otherwise (gsm8k/zs and gsm8k/zs_cot); "" takes them as they are.
      split: the split evaluated.
      examples_per_task: at most this many per task, chosen by keyed hash; 0 means all.
      every: steps between evaluations of the loss during training; 0 means only before and after.
      batch_size: packed rows a forward pass.
      rank_per_task: examples per task whose options are ranked by their likelihood, where they have options; 0 none.
      generate_per_task: completions generated per task, for metrics and samples; 0 means none.
      generate_tokens: at most this many new tokens a completion.
      generate_batch: prompts decoded together.
      worst_examples: of each task, the examples with the highest loss that worst.jsonl names; 0 means none.
      chat_baseline: also measure "before" in the model's own chat template.
    """

    held_in: tuple[str, ...] = ()
    held_out: tuple[str, ...] = ()
    held_out_clusters: tuple[str, ...] = ()
    held_out_sources: tuple[str, ...] = ()
    unseen: tuple[str, ...] = ()
    choose_by: str = "held_in"
    patience: int = 0
    min_gain: float = 0.0
    shots: int = -1
    reasoning: str = ""
    split: str = "validation"
    examples_per_task: int = 32
    every: int = 0
    batch_size: int = 4
    rank_per_task: int = 0
    generate_per_task: int = 8
    generate_tokens: int = 96
    generate_batch: int = 32
    worst_examples: int = 5
    chat_baseline: bool = True

    def __post_init__(self) -> None:
        if self.choose_by not in CHOOSE_BY:
            raise ValueError(f"EvalConfig.choose_by={self.choose_by!r} must be one of {CHOOSE_BY}")
        if self.patience < 0 or not 0 <= self.min_gain < float("inf"):
            raise ValueError(f"EvalConfig needs patience >= 0 and min_gain >= 0, not {self.patience}, {self.min_gain}")
        if self.shots < -1:
            raise ValueError(f"EvalConfig.shots={self.shots} must be 0 or more, or -1")
        if self.reasoning not in REASONING:
            raise ValueError(f"EvalConfig.reasoning={self.reasoning!r} must be one of {REASONING}")
        if self.patience and not self.every:
            raise ValueError(f"EvalConfig.patience={self.patience} counts evaluations during training: set every, too")

    def is_unseen(self, task: str) -> bool:
        """Of a held-out task."""
        return any(fnmatch.fnmatchcase(task, pattern) for pattern in self.unseen)
