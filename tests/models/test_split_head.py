"""A head and an embedding that are split over devices, against those that are whole on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itune.models import split_head
from itune.models.head import Objective, head_loss
from itune.models.lookup import lookup
from itune.models.split_head import is_split, split_head_loss
from itune.parallel.config import RULES, MeshConfig
from itune.parallel.mesh import make_mesh

B, T, D = 8, 20, 24
MESHES = [(2, 2, 2), (1, 8, 1), (1, 1, 8)]
PLAIN, FULL = Objective(), Objective(softcap=3.0, label_smoothing=0.2, z_loss=0.1)


@pytest.fixture(autouse=True)
def _small(monkeypatch):
    monkeypatch.setattr(split_head, "TILE", 128)
    monkeypatch.setattr(split_head, "CHUNK", 16)


def mesh_of(data, fsdp, tensor):
    return make_mesh(MeshConfig(data=data, fsdp=fsdp, tensor=tensor))


def data(vocabulary):
    keys = jax.random.split(jax.random.key(1), 5)
    hidden = jax.random.normal(keys[0], (B, T, D))
    head = jax.random.normal(keys[1], (vocabulary, D))
    targets = jax.random.randint(keys[2], (B, T), 0, vocabulary)
    weights = jnp.where(jax.random.uniform(keys[3], (B, T)) < 0.5, 0.0, jax.random.uniform(keys[4], (B, T)))
    return hidden, head, targets, weights.at[0].set(0.0)


@pytest.mark.parametrize("shape", MESHES, ids=str)
@pytest.mark.parametrize(("vocabulary", "objective"), [(304, PLAIN), (304, FULL), (301, FULL)])
def test_value_and_gradients_equal_the_whole_heads(shape, vocabulary, objective):
    """Of 304 words each tensor device has a part, whose last tile is filled up; 301 are not divided."""
    hidden, head, targets, weights = data(vocabulary)
    mesh = mesh_of(*shape)

    def whole(hidden, head):
        flat = (x.reshape(B * T, *x.shape[2:]) for x in (hidden, targets, weights))
        h, t, w = flat
        total, nll = head_loss(h, head, t, w, train_head=True, objective=objective)
        return 3.0 * total, nll.reshape(B, T)

    def split(hidden, head, train_head=True):
        options = dict(mesh=mesh, rules=RULES, dtype="float32", train_head=train_head, objective=objective)
        total, nll = split_head_loss(hidden, head, targets, weights, **options)
        return 3.0 * total, nll

    run = lambda f: jax.jit(jax.value_and_grad(f, argnums=(0, 1), has_aux=True))(hidden, head)  # noqa: E731
    ((want, want_nll), want_grads), ((got, nll), grads) = run(whole), run(split)
    np.testing.assert_allclose(got, want, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(split)(hidden, head)[0], want, rtol=1e-6)
    np.testing.assert_allclose(nll, want_nll, atol=2e-5)
    for one, other in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(one, other, atol=5e-5)


def test_a_frozen_head_has_no_gradient():
    hidden, head, targets, weights = data(304)
    options = dict(mesh=mesh_of(1, 4, 2), rules=RULES, dtype="float32", objective=Objective())

    def gradients(train_head):
        loss = lambda h, e: split_head_loss(h, e, targets, weights, train_head=train_head, **options)[0]  # noqa: E731
        return jax.jit(jax.grad(loss, argnums=(0, 1)))(hidden, head)

    (dhidden, dhead), (want, _) = gradients(False), gradients(True)
    np.testing.assert_allclose(dhidden, want, atol=1e-6)
    assert not np.asarray(dhead).any()


def test_which_heads_are_split():
    assert not is_split(None, (304, D), RULES) and not is_split(mesh_of(8, 1, 1), (304, D), RULES)
    assert is_split(mesh_of(1, 8, 1), (301, D), RULES) and not is_split(mesh_of(4, 1, 2), (301, D), RULES)
    assert is_split(mesh_of(4, 1, 2), (304, D), RULES)


@pytest.mark.parametrize("shape", MESHES, ids=str)
def test_a_split_embedding_is_looked_up_as_a_whole_one(shape):
    _, table, tokens, _ = data(304)
    weight = jnp.cos(jnp.arange(B * T * D, dtype=jnp.float32)).reshape(B, T, D)

    def run(mesh, tokens):
        loss = lambda table: (lookup(table, tokens, "float32", mesh, RULES) * weight[: len(tokens)]).sum()  # noqa: E731
        return jax.jit(jax.value_and_grad(loss))(table)

    for rows in (tokens, tokens[:3]):  # three rows divide over no mesh, as in generation
        for one, other in zip(run(mesh_of(*shape), rows), run(None, rows), strict=True):
            np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-5)
