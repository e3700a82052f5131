"""What a run evaluates. Importing this loads neither TensorFlow nor JAX."""

from __future__ import annotations

import dataclasses


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
      unseen: held-out tasks, by name or pattern, that are reported and that nothing is chosen by: no mixture that
        `itune.ablate --propose` proposes. (The best checkpoint is chosen by held-in losses alone.)
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
