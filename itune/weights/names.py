"""Hugging Face parameter names <-> our paths: a table per family.

A row is (our path, their name, transposed?). "{n}" is the layer; rows with it are stacked over layers.
Their linear weights are [out, in]; ours are [in, out].
"""

from __future__ import annotations

LLAMA = (
    ("embed", "model.embed_tokens.weight", False),
    ("final_norm/scale", "model.norm.weight", False),
    ("head", "lm_head.weight", False),
    ("layers/attention_norm/scale", "model.layers.{n}.input_layernorm.weight", False),
    ("layers/mlp_norm/scale", "model.layers.{n}.post_attention_layernorm.weight", False),
    ("layers/attention/q_proj/w", "model.layers.{n}.self_attn.q_proj.weight", True),
    ("layers/attention/k_proj/w", "model.layers.{n}.self_attn.k_proj.weight", True),
    ("layers/attention/v_proj/w", "model.layers.{n}.self_attn.v_proj.weight", True),
    ("layers/attention/o_proj/w", "model.layers.{n}.self_attn.o_proj.weight", True),
    ("layers/mlp/gate_proj/w", "model.layers.{n}.mlp.gate_proj.weight", True),
    ("layers/mlp/up_proj/w", "model.layers.{n}.mlp.up_proj.weight", True),
    ("layers/mlp/down_proj/w", "model.layers.{n}.mlp.down_proj.weight", True),
)

TABLES = {"llama": LLAMA}
