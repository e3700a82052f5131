"""GGUF files of every architecture: the checkpoint that went in comes out; every type that gguf dequantises is read."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest
from safetensors.numpy import load_file

from itune.data.tokenizer import Tokenizer
from itune.models.families import read_config
from itune.models.spec import model_spec
from itune.weights import resolve
from itune.weights.gguf_families import ARCHITECTURES, TOP
from itune.weights.load import load_base
from tests.parity import families, our_families
from tests.weights.conftest import interleaved

SPACE = "\u2581"
PIECES = [
    "<pad>",
    "<eos>",
    "<bos>",
    "<unk>",
    *(f"<0x{n:02X}>" for n in range(256)),
    "  ",
    SPACE,
    "a",
    "b",
    "ab",
    f"{SPACE}a",
]
TYPES = [3, 3, 3, 2, *([6] * 256), 4, *([1] * 5)]
# Of families.CONFIGS, and what its GGUF file can't say: Gemma 3's pattern and local base are the family's own.
MODELS = {name: name for name in ("qwen2", "qwen3", "gemma", "gemma2", "gemma3")} | {"llama": "llama3"}
CHANGES: dict[str, dict[str, Any]] = {
    "llama": {"rope_scaling": None},
    "qwen2": {"head_dim": 6},
    "gemma2": {"query_pre_attn_scalar": 10, "layer_types": None},
    "gemma3": {
        "query_pre_attn_scalar": 10,
        "layer_types": None,
        "rope_local_base_freq": 10_000.0,
        "rope_scaling": None,
    },
}


def fields_of(name: str) -> dict[str, Any]:
    return families.CONFIGS[MODELS[name]] | {"vocab_size": len(PIECES)} | CHANGES.get(name, {})


def metadata(name: str, fields: dict[str, Any]) -> dict[str, Any]:
    own = {
        "block_count": fields["num_hidden_layers"],
        "context_length": fields["max_position_embeddings"],
        "embedding_length": fields["hidden_size"],
        "feed_forward_length": fields["intermediate_size"],
        "attention.head_count": fields["num_attention_heads"],
        "attention.head_count_kv": fields["num_key_value_heads"],
        "attention.key_length": fields["head_dim"],
        "attention.value_length": fields["head_dim"],
        "attention.layer_norm_rms_epsilon": float(fields["rms_norm_eps"]),
        "attention.sliding_window": fields.get("sliding_window"),
        "attn_logit_softcapping": fields.get("attn_logit_softcapping"),
        "final_logit_softcapping": fields.get("final_logit_softcapping"),
        "rope.freq_base": float(fields.get("rope_theta", 10_000.0)),
    }
    tokens = {
        "model": "llama",
        "tokens": PIECES,
        "scores": [-float(n) for n in range(len(PIECES))],
        "token_type": TYPES,
        "bos_token_id": 2,
        "eos_token_id": 1,
        "padding_token_id": 0,
        "unknown_token_id": 3,
        "add_bos_token": True,
        "add_space_prefix": False,
    }
    return {f"{name}.{k}": v for k, v in own.items()} | {f"tokenizer.ggml.{k}": v for k, v in tokens.items()}


def write(path: Path, name: str, values: dict[str, Any], tensors: dict[str, np.ndarray], kinds=None) -> Path:
    """kinds: {tensor: (its raw bytes, its type)} in place of float32."""
    writer = gguf.GGUFWriter(path, name)
    adders = {bool: writer.add_bool, int: writer.add_uint32, float: writer.add_float32, str: writer.add_string}
    for key, value in values.items():
        if value is not None:
            adders.get(type(value), writer.add_array)(key, value)
    for tensor, array in tensors.items():
        raw, kind = (kinds or {}).get(tensor, (array, None))
        writer.add_tensor(tensor, raw, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def as_gguf(name: str, theirs: dict[str, np.ndarray], fields: dict[str, Any]) -> dict[str, np.ndarray]:
    """What llama.cpp's converter makes of a checkpoint: its names, rows of Q and K, norms with the 1 in them."""
    row, found = ARCHITECTURES[name], {}
    for ours, hf in TOP.items():
        if hf in theirs:
            found[ours] = theirs[hf]
    for n in range(fields["num_hidden_layers"]):
        found |= {f"blk.{n}.{ours}": theirs[f"model.layers.{n}.{hf}"] for ours, hf in row.layer.items()}
    for tensor, array in found.items():
        if row.permuted and tensor.endswith(("attn_q.weight", "attn_k.weight")):
            heads = fields["num_attention_heads" if "attn_q" in tensor else "num_key_value_heads"]
            found[tensor] = interleaved(array, heads)
        elif row.shifted_norms and tensor.endswith("norm.weight"):
            found[tensor] = array + 1
    return found


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_what_went_in_comes_out(name, tmp_path, monkeypatch, cache):
    fields = fields_of(name)
    monkeypatch.setitem(families.CONFIGS, MODELS[name], fields)
    folder = our_families.write_folder(tmp_path / "hf", MODELS[name])
    theirs = load_file(folder / "model.safetensors")
    path = write(tmp_path / "tiny.gguf", name, metadata(name, fields), as_gguf(name, theirs, fields))
    out = resolve(str(path), echo=lambda line: None)
    found = load_file(out / "model.safetensors")
    assert found.keys() == theirs.keys()
    for tensor, array in theirs.items():
        # The 1 was added to norms and taken off again.
        np.testing.assert_allclose(found[tensor], array, atol=2e-7 if "norm" in tensor else 0, err_msg=tensor)
    expected, config = read_config(folder), read_config(out)
    assert dataclasses.replace(config, max_positions=expected.max_positions) == expected
    load_base(out, model_spec(config))
    tokenizer = Tokenizer.from_folder(out)
    assert tokenizer.prefix == [2] and tokenizer.decode(tokenizer.encode("ab  a \u00e9")) == "ab  a \u00e9"


