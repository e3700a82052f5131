"""Learning rates, and optimizers against optax applied to each layer by itself."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from itune.training.config import AdafactorConfig, AdamWConfig, LearningRateConfig
from itune.training.optim import clip, learning_rate, make_optimizer

SHAPES = {"layers/w": (3, 130, 140), "embed": (150, 130)}


def tree(seed: int, scale: float = 1.0) -> dict[str, jax.Array]:
    return {p: scale * jax.random.normal(jax.random.key(seed + n), s) for n, (p, s) in enumerate(SHAPES.items())}


def rates(shape: str, steps: int = 10, **kw) -> list[float]:
    config = LearningRateConfig(peak=1.0, shape=shape, warmup_steps=4, **kw)
    return [learning_rate(config, step, steps) for step in range(steps)]


@pytest.mark.parametrize("shape", ["constant", "cosine", "linear", "rsqrt"])
def test_warm_up_is_linear_and_ends_at_the_peak(shape):
    np.testing.assert_allclose(rates(shape)[:4], [0.25, 0.5, 0.75, 1.0])
    assert max(rates(shape)) == 1.0


def test_shapes_after_warm_up():
    assert rates("constant")[4:] == [1.0] * 6
    np.testing.assert_allclose(rates("linear", final_fraction=0.5)[4:], np.linspace(1, 0.5, 6))
    cosine = rates("cosine", final_fraction=0.0)[4:]
    np.testing.assert_allclose(cosine, 0.5 * (1 + np.cos(np.pi * np.arange(6) / 5)), atol=1e-12)
    np.testing.assert_allclose(rates("rsqrt")[4:], [np.sqrt(4 / step) for step in range(5, 11)])


def by_optax(transform: optax.GradientTransformation, params, grads, rate: float, steps: int):
    state = transform.init(params)
    for _ in range(steps):
        updates, state = transform.update(grads, state, params)
        params = jax.tree.map(lambda p, u: p - rate * u, params, updates)
    return params


@pytest.mark.parametrize("name", ["adamw", "adafactor"])
def test_each_layer_is_its_own_parameter(name):
    params, grads = tree(0), tree(10, 0.1)
    if name == "adamw":
        config = AdamWConfig(weight_decay=0.1, clip_norm=0.0)
        reference = optax.chain(optax.scale_by_adam(), optax.add_decayed_weights(0.1))
    else:
        config = AdafactorConfig(weight_decay=0.1)
        factored = optax.scale_by_factored_rms(decay_rate=0.8)
        scaled = (optax.clip_by_block_rms(1.0), optax.scale_by_param_block_rms())
        reference = optax.chain(factored, *scaled, optax.add_decayed_weights(0.1))
    optimizer = make_optimizer(config)
    ours, state = params, optimizer.init(params)
    for _ in range(3):
        ours, state = optimizer.update(grads, state, ours, 0.01)
    whole = by_optax(reference, params["embed"], grads["embed"], 0.01, 3)
    np.testing.assert_allclose(ours["embed"], whole, atol=1e-6)
    for n in range(3):
        alone = by_optax(reference, params["layers/w"][n], grads["layers/w"][n], 0.01, 3)
        np.testing.assert_allclose(ours["layers/w"][n], alone, atol=1e-6, err_msg=f"layer {n}")


def test_clipping_scales_to_the_global_norm_and_zero_turns_it_off():
    grads = {"a": jnp.array([3.0]), "b": jnp.array([4.0])}
    clipped, norm = clip(grads, 1.0)
    np.testing.assert_allclose(
        [float(norm), float(clipped["a"][0]), float(clipped["b"][0])], [5.0, 0.6, 0.8], rtol=1e-6
    )
    assert clip(grads, 0.0)[0] is grads
    np.testing.assert_allclose(clip(grads, 10.0)[0]["b"], [4.0])
