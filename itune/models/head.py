"""The LM head and its loss, at supervised positions only.

Legend: P positions (B * T flattened), D width, V vocabulary, C positions a chunk.
No [B, L, V] array exists: logits live for one chunk. The gradient is taken in the forward pass, where the logits are
at hand: it costs one product instead of two, and needs no saved logits (Wijmans et al. 2024 has the idea for a fused
kernel).
"""

from __future__ import annotations

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax

from itune.models.products import dot

CHUNK = 256


class Objective(NamedTuple):
    """What is minimised at a position, from its logits l: lse = log(sum(exp(l))).

    softcap: l = cap * tanh(raw / cap); 0 is off.
    label_smoothing: e of (1 - e) * (lse - l[target]) + e * mean(lse - l) (Szegedy et al. 2016).
    z_loss: z of + z * lse ** 2, which keeps lse near 0 (Chowdhery et al. 2022).
    """

    softcap: float = 0.0
    label_smoothing: float = 0.0
    z_loss: float = 0.0


PLAIN = Objective()


def head_loss(
    hidden_PD,
    head_VD,
    targets_P,
    weights_P,
    *,
    chunk: int = CHUNK,
    dtype: str = "float32",
    train_head: bool,
    objective: Objective = PLAIN,
):
    """The weighted sum of the objective (plain cross-entropy by default) at P positions.

    Args:
      hidden_PD: final hidden states.  head_VD: the output embedding.
      targets_P int32, weights_P float32: weight 0 is padding; chunks that are all padding are skipped.
      dtype: of the products' operands.
      train_head: whether to compute a gradient for head_VD (False: it is frozen, and its gradient is zero).

    Returns: (sum of weights * objective, a scalar that differentiates; nll [P] in nats, float32, that doesn't, and into
      which neither smoothing nor z-loss enters).
    """
    targets_P, weights_P = jnp.asarray(targets_P), jnp.asarray(weights_P)
    # Real positions first, so that whole chunks of padding can be skipped.
    order = jnp.argsort(weights_P == 0, stable=True)
    pad = -len(targets_P) % chunk
    order = jnp.pad(order, (0, pad), constant_values=len(targets_P) - 1)
    weights = weights_P[order].at[len(targets_P) :].set(0.0)
    total, nll = _chunked(hidden_PD[order], head_VD, targets_P[order], weights, chunk, train_head, dtype, objective)
    # Positions of weight 0 share their chunk's fate (computed or skipped); never read, so make them plain zeros.
    nll_P = jnp.zeros(len(targets_P), jnp.float32).at[order].add(jnp.where(weights > 0, nll, 0.0))
    return total, lax.stop_gradient(nll_P)


def _chunk_loss(hidden_CD, head_VD, targets_C, weights_C, dtype, objective: Objective):
    """loss [C] and nll [C], and the gradient of sum(weights * loss) with respect to the logits, [C, V]."""
    cap, e, z = objective
    logits = dot(hidden_CD, head_VD, (1, 1), dtype)
    if cap:
        logits = cap * jnp.tanh(logits / cap)
    top = logits.max(axis=-1, keepdims=True)
    exp = jnp.exp(logits - top)
    total = exp.sum(axis=-1, keepdims=True)
    target = jnp.take_along_axis(logits, targets_C[:, None], axis=-1)
    lse_C1 = jnp.log(total) + top
    nll_C1 = lse_C1 - target
    grad_scale = weights_C[:, None] / total
    loss_C1 = nll_C1
    if e:
        loss_C1 = (1 - e) * nll_C1 + e * (lse_C1 - logits.mean(axis=-1, keepdims=True))
    if z:
        loss_C1 = loss_C1 + z * lse_C1**2
        grad_scale = grad_scale * (1 + 2 * z * lse_C1)
    grad = exp * grad_scale
    if e:
        grad = grad - weights_C[:, None] * (e / logits.shape[-1])
    grad = grad.at[jnp.arange(len(targets_C)), targets_C].add(-weights_C * (1 - e))
    if cap:
        grad = grad * (1 - jnp.square(logits / cap))
    return loss_C1[:, 0], nll_C1[:, 0], grad


@functools.partial(jax.custom_vjp, nondiff_argnums=(4, 5, 6, 7))
def _chunked(hidden_PD, head_VD, targets_P, weights_P, chunk, train_head, dtype, objective):
    def one(x):
        hidden, targets, weights = x
        losses = lambda: _chunk_loss(hidden, head_VD, targets, weights, dtype, objective)[:2]  # noqa: E731
        return lax.cond(jnp.any(weights > 0), losses, lambda: (jnp.zeros(chunk, jnp.float32),) * 2)

    loss, nll = lax.map(one, _chunks(hidden_PD, targets_P, weights_P, chunk))
    return (loss.reshape(-1) * weights_P).sum(), nll.reshape(-1)


def _chunks(hidden_PD, targets_P, weights_P, chunk):
    return hidden_PD.reshape(-1, chunk, hidden_PD.shape[-1]), targets_P.reshape(-1, chunk), weights_P.reshape(-1, chunk)


def _chunked_forward(hidden_PD, head_VD, targets_P, weights_P, chunk, train_head, dtype, objective):
    dhead = jnp.zeros(head_VD.shape if train_head else (), jnp.float32)

    def one(dhead, x):
        hidden, targets, weights = x

        def run():
            loss, nll, grad_CV = _chunk_loss(hidden, head_VD, targets, weights, dtype, objective)
            dhidden = dot(grad_CV, head_VD, (1, 0), dtype).astype(hidden.dtype)
            more = dot(grad_CV, hidden, (0, 0), dtype) if train_head else 0.0
            return dhead + more, (loss, nll, dhidden)

        nothing = jnp.zeros(chunk, jnp.float32)
        return lax.cond(jnp.any(weights > 0), run, lambda: (dhead, (nothing, nothing, jnp.zeros_like(hidden))))

    dhead, (loss, nll, dhidden) = lax.scan(one, dhead, _chunks(hidden_PD, targets_P, weights_P, chunk))
    loss = loss.reshape(-1)
    total = (loss * weights_P).sum()
    return (total, nll.reshape(-1)), (dhidden.reshape(hidden_PD.shape), dhead, loss, head_VD)


def _chunked_backward(chunk, train_head, dtype, objective, residuals, cotangents):
    dhidden, dhead, loss, head_VD = residuals
    dtotal, _ = cotangents  # nll is returned for the record and never differentiated
    dhead_VD = (dhead * dtotal).astype(head_VD.dtype) if train_head else jnp.zeros_like(head_VD)
    return (dhidden * dtotal).astype(dhidden.dtype), dhead_VD, None, loss * dtotal


_chunked.defvjp(_chunked_forward, _chunked_backward)
