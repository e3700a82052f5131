"""Safetensors into our paths: what is missing, misshapen, extra or broken is named."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from itune.errors import UserError
from itune.models.families import read_config
from itune.models.spec import model_spec
from itune.weights.load import load_base
from tests.parity import our_families
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


def test_an_embedding_under_the_encoders_name_is_the_shared_one(tmp_path):
    """As some T5 checkpoints have it."""
    one, other = (our_families.write_folder(tmp_path / name, "flan_t5") for name in ("one", "other"))
    change(other, lambda t: t.update({"encoder.embed_tokens.weight": t.pop("shared.weight")}))
    jax.tree.map(np.testing.assert_array_equal, load(other), load(one))
    change(one, lambda t: t.update({"decoder.embed_tokens.weight": t["shared.weight"] + 1}))
    with pytest.raises(UserError, match=r"decoder.embed_tokens.weight differs from shared.weight"):
        load(one)


def test_only_its_files_say_whether_an_mt5_has_a_head_of_its_own(tmp_path):
    folder = our_families.write_folder(tmp_path / "model", "mt5")
    assert not read_config(folder).tied_embeddings
    fields = json.loads((folder / "config.json").read_text()) | {"tie_word_embeddings": True}
    (folder / "config.json").write_text(json.dumps(fields))
    config = read_config(folder)
    assert not config.tied_embeddings and not config.scaled_outputs and "head" in load(folder)
    change(folder, lambda t: t.pop("lm_head.weight"))
    assert read_config(folder).tied_embeddings and not read_config(folder).scaled_outputs
    load(folder)
