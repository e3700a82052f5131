"""RunConfig: everything a run depends on, in one frozen value."""

from __future__ import annotations

import dataclasses

from itune.data.config import DataConfig
from itune.evaluation.config import EvalConfig
from itune.models.config import FullConfig, LoRAConfig, WeightsConfig
from itune.parallel.config import MeshConfig
from itune.training.config import (
    AdafactorConfig,
    AdamWConfig,
    CheckpointConfig,
    LearningRateConfig,
    LoggingConfig,
    TrainConfig,
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunConfig:
    """A resolved run. `model_dir` is where it lives; `seed` keys order, adapters' initialisation and dropout."""

    model_dir: str
    data: DataConfig
    train: TrainConfig
    seed: int = 0
    weights: WeightsConfig = WeightsConfig()
    tuning: LoRAConfig | FullConfig = LoRAConfig()
    optimizer: AdamWConfig | AdafactorConfig = AdamWConfig()
    learning_rate: LearningRateConfig = LearningRateConfig()
    mesh: MeshConfig = MeshConfig()
    evaluation: EvalConfig = EvalConfig()
    checkpoint: CheckpointConfig = CheckpointConfig()
    logging: LoggingConfig = LoggingConfig()

    def __post_init__(self) -> None:
        if "://" in self.model_dir:  # pathlib would make a folder named "gs:" here
            raise ValueError("model_dir must be a folder: runs don't live in object stores")
