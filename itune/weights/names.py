"""Hugging Face parameter names <-> our paths: a table per family.

A row is (our path, their name, transposed?). "{n}" is the layer; rows with it are stacked over layers. A model has the
rows whose paths are its parameters' (biases, head and norms are not in every one).
Their linear weights are [out, in]; ours are [in, out].
"""

from __future__ import annotations

Table = tuple[tuple[str, str, bool], ...]

_LINEAR = {
    "attention": ("self_attn", ("q_proj", "k_proj", "v_proj", "o_proj")),
    "mlp": ("mlp", ("gate_proj", "up_proj", "down_proj")),
}


def _decoder(**norms: str) -> Table:
    """norms: our name of a layer's norm = theirs."""
    rows = [
        ("embed", "model.embed_tokens.weight", False),
        ("final_norm/scale", "model.norm.weight", False),
        ("head", "lm_head.weight", False),
    ]
    rows += [(f"layers/{ours}/scale", f"model.layers.{{n}}.{theirs}.weight", False) for ours, theirs in norms.items()]
    rows += [
        (f"layers/attention/{name}/scale", f"model.layers.{{n}}.self_attn.{name}.weight", False)
        for name in ("q_norm", "k_norm")
    ]
    for ours, (theirs, names) in _LINEAR.items():
        rows += [(f"layers/{ours}/{name}/w", f"model.layers.{{n}}.{theirs}.{name}.weight", True) for name in names]
        rows += [(f"layers/{ours}/{name}/b", f"model.layers.{{n}}.{theirs}.{name}.bias", False) for name in names]
    return tuple(rows)


LLAMA = _decoder(attention_norm="input_layernorm", mlp_norm="post_attention_layernorm")
# What Llama calls post_attention_layernorm stands before the MLP; Gemma 2's stands after attention.
GEMMA2 = _decoder(
    attention_norm="input_layernorm",
    post_attention_norm="post_attention_layernorm",
    mlp_norm="pre_feedforward_layernorm",
    post_mlp_norm="post_feedforward_layernorm",
)


def _t5(gated: bool) -> Table:
    rows = [("embed", "shared.weight", False), ("head", "lm_head.weight", False)]
    mlp = {"gate_proj": "wi_0", "up_proj": "wi_1", "down_proj": "wo"} if gated else {"up_proj": "wi", "down_proj": "wo"}
    attention = {"attention": "SelfAttention", "cross_attention": "EncDecAttention"}
    for side, parts in (("encoder", ("attention", "mlp")), ("decoder", ("attention", "cross_attention", "mlp"))):
        first = f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
        rows += [(f"{side}/relative_bias", first, False)]
        rows += [(f"{side}/final_norm/scale", f"{side}.final_layer_norm.weight", False)]
        for number, part in enumerate(parts):
            ours, theirs = f"{side}/layers/{part}", f"{side}.block.{{n}}.layer.{number}"
            norm = f"{side}/layers/{part.removesuffix('_attention') if 'cross' in part else part}_norm/scale"
            rows += [(norm, f"{theirs}.layer_norm.weight", False)]
            names = mlp if part == "mlp" else {f"{letter}_proj": letter for letter in "qkvo"}
            inner = attention.get(part, "DenseReluDense")
            rows += [(f"{ours}/{name}/w", f"{theirs}.{inner}.{other}.weight", True) for name, other in names.items()]
    return tuple(rows)


# Tensors that files may hold a second time: {the copy: what it must equal}; and one of old files that nobody reads.
COPIES = {
    "encoder.embed_tokens.weight": "shared.weight",
    "decoder.embed_tokens.weight": "shared.weight",
}
UNREAD = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight"}

TABLES: dict[str, Table] = {
    "t5": _t5(gated=False),
    "t5_gated": _t5(gated=True),
    **dict.fromkeys(("llama", "mistral", "qwen2", "qwen3", "smollm3", "gemma"), LLAMA),
    **dict.fromkeys(("gemma2", "gemma3_text"), GEMMA2),
}
