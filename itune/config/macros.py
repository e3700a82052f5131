"""The UPPERCASE macros that gin_configs/base.gin defines, with T5X's names. Importing this loads nothing else."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Macro:
    """`name` sets the field `binding`; `about` is its line in --help."""

    name: str
    binding: str
    about: str


MACROS = (
    Macro(
        name="MIXTURE_OR_TASK_NAME",
        binding="DataConfig.mixture",
        about="SeqIO task or mixture to train on",
    ),
    Macro(
        name="MIXTURE_OR_TASK_MODULE",
        binding="DataConfig.modules",
        about="module (or a tuple of them) that registers it",
    ),
    Macro(
        name="TASK_FEATURE_LENGTHS",
        binding="DataConfig.feature_lengths",
        about='most tokens of an example: {"inputs": 384, "targets": 128}',
    ),
    Macro(
        name="ALLOWED_LICENSES",
        binding="DataConfig.allowed_licences",
        about='licences or terms of what is trained on: ("commercial", "share-alike"); () for all',
    ),
    Macro(name="TRAIN_STEPS", binding="TrainConfig.steps", about="optimizer updates in all"),
    Macro(name="BATCH_SIZE", binding="TrainConfig.batch_size", about="packed rows an update"),
    Macro(name="LOSS_NORM", binding="TrainConfig.loss_norm", about="tokens or example: what counts alike in the loss"),
    Macro(name="DROPOUT_RATE", binding="TrainConfig.dropout_rate", about="from 0 to below 1"),
    Macro(name="MODEL_DIR", binding="RunConfig.model_dir", about="where the run lives; --workdir sets it too"),
)
