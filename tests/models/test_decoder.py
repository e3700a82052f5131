"""The decoder's variations: what must not change the numbers, and what layers may differ in."""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itune.models.compute import Compute
from itune.models.config import REMAT, FullConfig, LayerKind, Rope, RopeScaling
from itune.models.layers import NO_DROPOUT, Dropout, neftune, rope_frequencies
from itune.models.spec import init_params, model_spec
from itune.training.step import batch_loss
from tests import tiny

# Gemma 3's kind of layers: windows shorter than the rows, two rotary bases, soft-caps, norms everywhere.
LOCAL, GLOBAL = LayerKind(window=7, rope=Rope(base=100.0)), LayerKind(rope=Rope(base=5000.0))
CONFIG = dataclasses.replace(
    tiny.CONFIG,
    layers=(LOCAL, GLOBAL, LOCAL),
    activation="gelu_tanh",
    qkv_bias=True,
    qk_norm=True,
    post_norms=True,
    norm_offset=1.0,
    embed_scale=math.sqrt(tiny.CONFIG.width),
    attention_softcap=5.0,
    final_softcap=3.0,
)


@functools.cache
def model():
    spec = model_spec(CONFIG, FullConfig())
    params = init_params(spec, 0, spec.paths)
    key = jax.random.key(1)
    return spec, {p: a + 0.1 * jax.random.normal(jax.random.fold_in(key, len(p)), a.shape) for p, a in params.items()}


@functools.cache
def loss_and_gradients(compute: Compute, dropout: Dropout = NO_DROPOUT):
    spec, params = model()
    batch = jax.tree.map(jnp.asarray, tiny.batch(rows=2))
    run = jax.jit(jax.value_and_grad(lambda p: batch_loss(spec, p, batch, compute, dropout)[0]))
    return run(params)


VARIANTS = [
    *(Compute(remat=remat) for remat in REMAT if remat != "cheap"),
    Compute(scan=False),
    Compute(scan=False, remat="full"),
    Compute(attention="reference"),
]


@pytest.mark.parametrize(
    "compute", VARIANTS, ids=lambda c: f"{c.remat}-{c.attention}-{'scan' if c.scan else 'unrolled'}"
)
def test_how_it_is_computed_changes_no_number(compute):
    value, grads = loss_and_gradients(compute)
    expected, expected_grads = loss_and_gradients(Compute())
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for path, grad in expected_grads.items():
        assert np.abs(grads[path] - grad).max() <= 2e-5 * np.abs(grad).max(), path


def test_remat_keeps_what_it_says():
    """The compiler's own count of what a step needs beside its arguments: the more is made again, the less."""
    spec, params = model()
    batch = jax.tree.map(jnp.asarray, tiny.batch(rows=8))

    def temporaries(remat):
        compute = Compute(remat=remat, scan=True, attention="reference")
        run = jax.jit(jax.grad(lambda p: batch_loss(spec, p, batch, compute)[0]))
        return run.lower(params).compile().memory_analysis().temp_size_in_bytes

    sizes = {remat: temporaries(remat) for remat in REMAT}
    assert sizes["full"] < sizes["dots"] < sizes["cheap"] < sizes["none"], sizes


def test_packed_is_separate_under_windows():
    """Segments of a row neither see each other nor shift each other's windows."""
    spec, params = model()
    rows = tiny.examples(3, seed=4, low=20, high=40)
    nll = lambda batch: batch_loss(spec, params, jax.tree.map(jnp.asarray, batch), Compute())[1]  # noqa: E731
    packed = np.asarray(nll(tiny.pack([rows])))[0]
    separate = np.asarray(nll(tiny.pack([[row] for row in rows])))
    found = np.concatenate([separate[n, : len(targets)] for n, (_, targets) in enumerate(rows)])
    np.testing.assert_allclose(packed[: len(found)], found, rtol=2e-4, atol=2e-5)


def test_llama3_scaling_stretches_low_frequencies_only():
    """Checked against its own definition by wavelengths; parity with transformers is in tests/parity."""
    scaling = RopeScaling(kind="llama3", factor=8.0, original_max_positions=128)
    plain = np.asarray(rope_frequencies(16, Rope(base=10_000.0)))
    scaled = np.asarray(rope_frequencies(16, Rope(base=10_000.0, scaling=scaling)))
    wavelength = 2 * math.pi / plain
    assert np.allclose(scaled[wavelength < 128 / 4], plain[wavelength < 128 / 4])
    assert np.allclose(scaled[wavelength > 128], plain[wavelength > 128] / 8)
    between = (wavelength > 32) & (wavelength < 128)
    assert between.any() and (scaled[between] < plain[between]).all() and (scaled[between] > plain[between] / 8).all()


def test_neftune_noise_is_uniform_in_alpha_over_root_of_tokens_times_width():
    segments = jnp.array([[1] * 5 + [2] * 20 + [0] * 7])
    x = jnp.zeros((1, 32, 64))
    keys = jax.random.split(jax.random.key(0), 1)
    noise = np.asarray(neftune(x, segments, 5.0, keys))[0]
    for begin, tokens in ((0, 5), (5, 20)):
        bound = 5.0 / math.sqrt(tokens * 64)
        part = noise[begin : begin + tokens]
        assert 0.97 * bound < np.abs(part).max() <= bound
        assert np.isclose(part.std(), bound / math.sqrt(3), rtol=0.1)
    assert not noise[25:].any()


def test_neftune_is_keyed_by_row_and_off_without_keys():
    keys = jax.random.split(jax.random.key(0), 2)
    plain = loss_and_gradients(Compute())[0]
    spec, params = model()
    batch = jax.tree.map(jnp.asarray, tiny.batch(rows=2))
    loss = lambda dropout: float(batch_loss(spec, params, batch, Compute(), dropout)[0])  # noqa: E731
    assert np.isclose(loss(Dropout(0.0, None, 10.0)), plain)
    assert not np.isclose(loss(Dropout(0.0, keys, 10.0)), plain)
    assert loss(Dropout(0.0, keys, 10.0)) == loss(Dropout(0.0, keys, 10.0)) != loss(Dropout(0.0, keys[::-1], 10.0))
