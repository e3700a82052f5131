"""The encoder-decoder: packed is separate, what must not change the numbers, dropout by row."""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itune.batch import Batch
from itune.models.compute import Compute
from itune.models.config import EncoderDecoderConfig, FullConfig, LoRAConfig
from itune.models.encdec import relative_buckets
from itune.models.layers import NO_DROPOUT, Dropout
from itune.models.spec import init_params, model_spec
from itune.parallel.config import RULES, MeshConfig
from itune.parallel.mesh import batch_sharding, make_mesh, param_sharding
from itune.training.step import batch_loss, row_keys

CONFIG = EncoderDecoderConfig(
    family="t5_gated",
    vocab_size=97,
    width=32,
    encoder_layers=2,
    decoder_layers=3,
    num_heads=4,
    head_dim=12,
    mlp_width=40,
    norm_eps=1e-5,
    tied_embeddings=False,
    scaled_outputs=False,
    activation="gelu_tanh",
    gated=True,
    relative_buckets=8,
    relative_max_distance=20,
)


@functools.cache
def model(tuning: str = "full"):
    spec = model_spec(CONFIG, FullConfig() if tuning == "full" else LoRAConfig(rank=2))
    return spec, init_params(spec, 0, spec.paths)


def examples(n: int, seed: int = 0) -> list[tuple[np.ndarray, np.ndarray]]:
    rng = np.random.default_rng(seed)
    draw = lambda low, high: rng.integers(3, CONFIG.vocab_size, int(rng.integers(low, high)))  # noqa: E731
    return [(draw(5, 25), draw(2, 12)) for _ in range(n)]


def pack(rows, *, inputs: int = 64, targets: int = 32, first_row: int = 0) -> Batch:
    """As itune.data.converters lays it out."""
    B = len(rows)
    ints = {name: np.zeros((B, targets), np.int32) for name in ("tokens", "segment_ids", "positions")}
    loss = {name: np.zeros((B, targets), np.int32) for name in ("loss_index", "loss_targets", "loss_task")}
    encoder = {f"encoder_{name}": np.zeros((B, inputs), np.int32) for name in ("tokens", "positions", "segment_ids")}
    weights = np.zeros((B, targets), np.float32)
    for b, row in enumerate(rows):
        e = d = 0
        for number, (source, target) in enumerate(row, 1):
            n, m = len(source), len(target)
            encoder["encoder_tokens"][b, e : e + n] = source
            encoder["encoder_positions"][b, e : e + n] = np.arange(n)
            encoder["encoder_segment_ids"][b, e : e + n] = number
            ints["tokens"][b, d : d + m] = [0, *target[:-1]]
            ints["segment_ids"][b, d : d + m] = number
            ints["positions"][b, d : d + m] = np.arange(m)
            loss["loss_index"][b, d : d + m] = np.arange(d, d + m)
            loss["loss_targets"][b, d : d + m] = target
            weights[b, d : d + m] = 1.0
            e, d = e + n, d + m
    rows_ids = np.stack([np.zeros(B, np.int32), first_row + np.arange(B, dtype=np.int32)], axis=1)
    batch = Batch(**ints, **loss, **encoder, loss_weights=weights, row_ids=rows_ids)
    return jax.tree.map(jnp.asarray, batch)


def loss_and_gradients(batch, compute: Compute = Compute(), dropout: Dropout = NO_DROPOUT):  # noqa: B008 - frozen
    spec, params = model()
    return jax.jit(jax.value_and_grad(lambda p: batch_loss(spec, p, batch, compute, dropout)[0]))(params)


@functools.cache
def expected():
    return loss_and_gradients(pack([examples(2, seed=1), examples(2, seed=2)]))


def test_packed_is_separate():
    rows = examples(3)
    together, grads = loss_and_gradients(pack([rows]))
    alone, alone_grads = loss_and_gradients(pack([[row] for row in rows]))
    np.testing.assert_allclose(together, alone, rtol=1e-5)
    for path, grad in alone_grads.items():
        # Unscaled scores of random weights are large, and rounding with them.
        assert np.abs(grads[path] - grad).max() <= 2e-4 * np.abs(grad).max(), path


