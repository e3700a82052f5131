"""Tiny random checkpoints, one or more of each family, with shapes and settings that catch what usual ones hide.

Numbers come from NumPy by parameter name, so that both environments have the same ones.
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

# Heads x head_dim other than the width, no two dimensions alike, an epsilon large enough to see.
SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "hidden_size": 36,
    "intermediate_size": 52,
    "num_hidden_layers": 3,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 10,
    "max_position_embeddings": 64,
    "rms_norm_eps": 0.01,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GEMMA = SIZES | {"query_pre_attn_scalar": 7, "hidden_activation": "gelu_pytorch_tanh"}
LLAMA3 = {
    "rope_type": "llama3",
    "factor": 4.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 16,
}

# One or several of each family. Windows are shorter than the rows, and unlike any block of them.
CONFIGS: dict[str, dict[str, Any]] = {
    "llama": SIZES | {"model_type": "llama", "num_key_value_heads": 1, "tie_word_embeddings": False},
    "llama3": SIZES | {"model_type": "llama", "tie_word_embeddings": True, "rope_theta": 500.0, "rope_scaling": LLAMA3},
    "llama_biased": SIZES
    | {
        "model_type": "llama",
        "num_key_value_heads": 6,
        "attention_bias": True,
        "mlp_bias": True,
        "rope_scaling": {"rope_type": "linear", "factor": 2.5},
    },
    "mistral": SIZES | {"model_type": "mistral", "sliding_window": 5, "num_key_value_heads": 3},
    "qwen2": SIZES | {"model_type": "qwen2", "tie_word_embeddings": True, "num_key_value_heads": 1, "head_dim": 6},
    "qwen2_window": SIZES
    | {
        "model_type": "qwen2",
        "head_dim": 6,
        "use_sliding_window": True,
        "sliding_window": 4,
        "max_window_layers": 1,
    },
    "qwen3": SIZES | {"model_type": "qwen3", "tie_word_embeddings": False, "num_key_value_heads": 6},
    "qwen3_biased": SIZES | {"model_type": "qwen3", "tie_word_embeddings": True, "attention_bias": True},
    "smollm3": SIZES
    | {
        "model_type": "smollm3",
        "head_dim": 6,
        "no_rope_layer_interval": 2,
        "use_sliding_window": True,
        "sliding_window": 6,
    },
    "gemma": SIZES | {"model_type": "gemma", "hidden_act": "gelu_pytorch_tanh", "num_key_value_heads": 1},
    "gemma2": GEMMA
    | {
        "model_type": "gemma2",
        "sliding_window": 5,
        "attn_logit_softcapping": 3.0,
        "final_logit_softcapping": 2.0,
    },
    "gemma3": GEMMA
    | {
        "model_type": "gemma3_text",
        "sliding_window": 6,
        "layer_types": ["sliding_attention", "full_attention", "sliding_attention"],
        "rope_theta": 900.0,
        "rope_local_base_freq": 50.0,
        "rope_scaling": {"rope_type": "linear", "factor": 2.0},
        "num_key_value_heads": 1,
    },
}
IGNORED = -100
NEW_TOKENS = 12
PROMPT_LENGTHS = (3, 9)


def array(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """A parameter's float32 numbers. Norms scatter around 1 (around 0 where they are offsets: all are tried alike)."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    numbers = rng.standard_normal(shape)
    if len(shape) == 1:
        return (0.2 * numbers + (0.0 if name.endswith("bias") else 1.0)).astype(np.float32)
    return (numbers * shape[-1] ** -0.5).astype(np.float32)


def batch() -> tuple[np.ndarray, np.ndarray]:
    """(tokens, labels), int64 [2, 17]: labels[b, t] is tokens[b, t] where it is supervised and IGNORED elsewhere."""
    rng = np.random.default_rng(5)
    tokens = rng.integers(3, SIZES["vocab_size"], (2, 17))
    supervised = rng.random((2, 17)) < 0.5
    supervised[:, 0] = False  # nothing predicts the first token
    return tokens, np.where(supervised, tokens, IGNORED)


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(6)
    return [rng.integers(3, SIZES["vocab_size"], n).tolist() for n in PROMPT_LENGTHS]


