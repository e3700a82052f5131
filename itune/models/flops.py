"""How many floating-point operations a training step takes, by formula: its matrix products.

A product of n rows with a matrix of P numbers is 2 n P operations; of a query with the keys that it sees, and of the
probabilities with their values, 2 K each a pair and head. Counted: what the step has to compute, so no recomputation
and no gradients of frozen weights. Not counted: everything that is no product.
"""

from __future__ import annotations

from itune.models.config import AnyModelConfig, EncoderDecoderConfig
from itune.models.spec import ModelSpec, model_spec

MATRICES = ("w", "lora_a", "lora_b")


def training_flops(
    spec: ModelSpec, tokens: int, supervised: int, pairs: int, *, encoder_tokens: int = 0, encoder_pairs: int = 0
) -> int | None:
    """Over so many tokens, of which `supervised` go through the head.

    pairs: of a query and a key that it sees, as in `itune.data.schedule.Plan.summary`. Of a layer with a window W they
    are taken to be W a token at most.  encoder_tokens, encoder_pairs: of an encoder-decoder, whose `tokens` and `pairs`
    are the decoder's, `pairs` with those between the two; None where they are not given.
    """
    config = spec.config
    whole = model_spec(config, spec.tuning) if spec.quantise else spec  # codes have another shape than weights
    matrices = [p for p in whole.paths if p.rpartition("/")[2] in MATRICES]
    head = config.vocab_size * config.width
    head_trains = ("embed" if config.tied_embeddings else "head") in whole.trainable
    total = 2 * supervised * head * (3 if head_trains else 2)
    if isinstance(config, EncoderDecoderConfig):
        if not encoder_tokens:
            return None
        seen = config.encoder_layers * encoder_pairs + config.decoder_layers * pairs
    else:
        seen = sum(min(pairs, tokens * kind.window) if kind.window else pairs for kind in config.layers)
    for path in matrices:
        # Forward, the gradient of what comes in, the gradient of what trains.
        through = encoder_tokens if _reads_encoder(path) else tokens
        total += 2 * through * whole.count([path]) * (3 if path in whole.trainable else 2)
    return total + forward_attention(config, seen) * 3  # queries, keys and values all have gradients


def forward_attention(config: AnyModelConfig, seen: int) -> int:
    """Of so many pairs, summed over layers: scores and sums of values."""
    return 2 * 2 * seen * config.num_heads * config.head_dim


def _reads_encoder(path: str) -> bool:
    """Whether the encoder's tokens go through it: its own layers', and what cross attention makes of them."""
    return path.startswith("encoder/") or ("/cross" in path and ("k_proj" in path or "v_proj" in path))
