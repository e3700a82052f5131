"""The LM head and its loss where the head's weights are split over devices: they are never whole on one of them.

Legend: B rows, T supervised positions a row; of one device: P positions, in N chunks of C, V vocabulary, in M tiles of
U, D width, E the part of it that one device holds.

Each tile of the vocabulary is gathered along the width, used for all positions and dropped; the tensor axis splits the
vocabulary itself, and the softmax's sums are added up over it. A first turn over the tiles finds each position's sum, a
second one the gradients, of which each device keeps the part that it holds the weights of. That is one product more
than `itune.models.head` makes, for a head that fits anywhere.
"""

from __future__ import annotations

import functools
import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from itune.models.head import Objective
from itune.models.products import dot
from itune.parallel.config import Rules
from itune.parallel.gradients import staged_mesh
from itune.parallel.mesh import BATCH_AXES, param_sharding

AXES = ("vocab", "embed")  # of the head's weights
TILE, CHUNK = 4096, 1024
LANES = 128  # a tile is a multiple of it


class Split(NamedTuple):
    """How a head lies. mesh: with fsdp in stages, see `staged_mesh`.  rows: its axes that split rows.

    vocab, width: its axes that split V and D; () where they are whole.
    """

    mesh: Mesh
    rows: tuple[str, ...]
    vocab: tuple[str, ...]
    width: tuple[str, ...]
    train_head: bool
    dtype: str
    objective: Objective


class Sums(NamedTuple):
    """Of the logits seen so far at each position: the largest, sum(exp(l - top)), the target's, and all added up."""

    top: jax.Array
    total: jax.Array
    target: jax.Array
    added: jax.Array


def is_split(mesh: Mesh | None, shape: tuple[int, ...], rules: Rules) -> bool:
    """Whether a head of this shape lies in parts."""
    return mesh is not None and any(
        axis is not None and mesh.shape[axis] > 1 for axis in param_sharding(mesh, AXES, shape, rules).spec
    )


def split_head_loss(
    hidden_BTD,
    head_VD,
    targets_BT,
    weights_BT,
    *,
    mesh: Mesh,
    rules: Rules,
    dtype: str,
    train_head: bool,
    objective: Objective,
):
    """As `itune.models.head.head_loss`, of rows over (data, fsdp): (sum of weights * objective, nll [B, T])."""
    staged, fsdp = staged_mesh(mesh)
    axes = [
        () if axis is None else fsdp if axis == "fsdp" else (axis,)
        for axis in param_sharding(mesh, AXES, head_VD.shape, rules).spec
    ]
    rows = tuple(name for axis in BATCH_AXES for name in (fsdp if axis == "fsdp" else (axis,)))
    split = Split(staged, rows, axes[0], axes[1], train_head, dtype, objective)
    total, nll_BT = _loss(hidden_BTD, head_VD, targets_BT, weights_BT, split)
    return total, lax.stop_gradient(nll_BT)


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _loss(hidden_BTD, head_VD, targets_BT, weights_BT, split: Split):
    rows = P(split.rows)
    total, nll_BT, _ = _mapped(_value, split, (rows, rows, rows))(hidden_BTD, head_VD, targets_BT, weights_BT)
    return total.sum(), nll_BT


def _loss_forward(hidden_BTD, head_VD, targets_BT, weights_BT, split: Split):
    rows, head = P(split.rows), P(split.vocab, split.width) if split.train_head else P()
    mapped = _mapped(_value_and_gradients, split, (rows, rows, rows, rows, head))
    total, nll_BT, loss_BT, dhidden, dhead = mapped(hidden_BTD, head_VD, targets_BT, weights_BT)
    return (total.sum(), nll_BT), (loss_BT, dhidden, dhead, head_VD)


def _loss_backward(split: Split, residuals, cotangents):
    loss_BT, dhidden, dhead, head_VD = residuals
    dtotal, _ = cotangents  # nll is returned for the record and never differentiated
    dhead_VD = (dhead * dtotal).astype(head_VD.dtype) if split.train_head else jnp.zeros_like(head_VD)
    return (dhidden * dtotal).astype(dhidden.dtype), dhead_VD, None, loss_BT * dtotal


_loss.defvjp(_loss_forward, _loss_backward)


def _mapped(function, split: Split, out_specs):
    rows = P(split.rows)
    in_specs = (rows, P(split.vocab, split.width), rows, rows)
    local = functools.partial(function, split)
    return jax.shard_map(local, mesh=split.mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)


