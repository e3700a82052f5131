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
from jax.ad_checkpoint import checkpoint_name

from itune.models.config import LoRAConfig, Rope

PRODUCT = "product"  # what remat policies call a wide product's result


class LoRAParam(nnx.Param):
    """A low-rank factor: the Variable type says what trains by default."""


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


class Linear(nnx.Module):
    """y = x W (+ b), plus (alpha / rank) (x A) B where an adapter sits here.

    w [D_in, D_out]; lora_a [A, D_in, R], normal with variance 1 / (3 D_in); lora_b [A, R, D_out], zero at the start, so
    that tuning starts from the base model (Hu et al. 2021). With several adapters the rows are A equal groups.
    """

    def __init__(
        self,
        name: str,
        d_in: int,
        d_out: int,
        axes: tuple[str, str],
        lora: LoRAConfig | None,
        *,
        bias: bool = False,
        stack=(),
        adapters=1,
        rngs,
    ):
        lead = ("layers",) * len(stack)
        self.w = parameter(nnx.Param, rngs(), (*stack, d_in, d_out), (*lead, *axes), d_in**-0.5)
        self.biased = bias
        if bias:
            self.b = parameter(nnx.Param, rngs(), (*stack, d_out), (*lead, axes[1]), 0)
        self.adapted = lora is not None and name in lora.layers
        if lora is not None and self.adapted:
            a_shape, b_shape = (*stack, adapters, d_in, lora.rank), (*stack, adapters, lora.rank, d_out)
            self.lora_a = parameter(LoRAParam, rngs(), a_shape, (*lead, "adapters", axes[0], None), (3 * d_in) ** -0.5)
            self.lora_b = parameter(LoRAParam, rngs(), b_shape, (*lead, "adapters", None, axes[1]), 0)
            self.lora_scale = lora.alpha / lora.rank

    def __call__(self, x_BLD, dtype: str, dropout: Dropout = NO_DROPOUT, site: int = 0):
        """dtype: of the products' operands; the result has x's."""
        y = product(x_BLD.reshape(-1, x_BLD.shape[-1]), self.w[...], dtype).reshape(*x_BLD.shape[:-1], -1)
        y = checkpoint_name(y, PRODUCT)
        if self.biased:
            y = y + jnp.broadcast_to(self.b[...].astype(y.dtype), y.shape)
        if not self.adapted:
            return y
        a, b = self.lora_a[...], self.lora_b[...] * self.lora_scale
        x_BLD = dropout(x_BLD, site)
        if a.shape[0] == 1:
            flat = low_rank(x_BLD.reshape(-1, x_BLD.shape[-1]), a[0], b[0], dtype)
            return y + flat.reshape(y.shape)
        grouped = x_BLD.reshape(a.shape[0], -1, x_BLD.shape[-1])
        added = jnp.matmul(jnp.matmul(grouped.astype(dtype), a.astype(dtype)), b.astype(dtype))
        return y + added.astype(y.dtype).reshape(y.shape)


def dot(a, b, contract: tuple[int, int], dtype: str):
    """The 2-D product over axis contract[0] of a and contract[1] of b: operands in `dtype`, sum and result float32."""
    dimensions = (((contract[0],), (contract[1],)), ((), ()))
    return jax.lax.dot_general(a.astype(dtype), b.astype(dtype), dimensions, preferred_element_type=jnp.float32)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def product(x_PD, w_DF, dtype: str):
    """x W in x's dtype, and its gradients: operands in `dtype`, sums in float32.

    Autodiff would multiply the float32 cotangent by a widened W. With the operands of every product in bfloat16 a CPU
    that has such instructions is twice as quick, though what lies between the products stays float32.
    """
    return dot(x_PD, w_DF, (1, 0), dtype).astype(x_PD.dtype)


def _product_forward(x_PD, w_DF, dtype):
    return product(x_PD, w_DF, dtype), (x_PD, w_DF)


def _product_backward(dtype, residuals, dy_PF):
    x_PD, w_DF = residuals
    dx_PD = dot(dy_PF, w_DF, (1, 1), dtype).astype(x_PD.dtype)
    return dx_PD, dot(x_PD, dy_PF, (0, 0), dtype).astype(w_DF.dtype)


product.defvjp(_product_forward, _product_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(3,))
def low_rank(x_PD, a_DR, b_RF, dtype: str):
    """(x A) B as `product` multiplies, with gradients written so that only the thin factors are transposed.

    What autodiff writes makes XLA's CPU backend transpose the wide activations, and redo their elementwise work
    column by column: a tenth of the whole step.
    """
    return _low_rank_forward(x_PD, a_DR, b_RF, dtype)[0]


def _low_rank_forward(x_PD, a_DR, b_RF, dtype):
    h_PR = dot(x_PD, a_DR, (1, 0), dtype)
    return dot(h_PR, b_RF, (1, 0), dtype).astype(x_PD.dtype), (x_PD, h_PR, a_DR, b_RF)


def _low_rank_backward(dtype, residuals, dy_PF):
    x_PD, h_PR, a_DR, b_RF = residuals
    dh_PR = dot(dy_PF, b_RF.T, (1, 0), dtype)
    da_RD, db_RF = dot(dh_PR, x_PD, (0, 0), dtype), dot(h_PR, dy_PF, (0, 0), dtype)
    dx_PD = dot(dh_PR, a_DR.T, (1, 0), dtype)
    return dx_PD.astype(x_PD.dtype), da_RD.T.astype(a_DR.dtype), db_RF.astype(b_RF.dtype)


low_rank.defvjp(_low_rank_forward, _low_rank_backward)


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
