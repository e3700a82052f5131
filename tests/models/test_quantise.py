"""Quantised frozen weights: what the papers' construction says, and products as with the same weights written out."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itune.errors import UserError
from itune.models.adapters import magnitudes
from itune.models.compute import Compute
from itune.models.config import FullConfig, LoRAConfig
from itune.models.families import read_config
from itune.models.quantise import KINDS, dequantise, nf4_levels, quantise, quantised_product
from itune.models.spec import init_params, model_spec
from itune.parallel.config import RULES, MeshConfig
from itune.parallel.mesh import make_mesh, param_sharding
from itune.training.step import batch_loss
from itune.weights.load import load_base
from tests import tiny
from tests.world import write_model

# As the QLoRA paper lists them in its appendix E.
PAPER = [
    *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
    *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
    *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
    *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
]


def weights(inputs=128, outputs=24, seed=0):
    return np.random.default_rng(seed).standard_normal((inputs, outputs)).astype(np.float32)


def test_the_levels_are_the_papers():
    np.testing.assert_allclose(nf4_levels(), PAPER, atol=2e-6)


def test_each_number_becomes_the_nearest_level_of_its_block():
    w = weights()
    codes, scales = quantise("nf4", w)
    assert codes.dtype == np.uint8 and codes.shape == (2, 32, 24) and scales.shape == (2, 24)
    blocks = w.reshape(2, 64, 24)
    np.testing.assert_array_equal(scales, np.abs(blocks).max(axis=1))
    nearest = np.abs(blocks[..., None] / scales[:, None, :, None] - np.array(PAPER)).argmin(axis=-1)
    expected = (np.array(PAPER, np.float32)[nearest] * scales[:, None]).reshape(w.shape)
    np.testing.assert_allclose(np.asarray(dequantise("nf4", codes, scales)), expected, atol=1e-5)


@pytest.mark.parametrize(("kind", "worst"), [("int8", 0.5 / 127), ("nf4", 0.16)])
def test_the_error_is_half_a_step_at_most(kind, worst):
    w = weights()
    found = np.asarray(dequantise(kind, *quantise(kind, w)))
    assert np.abs(found - w).max() <= worst * np.abs(w).max() * 1.0001
    assert not np.asarray(dequantise(kind, *quantise(kind, np.zeros((64, 3), np.float32)))).any()


@pytest.mark.parametrize("kind", KINDS)
def test_a_product_and_its_gradient_are_those_of_the_weights_written_out(kind):
    codes, scales = (jnp.asarray(a) for a in quantise(kind, weights()))
    w, x = dequantise(kind, codes, scales), jax.random.normal(jax.random.key(0), (10, 128))
    ours = lambda x: jnp.sin(quantised_product(kind, x, codes, scales, "float32")).sum()  # noqa: E731
    plain = lambda x: jnp.sin(x @ w).sum()  # noqa: E731
    (value, grad), (expected, expected_grad) = (jax.value_and_grad(f)(x) for f in (ours, plain))
    np.testing.assert_allclose(value, expected, rtol=1e-5)
    np.testing.assert_allclose(grad, expected_grad, atol=1e-5)


def test_inputs_that_no_block_divides_are_named():
    with pytest.raises(ValueError, match="nf4 needs layers whose inputs divide by 8, and one has 36"):
        quantise("nf4", weights(36, 5))


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_model(tmp_path_factory.mktemp("model") / "model")


@pytest.mark.parametrize(("kind", "dora"), [("int8", True), ("nf4", False)])
def test_a_model_learns_as_with_its_dequantised_weights(folder, kind, dora):
    config, lora = read_config(folder), LoRAConfig(rank=2, dora=dora)
    quantised, plain = model_spec(config, lora, quantise=kind), model_spec(config, lora)
    params = load_base(folder, quantised)
    written_out = load_base(folder, plain)
    for path in plain.linear_paths():
        layers = zip(params[f"{path}/codes"], params[f"{path}/scales"], strict=True)
        written_out[f"{path}/w"] = jnp.stack([dequantise(kind, c, s) for c, s in layers])
    trained = init_params(plain, 0)
    for path in trained:
        if path.endswith("lora_b"):
            trained[path] = 0.1 * jax.random.normal(jax.random.key(1), trained[path].shape)
        elif path.endswith("lora_m"):
            trained[path] = magnitudes(plain, path, written_out)
            np.testing.assert_allclose(trained[path], magnitudes(quantised, path, params), rtol=1e-6)
    batch = jax.tree.map(jnp.asarray, tiny.batch(rows=2))
    results = []
    for spec, base in ((quantised, params), (plain, written_out)):
        loss = lambda t, spec=spec, base=base: batch_loss(spec, {**base, **t}, batch, Compute())[0]  # noqa: E731
        results.append(jax.jit(jax.value_and_grad(loss))(trained))
    (value, grads), (expected, expected_grads) = results
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for path, grad in expected_grads.items():
        assert np.abs(grads[path] - grad).max() <= 2e-5 * np.abs(grad).max(), path


@pytest.mark.parametrize("kind", KINDS)
def test_every_mesh_holds_the_same_codes(folder, kind):
    spec, mesh = model_spec(read_config(folder), quantise=kind), make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    place = lambda path: param_sharding(mesh, spec.axes[path], spec.shapes[path], RULES)  # noqa: E731
    whole, spread = load_base(folder, spec), load_base(folder, spec, place)
    for path, array in whole.items():
        np.testing.assert_array_equal(np.asarray(spread[path]), np.asarray(array), err_msg=path)


def test_what_is_quantised_cannot_train():
    with pytest.raises(ValueError, match="is for frozen weights: tune adapters"):
        model_spec(tiny.CONFIG, FullConfig(), quantise="int8")
    with pytest.raises(ValueError, match="which is quantised and can't train"):
        model_spec(tiny.CONFIG, LoRAConfig(train=(".*/codes",)), quantise="int8")


def test_a_truncated_file_is_named_here_too(folder, tmp_path):
    copy = tmp_path / "model"
    copy.mkdir()
    for path in folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes()[: 1000 if path.suffix == ".safetensors" else None])
    with pytest.raises(UserError, match="not a readable safetensors file"):
        load_base(copy, model_spec(read_config(copy), quantise="int8"))
