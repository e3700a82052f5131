"""config.json as the owners of well-known models publish them: each is read, whatever bookkeeping it carries."""

from __future__ import annotations

import json

import pytest

from itune.errors import UserError
from itune.models.config import RopeScaling
from itune.models.families import read_config

LLAMA_3_2_1B = {
    "architectures": ["LlamaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 128000,
    "eos_token_id": [128001, 128008, 128009],
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 8192,
    "max_position_embeddings": 131072,
    "mlp_bias": False,
    "model_type": "llama",
    "num_attention_heads": 32,
    "num_hidden_layers": 16,
    "num_key_value_heads": 8,
    "pretraining_tp": 1,
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "factor": 32.0,
        "high_freq_factor": 4.0,
        "low_freq_factor": 1.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "rope_theta": 500000.0,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.45.0.dev0",
    "use_cache": True,
    "vocab_size": 128256,
}
MISTRAL_7B_V0_1 = {
    "architectures": ["MistralForCausalLM"],
    "bos_token_id": 1,
    "eos_token_id": 2,
    "hidden_act": "silu",
    "hidden_size": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 14336,
    "max_position_embeddings": 32768,
    "model_type": "mistral",
    "num_attention_heads": 32,
    "num_hidden_layers": 32,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-05,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.34.0.dev0",
    "use_cache": True,
    "vocab_size": 32000,
}
QWEN_2_5_0_5B = {
    "architectures": ["Qwen2ForCausalLM"],
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151643,
    "hidden_act": "silu",
    "hidden_size": 896,
    "initializer_range": 0.02,
    "intermediate_size": 4864,
    "max_position_embeddings": 32768,
    "max_window_layers": 24,
    "model_type": "qwen2",
    "num_attention_heads": 14,
    "num_hidden_layers": 24,
    "num_key_value_heads": 2,
    "rms_norm_eps": 1e-06,
    "rope_theta": 1000000.0,
    "sliding_window": 32768,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.40.1",
    "use_cache": True,
    "use_mrope": False,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
QWEN_3_0_6B = {
    "architectures": ["Qwen3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 151643,
    "eos_token_id": 151645,
    "head_dim": 128,
    "hidden_act": "silu",
    "hidden_size": 1024,
    "initializer_range": 0.02,
    "intermediate_size": 3072,
    "max_position_embeddings": 40960,
    "max_window_layers": 28,
    "model_type": "qwen3",
    "num_attention_heads": 16,
    "num_hidden_layers": 28,
    "num_key_value_heads": 8,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": None,
    "tie_word_embeddings": True,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.51.0",
    "use_cache": True,
    "use_sliding_window": False,
    "vocab_size": 151936,
}
GEMMA_2B = {
    "architectures": ["GemmaForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": 2,
    "eos_token_id": 1,
    "head_dim": 256,
    "hidden_act": "gelu",
    "hidden_activation": None,
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 16384,
    "max_position_embeddings": 8192,
    "model_type": "gemma",
    "num_attention_heads": 8,
    "num_hidden_layers": 18,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 10000.0,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.38.0.dev0",
    "use_cache": True,
    "vocab_size": 256000,
}
GEMMA_2_2B = {
    "architectures": ["Gemma2ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": 50.0,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": 1,
    "final_logit_softcapping": 30.0,
    "head_dim": 256,
    "hidden_act": "gelu_pytorch_tanh",
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 2304,
    "initializer_range": 0.02,
    "intermediate_size": 9216,
    "max_position_embeddings": 8192,
    "model_type": "gemma2",
    "num_attention_heads": 8,
    "num_hidden_layers": 26,
    "num_key_value_heads": 4,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_theta": 10000.0,
    "sliding_window": 4096,
    "torch_dtype": "float32",
    "transformers_version": "4.42.4",
    "use_cache": True,
    "vocab_size": 256000,
}
GEMMA_3_1B = {
    "architectures": ["Gemma3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "attn_logit_softcapping": None,
    "bos_token_id": 2,
    "cache_implementation": "hybrid",
    "eos_token_id": [1, 106],
    "final_logit_softcapping": None,
    "head_dim": 256,
    "hidden_activation": "gelu_pytorch_tanh",
    "hidden_size": 1152,
    "initializer_range": 0.02,
    "intermediate_size": 6912,
    "max_position_embeddings": 32768,
    "model_type": "gemma3_text",
    "num_attention_heads": 4,
    "num_hidden_layers": 26,
    "num_key_value_heads": 1,
    "pad_token_id": 0,
    "query_pre_attn_scalar": 256,
    "rms_norm_eps": 1e-06,
    "rope_local_base_freq": 10000,
    "rope_scaling": None,
    "rope_theta": 1000000,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.50.0.dev0",
    "use_cache": True,
    "vocab_size": 262144,
}
SMOLLM3_3B = {
    "architectures": ["SmolLM3ForCausalLM"],
    "attention_bias": False,
    "attention_dropout": 0.0,
    "bos_token_id": None,
    "eos_token_id": 128012,
    "hidden_act": "silu",
    "hidden_size": 2048,
    "initializer_range": 0.02,
    "intermediate_size": 11008,
    "layer_types": ["full_attention"] * 36,
    "max_position_embeddings": 65536,
    "max_window_layers": 28,
    "mlp_bias": False,
    "model_type": "smollm3",
    "no_rope_layer_interval": 4,
    "no_rope_layers": [1, 1, 1, 0] * 9,
    "num_attention_heads": 16,
    "num_hidden_layers": 36,
    "num_key_value_heads": 4,
    "pad_token_id": 128004,
    "pretraining_tp": 2,
    "rms_norm_eps": 1e-06,
    "rope_scaling": None,
    "rope_theta": 5000000.0,
    "sliding_window": None,
    "torch_dtype": "bfloat16",
    "transformers_version": "4.54.0.dev0",
    "use_cache": False,
    "use_sliding_window": False,
    "vocab_size": 128256,
}


@pytest.fixture
def read(tmp_path):
    """read(config, field=value, ...): a value of ... leaves the field out."""

    def run(config, **changes):
        kept = {name: value for name, value in (config | changes).items() if value is not ...}
        (tmp_path / "config.json").write_text(json.dumps(kept))
        return read_config(tmp_path)

    return run


def test_llama_3(read):
    c = read(LLAMA_3_2_1B)
    scaling = RopeScaling(kind="llama3", factor=32.0, original_max_positions=8192)
    assert c.layers[0].rope.scaling == scaling and c.layers[0].rope.base == 500_000
    assert (c.num_layers, c.num_kv_heads, c.tied_embeddings) == (16, 8, True)


def test_mistral(read):
    c = read(MISTRAL_7B_V0_1)
    assert {kind.window for kind in c.layers} == {4096} and c.head_dim == 128
    assert {kind.window for kind in read(MISTRAL_7B_V0_1, sliding_window=None).layers} == {0}


def test_qwen(read):
    c = read(QWEN_2_5_0_5B)
    assert (c.qkv_bias, c.o_bias, c.qk_norm, {kind.window for kind in c.layers}) == (True, False, False, {0})
    windows = [k.window for k in read(QWEN_2_5_0_5B, use_sliding_window=True, max_window_layers=20).layers]
    assert windows == [0] * 20 + [32768] * 4
    c = read(QWEN_3_0_6B)
    assert (c.qkv_bias, c.qk_norm, c.head_dim, c.layers[0].rope.base) == (False, True, 128, 1e6)


def test_gemma(read):
    c = read(GEMMA_2B)
    assert (c.activation, c.norm_offset, c.embed_scale, c.tied_embeddings) == ("gelu_tanh", 1.0, 2048**0.5, True)
    c = read(GEMMA_2_2B)
    assert [kind.window for kind in c.layers[:4]] == [4096, 0, 4096, 0]
    assert (c.attention_softcap, c.final_softcap, c.attention_scale, c.post_norms) == (50.0, 30.0, 1 / 16, True)
    c = read(GEMMA_3_1B)
    assert [kind.window for kind in c.layers[:7]] == [512] * 5 + [0, 512]
    assert [kind.rope.base for kind in c.layers[:7]] == [1e4] * 5 + [1e6, 1e4]
    assert (c.qk_norm, c.attention_softcap, c.final_softcap) == (True, 0.0, 0.0)


def test_gemma_3_as_transformers_5_writes_it(read):
    parameters = {
        "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0},
        "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 1000000.0},
    }
    kinds = (["sliding_attention"] * 5 + ["full_attention"]) * 4 + ["sliding_attention"] * 2
    fields = {"rope_theta": ..., "rope_local_base_freq": ..., "sliding_window_pattern": ..., "layer_types": kinds}
    c = read(GEMMA_3_1B, rope_parameters=parameters, **fields, _sliding_window_pattern=6)
    old = read(GEMMA_3_1B, rope_scaling={"rope_type": "linear", "factor": 8.0})
    assert c == old and c.layers[5].rope.scaling == RopeScaling(kind="linear", factor=8.0)


def test_smollm3(read):
    c = read(SMOLLM3_3B)
    assert [kind.rope is None for kind in c.layers] == [False, False, False, True] * 9
    assert c == read(SMOLLM3_3B, no_rope_layers=None, layer_types=None)


@pytest.mark.parametrize(
    ("config", "field", "value"),
    [
        (LLAMA_3_2_1B, "rope_scaling", LLAMA_3_2_1B["rope_scaling"] | {"low_freq_factor": 8.0}),
        (LLAMA_3_2_1B, "rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
        (LLAMA_3_2_1B, "rope_scaling", {"rope_type": "linear", "factor": 8.0, "beta_fast": 32}),
        (LLAMA_3_2_1B, "layer_types", ["full_attention"] * 16),
        (MISTRAL_7B_V0_1, "sliding_window", -1),
        (MISTRAL_7B_V0_1, "layer_types", ["sliding_attention"] * 32),
        (QWEN_2_5_0_5B, "rope_scaling", {"type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768}),
        (QWEN_3_0_6B, "attention_bias", "no"),
        (QWEN_3_0_6B, "num_experts", 64),
        (GEMMA_2B, "hidden_activation", "relu"),
        (GEMMA_2_2B, "attn_logit_softcapping", -50.0),
        (GEMMA_2_2B, "query_pre_attn_scalar", 0),
        (GEMMA_2_2B, "sliding_window", None),
        (GEMMA_3_1B, "layer_types", ["full_attention"] * 25),
        (GEMMA_3_1B, "layer_types", ["chunked_attention"] * 26),
        (GEMMA_3_1B, "rope_parameters", {"rope_type": "default"}),
        (GEMMA_3_1B, "use_bidirectional_attention", True),
        (SMOLLM3_3B, "no_rope_layers", [1, 1, 0]),
        (SMOLLM3_3B, "no_rope_layer_interval", 0),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_not_computed_is_refused_by_name(read, config, field, value):
    with pytest.raises(UserError) as caught:
        read(config, **{field: value})
    assert "config.json" in str(caught.value) and field in str(caught.value) and "\n" not in str(caught.value)


def test_a_model_with_a_vision_tower_is_refused(read):
    with pytest.raises(UserError, match=r"model_type 'gemma3' has more than text .*only text models"):
        read({"model_type": "gemma3", "architectures": ["Gemma3ForConditionalGeneration"], "text_config": {}})
