"""The step's promises.

Packing, accumulation and meshes change no gradient, nor a row's place its dropout; a bad number changes no parameter.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itune.models.compute import Compute
from itune.models.spec import init_params
from itune.parallel.config import RULES, MeshConfig
from itune.parallel.mesh import batch_sharding, make_mesh, param_sharding, replicated
from itune.training.config import AdafactorConfig, AdamWConfig
from itune.training.optim import make_optimizer
from itune.training.step import StepSettings, TrainState, batch_loss, make_eval_step, make_train_step
from tests import tiny

RATE = {"learning_rate": jnp.float32(1e-2)}
KEY = jax.random.key(7)
ADAMW = AdamWConfig()
EIGHT = MeshConfig(data=2, fsdp=2, tensor=2)
REFERENCE = Compute(attention="reference")  # compiles in a third of the time


@functools.cache
def gradient_function(tuning, compute):
    spec = tiny.spec(tuning)
    return jax.jit(
        jax.value_and_grad(lambda train, frozen, batch: batch_loss(spec, {**frozen, **train}, batch, compute)[0])
    )


def gradients(tuning, params, batch, compute=REFERENCE):
    return gradient_function(tuning, compute)(*tiny.spec(tuning).partition(params), batch)


@functools.cache
def step_function(tuning, optimizer, **settings):
    settings = StepSettings(num_tasks=3, num_segments=4, compute=REFERENCE, **settings)
    return jax.jit(make_train_step(tiny.spec(tuning), make_optimizer(optimizer), settings))


def stepped(params, batch, *, tuning="lora", optimizer=ADAMW, **settings):
    train, frozen = tiny.spec(tuning).partition(params)
    state = TrainState(train, make_optimizer(optimizer).init(train), jnp.int32(0))
    return step_function(tuning, optimizer, **settings)(state, frozen, batch, RATE, KEY)


def assert_close(got, want, tolerance):
    """Within `tolerance` of each reference tensor's largest value."""
    for path in want:
        scale = float(jnp.abs(want[path]).max())
        np.testing.assert_allclose(got[path], want[path], rtol=0, atol=tolerance * max(scale, 1e-9), err_msg=path)


@pytest.mark.parametrize("attention", ["blockwise", "reference"])
@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_packed_equals_unpacked_in_loss_and_gradient(tuning, attention):
    spec = tiny.spec(tuning)
    params = tiny.params(spec)
    found = tiny.examples(6, high=40)
    compute = Compute(attention=attention)
    packed = gradients(tuning, params, tiny.pack([found[:3], found[3:]]), compute)
    alone = gradients(tuning, params, tiny.pack([[e] for e in found]), compute)
    np.testing.assert_allclose(packed[0], alone[0], rtol=1e-6)
    assert_close(packed[1], alone[1], 1e-5)


def test_scan_and_unrolled_layers_agree():
    spec = tiny.spec("full")
    params, batch = tiny.params(spec), tiny.batch(2)
    scanned, unrolled = (
        gradients("full", params, batch, Compute(scan=s, attention="reference")) for s in (True, False)
    )
    np.testing.assert_allclose(scanned[0], unrolled[0], rtol=1e-6)
    assert_close(scanned[1], unrolled[1], 1e-5)


@pytest.mark.parametrize("parts", [2, 4])
def test_accumulation_equals_the_big_batch(parts):
    # Rows of very unequal weight: a mean of microbatch means would differ.
    spec = tiny.spec("lora")
    params = tiny.params(spec)
    found = tiny.examples(16, high=30)
    batch = tiny.pack(
        [found[:3], found[3:4], found[4:7], found[7:8], found[8:11], found[11:12], found[12:15], found[15:]]
    )
    one, metrics_one = stepped(params, batch)
    many, metrics_many = stepped(params, batch, accumulation=parts)
    # Adam divides by the gradient's own size, so compare what went into it too.
    assert_close(many.opt_state["stacked"][0].mu, one.opt_state["stacked"][0].mu, 1e-6)
    np.testing.assert_allclose(metrics_many.loss_sum, metrics_one.loss_sum, rtol=1e-6)
    np.testing.assert_array_equal(metrics_many.example_tokens, metrics_one.example_tokens)
    np.testing.assert_allclose(metrics_many.example_nll, metrics_one.example_nll, atol=1e-5)


