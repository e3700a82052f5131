"""2-D products with operands in one dtype and sums in float32, and their gradients.

Legend: P positions, D inputs, F outputs, R adapter rank.
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp


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
