"""A tiny random Llama with odd shapes, made of NumPy arrays alone, so that both environments have the same one."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np

# One KV head, heads x head_dim other than the width, an untied head, and no two dimensions alike.
CONFIG = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 101,
    "hidden_size": 36,
    "intermediate_size": 52,
    "num_hidden_layers": 3,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 10,
    "max_position_embeddings": 64,
    "rms_norm_eps": 0.01,  # large enough to see
    "rope_theta": 5000.0,
    "rope_scaling": None,
    "hidden_act": "silu",
    "attention_bias": False,
    "mlp_bias": False,
    "tie_word_embeddings": False,
}
LINEAR = {  # name below model.layers.N: (out, in)
    "self_attn.q_proj": (30, 36),
    "self_attn.k_proj": (10, 36),
    "self_attn.v_proj": (10, 36),
    "self_attn.o_proj": (36, 30),
    "mlp.gate_proj": (52, 36),
    "mlp.up_proj": (52, 36),
    "mlp.down_proj": (36, 52),
}
RANK, ALPHA = 4, 8.0
IGNORED = -100


def weights() -> dict[str, np.ndarray]:
    """Hugging Face name -> float32 array."""
    rng = np.random.default_rng(20_240_607)
    normal = lambda *shape: rng.standard_normal(shape).astype(np.float32)  # noqa: E731
    out = {"model.embed_tokens.weight": normal(101, 36), "lm_head.weight": 0.3 * normal(101, 36)}
    for n in range(CONFIG["num_hidden_layers"]):
        for name, shape in LINEAR.items():
            out[f"model.layers.{n}.{name}.weight"] = normal(*shape) * np.float32(shape[1] ** -0.5)
        for name in ("input_layernorm", "post_attention_layernorm"):
            out[f"model.layers.{n}.{name}.weight"] = 1 + np.float32(0.2) * normal(36)
    out["model.norm.weight"] = 1 + np.float32(0.2) * normal(36)
    return {name: array.astype(np.float32) for name, array in out.items()}


def lora() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """ "model.layers.N.NAME" -> (A [rank, in], B [out, rank]), peft's layout; no B is zero."""
    rng = np.random.default_rng(11)
    out = {}
    for n in range(CONFIG["num_hidden_layers"]):
        for name, (d_out, d_in) in LINEAR.items():
            a = rng.standard_normal((RANK, d_in)) * d_in**-0.5
            b = rng.standard_normal((d_out, RANK)) * 0.3
            out[f"model.layers.{n}.{name}"] = (a.astype(np.float32), b.astype(np.float32))
    return out


def batch() -> tuple[np.ndarray, np.ndarray]:
    """(tokens, labels), int64 [2, 17]: labels[b, t] is tokens[b, t] where it is supervised and IGNORED elsewhere."""
    rng = np.random.default_rng(5)
    tokens = rng.integers(0, CONFIG["vocab_size"], (2, 17))
    supervised = rng.random((2, 17)) < 0.5
    supervised[:, 0] = False  # nothing predicts the first token
    return tokens, np.where(supervised, tokens, IGNORED)


def digest() -> str:
    """Of everything above; a golden file made from other numbers says so by it."""
    hasher = hashlib.sha256(json.dumps(CONFIG).encode())
    pairs = [array for pair in lora().values() for array in pair]
    for array in [*weights().values(), *pairs, *batch()]:
        hasher.update(np.ascontiguousarray(array).tobytes())
    return hasher.hexdigest()


def write_folder(folder: Path) -> Path:
    """config.json and model.safetensors."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(CONFIG), "utf-8")
    save_file(weights(), folder / "model.safetensors", metadata={"format": "pt"})
    return folder
