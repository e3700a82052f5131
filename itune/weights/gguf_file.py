"""A GGUF file of the llama architecture -> a Hugging Face folder in float32, once.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The gguf package reads and dequantises.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from itune.errors import UserError
from itune.weights.gguf_tokenizer import SPECIAL, build_tokenizer, tokenizer_config

# Their name: Hugging Face's. "{n}" is the layer. "q" and "k" are un-permuted on the way.
TOP = {
    "token_embd.weight": "model.embed_tokens.weight",
    "output_norm.weight": "model.norm.weight",
    "output.weight": "lm_head.weight",
}
LAYER = {
    "attn_norm.weight": "input_layernorm.weight",
    "ffn_norm.weight": "post_attention_layernorm.weight",
    "attn_q.weight": "self_attn.q_proj.weight",
    "attn_k.weight": "self_attn.k_proj.weight",
    "attn_v.weight": "self_attn.v_proj.weight",
    "attn_output.weight": "self_attn.o_proj.weight",
    "ffn_gate.weight": "mlp.gate_proj.weight",
    "ffn_up.weight": "mlp.up_proj.weight",
    "ffn_down.weight": "mlp.down_proj.weight",
}
# Metadata that would change the maths, and the values that don't.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "rope.scaling.type": ("none",),
    "rope.scale_linear": (1.0,),
    "expert_count": (0,),
    "attention.sliding_window": (0,),
    "attention.clamp_kqv": (0.0,),
    "logit_scale": (1.0,),
}


class GGUFFile:
    """An open GGUF file: metadata by key, tensors one at a time.

    Raises: UserError naming the file where it is broken, and what it holds where that is not supported.
    """

    def __init__(self, path: Path) -> None:
        import gguf

        self.where = str(path)
        try:
            reader = gguf.GGUFReader(path)
            self.metadata = {key: field.contents() for key, field in reader.fields.items()}
        except (ValueError, KeyError, IndexError, TypeError, UnicodeDecodeError, struct.error) as error:
            raise UserError(f"{path}: not a readable GGUF file ({_one_line(error)})") from None
        self.tensors = {tensor.name: tensor for tensor in reader.tensors}
        architecture = self.metadata.get("general.architecture")
        if architecture != "llama":
            raise UserError(f"{path}: its architecture is {architecture!r}; from GGUF only 'llama' is supported")
        self._refuse_other_maths()

    def _refuse_other_maths(self) -> None:
        for key, allowed in NEUTRAL.items():
            value = self.metadata.get(f"llama.{key}")
            if value is not None and value not in allowed:
                raise UserError(f"{self.where}: llama.{key} is {value!r}, which is not supported (only {allowed[0]!r})")

    def need(self, key: str) -> Any:
        if f"llama.{key}" not in self.metadata:
            raise UserError(f"{self.where}: its metadata lacks llama.{key}")
        return self.metadata[f"llama.{key}"]

    def config(self) -> dict[str, Any]:
        """config.json, with LlamaForCausalLM's field names."""
        width, heads = int(self.need("embedding_length")), int(self.need("attention.head_count"))
        head_dim = int(self.metadata.get("llama.attention.key_length", width // heads))
        for key in ("attention.value_length", "rope.dimension_count"):
            other = self.metadata.get(f"llama.{key}", head_dim)
            if other != head_dim:
                raise UserError(
                    f"{self.where}: llama.{key} is {other}, not supported other than the key width, {head_dim}"
                )
        config = {
            "architectures": ["LlamaForCausalLM"],
            "model_type": "llama",
            "vocab_size": int(self._tensor("token_embd.weight").shape[1]),
            "hidden_size": width,
            "intermediate_size": int(self.need("feed_forward_length")),
            "num_hidden_layers": int(self.need("block_count")),
            "num_attention_heads": heads,
            "num_key_value_heads": int(self.metadata.get("llama.attention.head_count_kv", heads)),
            "head_dim": head_dim,
            "max_position_embeddings": int(self.need("context_length")),
            "rms_norm_eps": _short(self.need("attention.layer_norm_rms_epsilon")),
            "rope_theta": _short(self.metadata.get("llama.rope.freq_base", 10_000.0)),
            "rope_scaling": None,
            "hidden_act": "silu",
            "attention_bias": False,
            "mlp_bias": False,
            "tie_word_embeddings": "output.weight" not in self.tensors,
            "torch_dtype": "float32",
        }
        return config | self.special_ids()

    def special_ids(self) -> dict[str, int]:
        """{"bos_token_id": 1, ...}, as config.json and generation_config.json have them."""
        found = {name: self.metadata.get(key) for name, key in SPECIAL.items() if name != "unk_token"}
        return {f"{name}_id": int(value) for name, value in found.items() if value is not None}

    def quantised(self) -> str | None:
        """What most of the weights are stored as ("Q4_1"), or None for plain floats."""
        sizes: Counter[str] = Counter()
        for tensor in self.tensors.values():
            sizes[tensor.tensor_type.name] += int(tensor.n_elements)
        stored = sizes.most_common(1)[0][0] if sizes else "F32"
        return None if stored in ("F64", "F32", "F16", "BF16") else stored

    def names(self) -> dict[str, str]:
        """Hugging Face name -> name in the file, for every tensor. UserError for a missing or an unknown one."""
        layers = int(self.need("block_count"))
        names = {theirs: ours for ours, theirs in TOP.items() if ours in self.tensors or ours != "output.weight"}
        for n in range(layers):
            names |= {f"model.layers.{n}.{theirs}": f"blk.{n}.{ours}" for ours, theirs in LAYER.items()}
        for ours in names.values():
            self._tensor(ours)
        if extra := sorted(set(self.tensors) - set(names.values())):
            raise UserError(f"{self.where}: tensor {extra[0]!r} has no place in a llama model ({len(extra)} such)")
        return names

    def array(self, theirs: str, ours: str) -> np.ndarray:
        """One tensor, float32, laid out as Hugging Face has it ([out, in])."""
        import gguf

        tensor = self._tensor(ours)
        try:
            array = gguf.quants.dequantize(tensor.data, tensor.tensor_type).astype(np.float32, copy=False)
        except NotImplementedError:
            raise UserError(
                f"{self.where}: {ours} is {tensor.tensor_type.name}, which gguf cannot dequantise"
            ) from None
        if theirs.endswith("q_proj.weight"):
            array = unpermute(array, int(self.need("attention.head_count")))
        elif theirs.endswith("k_proj.weight"):
            heads = int(self.need("attention.head_count"))
            array = unpermute(array, int(self.metadata.get("llama.attention.head_count_kv", heads)))
        return np.ascontiguousarray(array)

    def _tensor(self, name: str) -> Any:
        if name not in self.tensors:
            raise UserError(f"{self.where}: tensor {name!r} is missing")
        return self.tensors[name]


def unpermute(array_OD: np.ndarray, heads: int) -> np.ndarray:
    """Rows of a head from pairs (0, 1, 2, 3 -> x0 y0 x1 y1), as llama.cpp's RoPE has them, to halves (x0 x1 y0 y1)."""
    O, D = array_OD.shape
    return array_OD.reshape(heads, O // heads // 2, 2, D).swapaxes(1, 2).reshape(O, D)


def write_folder(file: GGUFFile, folder: Path) -> dict[str, dict[str, Any]]:
    """Writes the Hugging Face folder's files into the existing, empty `folder`.

    Returns: {file name: {"bytes": size, "sha256": hex}}.
    """
    config = file.config()
    files = {
        "tokenizer.json": build_tokenizer(file.metadata, file.where).to_str(),
        "tokenizer_config.json": _json(tokenizer_config(file.metadata, file.where)),
        "config.json": _json(config),
        "generation_config.json": _json(file.special_ids()),
    }
    written = {}
    for name, text in files.items():
        data = text.encode("utf-8")
        (folder / name).write_bytes(data)
        written[name] = {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    written["model.safetensors"] = _write_safetensors(file, folder / "model.safetensors")
    return written


def _shape(tensor: Any) -> list[int]:
    return [int(n) for n in reversed(tensor.shape)]  # GGUF lists dimensions fastest first


def _write_safetensors(file: GGUFFile, path: Path) -> dict[str, Any]:
    """Float32, one tensor in memory at a time (which safetensors' own writer cannot)."""
    names, header, offset = file.names(), {}, 0
    for theirs, ours in names.items():
        shape = _shape(file.tensors[ours])
        size = 4 * int(np.prod(shape))
        header[theirs] = {"dtype": "F32", "shape": shape, "data_offsets": [offset, offset + size]}
        offset += size
    head = json.dumps({"__metadata__": {"format": "pt"}} | header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as out:
        for chunk in _chunks(file, names, header, struct.pack("<Q", len(head)) + head):
            digest.update(chunk)
            size += out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _chunks(file: GGUFFile, names: dict[str, str], header: dict[str, Any], head: bytes) -> Iterator[bytes]:
    yield head
    for theirs, ours in names.items():
        array = file.array(theirs, ours)
        assert list(array.shape) == header[theirs]["shape"], (theirs, array.shape)
        yield array.astype("<f4", copy=False).tobytes()


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _short(value: float) -> float:
    """The shortest decimal that is this float32: 9.999999747378752e-06 -> 1e-05."""
    return float(str(np.float32(value)))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
