"""Where parameters lie: who may say so, and that it changes no number, of few key-value heads least of all."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itune.inference.config import SamplingConfig
from itune.inference.generate import Generator
from itune.inference.request import Request
from itune.models import rules
from itune.models.attention import attend
from itune.models.compute import Compute
from itune.models.config import FullConfig, LayerKind, ModelConfig
from itune.models.rules import rules_for
from itune.models.spec import init_params, model_spec
from itune.parallel.collectives import collectives
from itune.parallel.config import RULES, MeshConfig
from itune.parallel.mesh import batch_sharding, make_mesh, param_sharding
from itune.training.abstract import abstract_params
from itune.training.step import batch_loss
from tests import tiny

SMALL: ModelConfig = dataclasses.replace(tiny.CONFIG, vocab_size=128, layers=(LayerKind(),))


def model_of(heads: int, kv_heads: int) -> ModelConfig:
    return dataclasses.replace(SMALL, num_heads=heads, num_kv_heads=kv_heads)


def test_the_family_overrides_the_defaults_and_the_user_the_family(monkeypatch):
    assert rules_for(tiny.CONFIG, 2, {}) == RULES
    monkeypatch.setitem(rules.FAMILY_RULES, "llama", {"mlp": None, "vocab": None})
    assert rules_for(tiny.CONFIG, 2, {}) == dataclasses.replace(RULES, mlp=None, vocab=None)
    assert rules_for(tiny.CONFIG, 2, {"mlp": "tensor", "embed": None}) == dataclasses.replace(
        RULES, vocab=None, embed=None
    )
    assert rules_for(dataclasses.replace(tiny.CONFIG, family="qwen2"), 2, {}) == RULES
    monkeypatch.setitem(rules.FAMILY_RULES, "llama", {"mpl": None})
    with pytest.raises(ValueError, match="'mpl', which is no logical axis"):
        rules_for(tiny.CONFIG, 2, {})


def test_every_familys_rules_are_rules():
    for family, own in rules.FAMILY_RULES.items():
        assert RULES.updated(own) != RULES, f"{family}: as it would be anyway"


def test_key_value_heads_are_copied_where_tensor_does_not_divide_them():
    for kv_heads, tensor, axis in ((1, 1, "tensor"), (1, 2, None), (1, 4, None), (2, 2, "tensor"), (2, 4, None)):
        assert rules_for(model_of(4, kv_heads), tensor, {}) == dataclasses.replace(RULES, kv_heads=axis)
    assert rules_for(model_of(4, 2), 2, {"kv_heads": None}).kv_heads is None
    copied = rules_for(model_of(9, 3), 2, {"heads": None})
    assert (copied.heads, copied.kv_heads, copied.mlp) == (None, None, "tensor")


def test_heads_that_cannot_be_split_are_told_with_both_counts():
    with pytest.raises(
        ValueError, match="MeshConfig.tensor=2 must divide the model's 9 query heads .3 key-value heads"
    ):
        rules_for(model_of(9, 3), 2, {})
    with pytest.raises(
        ValueError, match="MeshConfig.rules=.*: MeshConfig.tensor=4 must divide the model's 2 key-value"
    ):
        rules_for(model_of(4, 2), 4, {"kv_heads": "tensor"})
    with pytest.raises(ValueError, match="MeshConfig.rules=.*: kv_heads are split where heads are"):
        rules_for(model_of(4, 2), 2, {"heads": None, "kv_heads": "tensor"})


# (query heads, key-value heads, mesh). Of 12 and 3 the second key-value head's queries lie on both devices.
FEW = [
    (4, 1, MeshConfig(data=2, fsdp=2, tensor=2)),
    (4, 1, MeshConfig(data=1, fsdp=2, tensor=4)),
    (4, 2, MeshConfig(data=1, fsdp=2, tensor=4)),
    (12, 3, MeshConfig(data=2, fsdp=2, tensor=2)),
]
OTHERS = [
    (4, 2, MeshConfig(data=2, fsdp=2, tensor=2, rules={"kv_heads": None})),
    (9, 3, MeshConfig(data=2, fsdp=2, tensor=2, rules={"heads": None})),
    (4, 2, MeshConfig(data=1, fsdp=4, tensor=2, rules={"embed": None, "mlp": None})),
    (4, 2, MeshConfig(data=1, fsdp=4, tensor=2, rules={"vocab": None})),
]


def laid_out(heads: int, kv_heads: int, asked: MeshConfig, tuning=None):
    """(specification, parameters, parameters on the mesh, how it is computed there)."""
    model = model_of(heads, kv_heads)
    spec, mesh = model_spec(model, tuning), make_mesh(asked)
    params = init_params(spec, 0, spec.paths)
    found = rules_for(model, mesh.shape["tensor"], asked.rules)
    placed = {p: jax.device_put(a, param_sharding(mesh, spec.axes[p], a.shape, found)) for p, a in params.items()}
    return spec, params, placed, Compute(attention="reference", mesh=mesh, rules=found)


@functools.cache
def alone(heads: int, kv_heads: int):
    spec = model_spec(model_of(heads, kv_heads), FullConfig())
    compute = Compute(attention="reference")
    loss = lambda params, batch: batch_loss(spec, params, batch, compute)[0]  # noqa: E731
    return jax.jit(jax.value_and_grad(loss))(init_params(spec, 0, spec.paths), tiny.batch(8))


@pytest.mark.parametrize(("heads", "kv_heads", "asked"), [*FEW, *OTHERS], ids=str)
def test_no_rule_changes_a_loss_or_a_gradient(heads, kv_heads, asked):
    spec, _, placed, compute = laid_out(heads, kv_heads, asked, FullConfig())
    loss = lambda params, batch: batch_loss(spec, params, batch, compute)[0]  # noqa: E731
    batch = jax.device_put(tiny.batch(8), batch_sharding(compute.mesh))
    value, gradients = jax.jit(jax.value_and_grad(loss))(placed, batch)
    expected, expected_gradients = alone(heads, kv_heads)
    np.testing.assert_allclose(value, expected, rtol=1e-6)
    for path, want in expected_gradients.items():
        got = np.asarray(gradients[path])
        np.testing.assert_allclose(got, want, rtol=0, atol=1e-5 * np.abs(want).max(), err_msg=path)


@pytest.mark.parametrize("backend", ["reference", "blockwise"])
@pytest.mark.parametrize(("heads", "kv_heads", "tensor"), [(8, 1, 4), (8, 2, 4), (12, 3, 2), (8, 4, 2)])
def test_each_device_reads_the_key_value_heads_of_its_queries(backend, heads, kv_heads, tensor):
    keys = jax.random.split(jax.random.key(0), 3)
    q, k, v = (jax.random.normal(key, (8, 64, n, 16)) for key, n in zip(keys, (heads, kv_heads, kv_heads), strict=True))
    segments, weight = jnp.ones((8, 64), jnp.int32), jnp.cos(jnp.arange(16.0)).reshape(1, 1, 1, 16)
    mesh = make_mesh(MeshConfig(data=1, fsdp=8 // tensor, tensor=tensor))
    copied = dataclasses.replace(RULES, kv_heads=None)

    def run(mesh):
        attention = lambda *qkv: attend(*qkv, segments, window=jnp.int32(40), backend=backend, mesh=mesh, rules=copied)  # noqa: E731
        loss = lambda *qkv: (weight * attention(*qkv)).sum()  # noqa: E731
        return jax.jit(attention)(q, k, v), *jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(q, k, v)

    for name, got, want in zip(("out", "dq", "dk", "dv"), run(mesh), run(None), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-5, err_msg=name)


@pytest.mark.parametrize(("heads", "kv_heads", "asked"), [FEW[1], (8, 2, FEW[2][2]), OTHERS[0]], ids=str)
def test_generation_is_the_same_and_sends_no_cache(heads, kv_heads, asked):
    spec, params, placed, compute = laid_out(heads, kv_heads, asked)
    rng, settings = np.random.default_rng(0), SamplingConfig(max_new_tokens=20)
    requests = [Request(ids=rng.integers(3, 96, n).tolist(), settings=settings) for n in (5, 40, 9, 70)]
    never = (spec.config.vocab_size,)
    one, many = (
        Generator(spec, values, how, batch_size=8).complete(requests, never)
        for values, how in ((params, Compute()), (placed, compute))
    )
    compared = 0
    for a, b in zip(one, many, strict=True):
        sure = next(
            (n for n, gap in enumerate(a.gaps) if gap < 1e-3), len(a.tokens)
        )  # behind a tie anything may follow
        assert a.tokens[:sure] == b.tokens[:sure]
        compared += sure
    assert compared > 40, "ties must stay the exception"
    lowered, state = Generator(spec, abstract_params(spec, compute), compute, batch_size=8).lower(requests[0])
    assert "tensor" not in state.cache[0].sharding.spec
    positions = state.cache[0].shape[3]
    for sent in collectives(lowered["decode"].compile().as_text(), compute.mesh):
        assert not [shape for _, shape in sent.shapes if positions in shape and len(shape) > 3], sent