TYPES_READ = [kind for kind in gguf.GGMLQuantizationType if kind in gguf.quants._type_traits]


@pytest.mark.parametrize("kind", TYPES_READ, ids=lambda kind: kind.name)
def test_every_type_that_gguf_dequantises_is_read(kind, tmp_path, cache):
    """Raw blocks of each type, against the package's own reading of the same bytes."""
    fields = fields_of("qwen2") | {"hidden_size": 256, "intermediate_size": 256, "head_dim": 42}
    block, size = gguf.GGML_QUANT_SIZES[kind]
    raw = np.random.default_rng(0).integers(0, 60, (256, 256 // block * size), np.uint8)
    theirs = {}
    shapes = our_families.shapes(model_spec(read_config(_folder(tmp_path / "shapes", fields))))
    for tensor, shape in shapes.items():
        theirs[tensor] = families.array(tensor, shape)
    tensors = as_gguf("qwen2", theirs, fields)
    kinds = {"blk.0.ffn_up.weight": (raw, kind)}
    path = write(tmp_path / "tiny.gguf", "qwen2", metadata("qwen2", fields), tensors, kinds)
    found = load_file(resolve(str(path), echo=lambda line: None) / "model.safetensors")
    expected = gguf.quants.dequantize(raw, kind).astype(np.float32)
    np.testing.assert_array_equal(found["model.layers.0.mlp.up_proj.weight"], expected)


def _folder(folder: Path, fields: dict[str, Any]) -> Path:
    import json

    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(fields))
    return folder


def test_there_are_types_to_read():
    names = {kind.name for kind in TYPES_READ}
    assert {"Q4_0", "Q4_1", "Q5_0", "Q5_1", "Q8_0", "Q2_K", "Q3_K", "Q4_K", "Q5_K", "Q6_K", "IQ4_NL", "BF16"} <= names
