"""The LM head and its loss, at supervised positions only.

Legend: P positions (B * T flattened), D width, V vocabulary, C positions a chunk.
No [B, L, V] array exists: logits live for one chunk. The gradient is taken in the forward pass, where the logits are
at hand: it costs one product instead of two, and needs no saved logits (Wijmans et al. 2024 has the idea for a fused
kernel).
"""

from __future__ import annotations

import functools

import jax
import jax.numpy as jnp
from jax import lax

from itune.models.layers import dot

CHUNK = 256


def head_loss(
    hidden_PD, head_VD, targets_P, weights_P, *, chunk: int = CHUNK, dtype: str = "float32", train_head: bool
):
    """Weighted cross-entropy at P positions.

    Args:
      hidden_PD: final hidden states.  head_VD: the output embedding.
      targets_P int32, weights_P float32: weight 0 is padding; chunks that are all padding are skipped.
      dtype: of the products' operands.
      train_head: whether to compute a gradient for head_VD (False: it is frozen, and its gradient is zero).

    Returns: (sum of weights * nll, a scalar that differentiates; nll [P] in nats, float32, that doesn't).
    """
    targets_P, weights_P = jnp.asarray(targets_P), jnp.asarray(weights_P)
    # Real positions first, so that whole chunks of padding can be skipped.
    order = jnp.argsort(weights_P == 0, stable=True)
    pad = -len(targets_P) % chunk
    order = jnp.pad(order, (0, pad), constant_values=len(targets_P) - 1)
    weights = weights_P[order].at[len(targets_P) :].set(0.0)
    total, nll = _chunked(hidden_PD[order], head_VD, targets_P[order], weights, chunk, train_head, dtype)
    # Positions of weight 0 share their chunk's fate (computed or skipped); never read, so make them plain zeros.
    nll_P = jnp.zeros(len(targets_P), jnp.float32).at[order].add(jnp.where(weights > 0, nll, 0.0))
    return total, lax.stop_gradient(nll_P)


def _chunk_loss(hidden_CD, head_VD, targets_C, weights_C, dtype):
    """nll [C], and the gradient of sum(weights * nll) with respect to the logits, [C, V]."""
    logits = dot(hidden_CD, head_VD, (1, 1), dtype)
    top = logits.max(axis=-1, keepdims=True)
    exp = jnp.exp(logits - top)
    total = exp.sum(axis=-1, keepdims=True)
    target = jnp.take_along_axis(logits, targets_C[:, None], axis=-1)
    nll = (jnp.log(total) + top - target)[:, 0]
    grad = exp * (weights_C[:, None] / total)
    return nll, grad.at[jnp.arange(len(targets_C)), targets_C].add(-weights_C)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6))
def _chunked(hidden_PD, head_VD, targets_P, weights_P, chunk, train_head, dtype):
    def one(x):
        hidden, targets, weights = x
        nll = lambda: _chunk_loss(hidden, head_VD, targets, weights, dtype)[0]  # noqa: E731
        return lax.cond(jnp.any(weights > 0), nll, lambda: jnp.zeros(chunk, jnp.float32))

    nll = lax.map(one, _chunks(hidden_PD, targets_P, weights_P, chunk)).reshape(-1)
    return (nll * weights_P).sum(), nll


def _chunks(hidden_PD, targets_P, weights_P, chunk):
    return hidden_PD.reshape(-1, chunk, hidden_PD.shape[-1]), targets_P.reshape(-1, chunk), weights_P.reshape(-1, chunk)


def _chunked_forward(hidden_PD, head_VD, targets_P, weights_P, chunk, train_head, dtype):
    dhead = jnp.zeros(head_VD.shape if train_head else (), jnp.float32)

    def one(dhead, x):
        hidden, targets, weights = x

        def run():
            nll, grad_CV = _chunk_loss(hidden, head_VD, targets, weights, dtype)
            dhidden = dot(grad_CV, head_VD, (1, 0), dtype).astype(hidden.dtype)
            more = dot(grad_CV, hidden, (0, 0), dtype) if train_head else 0.0
            return dhead + more, nll, dhidden

        out = lax.cond(
            jnp.any(weights > 0), run, lambda: (dhead, jnp.zeros(chunk, jnp.float32), jnp.zeros_like(hidden))
        )
        return out[0], out[1:]

    dhead, (nll, dhidden) = lax.scan(one, dhead, _chunks(hidden_PD, targets_P, weights_P, chunk))
    nll = nll.reshape(-1)
    total = (nll * weights_P).sum()
    return (total, nll), (dhidden.reshape(hidden_PD.shape), dhead, nll, head_VD)


def _chunked_backward(chunk, train_head, dtype, residuals, cotangents):
    dhidden, dhead, nll, head_VD = residuals
    dtotal, _ = cotangents  # nll is returned for the record and never differentiated
    dhead_VD = (dhead * dtotal).astype(head_VD.dtype) if train_head else jnp.zeros_like(head_VD)
    return (dhidden * dtotal).astype(dhidden.dtype), dhead_VD, None, nll * dtotal


_chunked.defvjp(_chunked_forward, _chunked_backward)
