"""A GGUF file -> a Hugging Face folder in float32, once.

The format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. The gguf package reads and dequantises.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

from itune.errors import UserError, nearest
from itune.models.config import Rope, RopeScaling
from itune.models.layers import rope_frequencies
from itune.weights.gguf_families import ARCHITECTURES, NEUTRAL, TOP
from itune.weights.gguf_tokenizer import SPECIAL, build_tokenizer, tokenizer_config
from itune.weights.safetensors_file import Entry, write_file

ROPE_FREQS = "rope_freqs.weight"  # llama3's scaling: how many times each frequency is stretched
LLAMA3_FACTORS = (8.0, 32.0, 16.0, 4.0)


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
        self.name = str(self.metadata.get("general.architecture"))
        if self.name not in ARCHITECTURES:
            known = ", ".join(ARCHITECTURES)
            raise UserError(
                f"{path}: its architecture is {self.name!r}; supported are {known}.{nearest(self.name, ARCHITECTURES)}"
            )
        self.architecture = ARCHITECTURES[self.name]
        prefix = f"{self.name}."
        self.own = {k.removeprefix(prefix): v for k, v in self.metadata.items() if k.startswith(prefix)}
        self._same_in_all_layers()
        self._refuse_other_maths()

    def _refuse_other_maths(self) -> None:
        neutral = NEUTRAL | (
            {} if "attention.sliding_window" in self.architecture.read else {"attention.sliding_window": (0,)}
        )
        for key, allowed in neutral.items():
            value = self.own.get(key)
            if value is not None and value not in allowed:
                raise UserError(
                    f"{self.where}: {self.name}.{key} is {value!r}, which is not supported (only {allowed[0]!r})"
                )

    def _same_in_all_layers(self) -> None:
        """Lists of a value for each layer become the value. UserError where layers differ."""
        for key, value in self.own.items():
            if isinstance(value, list | tuple | np.ndarray):
                values = np.unique(np.asarray(value))
                if len(values) != 1:
                    raise UserError(
                        f"{self.where}: {self.name}.{key} differs from layer to layer ({values.tolist()!s:.60}), which "
                        "is not supported"
                    )
                self.own[key] = values[0].item()

    def need(self, key: str) -> Any:
        if key not in self.own:
            raise UserError(f"{self.where}: its metadata lacks {self.name}.{key}")
        return self.own[key]

    def config(self) -> dict[str, Any]:
        """config.json, with the field names of the architecture's class in transformers."""
        width, heads = int(self.need("embedding_length")), int(self.need("attention.head_count"))
        head_dim = int(self.own.get("attention.key_length", width // heads))
        for key in ("attention.value_length", "rope.dimension_count"):
            other = self.own.get(key, head_dim)
            if other != head_dim:
                raise UserError(
                    f"{self.where}: {self.name}.{key} is {other}, not supported other than the key width, {head_dim}"
                )
        for key in ("block_count", "feed_forward_length", "context_length", "attention.layer_norm_rms_epsilon"):
            self.need(key)
        config = {
            "architectures": [self.architecture.hf_class],
            "model_type": self.architecture.model_type,
            "vocab_size": int(self._tensor("token_embd.weight").shape[1]),
            "hidden_size": width,
            "intermediate_size": int(self.need("feed_forward_length")),
            "num_hidden_layers": int(self.need("block_count")),
            "num_attention_heads": heads,
            "num_key_value_heads": int(self.own.get("attention.head_count_kv", heads)),
            "head_dim": head_dim,
            "max_position_embeddings": int(self.need("context_length")),
            "rms_norm_eps": _short(self.need("attention.layer_norm_rms_epsilon")),
            "rope_theta": _short(self.own.get("rope.freq_base", 10_000.0)),
            "rope_scaling": self._rope_scaling(head_dim),
            "tie_word_embeddings": "output.weight" not in self.tensors,
            "torch_dtype": "float32",
        }
        return config | self.architecture.fields(self.own) | self.special_ids()

    def _rope_scaling(self, head_dim: int) -> dict[str, Any] | None:
        if self.own.get("rope.scaling.type") == "linear":
            return {"rope_type": "linear", "factor": _short(self.need("rope.scaling.factor"))}
        if ROPE_FREQS not in self.tensors:
            return None
        found = np.asarray(self.tensors[ROPE_FREQS].data, np.float32).reshape(-1)
        if np.all(found == 1):
            return None
        base = float(self.own.get("rope.freq_base", 10_000.0))
        plain = rope_frequencies_of(head_dim // 2, Rope(base=base))
        for factor in LLAMA3_FACTORS:
            scaling = RopeScaling(kind="llama3", factor=factor)
            stretched = rope_frequencies_of(head_dim // 2, Rope(base=base, scaling=scaling))
            if found.shape == plain.shape and np.allclose(plain / stretched, found, rtol=1e-3):
                return {
                    "rope_type": "llama3",
                    "factor": factor,
                    "low_freq_factor": scaling.low_freq_factor,
                    "high_freq_factor": scaling.high_freq_factor,
                    "original_max_position_embeddings": scaling.original_max_positions,
                }
        raise UserError(f"{self.where}: {ROPE_FREQS} is not the scaling of a Llama 3 that itune knows")

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
            rows = self.architecture.layer.items()
            names |= {f"model.layers.{n}.{theirs}": f"blk.{n}.{ours}" for ours, theirs in rows}
        for ours in names.values():
            self._tensor(ours)
        if extra := sorted(set(self.tensors) - set(names.values()) - {ROPE_FREQS}):
            raise UserError(
                f"{self.where}: tensor {extra[0]!r} has no place in a {self.name} model ({len(extra)} such)"
            )
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
        heads = int(self.need("attention.head_count"))
        if self.architecture.permuted and theirs.endswith("q_proj.weight"):
            array = unpermute(array, heads)
        elif self.architecture.permuted and theirs.endswith("k_proj.weight"):
            array = unpermute(array, int(self.own.get("attention.head_count_kv", heads)))
        elif self.architecture.shifted_norms and theirs.endswith("norm.weight"):
            array = array - 1
        return np.ascontiguousarray(array)

    def entry(self, theirs: str, ours: str) -> Entry:
        shape = tuple(int(n) for n in reversed(self._tensor(ours).shape))  # GGUF lists dimensions fastest first
        return Entry(name=theirs, shape=shape, make=lambda: self.array(theirs, ours))

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
    entries = [file.entry(theirs, ours) for theirs, ours in file.names().items()]
    written["model.safetensors"] = write_file(folder / "model.safetensors", entries)
    return written


def rope_frequencies_of(half: int, rope: Rope) -> np.ndarray:
    """`rope_frequencies` on the host."""
    return np.asarray(rope_frequencies(half, rope))


def _json(value: dict[str, Any]) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False) + "\n"


def _short(value: float) -> float:
    """The shortest decimal that is this float32: 9.999999747378752e-06 -> 1e-05."""
    return float(str(np.float32(value)))


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:200] or type(error).__name__
