"""Which layers adapt and what trains; layers left out; merging. peft: tests/parity."""

from __future__ import annotations

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itune.models.adapters import layer_mask, magnitudes, merged
from itune.models.compute import Compute
from itune.models.config import LoRAConfig
from itune.models.families import read_config
from itune.models.spec import init_params, model_spec
from itune.training.config import AdamWConfig
from itune.training.optim import make_optimizer
from itune.training.step import StepSettings, TrainState, batch_loss, make_train_step
from tests import tiny
from tests.parity import our_families


def numbers(spec, seed=1):
    """Everything random, DoRA's magnitudes the norms of what they scale."""
    params = init_params(spec, 0, spec.paths)
    for path in spec.adapter_paths():
        if path.endswith("lora_b"):
            params[path] = 0.1 * jax.random.normal(
                jax.random.fold_in(jax.random.key(seed), len(path)), spec.shapes[path]
            )
    for path in spec.adapter_paths():
        if path.endswith("lora_m"):
            params[path] = 1.1 * magnitudes(spec, path, params)
    return params


def loss(spec, params):
    return batch_loss(spec, params, jax.tree.map(jnp.asarray, tiny.batch(rows=2)), Compute())[0]


@pytest.mark.parametrize(
    ("layers", "expected"),
    [
        (("q_proj", "v_proj"), {"layers/attention/q_proj", "layers/attention/v_proj"}),
        (("layers/mlp/.*",), {f"layers/mlp/{name}_proj" for name in ("gate", "up", "down")}),
        ((".*/[qk]_proj", "down_proj"), {"layers/attention/q_proj", "layers/attention/k_proj", "layers/mlp/down_proj"}),
    ],
)
def test_layers_are_named_or_matched(layers, expected):
    spec = model_spec(tiny.CONFIG, LoRAConfig(rank=2, layers=layers))
    assert {path.rpartition("/")[0] for path in spec.adapter_paths()} == expected


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"layers": ("q_porj",)}, "LoRAConfig.layers names 'q_porj'"),
        ({"layers": ("layers/attn/.*",)}, r"'layers/attn/\.\*' fits no linear layer; they are layers/attention/"),
        ({"layers": ("(",)}, r"LoRAConfig.layers: '\(' is no regular expression"),
        ({"train": ("embedding",)}, "LoRAConfig.train: 'embedding' fits no parameter"),
        ({"at": (0, 2)}, "there is no layer 2; they are 0 to 1"),
        ({"scaling": "rs"}, "LoRAConfig.scaling='rs' must be one of"),
        ({"b_rate": 0.0}, "LoRAConfig.b_rate=0.0 must be positive"),
    ],
)
def test_a_slip_is_one_line(fields, message):
    with pytest.raises(ValueError, match=message):
        model_spec(tiny.CONFIG, LoRAConfig(**fields))


def test_the_default_is_every_linear_layer_of_a_model_without_a_gate(tmp_path):
    spec = model_spec(read_config(our_families.write_folder(tmp_path, "t5")), LoRAConfig(rank=2))
    adapted = {path.rpartition("/")[0] for path in spec.adapter_paths()}
    assert adapted == set(spec.linear_paths()) and not any("gate" in path for path in adapted)


def test_rslora_scales_by_the_root_of_the_rank():
    assert LoRAConfig(rank=16, alpha=8.0).scale == 0.5
    assert LoRAConfig(rank=16, alpha=8.0, scaling="rslora").scale == 2.0


@pytest.mark.parametrize(
    "lora",
    [LoRAConfig(rank=3), LoRAConfig(rank=3, scaling="rslora"), LoRAConfig(rank=3, dora=True)],
    ids=["lora", "rslora", "dora"],
)
def test_merged_is_unmerged(lora):
    spec, plain = model_spec(tiny.CONFIG, lora), model_spec(tiny.CONFIG)
    params = numbers(spec)
    weights = {path: params[path] for path in plain.paths}
    for path in spec.linear_paths():
        leaves = [leaf for leaf in ("lora_a", "lora_b", "lora_m") if f"{path}/{leaf}" in params]
        layers = [
            merged(np.asarray(w), {leaf: np.asarray(params[f"{path}/{leaf}"][n]) for leaf in leaves}, lora)
            for n, w in enumerate(params[f"{path}/w"])
        ]
        weights[f"{path}/w"] = jnp.asarray(np.stack(layers))
    np.testing.assert_allclose(loss(plain, weights), loss(spec, params), rtol=1e-5)
    untouched = {path: params[path] for path in plain.paths}
    assert not np.isclose(loss(plain, untouched), loss(spec, params), rtol=1e-4)


def test_dora_starts_from_the_base_model():
    spec, plain = model_spec(tiny.CONFIG, LoRAConfig(rank=3, dora=True)), model_spec(tiny.CONFIG)
    params = init_params(spec, 0, spec.paths)
    params |= {p: magnitudes(spec, p, params) for p in spec.adapter_paths() if p.endswith("lora_m")}
    np.testing.assert_allclose(loss(spec, params), loss(plain, {p: params[p] for p in plain.paths}), rtol=1e-6)


def train(lora, steps=2):
    """(parameters before, after) of what trains, by the step itself."""
    spec = model_spec(tiny.CONFIG, lora)
    start, frozen = spec.partition(numbers(spec))
    for path in start:
        if layer_mask(spec, path) is not None and path.endswith("lora_b"):
            start[path] = jnp.zeros_like(start[path])
    optimizer = make_optimizer(AdamWConfig(weight_decay=0.1), b_rate=lora.b_rate)
    step = jax.jit(make_train_step(spec, optimizer, StepSettings(num_tasks=3, num_segments=4)))
    state = TrainState(start, optimizer.init(start), jnp.zeros((), jnp.int32))
    batch = jax.tree.map(jnp.asarray, tiny.batch(rows=2))
    for _ in range(steps):
        state, _ = step(state, frozen, batch, {"learning_rate": jnp.float32(1e-2)}, jax.random.key(0))
    return start, state.params


def test_layers_that_at_leaves_out_stay_as_they_are():
    before, after = train(LoRAConfig(rank=2, at=(1,)))
    for path in before:
        if path.endswith("lora_b"):
            assert not np.asarray(after[path][0]).any() and np.asarray(after[path][1]).any(), path


def test_lora_plus_hurries_b_alone():
    lora = LoRAConfig(rank=2)
    before, plain = train(lora, steps=1)
    _, plus = train(dataclasses.replace(lora, b_rate=4.0), steps=1)
    for path in before:
        factor = 4.0 if path.endswith("lora_b") else 1.0
        np.testing.assert_allclose(plus[path] - before[path], factor * (plain[path] - before[path]), atol=1e-6)


def test_what_trains_in_full_is_beside_the_adapters():
    before, after = train(LoRAConfig(rank=2, train=("embed", ".*norm/scale")), steps=1)
    full = {path for path in before if "lora" not in path}
    assert full == {"embed", "final_norm/scale", "layers/attention_norm/scale", "layers/mlp_norm/scale"}
    assert all(not np.array_equal(after[path], before[path]) for path in full)
