"""What a GGUF file's architecture means: its metadata as config.json's fields, its tensors under Hugging Face's names.

llama.cpp's converter (gguf-py's names, convert_hf_to_gguf) is where both are defined; a row per architecture.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

# Their name: Hugging Face's. "{n}" is the layer.
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
QK_NORMS = {"attn_q_norm.weight": "self_attn.q_norm.weight", "attn_k_norm.weight": "self_attn.k_norm.weight"}
QKV_BIASES = {f"attn_{x}.bias": f"self_attn.{x}_proj.bias" for x in "qkv"}
# Gemma 2's norm before the MLP has another name there, and there are two more.
GEMMA2_NORMS = {
    "ffn_norm.weight": "pre_feedforward_layernorm.weight",
    "post_attention_norm.weight": "post_attention_layernorm.weight",
    "post_ffw_norm.weight": "post_feedforward_layernorm.weight",
}
# Metadata that would change the maths, and the values that don't.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "expert_count": (0,),
    "attention.clamp_kqv": (0.0,),
    "attention.max_alibi_bias": (0.0,),
    "logit_scale": (1.0,),
    "rope.scaling.type": ("none", "linear"),
    "rope.scale_linear": (1.0,),
    "rope.freq_base_swa": (10_000.0,),
    "attention.sliding_window_pattern": (6,),
}


@dataclass(frozen=True, kw_only=True)
class Architecture:
    """A row.

    Attributes:
      model_type, hf_class: of config.json.
      layer: tensors of a layer, {their name: Hugging Face's}.
      permuted: whether rows of Q and K are interleaved, as llama.cpp's RoPE of llama has them.
      shifted_norms: whether norms hold 1 + what Hugging Face's do.
      read: further metadata that is used, beyond what all have.
      fields: a function of the file's metadata (less the architecture's prefix) that gives further fields.
    """

    model_type: str
    hf_class: str
    layer: Mapping[str, str] = field(default_factory=lambda: LAYER)
    permuted: bool = False
    shifted_norms: bool = False
    read: tuple[str, ...] = ()
    fields: Callable[[Mapping[str, Any]], dict[str, Any]] = lambda m: {}


def _window(m: Mapping[str, Any]) -> int | None:
    return int(m["attention.sliding_window"]) if m.get("attention.sliding_window") else None


def _llama(m: Mapping[str, Any]) -> dict[str, Any]:
    return {"hidden_act": "silu", "attention_bias": False, "mlp_bias": False}


def _qwen2(m: Mapping[str, Any]) -> dict[str, Any]:
    return {"hidden_act": "silu", "use_sliding_window": False}


def _qwen3(m: Mapping[str, Any]) -> dict[str, Any]:
    return {"hidden_act": "silu", "use_sliding_window": False, "attention_bias": False}


def _gemma(m: Mapping[str, Any]) -> dict[str, Any]:
    return {"hidden_act": "gelu_pytorch_tanh", "attention_bias": False}


def _gemma2(m: Mapping[str, Any], large: int = 46) -> dict[str, Any]:
    """large: layers of the 27B model, whose scores are scaled by the width of a head's share, not by the head's."""
    heads, width = int(m["attention.head_count"]), int(m["embedding_length"])
    scalar = width // heads if int(m["block_count"]) == large else int(m.get("attention.key_length", width // heads))
    return {
        "hidden_activation": "gelu_pytorch_tanh",
        "attention_bias": False,
        "query_pre_attn_scalar": scalar,
        "sliding_window": _window(m),
        "attn_logit_softcapping": m.get("attn_logit_softcapping"),
        "final_logit_softcapping": m.get("final_logit_softcapping"),
    }


def _gemma3(m: Mapping[str, Any]) -> dict[str, Any]:
    """The local layers' base and the pattern are not in the file: they are the family's."""
    return _gemma2(m, large=62) | {"rope_local_base_freq": 10_000.0, "sliding_window_pattern": 6}


_SOFTCAPS = ("attention.sliding_window", "attn_logit_softcapping", "final_logit_softcapping")
ARCHITECTURES = {
    "llama": Architecture(model_type="llama", hf_class="LlamaForCausalLM", permuted=True, fields=_llama),
    "qwen2": Architecture(model_type="qwen2", hf_class="Qwen2ForCausalLM", layer=LAYER | QKV_BIASES, fields=_qwen2),
    "qwen3": Architecture(model_type="qwen3", hf_class="Qwen3ForCausalLM", layer=LAYER | QK_NORMS, fields=_qwen3),
    "gemma": Architecture(model_type="gemma", hf_class="GemmaForCausalLM", shifted_norms=True, fields=_gemma),
    "gemma2": Architecture(
        model_type="gemma2",
        hf_class="Gemma2ForCausalLM",
        layer=LAYER | GEMMA2_NORMS,
        shifted_norms=True,
        read=_SOFTCAPS,
        fields=_gemma2,
    ),
    "gemma3": Architecture(
        model_type="gemma3_text",
        hf_class="Gemma3ForCausalLM",
        layer=LAYER | GEMMA2_NORMS | QK_NORMS,
        shifted_norms=True,
        read=_SOFTCAPS,
        fields=_gemma3,
    ),
}
