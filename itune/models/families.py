"""Hugging Face config.json -> ModelConfig: a row per family. No field that would change the maths is passed over."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itune.errors import UserError, nearest
from itune.models import t5_family
from itune.models.config import AnyModelConfig, LayerKind, ModelConfig, Rope
from itune.models.fields import Fields


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a family's config.json may say.

    Attributes:
      architectures: the classes whose maths our model has.
      build: its fields, checked and with defaults -> our config.
      required: fields without which the shapes are unknown.
      defaults: field -> its value where the file leaves it out, as the family's Hugging Face class has it.
      neutral: field -> the only values that we compute; what the file leaves out is taken as the first.
      ignored: fields that don't change the maths.
    """

    architectures: tuple[str, ...]
    build: Callable[[Fields], AnyModelConfig]
    required: tuple[str, ...]
    defaults: Mapping[str, Any] = field(default_factory=dict)
    neutral: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)
    ignored: frozenset[str] = frozenset()


# Of any model: bookkeeping, ids that the tokenizer decides, and what only training from scratch reads.
BOOKKEEPING = frozenset(
    {
        "architectures",
        "model_type",
        "torch_dtype",
        "dtype",
        "transformers_version",
        "use_cache",
        "cache_implementation",
        "initializer_range",
        "bos_token_id",
        "eos_token_id",
        "pad_token_id",
        "unk_token_id",
        "pretraining_tp",
        "unsloth_fixed",
        "unsloth_version",
        "is_llama_config",
        "transformers.js_config",
    }
)
DIMENSIONS = ("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads")
SILU = {"silu": "silu", "swish": "silu"}
# Gemma's first configs said "gelu" and meant its tanh approximation; transformers reads them so too.
GELU = {"gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu_tanh"}
FULL, SLIDING = "full_attention", "sliding_attention"

COMMON: dict[str, Any] = {
    "num_key_value_heads": None,  # as many as num_attention_heads
    "head_dim": None,  # hidden_size / num_attention_heads
    "rms_norm_eps": 1e-6,
    "hidden_act": "silu",
    "rope_theta": 10_000.0,
    "rope_scaling": None,
    "rope_parameters": None,  # transformers 5's name for the two above
}
# Dropout is ours (TrainConfig's), and elsewhere.
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "rope_interleaved": (False, None),
    "attention_dropout": (0.0, None),
    "quantization_config": (None,),
    "is_encoder_decoder": (False, None),
    "use_bidirectional_attention": (False, None),
}


def _layers(f: Fields, window: int, kinds: list[str] | None) -> tuple[LayerKind, ...]:
    """Layers of one rope; those that `kinds` calls sliding (all, where it is None) see `window` tokens."""
    rope = _rope(f)
    return tuple(
        LayerKind(rope=rope, window=window if kinds is None or kinds[n] == SLIDING else 0)
        for n in range(f.whole("num_hidden_layers"))
    )


def _rope(f: Fields) -> Rope:
    name = "rope_parameters" if f["rope_parameters"] is not None else "rope_scaling"
    return f.rope(f[name], name, f.positive("rope_theta"))