class Local(NamedTuple):
    """One device's positions, those with weight first, and its part of the head, in tiles."""

    order: jax.Array  # [N * C]: where each position comes from
    hidden_NCD: jax.Array
    targets_NC: jax.Array
    weights_NC: jax.Array
    tiles_MUE: jax.Array
    first_M: jax.Array  # the number of each tile's first word
    words: int  # of this device's part of the vocabulary
    vocabulary: int


def _local(split: Split, hidden_BTD, head_VE, targets_BT, weights_BT) -> Local:
    targets_P, weights_P = targets_BT.reshape(-1), weights_BT.reshape(-1)
    positions = targets_P.shape[0]
    order = jnp.argsort(weights_P == 0, stable=True)  # whole chunks of padding can be skipped then
    chunk = min(CHUNK, positions)
    order = jnp.pad(order, (0, -positions % chunk), constant_values=positions - 1)
    weights = weights_P[order].at[positions:].set(0.0).reshape(-1, chunk)
    hidden = hidden_BTD.reshape(positions, -1)[order]
    words = head_VE.shape[0]
    tiles = math.ceil(words / TILE)
    tile = math.ceil(words / tiles / LANES) * LANES
    head = jnp.pad(head_VE.astype(split.dtype), ((0, tiles * tile - words), (0, 0))).reshape(tiles, tile, -1)
    begin = lax.axis_index(split.vocab) * words if split.vocab else 0
    return Local(
        order,
        hidden.reshape(-1, chunk, hidden.shape[-1]),
        targets_P[order].reshape(-1, chunk),
        weights,
        head,
        begin + tile * jnp.arange(tiles),
        words,
        words * math.prod(split.mesh.shape[axis] for axis in split.vocab),
    )


def _logits(split: Split, local: Local, tile, hidden_CD, tile_UD):
    """([C, U], float32, -inf for what fills the tile up; which of the U are words [1, U])."""
    logits = dot(hidden_CD, tile_UD, (1, 1), split.dtype)
    if cap := split.objective.softcap:
        logits = cap * jnp.tanh(logits / cap)
    word_1U = (tile * tile_UD.shape[0] + jnp.arange(tile_UD.shape[0]) < local.words)[None]
    return jnp.where(word_1U, logits, -jnp.inf), word_1U


def _targets_in(first, targets_C, word_1U):
    """(each target's column of a tile, whether it is there: what fills a tile up is numbered as another's words)."""
    column_C = targets_C - first
    inside_C = (column_C >= 0) & (column_C < word_1U.sum())
    return jnp.where(inside_C, column_C, 0), inside_C


def _whole(split: Split, tile_UE):
    """[U, D], along the width."""
    return lax.all_gather(tile_UE, split.width, axis=1, tiled=True) if split.width else tile_UE


def _sums(split: Split, local: Local) -> Sums:
    """Of all words at each position, [N, C] each; nothing of use where a chunk has no weight."""

    def turn(sums, tile):
        number, tile_UE, first = tile
        tile_UD = _whole(split, tile_UE)

        def chunk(x):
            hidden_CD, targets_C, weights_C, old = x

            def run():
                logits, word_1U = _logits(split, local, number, hidden_CD, tile_UD)
                top = jnp.maximum(old.top, logits.max(axis=-1))
                total = old.total * jnp.exp(old.top - top) + jnp.exp(logits - top[:, None]).sum(axis=-1)
                column_C, inside_C = _targets_in(first, targets_C, word_1U)
                target = jnp.take_along_axis(logits, column_C[:, None], axis=-1)[:, 0]
                added = jnp.where(word_1U, logits, 0.0).sum(axis=-1)
                return Sums(top, total, old.target + jnp.where(inside_C, target, 0.0), old.added + added)

            return lax.cond(jnp.any(weights_C > 0), run, lambda: old)

        return lax.map(chunk, (local.hidden_NCD, local.targets_NC, local.weights_NC, sums)), None

    zeros = jnp.zeros(local.targets_NC.shape, jnp.float32)
    start = Sums(jnp.full_like(zeros, -1e30), zeros, zeros, zeros)
    tiles = (jnp.arange(local.tiles_MUE.shape[0]), local.tiles_MUE, local.first_M)
    sums, _ = lax.scan(turn, start, tiles)
    if not split.vocab:
        return sums
    top = lax.pmax(sums.top, split.vocab)
    total, target, added = lax.psum((sums.total * jnp.exp(sums.top - top), sums.target, sums.added), split.vocab)
    return Sums(top, total, target, added)


def _losses(split: Split, local: Local, sums: Sums):
    """(lse, objective, nll), [N, C] each; zeros at positions without weight."""
    _, e, z = split.objective
    has_weight = local.weights_NC > 0
    lse = jnp.where(has_weight, jnp.log(jnp.where(has_weight, sums.total, 1.0)) + sums.top, 0.0)
    nll = jnp.where(has_weight, lse - sums.target, 0.0)
    loss = nll
    if e:
        loss = (1 - e) * nll + e * (lse - sums.added / local.vocabulary)
    if z:
        loss = loss + z * lse**2
    return lse, jnp.where(has_weight, loss, 0.0), nll


