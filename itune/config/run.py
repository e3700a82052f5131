"""RunConfig: everything a run depends on, in one frozen value."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from itune.data.config import DataConfig
from itune.evaluation.config import EvalConfig
from itune.models.config import FullConfig, LoRAConfig, WeightsConfig
from itune.parallel.config import MeshConfig
from itune.storage import names
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
    """A resolved run. `model_dir` is where it lives, a folder or gs://BUCKET/FOLDER; `seed` keys order, adapters'
    initialisation and dropout."""

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
        try:
            names.check_place(self.model_dir)
        except ValueError as error:
            raise ValueError(f"model_dir: {error}") from None

    @property
    def folder(self) -> Path:
        """Where its files are on this machine: `model_dir`, or the copy of what lies in a bucket."""
        return names.local_folder(self.model_dir)
