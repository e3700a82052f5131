"""Our side of the comparisons: what run_parity.py and the golden tests compute alike. Runs in .venv, without torch."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from itune.models.compute import Compute
from itune.models.config import FullConfig, LoRAConfig
from itune.models.decoder import logits
from itune.models.families import read_config
from itune.models.head import head_loss
from itune.models.spec import ModelSpec, Params, model_spec
from itune.weights.load import load_base
from itune.weights.names import LLAMA
from tests.parity import tiny

LOGIT_TOLERANCE = 1e-3  # of the issue: max abs diff in f32, and where a tie begins in greedy search
BUCKET = 64  # prompts are padded to a multiple: few compilations


def load(folder: Path, tuning=None) -> tuple[ModelSpec, Params]:
    spec = model_spec(read_config(folder), tuning)
    return spec, load_base(folder, spec)


def prompt_logits(spec: ModelSpec, params: Params, prompts: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Logits [L, V] of each prompt, computed on its own row, padded on the right."""

    @jax.jit
    def run(params, tokens_BL, segments_BL, positions_BL):
        return logits(spec.merge(params), tokens_BL, segments_BL, positions_BL, Compute())

    out = []
    for ids in prompts:
        room = -(-len(ids) // BUCKET) * BUCKET
        row = np.zeros((3, 1, room), np.int32)
        row[:, 0, : len(ids)] = ids, np.ones(len(ids)), np.arange(len(ids))
        out.append(np.asarray(run(params, *row))[0, : len(ids)])
    return out


def tiny_results(folder: Path, *, lora: bool) -> dict[str, np.ndarray]:
    """The tiny model's logits, loss and gradients, under the names and in the layouts of make_golden.py."""
    spec, params = load(folder, LoRAConfig(rank=tiny.RANK, alpha=tiny.ALPHA) if lora else FullConfig())
    if lora:
        params |= _adapters(spec)
    tokens, labels = tiny.batch()
    shape = tokens.shape
    inputs = (tokens, np.ones(shape, np.int32), np.broadcast_to(np.arange(shape[1]), shape))
    train, frozen = spec.partition(params)
    supervised = labels[:, 1:] != tiny.IGNORED

    def loss(train):
        model = spec.merge({**train, **frozen})
        hidden = model.hidden(*map(jnp.asarray, inputs), Compute())[:, :-1]
        weights = jnp.asarray(supervised, jnp.float32).reshape(-1)
        targets = jnp.asarray(np.where(supervised, labels[:, 1:], 0)).reshape(-1)
        total, _ = head_loss(
            hidden.reshape(-1, hidden.shape[-1]), model.head_weights(), targets, weights, train_head=not lora
        )
        return total / weights.sum()

    value, grads = jax.value_and_grad(loss)(train)
    found = logits(spec.merge(params), *map(jnp.asarray, inputs))
    prefix = "lora_" if lora else ""
    out = {f"{prefix}logits": np.asarray(found), f"{prefix}loss": np.asarray(value)}
    return out | (_lora_gradients(grads) if lora else _gradients(spec, grads))


def _rows():
    """(our path, whether stacked, their name, transposed?) per row of the table of names."""
    return [(path, "{n}" in theirs, theirs, transposed) for path, theirs, transposed in LLAMA]


def _gradients(spec: ModelSpec, grads: Params) -> dict[str, np.ndarray]:
    out = {}
    for path, stacked, theirs, transposed in _rows():
        if path in grads:
            array = np.asarray(grads[path])
            for n in range(spec.config.num_layers if stacked else 1):
                one = array[n] if stacked else array
                out["grad/" + theirs.format(n=n)] = one.T if transposed else one
    return out


def _lora_sites():
    """(our path without the leaf, peft's name without lora_A)."""
    return [
        (path[: -len("/w")], theirs[: -len(".weight")]) for path, _, theirs, _ in _rows() if path.endswith("_proj/w")
    ]


def _adapters(spec: ModelSpec) -> Params:
    """peft's A [rank, in] and B [out, rank] as our lora_a [N, 1, in, rank] and lora_b [N, 1, rank, out]."""
    pairs, out = tiny.lora(), {}
    for path, theirs in _lora_sites():
        for leaf, which in (("lora_a", 0), ("lora_b", 1)):
            stack = [pairs[theirs.format(n=n)][which].T for n in range(spec.config.num_layers)]
            out[f"{path}/{leaf}"] = jnp.asarray(np.stack(stack)[:, None])
    assert set(out) == set(spec.adapter_paths())
    return out


def _lora_gradients(grads: Params) -> dict[str, np.ndarray]:
    out = {}
    for path, theirs in _lora_sites():
        for leaf, letter in (("lora_a", "A"), ("lora_b", "B")):
            for n, array in enumerate(np.asarray(grads[f"{path}/{leaf}"])):
                out[f"lora_grad/{theirs.format(n=n)}.{letter}"] = array[0].T
    return out


def worst(ours: dict[str, np.ndarray], theirs: dict[str, np.ndarray]) -> dict[str, float]:
    """Per name, max |difference| / max |theirs|. KeyError-free only if both have the same names."""
    assert set(ours) == set(theirs), sorted(set(ours) ^ set(theirs))
    out = {}
    for name, array in ours.items():
        other = theirs[name]
        assert array.shape == other.shape, (name, array.shape, other.shape)
        out[name] = float(np.abs(array - other).max() / np.abs(other).max())
    return out


def greedy_difference(new: Sequence[int], reference: dict, eos_id: int) -> str | None:
    """None where our new tokens (without EOS) are the reference's, up to a tie.

    From the first step at which the reference's two best logits are within LOGIT_TOLERANCE, anything may follow.
    """
    theirs = reference["new"][:-1] if reference["new"][-1] == eos_id else reference["new"]
    for step in range(max(len(new), len(theirs))):
        ours_step = new[step] if step < len(new) else eos_id
        their_step = theirs[step] if step < len(theirs) else eos_id
        if ours_step != their_step:
            gap = reference["gaps"][step]
            return None if gap <= LOGIT_TOLERANCE else f"step {step}: {ours_step}, not {their_step} (gap {gap})"
    return None