@pytest.mark.parametrize("compute", [Compute(scan=False), Compute(remat="full"), Compute(remat="none")], ids=str)
def test_how_it_is_computed_changes_no_number(compute):
    value, grads = loss_and_gradients(pack([examples(2, seed=1), examples(2, seed=2)]), compute)
    np.testing.assert_allclose(value, expected()[0], rtol=1e-6)
    for path, grad in expected()[1].items():
        assert np.abs(grads[path] - grad).max() <= 2e-5 * np.abs(grad).max(), path


def test_a_mesh_changes_no_number():
    spec, params = model()
    mesh = make_mesh(MeshConfig(data=1, fsdp=2, tensor=4))
    batch = pack([examples(2, seed=1), examples(2, seed=2)])
    placed = {p: jax.device_put(a, param_sharding(mesh, spec.axes[p], a.shape, RULES)) for p, a in params.items()}
    compute = Compute(mesh=mesh)
    run = jax.jit(jax.value_and_grad(lambda p, b: batch_loss(spec, p, b, compute)[0]))
    value, grads = run(placed, jax.device_put(batch, batch_sharding(mesh)))
    np.testing.assert_allclose(value, expected()[0], rtol=1e-5)
    for path, grad in expected()[1].items():
        assert np.abs(np.asarray(grads[path]) - grad).max() <= 3e-5 * np.abs(grad).max(), path


def test_what_the_decoder_must_not_see_changes_nothing():
    """Another example's prompt, its own later tokens, padding."""
    spec, params = model()
    rows = [examples(2, seed=3)]
    nll = lambda batch: np.asarray(batch_loss(spec, params, batch, Compute())[1])[0]  # noqa: E731
    plain, m = nll(pack(rows)), len(rows[0][0][1])
    other = [[rows[0][0], (rows[0][1][0][::-1] * 0 + 7, rows[0][1][1])]]
    np.testing.assert_allclose(nll(pack(other))[:m], plain[:m], rtol=1e-5)
    assert not np.allclose(nll(pack(other))[m : m + 2], plain[m : m + 2])
    batch = pack(rows)
    later = dataclasses.replace(batch, tokens=batch.tokens.at[0, m - 1].set(50))
    np.testing.assert_allclose(nll(later)[: m - 1], plain[: m - 1], rtol=1e-5)
    assert not np.isclose(nll(later)[m - 1], plain[m - 1])


def test_dropout_is_keyed_by_step_and_row():
    spec, params = model()
    rows = [examples(2, seed=1), examples(2, seed=2)]
    key = jax.random.key(3)

    def nll(batch, step=0):
        dropout = Dropout(0.3, row_keys(key, step, batch.row_ids))
        return np.asarray(batch_loss(spec, params, batch, Compute(), dropout)[1])

    both = nll(pack(rows))
    np.testing.assert_allclose(nll(pack(rows[1:], first_row=1))[0], both[1], rtol=1e-4, atol=1e-5)
    assert not np.allclose(nll(pack(rows), step=1), both)
    assert not np.allclose(np.asarray(batch_loss(spec, params, pack(rows), Compute())[1]), both)


def test_adapters_sit_on_both_sides():
    spec, _ = model("lora")
    layers = {path.rpartition("/")[0] for path in spec.adapter_paths()}
    assert "encoder/layers/attention/q_proj" in layers and "decoder/layers/cross_attention/o_proj" in layers
    assert len(layers) == (4 + 3) + (8 + 3)
    assert spec.shapes["decoder/layers/attention/q_proj/lora_a"] == (3, 1, 32, 2)
    only = model_spec(CONFIG, LoRAConfig(rank=2, layers=("encoder/.*",)))
    assert all(path.startswith("encoder/") for path in only.adapter_paths())


def test_blockwise_attention_is_refused():
    spec, params = model()
    with pytest.raises(ValueError, match="attention='blockwise' can't add T5's relative positions"):
        batch_loss(spec, params, pack([examples(1)]), Compute(attention="blockwise"))


def test_relative_buckets_are_the_papers():
    """By hand, for 8 buckets up to 20: four for each direction, of which two are exact."""
    distance = jnp.array([-30, -20, -7, -3, -2, -1, 0, 1, 2, 30])
    both = relative_buckets(distance, 8, 20, both_ways=True).tolist()
    assert both == [3, 3, 3, 2, 2, 1, 0, 5, 6, 7]
    one = relative_buckets(distance, 8, 20, both_ways=False).tolist()
    assert one == [7, 7, 5, 3, 2, 1, 0, 0, 0, 0]
