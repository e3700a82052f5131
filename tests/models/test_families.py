"""config.json -> ModelConfig: every field is used, known not to matter, or refused by name."""

from __future__ import annotations

import json

import pytest

from itune.errors import UserError
from itune.models.config import LayerKind, ModelConfig, Rope
from itune.models.families import read_config

PLAIN = {
    "architectures": ["LlamaForCausalLM"],
    "model_type": "llama",
    "vocab_size": 320,
    "hidden_size": 48,
    "intermediate_size": 100,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "max_position_embeddings": 256,
    "rms_norm_eps": 1e-5,
    "rope_theta": 20_000.0,
    "hidden_act": "silu",
    "tie_word_embeddings": True,
}


@pytest.fixture
def read(tmp_path):
    """read(field=value, ...): PLAIN with these; a value of ... leaves the field out."""

    def run(**changes) -> ModelConfig:
        config = {name: value for name, value in (PLAIN | changes).items() if value is not ...}
        (tmp_path / "config.json").write_text(json.dumps(config))
        return read_config(tmp_path)

    return run


def test_plain(read):
    assert read() == ModelConfig(
        family="llama",
        vocab_size=320,
        width=48,
        num_heads=6,
        num_kv_heads=2,
        head_dim=8,
        mlp_width=100,
        layers=(LayerKind(rope=Rope(base=20_000.0)),) * 2,
        norm_eps=1e-5,
        tied_embeddings=True,
        max_positions=256,
    )


def test_what_a_file_leaves_out_is_transformers_default(read):
    left_out = (
        "num_key_value_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "rope_theta",
        "tie_word_embeddings",
        "hidden_act",
    )
    c = read(**dict.fromkeys(left_out, ...))
    assert (c.num_kv_heads, c.max_positions, c.norm_eps, c.layers[0].rope.base, c.tied_embeddings) == (
        6,
        2048,
        1e-6,
        10_000.0,
        False,
    )


def test_head_dim_need_not_follow_from_the_width(read):
    assert read(head_dim=10).head_dim == 10


@pytest.mark.parametrize("given", ["rope_parameters", "rope_scaling"])
def test_rotary_parameters_of_transformers_5(read, given):
    assert read(rope_theta=..., **{given: {"rope_type": "default", "rope_theta": 7000.0}}).layers[1].rope.base == 7000.0


def test_what_does_not_matter_is_passed_over(read):
    off = {
        "attention_bias": False,
        "mlp_bias": False,
        "rope_scaling": None,
        "attention_dropout": 0.0,
        "sliding_window": None,
    }
    bookkeeping = {
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "_name_or_path": "x",
        "bos_token_id": 1,
        "pretraining_tp": 1,
    }
    assert read(**off, **bookkeeping, some_new_switch=False, some_new_list=[]) == read()


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}),
        ("rope_scaling", {"type": "linear", "factor": "2.0"}),
        ("rope_scaling", {"type": "dynamic", "factor": 2.0}),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e4}),
        ("rope_parameters", {"rope_type": "default", "rope_theta": 1e4, "partial_rotary_factor": 0.5}),
        ("rope_interleaved", True),
        ("attention_bias", "yes"),
        ("mlp_bias", 1),
        ("hidden_act", "gelu"),
        ("sliding_window", 4096),
        ("attention_dropout", 0.1),
        ("quantization_config", {"bits": 4}),
        ("attn_logit_softcapping", 50.0),
        ("embedding_multiplier", 12.0),
        ("vocab_size", "320"),
        ("hidden_size", 0),
        ("num_hidden_layers", True),
        ("rms_norm_eps", 0.0),
        ("rope_theta", "1e4"),
        ("tie_word_embeddings", 1),
        ("num_key_value_heads", 4),
        ("head_dim", 7),
        ("architectures", ["LlamaForSequenceClassification"]),
    ],
)
def test_other_maths_and_bad_values_are_refused_by_name(read, field, value):
    with pytest.raises(UserError) as caught:
        read(**{field: value})
    assert "config.json" in str(caught.value) and field in str(caught.value) and "\n" not in str(caught.value)


def test_a_missing_field_names_the_nearest(read):
    with pytest.raises(UserError, match=r"hidden_size is missing\. Did you mean 'hiden_size'\?"):
        read(hidden_size=..., hiden_size=48)


def test_a_misspelt_optional_field_is_not_passed_over(read):
    with pytest.raises(UserError, match=r"num_key_values_heads=2.*Did you mean 'num_key_value_heads'\?"):
        read(num_key_value_heads=..., num_key_values_heads=2)


def test_other_families(read):
    with pytest.raises(UserError, match=r"model_type 'lama' is not supported \(only .*\)\. Did you mean 'llama'\?"):
        read(model_type="lama")
    with pytest.raises(UserError, match="model_type None"):
        read(model_type=...)


def test_files_that_are_no_config(tmp_path):
    with pytest.raises(UserError, match="no config.json"):
        read_config(tmp_path)
    for text, words in (("{", "not JSON"), ("[]", "expected a JSON object")):
        (tmp_path / "config.json").write_text(text)
        with pytest.raises(UserError, match=words):
            read_config(tmp_path)
