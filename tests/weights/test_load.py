"""Safetensors into our paths: what is missing, misshapen, extra or broken is named."""

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from itune.errors import UserError
from itune.models.families import read_config
from itune.models.spec import model_spec
from itune.weights.load import load_base
from tests.world import write_model

DOWN = "model.layers.1.mlp.down_proj.weight"
EXTRA = "model.layers.0.self_attn.q_proj.bias"


@pytest.fixture()
def folder(tmp_path):
    return write_model(tmp_path / "model")


def load(folder):
    return load_base(folder, model_spec(read_config(folder)))


def change(folder, edit):
    tensors = load_file(folder / "model.safetensors")
    edit(tensors)
    save_file(tensors, folder / "model.safetensors")


def test_every_tensor_lands_transposed_and_stacked(folder):
    params, tensors = load(folder), load_file(folder / "model.safetensors")
    np.testing.assert_array_equal(params["layers/mlp/down_proj/w"][1], tensors[DOWN].T)
    np.testing.assert_array_equal(params["embed"], tensors["model.embed_tokens.weight"])
    assert sum(a.size for a in params.values()) == sum(a.size for a in tensors.values())


def test_shards_are_read_as_one(folder):
    whole = load(folder)
    tensors = load_file(folder / "model.safetensors")
    names = sorted(tensors)
    for n, part in enumerate((names[::2], names[1::2])):
        save_file({name: tensors[name] for name in part}, folder / f"model-0000{n + 1}-of-00002.safetensors")
    (folder / "model.safetensors").unlink()
    jax.tree.map(np.testing.assert_array_equal, load(folder), whole)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda t: t.pop(DOWN), "'model.layers.1.mlp.down_proj.weight' is missing"),
        (lambda t: t.update({DOWN: t[DOWN].T.copy()}), "has shape"),
        (
            lambda t: t.update({EXTRA: np.zeros(3, np.float32)}),
            "has no place in a llama model",
        ),
    ],
)
def test_a_wrong_tensor_is_named(folder, edit, message):
    change(folder, edit)
    with pytest.raises(UserError, match=message):
        load(folder)


def test_a_truncated_file_is_named(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(UserError, match="model.safetensors: not a readable safetensors file"):
        load(folder)
