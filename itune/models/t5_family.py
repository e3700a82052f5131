"""T5's and mT5's config.json -> EncoderDecoderConfig."""

from __future__ import annotations

import json
import struct
from pathlib import Path
from typing import Any

from itune.models.config import EncoderDecoderConfig
from itune.models.fields import Fields

# feed_forward_proj -> (activation, whether the MLP has a gate). "gated-gelu" is the tanh approximation.
PROJECTIONS = {
    "relu": ("relu", False),
    "gated-gelu": ("gelu_tanh", True),
    "gated-silu": ("silu", True),
    "gated-relu": ("relu", True),
}
HEAD = "lm_head.weight"
DIMENSIONS = ("vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_heads")
DEFAULTS: dict[str, Any] = {
    "num_decoder_layers": None,  # as many as num_layers
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "feed_forward_proj": "relu",
    "tie_word_embeddings": True,
    "scale_decoder_outputs": None,
}
# dropout is TrainConfig's; n_positions binds nothing, as positions are relative.
IGNORED = {
    "dropout_rate",
    "initializer_factor",
    "n_positions",
    "output_past",
    "task_specific_params",
    "decoder_start_token_id",
    "classifier_dropout",
    "dense_act_fn",
    "is_gated_act",
    "tokenizer_class",
}
NEUTRAL: dict[str, tuple[Any, ...]] = {
    "is_encoder_decoder": (True,),
    "is_decoder": (False,),
    "quantization_config": (None,),
    "decoder_start_token_id": (0, None),
}


def build_t5(f: Fields) -> EncoderDecoderConfig:
    """T5 1.0 divides hidden states before its head, which is the embedding; from 1.1 on neither need be so."""
    scaled = f.flag("tie_word_embeddings")
    if f["scale_decoder_outputs"] is not None:
        # transformers 5 writes tie_word_embeddings=true in any case, and this beside it.
        scaled = f.flag("scale_decoder_outputs")
    return _build(f, scaled=scaled, tied=scaled or not _has_head(f))


def build_mt5(f: Fields) -> EncoderDecoderConfig:
    """mT5 never divides. Whether it has a head of its own only its files say: transformers 5 calls all of them tied."""
    return _build(f, scaled=False, tied=not _has_head(f))


def _has_head(f: Fields) -> bool:
    """Whether the weights beside config.json hold an lm_head; where there are none, what tie_word_embeddings says."""
    folder = f.path.parent
    index = folder / "model.safetensors.index.json"
    files = sorted(folder.glob("*.safetensors"))
    try:
        if index.is_file():
            return HEAD in json.loads(index.read_text("utf-8"))["weight_map"]
        names = [name for file in files for name in _header(file)]
    except (OSError, ValueError, KeyError, TypeError, struct.error):
        return False  # broken files are named when they are read
    return HEAD in names if names else not f.flag("tie_word_embeddings")


def _header(path: Path) -> dict[str, Any]:
    with path.open("rb") as file:
        (size,) = struct.unpack("<Q", file.read(8))
        return json.loads(file.read(min(size, 100 << 20)))


def _build(f: Fields, *, scaled: bool, tied: bool) -> EncoderDecoderConfig:
    """Raises: UserError naming the field."""
    f.one_of("feed_forward_proj", {name: name for name in PROJECTIONS})
    activation, gated = PROJECTIONS[f["feed_forward_proj"]]
    layers, buckets = f.whole("num_layers"), f.whole("relative_attention_num_buckets")
    if buckets < 4 or buckets % 2:
        raise f.fault("relative_attention_num_buckets", "must be even, and at least 4")
    if f.whole("relative_attention_max_distance") <= buckets // 2:
        raise f.fault("relative_attention_max_distance", "must be above half of relative_attention_num_buckets")
    return EncoderDecoderConfig(
        family="t5_gated" if gated else "t5",
        vocab_size=f.whole("vocab_size"),
        width=f.whole("d_model"),
        encoder_layers=layers,
        decoder_layers=f.whole_or("num_decoder_layers", layers),
        num_heads=f.whole("num_heads"),
        head_dim=f.whole("d_kv"),
        mlp_width=f.whole("d_ff"),
        norm_eps=f.positive("layer_norm_epsilon"),
        tied_embeddings=tied,
        scaled_outputs=scaled,
        activation=activation,
        gated=gated,
        relative_buckets=buckets,
        relative_max_distance=f.whole("relative_attention_max_distance"),
    )
