"""The layers: each knows its parameters' logical axes, and Linear its adapter.

Legend: B rows, L tokens, D width, N layers, R adapter rank, A adapters trained side by side (1 unless a study stacks
arms).
Parameters of the scanned layers carry a leading axis N; inside the scan they appear without it.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx

from itune.models.config import Rope


def parameter(kind: type[nnx.Param], key, shape, axes: tuple[str | None, ...], stddev: float) -> nnx.Param:
    """A float32 normal (or zero, or one for stddev None) parameter that carries its logical axes."""
    assert len(shape) == len(axes), (shape, axes)
    if stddev == 0:
        value = jnp.zeros(shape, jnp.float32)
    else:
        value = jax.random.normal(key, shape, jnp.float32) * stddev
    return kind(value, logical_axes=axes)


@dataclasses.dataclass(frozen=True)
class Dropout:
    """Inverted dropout keyed by step and row, so a row's masks don't depend on which device or microbatch holds it.

    rate: share dropped; 0 is off.  keys_B: one key a row, already folded with the layer; None is off.
    neftune: the alpha of the embeddings' noise (see `neftune`); 0 is off.
    """

    rate: float
    keys_B: jax.Array | None
    neftune: float = 0.0

    def __call__(self, x_BLD, site: int):
        if self.rate == 0 or self.keys_B is None:
            return x_BLD
        keep = 1.0 - self.rate
        mask = jax.vmap(lambda k: jax.random.bernoulli(jax.random.fold_in(k, site), keep, x_BLD.shape[1:]))(self.keys_B)
        return jnp.where(mask, x_BLD / keep, 0).astype(x_BLD.dtype)


jax.tree_util.register_dataclass(Dropout, data_fields=["keys_B"], meta_fields=["rate", "neftune"])
NO_DROPOUT = Dropout(0.0, None)


class RMSNorm(nnx.Module):
    """x / rms(x) * (offset + scale) (Zhang & Sennrich 2019), over the last axis, in float32."""

    def __init__(
        self, width: int, eps: float, *, offset: float = 0.0, axis: str | None = "embed", stack: tuple[int, ...] = ()
    ):
        axes = ("layers",) * len(stack) + (axis,)
        self.scale = nnx.Param(jnp.full((*stack, width), 1.0 - offset, jnp.float32), logical_axes=axes)
        self.eps, self.offset = eps, offset

    def __call__(self, x):
        y = x.astype(jnp.float32)
        y = y * jax.lax.rsqrt(jnp.mean(y * y, axis=-1, keepdims=True) + self.eps)
        scale = self.scale[...] + self.offset if self.offset else self.scale[...]
        return (y * jnp.broadcast_to(scale, y.shape)).astype(x.dtype)


def rotation(positions_BL, head_dim: int, rope: Rope | None):
    """(sin, cos), two [B, L, 1, K/2] float32, of the rotary embedding's angles; None turns nothing."""
    half = head_dim // 2
    frequency = jnp.zeros(half) if rope is None else rope_frequencies(half, rope)
    angle = positions_BL[..., None, None].astype(jnp.float32) * frequency[None, None, None]
    return jnp.sin(angle), jnp.cos(angle)


def rope_frequencies(half: int, rope: Rope):
    """[half] float32, radians a position (Su et al. 2021), scaled as `RopeScaling` says."""
    frequency = rope.base ** (-jnp.arange(half, dtype=jnp.float32) / half)
    s = rope.scaling
    if s is None:
        return frequency
    if s.kind == "linear":
        return frequency / s.factor
    # Llama 3.1: by how often a frequency turns within the original length. 0 is stretched, 1 left alone.
    turns = s.original_max_positions * frequency / (2 * math.pi)
    kept = jnp.clip((turns - s.low_freq_factor) / (s.high_freq_factor - s.low_freq_factor), 0.0, 1.0)
    return frequency * (kept + (1 - kept) / s.factor)


def rotate(x_BLHK, sin_cos):
    """Rotary embedding by halves, as Hugging Face's Llama has it; in float32."""
    sin, cos = sin_cos
    x1, x2 = jnp.split(x_BLHK.astype(jnp.float32), 2, axis=-1)
    return jnp.concatenate([x1 * cos - x2 * sin, x2 * cos + x1 * sin], axis=-1).astype(x_BLHK.dtype)


def neftune(x_BLD, segment_ids_BL, alpha: float, keys_B):
    """Embeddings plus noise, uniform in +-alpha / sqrt(tokens of the example * D) (Jain et al. 2023); keyed by row."""
    L, D = x_BLD.shape[1:]
    numbers_BLL = segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :]
    tokens_BL = jnp.where(segment_ids_BL > 0, numbers_BLL.sum(axis=-1), 1)
    noise_BLD = jax.vmap(lambda key: jax.random.uniform(key, (L, D), minval=-1.0, maxval=1.0))(keys_B)
    size_BL = alpha * jax.lax.rsqrt(tokens_BL * float(D)) * (segment_ids_BL > 0)
    return x_BLD + (noise_BLD * size_BL[..., None]).astype(x_BLD.dtype)


ACTIVATIONS: dict[str, Callable] = {
    "silu": jax.nn.silu,
    "gelu_tanh": functools.partial(jax.nn.gelu, approximate=True),
    "relu": jax.nn.relu,
}


def embedding_stddev(width: int) -> float:
    """The initial scale of a freshly made embedding (only tests and random models see it)."""
    return 1.0 / math.sqrt(width)
