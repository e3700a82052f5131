"""Frozen weights in 8 or 4 bits, and products with them (QLoRA, Dettmers et al. 2023).

Legend: P positions, D inputs, F outputs, K blocks along the inputs, C inputs a block (D = K * C).

int8: a scale for each output.  codes int8 [1, D, F], scales float32 [1, F]
nf4:  a scale for each block of at most 64 inputs of an output, and each number the nearest of 16 that are equally
      likely under a normal distribution. Two to a byte: codes uint8 [K, C / 2, F], scales float32 [K, F]
"""

from __future__ import annotations

import functools
import math
from statistics import NormalDist

import jax
import jax.numpy as jnp
import numpy as np

from itune.models.products import dot

KINDS = ("int8", "nf4")
BLOCK = 64
# The paper's offset: the tail at which the outermost of 16 quantiles lie, so that after scaling they are -1 and 1.
OFFSET = 0.9677083


@functools.cache
def nf4_levels() -> np.ndarray:
    """[16] float32, rising from -1 to 1: 8 quantiles above zero, zero, 7 below (the paper's section 3)."""
    quantile = NormalDist().inv_cdf
    above = [quantile(p) for p in np.linspace(OFFSET, 0.5, 9)[:-1]]
    below = [-quantile(p) for p in np.linspace(OFFSET, 0.5, 8)[:-1]]
    levels = np.sort(np.array([*above, 0.0, *below]))
    return (levels / levels.max()).astype(np.float32)


def block_size(inputs: int) -> int:
    """The longest block up to 64 that divides the inputs. Raises: ValueError where that is under 8, or odd."""
    size = math.gcd(BLOCK, inputs)
    if size < 8:
        raise ValueError(f"nf4 needs layers whose inputs divide by 8, and one has {inputs}")
    return size


def shapes(kind: str, inputs: int, outputs: int) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of (codes, scales)."""
    if kind == "int8":
        return (1, inputs, outputs), (1, outputs)
    size = block_size(inputs)
    return (inputs // size, size // 2, outputs), (inputs // size, outputs)


def codes_dtype(kind: str) -> np.dtype:
    return np.dtype(np.int8 if kind == "int8" else np.uint8)


def quantise(kind: str, w_DF: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(codes, scales) of float32 weights: to nearest, with the scales taken from the largest number of each block."""
    D, F = w_DF.shape
    blocks = 1 if kind == "int8" else D // block_size(D)
    w_KCF = w_DF.reshape(blocks, D // blocks, F).astype(np.float32)
    largest_KF = np.abs(w_KCF).max(axis=1)
    safe_KF = np.where(largest_KF > 0, largest_KF, 1.0)
    unit_KCF = w_KCF / safe_KF[:, None]
    if kind == "int8":
        return np.rint(unit_KCF * 127).astype(np.int8), (largest_KF / 127).astype(np.float32)
    levels = nf4_levels()
    codes = np.searchsorted((levels[1:] + levels[:-1]) / 2, unit_KCF).astype(np.uint8)
    return codes[:, ::2] | codes[:, 1::2] << 4, largest_KF.astype(np.float32)


def dequantise(kind: str, codes, scales_KF, dtype: str = "float32"):
    """[D, F], of what `quantise` made."""
    if kind == "int8":
        w_KCF = codes.astype(jnp.float32) * scales_KF[:, None]
    else:
        K, half, F = codes.shape
        pairs = jnp.stack([codes & 15, codes >> 4], axis=2).reshape(K, 2 * half, F)
        w_KCF = jnp.asarray(nf4_levels())[pairs] * scales_KF[:, None]
    return w_KCF.reshape(-1, w_KCF.shape[-1]).astype(dtype)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0, 4))
def quantised_product(kind: str, x_PD, codes, scales_KF, dtype: str):
    """x W with W made for this product alone, there and again on the way back: it is never kept."""
    return dot(x_PD, dequantise(kind, codes, scales_KF, dtype), (1, 0), dtype).astype(x_PD.dtype)


def _forward(kind, x_PD, codes, scales_KF, dtype):
    return quantised_product(kind, x_PD, codes, scales_KF, dtype), (x_PD, codes, scales_KF)


def _backward(kind, dtype, residuals, dy_PF):
    x_PD, codes, scales_KF = residuals
    dx_PD = dot(dy_PF, dequantise(kind, codes, scales_KF, dtype), (1, 1), dtype).astype(x_PD.dtype)
    return dx_PD, np.zeros(codes.shape, jax.dtypes.float0), jnp.zeros_like(scales_KF)


quantised_product.defvjp(_forward, _backward)
