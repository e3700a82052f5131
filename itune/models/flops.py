"""How many floating-point operations a training step takes, by formula: its matrix products.

A product of n rows with a matrix of P numbers is 2 n P operations; of a query with the keys that it sees, and of the
probabilities with their values, 2 K each a pair and head. Counted: what the step has to compute, so no recomputation
and no gradients of frozen weights. Not counted: everything that is no product.
"""

from __future__ import annotations

from itune.models.config import EncoderDecoderConfig
from itune.models.spec import ModelSpec, model_spec

MATRICES = ("w", "lora_a", "lora_b")


def training_flops(spec: ModelSpec, tokens: int, supervised: int, pairs: int) -> int | None:
    """Over so many tokens, of which `supervised` go through the head; None for an encoder-decoder, whose tokens go
    through one half or the other.

    pairs: of a query and a key that it sees, as in `itune.data.schedule.Plan.summary`. Of a layer with a window W they
    are taken to be W a token at most.
    """
    config = spec.config
    if isinstance(config, EncoderDecoderConfig):
        return None
    whole = model_spec(config, spec.tuning) if spec.quantise else spec  # codes have another shape than weights
    matrices = [p for p in whole.paths if p.rpartition("/")[2] in MATRICES]
    inside, trained = whole.count(matrices), whole.count([p for p in matrices if p in whole.trainable])
    head = config.vocab_size * config.width
    head_trains = ("embed" if config.tied_embeddings else "head") in whole.trainable
    seen = sum(min(pairs, tokens * kind.window) if kind.window else pairs for kind in config.layers)
    attention = 3 * 2 * 2 * seen * config.num_heads * config.head_dim  # queries, keys and values all have gradients
    # Forward, the gradient of what comes in, the gradient of what trains.
    return 2 * tokens * (2 * inside + trained) + 2 * supervised * head * (3 if head_trains else 2) + attention
