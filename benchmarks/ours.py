"""Our side of train_step.py: python benchmarks/ours.py JOB.json f32|bf16. Prints what `measure` returns, as JSON.

The model, its state and the step come from `itune.training.setup`, and are called as `itune.training.loop` calls them;
only that each step is waited for, where the loop lets the next one start before it reads the last one's numbers.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from types import SimpleNamespace  # noqa: E402
from typing import Any, cast  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import flax  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

import itune  # noqa: E402
from benchmarks.measure import matrix_gflops, measure  # noqa: E402
from itune.batch import FIELDS, Batch  # noqa: E402
from itune.config.run import RunConfig  # noqa: E402
from itune.data.config import DataConfig  # noqa: E402
from itune.models.config import FullConfig, LoRAConfig, WeightsConfig  # noqa: E402
from itune.models.families import read_config  # noqa: E402
from itune.models.flops import training_flops  # noqa: E402
from itune.training.config import AdamWConfig, TrainConfig  # noqa: E402
from itune.training.data_side import DataSide  # noqa: E402
from itune.training.setup import ModelSide, model_side  # noqa: E402

COMPUTE_DTYPE = {"f32": "float32", "bf16": "bfloat16"}


def run_config(job: dict[str, Any], num_steps: int) -> RunConfig:
    length = job["length"]
    return RunConfig(
        model_dir="",
        data=DataConfig(mixture="rows", row_length=length, feature_lengths={"inputs": length // 2, "targets": 1}),
        train=TrainConfig(steps=num_steps, batch_size=job["batch"]),
        weights=WeightsConfig(
            source=job["folder"], compute_dtype=COMPUTE_DTYPE[job["dtype"]], quantise=job.get("quantise", "")
        ),
        tuning=LoRAConfig(rank=job["rank"], alpha=job["alpha"]) if job["mode"] == "lora" else FullConfig(),
        optimizer=AdamWConfig(**job["adamw"], clip_norm=job["clip_norm"]),
    )


def load(job: dict[str, Any], config: RunConfig) -> ModelSide:
    """The model as a run has it. Of the data, only what decides shapes is there: the batches are packed already."""
    data = SimpleNamespace(
        folder=Path(job["folder"]),
        model=read_config(Path(job["folder"])),
        manifest=SimpleNamespace(train=["rows"]),
        plan=SimpleNamespace(L=job["length"], S=job["segments_per_row"]),
    )
    return model_side(config, cast(DataSide, data))


def step_flops(model: ModelSide, columns: dict[str, np.ndarray], n: int) -> int | None:
    """What batch n has to compute: no recomputation, no gradients of frozen weights. Padding goes through, too."""
    segments = columns["segment_ids"][n]
    lengths = np.concatenate([np.bincount(row[row > 0]) for row in segments])
    supervised = int((columns["loss_weights"][n] > 0).sum())
    return training_flops(model.spec, segments.size, supervised, int((lengths * (lengths + 1) // 2).sum()))


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text("utf-8")) | {"dtype": sys.argv[2]}
    with np.load(job["batches"]) as arrays:
        columns = {name: arrays[name] for name in FIELDS if name in arrays}
    num_steps = len(columns["tokens"])
    config = run_config(job, num_steps)
    model = load(job, config)
    state, key = model.initial_state(config.seed), jax.random.key(config.seed)
    trainable = sum(a.size for a in state.params.values())
    hparams = {"learning_rate": jnp.float32(job["learning_rate"])}

    def step(n: int) -> tuple[float, float]:
        nonlocal state
        batch = Batch(**{name: column[n] for name, column in columns.items()})
        state, metrics = model.train_step(state, model.frozen, model.put(batch), hparams, key)
        jax.block_until_ready(state)
        return float(metrics.loss_sum / metrics.weight), float(metrics.grad_norm)

    found = measure(step, num_steps, STARTED)
    versions = {"itune": itune.__version__, "jax": jax.__version__, "flax": flax.__version__}
    flops = [step_flops(model, columns, n) for n in range(num_steps)]
    more = {"trainable": trainable, "versions": versions, "step_flops": flops, "matrix_gflops": matrix_gflops()}
    print(json.dumps(found | more))


if __name__ == "__main__":
    main()
