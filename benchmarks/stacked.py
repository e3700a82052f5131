"""LoRA runs in one step (StudyConfig.together) against the same steps one run after the other.

    .venv/bin/python benchmarks/stacked.py [--runs 1 2 4] [--steps 4] [--rounds 2] [--rows 1] [--length 256]

SmolLM2-135M, rank 16 on all linear layers, float32, random tokens, a quarter of them supervised. In turns in one
process; medians of steps after the first. ratio: the time of K runs' single steps over that of their common one. The
last line is one JSON object.
"""

from __future__ import annotations

import argparse
import os
import statistics
import sys
import time
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.publish import publish, stamp
from itune.batch import Batch
from itune.memory import use_huge_pages
from itune.models.compute import Compute
from itune.models.config import LoRAConfig
from itune.models.families import read_config
from itune.models.spec import init_params, model_spec
from itune.training.config import AdamWConfig
from itune.training.optim import make_optimizer
from itune.training.stacked import make_stacked_step
from itune.training.step import StepSettings, TrainState, make_train_step
from itune.weights import resolve
from itune.weights.load import load_base


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, nargs="+", default=[1, 2, 4])
    parser.add_argument("--steps", type=int, default=4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--rows", type=int, default=1, help="of a run's batch")
    parser.add_argument("--length", type=int, default=256)
    parser.add_argument("--model", default="smollm2-135m-instruct")
    parser.add_argument("--json_out", help="write the JSON object to this file too")
    flags = parser.parse_args()
    load_before = os.getloadavg()[0]
    folder = resolve(flags.model)
    spec = model_spec(read_config(folder), LoRAConfig(rank=16))
    frozen = load_base(folder, spec)
    optimizer = make_optimizer(AdamWConfig())
    settings = StepSettings(num_tasks=1, num_segments=1, compute=Compute())
    single = jax.jit(make_train_step(spec, optimizer, settings), donate_argnums=0)
    rng, key, rate = np.random.default_rng(0), jax.random.key(0), jnp.float32(1e-4)

    def state(seed: int) -> TrainState:
        params = init_params(spec, seed)
        return TrainState(params, optimizer.init(params), jnp.zeros((), jnp.int32))

    def alone(count: int) -> float:
        states, seconds = [state(k) for k in range(count)], []
        for _ in range(flags.steps + 1):
            rows = [batch(rng, spec.config.vocab_size, flags.rows, flags.length) for _ in states]
            begin = time.perf_counter()
            for k, one in enumerate(rows):
                states[k], metrics = single(states[k], frozen, one, {"learning_rate": rate}, key)
                jax.block_until_ready(metrics)
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds[1:])

    steps = {
        count: jax.jit(make_stacked_step(spec, optimizer, settings, count), donate_argnums=0) for count in flags.runs
    }

    def together(count: int) -> float:
        states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(state(k) for k in range(count)))
        keys, seconds = jnp.stack([key] * count), []
        for _ in range(flags.steps + 1):
            rows = [batch(rng, spec.config.vocab_size, flags.rows, flags.length) for _ in range(count)]
            stacked = jax.tree.map(lambda *arrays: np.concatenate(arrays), *rows)
            begin = time.perf_counter()
            rates = {"learning_rate": jnp.full(count, rate)}
            states, metrics = steps[count](states, frozen, stacked, rates, keys)
            jax.block_until_ready(metrics)
            seconds.append(time.perf_counter() - begin)
        return statistics.median(seconds[1:])

    found: dict[int, list[tuple[float, float]]] = {count: [] for count in flags.runs}
    for number in range(flags.rounds):
        for count in flags.runs:
            found[count].append((alone(count), together(count)))
            one, other = found[count][-1]
            print(
                f"round {number + 1}, {count} runs: {one:.2f} s one after the other, {other:.2f} s in one step",
                flush=True,
            )
    ratios = {k: statistics.median(a for a, _ in v) / statistics.median(b for _, b in v) for k, v in found.items()}
    for count, ratio in ratios.items():
        print(f"{count} runs in one step: {ratio:.2f} times as fast")
    figures = {
        "name": "stacked",
        "ratio": {str(k): round(r, 3) for k, r in ratios.items()},
        "seconds": {str(k): [[round(a, 3), round(b, 3)] for a, b in v] for k, v in found.items()},
        "rows": flags.rows,
        "length": flags.length,
        "unit": "time of K runs one after the other over that of their common step, by K",
        **stamp(),
        "versions": {"jax": jax.__version__},
        "load_before": round(load_before, 2),
    }
    publish(figures, flags.json_out)


def batch(rng: np.random.Generator, vocabulary: int, rows: int, length: int) -> Batch:
    """One example a row."""
    ints = lambda *shape: rng.integers(0, vocabulary, shape).astype(np.int32)  # noqa: E731
    positions = np.broadcast_to(np.arange(length, dtype=np.int32), (rows, length))
    supervised = length // 4
    index = np.broadcast_to(np.arange(length - supervised - 1, length - 1, dtype=np.int32), (rows, supervised))
    return Batch(
        tokens=ints(rows, length),
        segment_ids=np.ones((rows, length), np.int32),
        positions=positions,
        loss_index=index,
        loss_targets=ints(rows, supervised),
        loss_weights=np.ones((rows, supervised), np.float32),
        loss_task=np.zeros((rows, supervised), np.int32),
        row_ids=np.zeros((rows, 2), np.int32),
    )


if __name__ == "__main__":
    use_huge_pages()
    main()
