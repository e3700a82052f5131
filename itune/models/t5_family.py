"""T5's and mT5's config.json -> EncoderDecoderConfig."""

from __future__ import annotations

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


def build(f: Fields) -> EncoderDecoderConfig:
    """Raises: UserError naming the field."""
    f.one_of("feed_forward_proj", {name: name for name in PROJECTIONS})
    activation, gated = PROJECTIONS[f["feed_forward_proj"]]
    layers = f.whole("num_layers")
    # transformers 5 writes tie_word_embeddings=true in any case, and of untied ones scale_decoder_outputs=false.
    scaled = f["scale_decoder_outputs"]
    tied = f.flag("tie_word_embeddings") and (scaled is None or f.flag("scale_decoder_outputs"))
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
        activation=activation,
        gated=gated,
        relative_buckets=f.whole("relative_attention_num_buckets"),
        relative_max_distance=f.whole("relative_attention_max_distance"),
    )
