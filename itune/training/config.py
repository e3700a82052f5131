"""Optimizer, learning rate, loop and checkpoint configs. Importing this does not load JAX."""

from __future__ import annotations

import dataclasses

LOSS_NORMS = ("tokens", "example")
LR_SHAPES = ("constant", "cosine", "linear", "rsqrt")
NONFINITE_POLICIES = ("stop", "skip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LearningRateConfig:
    """Linear warm-up to `peak`, then a shape.

    constant; cosine or linear, down to peak * final_fraction at the last step; or rsqrt, peak * sqrt(warmup / step).
    """

    peak: float = 1e-3
    shape: str = "cosine"
    warmup_steps: int = 0
    final_fraction: float = 0.1

    def __post_init__(self) -> None:
        if self.shape not in LR_SHAPES:
            raise ValueError(f"LearningRateConfig.shape={self.shape!r} must be one of {LR_SHAPES}")
        if self.peak <= 0 or self.warmup_steps < 0 or not 0 <= self.final_fraction <= 1:
            raise ValueError("LearningRateConfig needs peak > 0, warmup_steps >= 0 and 0 <= final_fraction <= 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdamWConfig:
    """AdamW (Loshchilov & Hutter 2019). clip_norm: global gradient norm; 0 turns clipping off."""

    b1: float = 0.9
    b2: float = 0.999
    eps: float = 1e-8
    weight_decay: float = 0.0
    clip_norm: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class AdafactorConfig:
    """Adafactor (Shazeer & Stern 2018), as optax has it. clip_norm as in AdamWConfig; 0 turns it off."""

    decay_rate: float = 0.8
    factored: bool = True
    multiply_by_parameter_scale: bool = True
    weight_decay: float = 0.0
    clip_norm: float = 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """The loop.

    Attributes:
      steps: optimizer updates in all (TRAIN_STEPS).
      batch_size: packed rows an update (BATCH_SIZE), over all devices and microbatches.
      accumulation: microbatches an update; the gradient equals the big batch's.
      loss_norm: "tokens" (every supervised token counts alike) or "example" (every example counts alike).
      dropout_rate: on the inputs of adapters (LoRA) and on residual branches; keyed by step and row.
      label_smoothing: share of the target's probability that is spread over the vocabulary (Szegedy et al. 2016).
        Metrics stay plain cross-entropy.
      z_loss: weight of the squared log of the softmax's sum (Chowdhery et al. 2022: 1e-4), which keeps logits from
        drifting; not in the metrics either.
      neftune_alpha: noise on the embeddings (Jain et al. 2023: 5 to 15), keyed as dropout is; 0 is off.
      on_nonfinite: "stop" ends the run with the step's example ids; "skip" logs them and goes on. The update is a
        no-op either way.
      log_every: steps between lines of metrics.jsonl; a line sums the steps since the last one. Devices hand their
        sums over once a line; of slow steps once a second, so that they show as they come.
    """

    steps: int
    batch_size: int = 4
    accumulation: int = 1
    loss_norm: str = "tokens"
    dropout_rate: float = 0.0
    label_smoothing: float = 0.0
    z_loss: float = 0.0
    neftune_alpha: float = 0.0
    on_nonfinite: str = "stop"
    log_every: int = 1

    def __post_init__(self) -> None:
        if self.loss_norm not in LOSS_NORMS:
            raise ValueError(f"TrainConfig.loss_norm={self.loss_norm!r} must be one of {LOSS_NORMS}")
        if self.on_nonfinite not in NONFINITE_POLICIES:
            raise ValueError(f"TrainConfig.on_nonfinite={self.on_nonfinite!r} must be one of {NONFINITE_POLICIES}")
        if self.steps < 1 or self.batch_size < 1 or self.accumulation < 1 or self.log_every < 1:
            raise ValueError("TrainConfig.steps, batch_size, accumulation and log_every must be at least 1")
        if self.batch_size % self.accumulation:
            raise ValueError(
                f"TrainConfig.batch_size={self.batch_size} must divide by accumulation={self.accumulation}"
            )
        for name in ("dropout_rate", "label_smoothing"):
            if not 0 <= getattr(self, name) < 1:
                raise ValueError(f"TrainConfig.{name}={getattr(self, name)} must be in [0, 1)")
        for name in ("z_loss", "neftune_alpha"):
            if not 0 <= getattr(self, name) < float("inf"):
                raise ValueError(f"TrainConfig.{name}={getattr(self, name)} must be 0 or more")


@dataclasses.dataclass(frozen=True, kw_only=True)
class CheckpointConfig:
    """Which checkpoints are written, and which stay.

    every: steps between checkpoints (0: only the last).  keep: how many of the newest stay.
    keep_best: also keep the one with the lowest evaluation loss of `EvalConfig.choose_by`.
    """

    every: int = 50
    keep: int = 2
    keep_best: bool = True

    def __post_init__(self) -> None:
        if self.every < 0 or self.keep < 1:
            raise ValueError("CheckpointConfig needs every >= 0 and keep >= 1")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoggingConfig:
    """Where metrics go besides metrics.jsonl.

    tensorboard: write event files.
    wandb_project: log to Weights & Biases under this project (extra `wandb`); "" is off.
    profile_steps: so many steps are traced by JAX's profiler into MODEL_DIR/profile; 0 is none.
    profile_start: the first of them, counted from 1; later than the first step leaves its compilation out.
    """

    tensorboard: bool = True
    wandb_project: str = ""
    profile_start: int = 3
    profile_steps: int = 0

    def __post_init__(self) -> None:
        if self.profile_start < 1 or self.profile_steps < 0:
            raise ValueError("LoggingConfig needs profile_start >= 1 and profile_steps >= 0")
