"""What a run may say about its data. Plain dataclasses: importing this loads neither TensorFlow nor JAX."""

from __future__ import annotations

import dataclasses

PROMPT_FORMATS = ("plain", "chat")
ON_FAILED_SOURCE = ("stop", "skip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which tasks, how they become tokens, how they are packed.

    Attributes:
      mixture: name of a SeqIO task or mixture (MIXTURE_OR_TASK_NAME).
      modules: Python modules that register tasks when imported (MIXTURE_OR_TASK_MODULE).
      split: the split to train on.
      feature_lengths: at most this many tokens for {"inputs": n, "targets": m} (TASK_FEATURE_LENGTHS). A longer
        example is cut or dropped by its task's policy, counted and reported.
      row_length: L, tokens a packed row.
      supervised_per_row: T, supervised tokens a row; 0 chooses the smallest that costs under 1 % of fill.
      segments_per_row: S, examples a row at most; 0 chooses from the lengths.
      window: examples planned and packed together.
      prompt_format: "plain" (inputs, a newline, targets, EOS) or "chat" (the tokenizer's own chat template).
      variants: V keyed renderings of each example (template choice) written by prepare.
      prepare_seed: keys the renderings. The run's seed never reaches prepare, so seeds share shards.
      max_epochs: stop drawing from a task after this many epochs; 0 means no limit.
      max_bad_records: examples a split that may fail, be left out and counted before it is an error.
      on_failed_source: tasks that can't be prepared, once all others are: "stop", with a list of them, or "skip" them
        and train on the rest.
    """

    mixture: str
    modules: tuple[str, ...] = ("tasks",)
    split: str = "train"
    feature_lengths: dict[str, int] = dataclasses.field(default_factory=lambda: {"inputs": 384, "targets": 128})
    row_length: int = 512
    supervised_per_row: int = 0
    segments_per_row: int = 0
    window: int = 1024
    prompt_format: str = "plain"
    variants: int = 1
    prepare_seed: int = 0
    max_epochs: int = 0
    max_bad_records: int = 0
    on_failed_source: str = "stop"

    def __post_init__(self) -> None:
        if self.prompt_format not in PROMPT_FORMATS:
            raise ValueError(f"DataConfig.prompt_format={self.prompt_format!r} must be one of {PROMPT_FORMATS}")
        if self.on_failed_source not in ON_FAILED_SOURCE:
            raise ValueError(f"DataConfig.on_failed_source={self.on_failed_source!r} must be one of {ON_FAILED_SOURCE}")
        if set(self.feature_lengths) != {"inputs", "targets"}:
            raise ValueError(
                f"DataConfig.feature_lengths={self.feature_lengths} must name exactly 'inputs' and 'targets'"
            )
        total = sum(self.feature_lengths.values())
        if total > self.row_length:
            raise ValueError(
                f"DataConfig.feature_lengths sum to {total}, more than row_length={self.row_length}: "
                "an example of full length would fit in no row"
            )
        for name in ("row_length", "window", "variants"):
            if getattr(self, name) < 1:
                raise ValueError(f"DataConfig.{name}={getattr(self, name)} must be at least 1")
        for name in ("prepare_seed", "max_epochs", "max_bad_records"):
            if getattr(self, name) < 0:
                raise ValueError(f"DataConfig.{name}={getattr(self, name)} must not be negative")