def on_mesh(mesh, spec, params):
    return {p: jax.device_put(a, param_sharding(mesh, spec.axes[p], a.shape, RULES)) for p, a in params.items()}


def losses_over_20_steps(mesh_config, devices, tuning):
    spec = tiny.spec(tuning)
    mesh = make_mesh(mesh_config, jax.devices()[:devices])
    optimizer = make_optimizer(ADAMW)
    params = init_params(spec, 0, spec.paths)  # as a run starts: adapters' B factors are zero
    train, frozen = spec.partition(on_mesh(mesh, spec, params))
    state = TrainState(train, optimizer.init(train), jax.device_put(jnp.int32(0), replicated(mesh)))
    compute = dataclasses.replace(REFERENCE, mesh=mesh if devices > 1 else None)
    step = jax.jit(
        make_train_step(spec, optimizer, StepSettings(num_tasks=3, num_segments=4, compute=compute)), donate_argnums=0
    )
    losses = []
    for n in range(20):
        batch = jax.device_put(tiny.batch(8, seed=n), batch_sharding(mesh))
        state, metrics = step(state, frozen, batch, {"learning_rate": jnp.float32(1e-3)}, KEY)
        losses.append(float(metrics.loss_sum / metrics.weight))
    return np.array(losses)


@pytest.mark.parametrize("tuning", ["lora", "full"])
def test_eight_devices_give_the_losses_of_one(tuning):
    one = losses_over_20_steps(MeshConfig(), 1, tuning)
    eight = losses_over_20_steps(EIGHT, 8, tuning)
    assert one[-1] != one[0]
    np.testing.assert_allclose(eight, one, atol=1e-5)


def test_blockwise_on_eight_devices_gives_the_loss_and_gradient_of_one():
    # One gradient, not 20 steps: under a mesh this backend takes half a minute to compile.
    params = tiny.params(tiny.spec("lora"))
    found = tiny.examples(48, high=40)
    batch = tiny.pack([found[r : r + 6] for r in range(0, 48, 6)], length=256, supervised=128)  # two blocks a row
    one = gradients("lora", params, batch, Compute(attention="blockwise"))
    mesh = make_mesh(EIGHT, jax.devices()[:8])
    placed = on_mesh(mesh, tiny.spec("lora"), params), jax.device_put(batch, batch_sharding(mesh))
    eight = gradients("lora", *placed, Compute(attention="blockwise", mesh=mesh))
    np.testing.assert_allclose(eight[0], one[0], rtol=1e-5)
    assert_close(eight[1], one[1], 1e-5)


def test_sums_by_task_and_example_add_up():
    spec = tiny.spec("lora")
    batch = tiny.batch(4)
    _, m = stepped(tiny.params(spec), batch)
    np.testing.assert_allclose(m.task_nll.sum(), m.loss_sum, rtol=1e-5)
    np.testing.assert_allclose(m.example_nll.sum(), m.loss_sum, rtol=1e-5)
    assert m.task_tokens.sum() == m.example_tokens.sum() == batch.loss_weights.sum() == m.weight
    assert m.example_tokens[0, 0] == (batch.loss_task[0] == 0)[batch.loss_weights[0] > 0].sum()
    assert m.tokens == (batch.segment_ids > 0).sum()


def test_eval_step_gives_the_same_sums_without_an_update():
    spec = tiny.spec("lora")
    params, batch = tiny.params(spec), tiny.batch(4)
    nll, tokens = jax.jit(make_eval_step(spec, 4, Compute()))(params, batch)
    _, m = stepped(params, batch)
    np.testing.assert_allclose(nll, m.example_nll, atol=1e-5)
    np.testing.assert_array_equal(tokens, m.example_tokens)