def _back(local: Local, x_NC, like_BT):
    """[N, C, ...] -> [B, T, ...], each where it came from."""
    flat = x_NC.reshape(-1, *x_NC.shape[2:])
    positions = like_BT.size
    flat = jnp.where((local.weights_NC.reshape(-1) > 0).reshape(-1, *(1,) * (flat.ndim - 1)), flat, 0)
    out = jnp.zeros((positions, *flat.shape[1:]), flat.dtype).at[local.order].add(flat)
    return out.reshape(*like_BT.shape, *flat.shape[1:])


def _value(split: Split, hidden_BTD, head_VE, targets_BT, weights_BT):
    local = _local(split, hidden_BTD, head_VE, targets_BT, weights_BT)
    _, loss, nll = _losses(split, local, _sums(split, local))
    total = (loss * local.weights_NC).sum()
    return total[None], _back(local, nll, targets_BT), _back(local, loss, targets_BT)


def _value_and_gradients(split: Split, hidden_BTD, head_VE, targets_BT, weights_BT):
    local = _local(split, hidden_BTD, head_VE, targets_BT, weights_BT)
    lse, loss, nll = _losses(split, local, _sums(split, local))

    def turn(dhidden_NCD, tile):
        number, tile_UE, first = tile
        tile_UD = _whole(split, tile_UE)

        def chunk(dtile_UD, x):
            hidden_CD, _, weights_C, _, dhidden_CD = x

            def run():
                grad_CU = _logits_gradient(split, local, number, x[:4], tile_UD, first)
                dhidden = dhidden_CD + dot(grad_CU, tile_UD, (1, 0), split.dtype)
                more = dot(grad_CU, hidden_CD, (0, 0), split.dtype) if split.train_head else 0.0
                return dtile_UD + more, dhidden

            return lax.cond(jnp.any(weights_C > 0), run, lambda: (dtile_UD, dhidden_CD))

        dtile = jnp.zeros(tile_UD.shape if split.train_head else (), jnp.float32)
        xs = (local.hidden_NCD, local.targets_NC, local.weights_NC, lse, dhidden_NCD)
        dtile, dhidden_NCD = lax.scan(chunk, dtile, xs)
        return dhidden_NCD, _own_part(split, dtile) if split.train_head else ()

    tiles = (jnp.arange(local.tiles_MUE.shape[0]), local.tiles_MUE, local.first_M)
    dhidden, dtiles = lax.scan(turn, jnp.zeros(local.hidden_NCD.shape, jnp.float32), tiles)
    dhidden = _back(local, dhidden.astype(hidden_BTD.dtype), targets_BT)
    if split.vocab:
        dhidden = lax.psum(dhidden, split.vocab)
    dhead = jnp.zeros((), jnp.float32)
    if split.train_head:
        dhead = dtiles.reshape(-1, dtiles.shape[-1])[: local.words]
        if others := tuple(axis for axis in split.rows if axis not in split.width):
            dhead = lax.psum(dhead, others)
    total = (loss * local.weights_NC).sum()
    return total[None], _back(local, nll, targets_BT), _back(local, loss, targets_BT), dhidden, dhead


def _own_part(split: Split, dtile_UD):
    """[U, E] of the devices' sum; a stage after another, see `staged_mesh`."""
    for axis in split.width:
        dtile_UD = lax.psum_scatter(dtile_UD, axis, scatter_dimension=1, tiled=True)
    return dtile_UD


def _logits_gradient(split: Split, local: Local, number, x, tile_UD, first):
    """Of sum(weights * objective) with respect to what comes out of the product, [C, U]."""
    cap, e, z = split.objective
    hidden_CD, targets_C, weights_C, lse_C = x
    logits, word_1U = _logits(split, local, number, hidden_CD, tile_UD)
    grad = jnp.exp(logits - lse_C[:, None]) * (weights_C * (1 + 2 * z * lse_C))[:, None]
    if e:
        grad = grad - jnp.where(word_1U, weights_C[:, None] * (e / local.vocabulary), 0.0)
    column_C, inside_C = _targets_in(first, targets_C, word_1U)
    grad = grad.at[jnp.arange(len(targets_C)), column_C].add(jnp.where(inside_C, -weights_C * (1 - e), 0.0))
    if cap:
        grad = grad * jnp.where(word_1U, 1 - jnp.square(logits / cap), 0.0)
    return grad
