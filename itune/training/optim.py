"""Optimizers and learning rates: optax underneath, per layer, with the learning rate an argument of the step."""

from __future__ import annotations

import dataclasses
import math
import re
from typing import Any

import jax
import jax.numpy as jnp
import optax

from itune.training.config import AdafactorConfig, AdamWConfig, LearningRateConfig

Params = dict[str, jax.Array]
B_LIKE = ("lora_b", "lora_m", "scale", "b")
STACKED = re.compile(r"(.*/)?layers/.*")  # paths that carry a leading axis of layers


def learning_rate(config: LearningRateConfig, step: int, total_steps: int) -> float:
    """The rate of update number `step` (0 is the first). A pure function of the step, so resuming needs no state."""
    warmup = config.warmup_steps
    if step < warmup:
        return config.peak * (step + 1) / warmup
    if config.shape == "constant":
        return config.peak
    if config.shape == "rsqrt":
        return config.peak * math.sqrt(max(warmup, 1) / (step + 1)) if step + 1 > max(warmup, 1) else config.peak
    progress = (step - warmup) / max(total_steps - warmup - 1, 1)
    low = config.peak * config.final_fraction
    if config.shape == "linear":
        return config.peak + (low - config.peak) * min(progress, 1.0)
    return low + (config.peak - low) * 0.5 * (1 + math.cos(math.pi * min(progress, 1.0)))


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """optax's transformation, applied to each layer of the stacked parameters by itself.

    What Adafactor factors, and the scale it takes from a parameter, must not depend on layers being stored together.
    """

    transform: optax.GradientTransformation
    clip_norm: float
    b_rate: float = 1.0

    def init(self, params: Params) -> Any:
        found: dict[str, Any] = {"stacked": {}, "single": {}}
        for name, group in _groups(params).items():
            found[name] = self.transform.init(group) if name == "single" else jax.vmap(self.transform.init)(group)
        return found

    def update(self, grads: Params, state: Any, params: Params, rate) -> tuple[Params, Any]:
        """params - rate * update. `grads` are already divided and clipped."""
        grad_groups = _groups(grads)
        new_state: dict[str, Any] = {"stacked": {}, "single": {}}
        out: Params = {}
        for name, group in _groups(params).items():
            update = self.transform.update if name == "single" else jax.vmap(self.transform.update)
            updates, new_state[name] = update(grad_groups[name], state[name], group)
            out |= updates
        rates = {path: rate * self.b_rate if path.rpartition("/")[2] in B_LIKE else rate for path in params}
        return {path: params[path] - rates[path] * out[path] for path in params}, new_state


def make_optimizer(config: AdamWConfig | AdafactorConfig, *, b_rate: float = 1.0) -> Optimizer:
    """Weight decay is decoupled and multiplied by the learning rate in both (Loshchilov & Hutter 2019).

    b_rate: of adapters' B over the others' rate (LoRA+), and of vectors (DoRA's magnitudes, norms, biases), as in peft.
    """
    if isinstance(config, AdamWConfig):
        scale = optax.scale_by_adam(b1=config.b1, b2=config.b2, eps=config.eps)
        decay = optax.add_decayed_weights(config.weight_decay)
        return Optimizer(optax.chain(scale, decay), config.clip_norm, b_rate)
    steps = [optax.scale_by_factored_rms(config.factored, decay_rate=config.decay_rate), optax.clip_by_block_rms(1.0)]
    if config.multiply_by_parameter_scale:
        steps.append(optax.scale_by_param_block_rms())
    return Optimizer(optax.chain(*steps, optax.add_decayed_weights(config.weight_decay)), config.clip_norm, b_rate)


def clip(grads: Params, max_norm: float) -> tuple[Params, jax.Array]:
    """(gradients scaled to a global norm of at most `max_norm`, the norm before). max_norm 0 leaves them alone."""
    norm = jnp.sqrt(sum(jnp.sum(jnp.square(g.astype(jnp.float32))) for g in grads.values()))
    if max_norm == 0:
        return grads, norm
    factor = jnp.minimum(1.0, max_norm / jnp.maximum(norm, 1e-12))
    return {path: g * factor for path, g in grads.items()}, norm


def _groups(params: Params) -> dict[str, Params]:
    """{"single": ..., "stacked": ...}; of an encoder-decoder one for each stack, as their depths may differ."""
    found: dict[str, Params] = {}
    for path, array in params.items():
        match = STACKED.fullmatch(path)
        name = "single" if match is None else f"stacked {match[1]}" if match[1] else "stacked"
        found.setdefault(name, {})[path] = array
    return found
