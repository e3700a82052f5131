"""How many floating-point operations a training step takes, by formula: the products with parameters.

A product of n rows with a matrix of P numbers is 2 n P operations. Counted: what the step has to compute, so no
recomputation and no gradients of frozen weights. Not counted: attention's products of tokens with tokens, and
everything that is no product.
"""

from __future__ import annotations

from itune.models.config import EncoderDecoderConfig
from itune.models.spec import ModelSpec, model_spec

MATRICES = ("w", "lora_a", "lora_b")


def training_flops(spec: ModelSpec, tokens: int, supervised: int) -> int | None:
    """Over so many tokens, of which `supervised` go through the head; None for an encoder-decoder, whose tokens go
    through one half or the other."""
    if isinstance(spec.config, EncoderDecoderConfig):
        return None
    whole = model_spec(spec.config, spec.tuning) if spec.quantise else spec  # codes have another shape than weights
    matrices = [p for p in whole.paths if p.rpartition("/")[2] in MATRICES]
    inside, trained = whole.count(matrices), whole.count([p for p in matrices if p in whole.trainable])
    head = spec.config.vocab_size * spec.config.width
    head_trains = ("embed" if spec.config.tied_embeddings else "head") in whole.trainable
    # Forward, the gradient of what comes in, the gradient of what trains.
    return 2 * tokens * (2 * inside + trained) + 2 * supervised * head * (3 if head_trains else 2)
