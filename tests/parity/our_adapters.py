"""Our side of make_adapters.py: peft's own folder read, and what is computed with it. Runs in .venv, without torch."""

from __future__ import annotations

from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import load_file

from itune.models.adapters import merged
from itune.models.compute import Compute
from itune.models.config import LoRAConfig
from itune.models.decoder import logits
from itune.models.families import read_config
from itune.models.spec import ADAPTER, ModelSpec, Params, model_spec
from itune.training.config import AdamWConfig
from itune.training.optim import make_optimizer
from itune.training.step import batch_loss
from itune.weights.load import load_base
from itune.weights.peft import read_adapter, write_adapter
from tests.parity import families, our_families, ours

MERGED_TOLERANCE = 1e-5


def load(base: Path, adapter: Path) -> tuple[ModelSpec, Params]:
    config = read_config(base)
    lora, trained = read_adapter(adapter, config)
    spec = model_spec(config, lora)
    params = load_base(base, spec, instead=trained)
    return spec, params | {path: jnp.asarray(trained[path]) for path in spec.adapter_paths()}


def differences(base: Path, adapter: Path, scratch: Path) -> dict[str, float]:
    """Relative differences of logits, loss, gradients, merged logits and, where there are such, LoRA+ steps."""
    theirs = dict(np.load(adapter / "refs.npz"))
    spec, params = load(base, adapter)
    batch = our_families.packed()
    train, frozen = spec.partition(params)

    def loss(train):
        total, _ = batch_loss(spec, {**frozen, **train}, batch, Compute())
        return total / batch.loss_weights.sum()

    value_and_grad = jax.jit(jax.value_and_grad(loss))
    value, grads = value_and_grad(train)
    found = {"loss": np.asarray(value), "logits": _logits(spec, params)}
    found |= named("grad", spec, grads, scratch / "grads")
    if "merged" in theirs:
        found["merged"] = merged_logits(spec, params)
    if any(name.startswith("plus/") for name in theirs):
        found |= named("plus", spec, lora_plus(value_and_grad, train), scratch / "plus")
    return ours.worst(found, theirs)


def _logits(spec: ModelSpec, params: Params) -> np.ndarray:
    batch = our_families.packed()
    return np.asarray(logits(spec.merge(params), batch.tokens, batch.segment_ids, batch.positions, Compute()))


def merged_logits(spec: ModelSpec, params: Params) -> np.ndarray:
    """Of the plain model with the adapters in its weights; the same as unmerged ones to MERGED_TOLERANCE."""
    plain = model_spec(spec.config)
    weights = {path: params[path] for path in plain.paths}
    for path in plain.paths:
        layer = path.removesuffix("/w")
        if f"{layer}/lora_a" not in params:
            continue
        adapter = {leaf: np.asarray(params[f"{layer}/{leaf}"]) for leaf in ADAPTER if f"{layer}/{leaf}" in params}
        at = spec.tuning.at or range(len(weights[path]))
        layers = [
            merged(w, {leaf: a[n] for leaf, a in adapter.items()}, spec.tuning) if n in at else w
            for n, w in enumerate(np.asarray(weights[path]))
        ]
        weights[path] = jnp.asarray(np.stack(layers))
    found, unmerged = _logits(plain, weights), _logits(spec, params)
    difference = np.abs(found - unmerged).max() / np.abs(unmerged).max()
    assert difference <= MERGED_TOLERANCE, difference
    return found


def lora_plus(value_and_grad, train: Params) -> Params:
    s = families.LORA_PLUS
    optimizer = make_optimizer(
        AdamWConfig(weight_decay=s["weight_decay"], eps=s["eps"], clip_norm=0.0), b_rate=s["ratio"]
    )
    state = optimizer.init(train)
    for _ in range(s["steps"]):
        train, state = optimizer.update(value_and_grad(train)[1], state, train, s["lr"])
    return train


def named(kind: str, spec: ModelSpec, arrays: Params, folder: Path) -> dict[str, np.ndarray]:
    """Under peft's names and in its layouts: as our writer of adapters has them."""
    assert isinstance(spec.tuning, LoRAConfig)
    folder.mkdir(parents=True)
    write_adapter(spec, {p: np.asarray(a) for p, a in arrays.items()}, folder, base="", dtype="float32")
    return {f"{kind}/{name}": a for name, a in load_file(folder / "adapter_model.safetensors").items()}