def _decoder(
    f: Fields, family: str, layers: tuple[LayerKind, ...], *, activation: str = "", **more: Any
) -> ModelConfig:
    """What all decoders share; `more` is what this family adds."""
    width, heads = f.whole("hidden_size"), f.whole("num_attention_heads")
    return ModelConfig(
        family=family,
        vocab_size=f.whole("vocab_size"),
        width=width,
        layers=layers,
        num_heads=heads,
        num_kv_heads=f.whole_or("num_key_value_heads", heads),
        head_dim=f.whole_or("head_dim", width // heads),
        mlp_width=f.whole("intermediate_size"),
        norm_eps=f.positive("rms_norm_eps"),
        tied_embeddings=f.flag("tie_word_embeddings"),
        max_positions=f.whole("max_position_embeddings"),
        activation=activation or f.one_of("hidden_act", SILU),
        **more,
    )


def _llama(f: Fields) -> ModelConfig:
    bias = f.flag_or_off("attention_bias")
    return _decoder(f, "llama", _layers(f, 0, None), qkv_bias=bias, o_bias=bias, mlp_bias=f.flag_or_off("mlp_bias"))


def _mistral(f: Fields) -> ModelConfig:
    return _decoder(f, "mistral", _layers(f, f.whole_or("sliding_window", 0), None))


def _qwen_layers(f: Fields) -> tuple[LayerKind, ...]:
    layers = f.whole("num_hidden_layers")
    if not f.flag_or_off("use_sliding_window") or f["sliding_window"] is None:
        return _layers(f, 0, None)
    kinds = f.per_layer("layer_types", layers, (FULL, SLIDING))
    first = f["max_window_layers"]
    if kinds is None and (isinstance(first, bool) or not isinstance(first, int) or first < 0):
        raise f.fault("max_window_layers", "must be a whole number")
    return _layers(f, f.whole("sliding_window"), kinds or [SLIDING if n >= first else FULL for n in range(layers)])


def _qwen2(f: Fields) -> ModelConfig:
    return _decoder(f, "qwen2", _qwen_layers(f), qkv_bias=True)


def _qwen3(f: Fields) -> ModelConfig:
    bias = f.flag_or_off("attention_bias")
    return _decoder(f, "qwen3", _qwen_layers(f), qkv_bias=bias, o_bias=bias, qk_norm=True)


def _smollm3(f: Fields) -> ModelConfig:
    """Every fourth layer has no positions; those may have windows."""
    layers, bias = f.whole("num_hidden_layers"), f.flag_or_off("attention_bias")
    every = f.whole("no_rope_layer_interval")
    ropes = f.per_layer("no_rope_layers", layers, (0, 1)) or [int((n + 1) % every != 0) for n in range(layers)]
    window = f.whole_or("sliding_window", 0) if f.flag_or_off("use_sliding_window") else 0
    kinds = f.per_layer("layer_types", layers, (FULL, SLIDING)) or [FULL if rope else SLIDING for rope in ropes]
    found = tuple(
        kind if rope else dataclasses.replace(kind, rope=None)
        for kind, rope in zip(_layers(f, window, kinds), ropes, strict=True)
    )
    return _decoder(f, "smollm3", found, qkv_bias=bias, o_bias=bias, mlp_bias=f.flag_or_off("mlp_bias"))


def _gemma_parts(f: Fields) -> dict[str, Any]:
    bias = f.flag_or_off("attention_bias")
    return {
        "qkv_bias": bias,
        "o_bias": bias,
        "norm_offset": 1.0,
        "embed_scale": f.whole("hidden_size") ** 0.5,
    }


def _gemma(f: Fields) -> ModelConfig:
    name = "hidden_act" if f["hidden_activation"] is None else "hidden_activation"
    return _decoder(f, "gemma", _layers(f, 0, None), **_gemma_parts(f), activation=f.one_of(name, GELU))


def _gemma2_parts(f: Fields) -> dict[str, Any]:
    return _gemma_parts(f) | {
        "activation": f.one_of("hidden_activation", GELU),
        "post_norms": True,
        "attention_scale": f.positive("query_pre_attn_scalar") ** -0.5,
        "attention_softcap": f.positive_or_off("attn_logit_softcapping"),
        "final_softcap": f.positive_or_off("final_logit_softcapping"),
    }


def _gemma2(f: Fields) -> ModelConfig:
    layers = f.whole("num_hidden_layers")
    kinds = f.per_layer("layer_types", layers, (FULL, SLIDING)) or [(SLIDING, FULL)[n % 2] for n in range(layers)]
    window = f.whole("sliding_window") if SLIDING in kinds else 0
    return _decoder(f, "gemma2", _layers(f, window, kinds), **_gemma2_parts(f))


def _gemma3(f: Fields) -> ModelConfig:
    """Five local layers, then a global one, each kind with rotary positions of its own."""
    layers, every = f.whole("num_hidden_layers"), f.whole("sliding_window_pattern")
    kinds = f.per_layer("layer_types", layers, (FULL, SLIDING))
    kinds = kinds or [SLIDING if (n + 1) % every else FULL for n in range(layers)]
    parameters = f["rope_parameters"] or {}
    if not isinstance(parameters, dict) or not parameters.keys() <= {FULL, SLIDING}:
        raise f.fault("rope_parameters", f"must be an object of {FULL} and {SLIDING}")
    given = {FULL: parameters.get(FULL, f["rope_scaling"]), SLIDING: parameters.get(SLIDING)}
    bases = {FULL: f.positive("rope_theta"), SLIDING: f.positive("rope_local_base_freq")}
    ropes = {kind: f.rope(given[kind], f"rope_parameters.{kind}", bases[kind]) for kind in bases}
    window = f.whole("sliding_window") if SLIDING in kinds else 0
    found = tuple(LayerKind(rope=ropes[kind], window=window if kind == SLIDING else 0) for kind in kinds)
    return _decoder(f, "gemma3_text", found, **_gemma2_parts(f), qk_norm=True)


def _row(name: str, build: Callable[[Fields], ModelConfig], **defaults: Any) -> Family:
    return Family(
        architectures=(f"{name}ForCausalLM",),
        build=build,
        required=DIMENSIONS,
        defaults={**COMMON, **defaults},
        neutral=NEUTRAL,
        ignored=BOOKKEEPING,
    )


_SLIDING: dict[str, Any] = {"sliding_window": 4096, "layer_types": None}
_QWEN: dict[str, Any] = {
    **_SLIDING,
    "use_sliding_window": False,
    "max_window_layers": 28,
    "max_position_embeddings": 32_768,
    "tie_word_embeddings": False,
}
_GEMMA: dict[str, Any] = {
    "head_dim": 256,
    "max_position_embeddings": 8192,
    "tie_word_embeddings": True,
    "attention_bias": False,
}
_GEMMA2: dict[str, Any] = {
    **_GEMMA,
    **_SLIDING,
    "hidden_activation": "gelu_pytorch_tanh",
    "query_pre_attn_scalar": 256,
}

FAMILIES = {
    "llama": _row(
        "Llama",
        _llama,
        max_position_embeddings=2048,
        tie_word_embeddings=False,
        attention_bias=False,
        mlp_bias=False,
    ),
    "mistral": _row(
        "Mistral",
        _mistral,
        num_key_value_heads=8,
        max_position_embeddings=131_072,
        tie_word_embeddings=False,
        sliding_window=4096,
    ),
    "qwen2": _row("Qwen2", _qwen2, **_QWEN, num_key_value_heads=32),
    "qwen3": _row("Qwen3", _qwen3, **_QWEN, num_key_value_heads=32, head_dim=128, attention_bias=False),
    "smollm3": _row(
        "SmolLM3",
        _smollm3,
        num_key_value_heads=4,
        rope_theta=2_000_000.0,
        max_position_embeddings=32_768,
        tie_word_embeddings=True,
        attention_bias=False,
        mlp_bias=False,
        use_sliding_window=False,
        sliding_window=None,
        layer_types=None,
        no_rope_layers=None,
        no_rope_layer_interval=4,
        max_window_layers=28,  # Qwen's, and read by nothing here
    ),
    "gemma": _row(
        "Gemma", _gemma, **_GEMMA, num_key_value_heads=16, hidden_act="gelu_pytorch_tanh", hidden_activation=None
    ),
    "gemma2": _row(
        "Gemma2",
        _gemma2,
        **_GEMMA2,
        num_key_value_heads=4,
        attn_logit_softcapping=50.0,
        final_logit_softcapping=30.0,
    ),
    "gemma3_text": _row(
        "Gemma3",
        _gemma3,
        **_GEMMA2 | {"max_position_embeddings": 131_072},
        num_key_value_heads=4,
        attn_logit_softcapping=None,
        final_logit_softcapping=None,
        rope_theta=1_000_000.0,
        rope_local_base_freq=10_000.0,
        sliding_window_pattern=6,
    ),
}

_T5: dict[str, Any] = {
    "required": t5_family.DIMENSIONS,
    "neutral": t5_family.NEUTRAL,
    "ignored": BOOKKEEPING | t5_family.IGNORED,
}
FAMILIES["t5"] = Family(
    architectures=("T5ForConditionalGeneration",), build=t5_family.build_t5, defaults=t5_family.DEFAULTS, **_T5
)
FAMILIES["mt5"] = Family(
    architectures=("MT5ForConditionalGeneration",),
    build=t5_family.build_mt5,
    defaults=t5_family.DEFAULTS | {"feed_forward_proj": "gated-gelu", "tie_word_embeddings": False},
    **_T5,
)

# Of an unknown field: the values that mean "off".
OFF: tuple[Any, ...] = (None, False, 0, "", [], {})


def read_config(folder: Path) -> AnyModelConfig:
    """`folder`/config.json as our config.

    Raises: UserError naming the file and the field: missing, malformed, or one that asks for maths that we don't have.
    """
    path = Path(folder) / "config.json"
    raw = read_raw(path)
    name = raw.get("model_type")
    if name not in FAMILIES and isinstance(raw.get("text_config"), dict):
        raise UserError(f"{path}: model_type {name!r} has more than text (text_config); only text models are supported")
    if name not in FAMILIES:
        raise UserError(
            f"{path}: model_type {name!r} is not supported (only {', '.join(FAMILIES)}).{nearest(str(name), FAMILIES)}"
        )
    family = FAMILIES[name]
    _check(family, raw, path)
    config = family.build(Fields({**family.defaults, **raw}, path))
    if isinstance(config, ModelConfig):
        _check_shapes(config, path)
    return config


def read_raw(path: Path) -> dict[str, Any]:
    """A config.json as it is. Raises: UserError if it is missing or no JSON object."""
    try:
        raw = json.loads(path.read_text("utf-8"))
    except OSError:
        raise UserError(f"{path.parent}: no config.json here (a Hugging Face model folder has one)") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    return raw


def _check(family: Family, raw: dict[str, Any], path: Path) -> None:
    """Every field is used, has its only supported value, is known not to matter, or is off."""
    classes = raw.get("architectures") or family.architectures
    if not set(classes) & set(family.architectures):
        raise UserError(f"{path}: architectures={classes} is not supported (only {', '.join(family.architectures)})")
    for name in family.required:
        if name not in raw:
            raise UserError(f"{path}: {name} is missing.{nearest(name, raw)}")
    for name, value in raw.items():
        if name in family.neutral:
            if value not in family.neutral[name]:
                raise UserError(
                    f"{path}: {name}={json.dumps(value)} is not supported (only {family.neutral[name][0]!r})"
                )
        elif name in family.required or name in family.defaults or name in family.ignored or name.startswith("_"):
            continue
        elif value not in OFF:
            known = [*family.required, *family.defaults, *family.neutral]
            raise UserError(
                f"{path}: itune does not know {name}={json.dumps(value)[:80]}, which may change what is computed; "
                f"take it out if it does not.{nearest(name, known)}"
            )


def _check_shapes(c: ModelConfig, path: Path) -> None:
    if c.num_heads % c.num_kv_heads:
        raise UserError(
            f"{path}: num_attention_heads={c.num_heads} must divide by num_key_value_heads={c.num_kv_heads}"
        )
    if c.head_dim % 2 or not c.head_dim:
        raise UserError(f"{path}: head_dim={c.head_dim} must be even: rotary positions turn pairs")