def test_loss_weights_scale_examples():
    spec = tiny.spec("lora")
    params, batch = tiny.params(spec), tiny.batch(2)
    doubled = dataclasses.replace(batch, loss_weights=batch.loss_weights * 2)
    (one, grad_one), (two, grad_two) = gradients("lora", params, batch), gradients("lora", params, doubled)
    np.testing.assert_allclose(two, 2 * one, rtol=1e-6)
    assert_close(grad_two, {p: 2 * g for p, g in grad_one.items()}, 1e-6)
    # Division by the sum of weights makes the update the same.
    a, b = stepped(params, batch)[0], stepped(params, doubled)[0]
    assert_close(b.opt_state["stacked"][0].mu, a.opt_state["stacked"][0].mu, 1e-6)


def test_only_adapters_train_under_lora():
    spec = tiny.spec("lora")
    assert spec.trainable == set(spec.adapter_paths())
    params = tiny.params(spec)
    state, _ = stepped(params, tiny.batch(2))
    assert set(state.params) == spec.trainable
    assert all(not np.array_equal(state.params[p], params[p]) for p in spec.trainable)


@pytest.mark.parametrize("optimizer", [AdamWConfig(), AdafactorConfig()])
def test_a_non_finite_loss_leaves_the_state_alone(optimizer):
    spec = tiny.spec("lora")
    params = tiny.params(spec)
    params["embed"] = params["embed"].at[5].set(jnp.nan)
    found = [([5, 6, 7], [8, 9]), ([6, 7], [8])]
    state, m = stepped(params, tiny.pack([[found[0]], [found[1]]]), optimizer=optimizer)
    assert not m.finite and int(state.step) == 1
    assert_close(state.params, {p: params[p] for p in state.params}, 0)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(state.opt_state))
    assert np.isnan(m.example_nll[0, 0])


def test_dropout_masks_follow_the_row_not_its_place():
    spec = tiny.spec("lora")
    params, batch = tiny.params(spec), tiny.batch(4)
    swapped = jax.tree.map(lambda a: a[::-1], batch)
    a = stepped(params, batch, dropout_rate=0.3)[1]
    b = stepped(params, swapped, dropout_rate=0.3)[1]
    none = stepped(params, batch)[1]
    np.testing.assert_allclose(b.example_nll[::-1], a.example_nll, atol=1e-5)
    assert not np.allclose(a.example_nll, none.example_nll, atol=1e-3)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_two_stacked_adapters_each_serve_their_rows(dtype):
    """The adapter axis: rows are folded groups, and each group's result and gradient are those of its adapter alone."""
    from itune.models.config import LoRAConfig
    from itune.models.spec import model_spec

    both = model_spec(tiny.CONFIG, LoRAConfig(rank=4), adapters=2)
    params = tiny.params(both)
    batch = tiny.batch(4)
    compute = dataclasses.replace(REFERENCE, dtype=dtype)

    def gradient(spec, params, rows):
        loss = lambda train, frozen: batch_loss(spec, {**frozen, **train}, rows, compute)  # noqa: E731
        return jax.jit(jax.grad(loss, has_aux=True))(*spec.partition(params))

    grads, together = gradient(both, params, batch)
    for k in range(2):
        mine = {p: a[:, k : k + 1] if p in both.adapter_paths() else a for p, a in params.items()}
        rows = jax.tree.map(lambda a, k=k: a[2 * k : 2 * k + 2], batch)
        want, alone = gradient(tiny.spec("lora"), mine, rows)
        np.testing.assert_allclose(together[2 * k : 2 * k + 2], alone, atol=1e-5)
        assert_close({p: g[:, k : k + 1] for p, g in grads.items()}, want, 1e-5)


def test_bfloat16_compute_is_close_and_keeps_float32_parameters():
    spec = tiny.spec("lora")
    params, batch = tiny.params(spec), tiny.batch(2)
    half = Compute(attention="reference", dtype="bfloat16")
    (exact, _), (rounded, grads) = gradients("lora", params, batch), gradients("lora", params, batch, half)
    np.testing.assert_allclose(rounded, exact, rtol=2e-2)
    assert rounded != exact
    assert all(g.dtype == jnp.float32 and np.isfinite(g).all() for g in grads.values())
