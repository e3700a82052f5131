"""Hugging Face config.json -> ModelConfig: a row per family. No field that would change the maths is passed over."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from itune.errors import UserError, nearest
from itune.models.config import ModelConfig


@dataclass(frozen=True, kw_only=True)
class Family:
    """What a family's config.json may say.

    Attributes:
      architectures: the classes whose maths our decoder has.
      required: fields without which the shapes are unknown.
      defaults: field -> its value where the file leaves it out, as the family's Hugging Face class has it.
      neutral: field -> the only values that we compute; what the file leaves out is taken as the first.
      ignored: fields that don't change the maths.
    """

    architectures: tuple[str, ...]
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

LLAMA = Family(
    architectures=("LlamaForCausalLM",),
    required=("vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"),
    defaults={
        "num_key_value_heads": None,  # as many as num_attention_heads
        "head_dim": None,  # hidden_size / num_attention_heads
        "max_position_embeddings": 2048,
        "rms_norm_eps": 1e-6,
        "rope_theta": 10_000.0,
        "tie_word_embeddings": False,
    },
    neutral={
        "hidden_act": ("silu",),
        "rope_scaling": (None,),
        "rope_interleaved": (False, None),
        "attention_bias": (False, None),
        "mlp_bias": (False, None),
        "attention_dropout": (0.0, None),  # our dropout is OptimConfig's, and elsewhere
        "sliding_window": (None,),
        "quantization_config": (None,),
        "is_encoder_decoder": (False, None),
    },
    ignored=BOOKKEEPING,
)

FAMILIES = {"llama": LLAMA}

# Of an unknown field: the values that mean "off".
OFF: tuple[Any, ...] = (None, False, 0, "", [], {})


def read_config(folder: Path) -> ModelConfig:
    """`folder`/config.json as our config.

    Raises: UserError naming the file and the field: missing, malformed, or one that asks for maths that we don't have.
    """
    path = Path(folder) / "config.json"
    try:
        raw = json.loads(path.read_text("utf-8"))
    except OSError:
        raise UserError(f"{folder}: no config.json here (a Hugging Face model folder has one)") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(raw, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(raw).__name__}")
    name = raw.get("model_type")
    if name not in FAMILIES:
        raise UserError(
            f"{path}: model_type {name!r} is not supported (only {', '.join(FAMILIES)}).{nearest(str(name), FAMILIES)}"
        )
    family, raw = FAMILIES[name], _rope_parameters(raw, path)
    _check(family, raw, path)
    config = _model_config(name, {**family.defaults, **raw}, path)
    _check_shapes(config, path)
    return config


def _rope_parameters(raw: dict[str, Any], path: Path) -> dict[str, Any]:
    """Transformers 5 writes rope_parameters={"rope_type": "default", "rope_theta": 1e4}; older ones rope_theta."""
    raw = dict(raw)
    both = {"rope_parameters": raw.pop("rope_parameters", None), "rope_scaling": raw.get("rope_scaling")}
    for name, given in both.items():
        if given is None:
            continue
        kind = given.get("rope_type", given.get("type", "default")) if isinstance(given, dict) else given
        if kind != "default" or set(given) - {"rope_type", "type", "rope_theta"}:
            raise UserError(f"{path}: {name}={json.dumps(given)} is not supported (only plain rotary positions)")
        raw["rope_scaling"] = None
        raw["rope_theta"] = given.get("rope_theta", raw.get("rope_theta", LLAMA.defaults["rope_theta"]))
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


def _model_config(family: str, raw: dict[str, Any], path: Path) -> ModelConfig:
    def whole(name: str) -> int:
        value = raw[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise UserError(f"{path}: {name}={json.dumps(value)} must be a whole number of at least 1")
        return value

    def positive(name: str) -> float:
        value = raw[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise UserError(f"{path}: {name}={json.dumps(value)} must be a positive number")
        return float(value)

    if not isinstance(raw["tie_word_embeddings"], bool):
        raise UserError(f"{path}: tie_word_embeddings={json.dumps(raw['tie_word_embeddings'])} must be true or false")
    width, heads = whole("hidden_size"), whole("num_attention_heads")
    return ModelConfig(
        family=family,
        vocab_size=whole("vocab_size"),
        width=width,
        num_layers=whole("num_hidden_layers"),
        num_heads=heads,
        num_kv_heads=heads if raw["num_key_value_heads"] is None else whole("num_key_value_heads"),
        head_dim=width // heads if raw["head_dim"] is None else whole("head_dim"),
        mlp_width=whole("intermediate_size"),
        rope_base=positive("rope_theta"),
        norm_eps=positive("rms_norm_eps"),
        tied_embeddings=raw["tie_word_embeddings"],
        max_positions=whole("max_position_embeddings"),
    )


def _check_shapes(c: ModelConfig, path: Path) -> None:
    if c.num_heads % c.num_kv_heads:
        raise UserError(
            f"{path}: num_attention_heads={c.num_heads} must divide by num_key_value_heads={c.num_kv_heads}"
        )
    if c.head_dim % 2 or not c.head_dim:
        raise UserError(f"{path}: head_dim={c.head_dim} must be even: rotary positions turn pairs")
