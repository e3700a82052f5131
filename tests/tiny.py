"""Tiny models and batches: small enough to compile in seconds, odd enough to catch transposed dimensions."""

from __future__ import annotations

import functools

import numpy as np

from itune.batch import Batch
from itune.models.config import FullConfig, LayerKind, LoRAConfig, ModelConfig
from itune.models.spec import ModelSpec, Params, init_params, model_spec

CONFIG = ModelConfig(
    family="llama",
    vocab_size=97,
    width=32,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    mlp_width=40,
    layers=(LayerKind(), LayerKind()),
    norm_eps=1e-5,
    tied_embeddings=True,
    max_positions=512,
)


@functools.cache
def spec(tuning: str = "lora", rank: int = 4) -> ModelSpec:
    return model_spec(CONFIG, {"lora": LoRAConfig(rank=rank), "full": FullConfig(), "none": None}[tuning])


def params(s: ModelSpec, seed: int = 0) -> Params:
    """All parameters, adapters' B factors nonzero so that adapters do something."""
    import jax

    out = init_params(s, seed, s.paths)
    for path in s.adapter_paths():
        if path.endswith("lora_b"):
            key = jax.random.fold_in(jax.random.key(seed), len(path))
            out[path] = 0.1 * jax.random.normal(key, out[path].shape)
    return out


def examples(n: int, seed: int = 0, *, low: int = 6, high: int = 60) -> list[tuple[list[int], list[int]]]:
    """(inputs, targets) of token ids."""
    rng = np.random.default_rng(seed)
    out = []
    for _ in range(n):
        length = int(rng.integers(low, high))
        targets = int(rng.integers(1, length // 2))
        ids = rng.integers(3, CONFIG.vocab_size, length).tolist()
        out.append((ids[:-targets], ids[-targets:]))
    return out


def pack(rows: list[list[tuple[list[int], list[int]]]], *, length: int = 128, supervised: int = 64) -> Batch:
    """Rows of examples, laid out as the batch's docstring says; tasks are numbered by place in the row."""
    B = len(rows)
    ints = {name: np.zeros((B, length), np.int32) for name in ("tokens", "segment_ids", "positions")}
    loss = {name: np.zeros((B, supervised), np.int32) for name in ("loss_index", "loss_targets", "loss_task")}
    weights = np.zeros((B, supervised), np.float32)
    for b, row in enumerate(rows):
        at = t = 0
        for number, (inputs, targets) in enumerate(row):
            n, m = len(inputs) + len(targets), len(targets)
            ints["tokens"][b, at : at + n] = inputs + targets
            ints["segment_ids"][b, at : at + n] = number + 1
            ints["positions"][b, at : at + n] = np.arange(n)
            loss["loss_index"][b, t : t + m] = np.arange(at + len(inputs) - 1, at + n - 1)
            loss["loss_targets"][b, t : t + m] = targets
            loss["loss_task"][b, t : t + m] = number % 3
            weights[b, t : t + m] = 1.0
            at, t = at + n, t + m
        assert at <= length and t <= supervised, "too many examples for the row"
    rows_ids = np.stack([np.zeros(B, np.int32), np.arange(B, dtype=np.int32)], axis=1)
    return Batch(**ints, **loss, loss_weights=weights, row_ids=rows_ids)


def batch(rows: int = 8, per_row: int = 3, seed: int = 0) -> Batch:
    found = examples(rows * per_row, seed, high=40)
    return pack([found[r * per_row : (r + 1) * per_row] for r in range(rows)])
