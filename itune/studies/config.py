"""What a study may say. Plain dataclasses: importing this loads neither TensorFlow nor JAX."""

from __future__ import annotations

import dataclasses

COMBINE = ("product", "zip", "each")
HELD_EQUAL = ("steps", "tokens", "supervised_tokens", "examples", "shared_examples")
ENDPOINTS = ("held_out", "held_in")
BASE = "base"


@dataclasses.dataclass(frozen=True, kw_only=True)
class StudyConfig:
    """A base recipe, and arms that each differ from it in what they say.

    Attributes:
      arms: name -> the bindings that differ, as after --gin.: {"low_rate": ("LearningRateConfig.peak=1e-4",)}.
      leave_out: what to leave out, an arm each, called "without <name>": tasks by name or pattern, a cluster
        ("cluster:nli") or a source data set ("source:rte"), as in DataConfig.rate_factors.
      add: tasks or mixtures to train on beside the base's, an arm each, called "with <name>", at their own rates.
      axes: binding -> values, as text: {"LoRAConfig.rank": ("4", "16")}; arms called "rank=4".
      combine: of several axes: "product" (every combination), "zip" (first with first) or "each" (one at a time).
      random_mixtures: so many arms "mixture 1", ... that multiply the rates of `mix` with factors drawn at random, for
        --propose to learn from.
      mix: the tasks (names or patterns) whose rates those factors are for, each with one.
      seeds: of every arm and of the base, which they are paired by.
      held_equal: what the arms have alike with the base: "steps", or of what is trained on "tokens",
        "supervised_tokens" or "examples", or "shared_examples": those of the tasks that both train on; for these an
        arm's steps are set. What was not equal is printed.
      endpoint: the tasks that are the question, "held_out" or "held_in".
      measure: what is compared on them: "loss", "rank_accuracy" or "rank_accuracy_norm" (of the right option, by
        EvalConfig.rank_per_task), or a metric of generated text that an example has by itself, such as "exact_match".
      together: at most so many runs of one shape (base, adapters, lengths, batch, steps) train in one step, their
        adapters side by side; 1 is one run after the other. Memory grows with it.
      tasks_sampled: whether conclusions are to hold for tasks like those evaluated, not for these only.
    """

    arms: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    leave_out: tuple[str, ...] = ()
    add: tuple[str, ...] = ()
    axes: dict[str, tuple[str, ...]] = dataclasses.field(default_factory=dict)
    combine: str = "each"
    random_mixtures: int = 0
    mix: tuple[str, ...] = ()
    seeds: tuple[int, ...] = (0, 1, 2, 3, 4)
    held_equal: str = "steps"
    endpoint: str = "held_out"
    measure: str = "loss"
    together: int = 1
    tasks_sampled: bool = False

    def __post_init__(self) -> None:
        for name, options in (("combine", COMBINE), ("held_equal", HELD_EQUAL), ("endpoint", ENDPOINTS)):
            if getattr(self, name) not in options:
                raise ValueError(f"StudyConfig.{name}={getattr(self, name)!r} must be one of {options}")
        if not self.seeds or len(set(self.seeds)) < len(self.seeds):
            raise ValueError(f"StudyConfig.seeds={self.seeds} must be different numbers, at least one")
        if self.together < 1:
            raise ValueError(f"StudyConfig.together={self.together} must be at least 1")
        if self.random_mixtures < 0:
            raise ValueError(f"StudyConfig.random_mixtures={self.random_mixtures} must not be negative")
        if self.random_mixtures and not self.mix:
            raise ValueError("StudyConfig.random_mixtures needs StudyConfig.mix: the tasks or patterns to draw for")
        if BASE in self.arms:
            raise ValueError(
                f"StudyConfig.arms: {BASE!r} is the recipe without a difference; give the arm another name"
            )
        if self.combine == "zip" and len({len(values) for values in self.axes.values()}) > 1:
            counts = {name: len(values) for name, values in self.axes.items()}
            raise ValueError(f"StudyConfig.combine='zip' needs as many values on each axis, not {counts}")