def write_folder(folder: Path, name: str, tensors: Mapping[str, tuple[int, ...]]) -> Path:
    """`folder` with config.json and model.safetensors, of `tensors` ({their name: shape})."""
    from safetensors.numpy import save_file

    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps((CONFIGS | T5S)[name]), "utf-8")
    numbers = {tensor: array(tensor, shape) for tensor, shape in tensors.items()}
    save_file(numbers, folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def summary(results: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """What is committed of a family's results: its last logits, its loss, and of each gradient, by sorted name, its
    length and its product with fixed numbers (which a transposed or permuted one would not have)."""
    names = sorted(name for name in results if name.startswith("grad/"))
    pairs = []
    for name in names:
        gradient = results[name].astype(np.float64)
        weights = np.random.default_rng(7).standard_normal(gradient.size).reshape(gradient.shape)
        pairs.append((np.linalg.norm(gradient), (gradient * weights).sum()))
    return {
        "logits": results["logits"][:, -1].astype(np.float32),
        "loss": np.float32(results["loss"]),
        "gradients": np.array(pairs, np.float32),
        "names": np.array(names),
    }


# peft's settings over one of the models: what our adapters are compared with.
RANK, ALPHA = 4, 6.0
LINEAR = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
ADAPTERS: dict[str, tuple[str, dict[str, Any]]] = {
    "lora": ("llama", {"target_modules": LINEAR}),
    "rslora": ("qwen2", {"target_modules": LINEAR, "use_rslora": True}),
    "dora": ("llama_biased", {"target_modules": LINEAR, "use_dora": True}),
    "some_layers": ("gemma2", {"target_modules": ["q_proj", "down_proj"], "layers_to_transform": [0, 2]}),
    "and_in_full": ("qwen3", {"target_modules": ["v_proj"], "modules_to_save": ["embed_tokens", "lm_head", "q_norm"]}),
}
# A large epsilon: where a gradient is next to nothing, Adam would make a whole step of its rounding.
LORA_PLUS = {"lr": 0.01, "ratio": 4.0, "weight_decay": 0.1, "eps": 0.01, "steps": 2}

# Encoder-decoders: unlike depths, heads x d_kv other than d_model, distances beyond the table.
T5_SIZES: dict[str, Any] = {
    "vocab_size": 101,
    "d_model": 36,
    "d_kv": 10,
    "d_ff": 52,
    "num_layers": 3,
    "num_decoder_layers": 2,
    "num_heads": 3,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 12,
    "layer_norm_epsilon": 0.01,
    "dropout_rate": 0.1,
    "is_encoder_decoder": True,
    "decoder_start_token_id": 0,
    "pad_token_id": 0,
    "eos_token_id": 1,
}
T5S: dict[str, dict[str, Any]] = {
    "t5": T5_SIZES | {"model_type": "t5", "architectures": ["T5ForConditionalGeneration"], "feed_forward_proj": "relu"},
    "flan_t5": T5_SIZES
    | {
        "model_type": "t5",
        "architectures": ["T5ForConditionalGeneration"],
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
    },
    "mt5": T5_SIZES
    | {
        "model_type": "mt5",
        "architectures": ["MT5ForConditionalGeneration"],
        "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False,
        "num_decoder_layers": 3,
    },
}
# transformers 5 calls every mT5 tied; this one is, and still scales nothing.
T5S["mt5_tied"] = T5S["mt5"] | {"tie_word_embeddings": True, "num_decoder_layers": 2}


def encoder_batch() -> tuple[np.ndarray, np.ndarray]:
    """(encoder tokens [2, 17], labels [2, 11]), int64; labels are IGNORED where nothing is learnt."""
    tokens, _ = batch()
    rng = np.random.default_rng(8)
    labels = rng.integers(3, T5_SIZES["vocab_size"], (2, 11))
    return tokens, np.where(rng.random((2, 11)) < 0.7, labels, IGNORED)


def decoder_inputs(labels: np.ndarray) -> np.ndarray:
    """Labels moved by one behind the start token; what is IGNORED was some token too."""
    return np.pad(np.where(labels == IGNORED, 5, labels)[:, :-1], ((0, 0), (1, 0)))
