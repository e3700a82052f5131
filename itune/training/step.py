"""The step: sums and weights travel together, and are divided once.

Legend: B rows, L tokens, T supervised positions a row, S segments a row, D width, V vocabulary, N tasks.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec as P

from itune.batch import FIELDS, Batch
from itune.models.adapters import layer_mask
from itune.models.compute import Compute
from itune.models.head import Objective, head_loss
from itune.models.layers import NO_DROPOUT, Dropout
from itune.models.spec import ModelSpec, Params
from itune.models.split_head import is_split, split_head_loss
from itune.parallel.mesh import BATCH_AXES
from itune.training.losses import sums_by_example, sums_by_task
from itune.training.optim import Optimizer, clip

jax.tree_util.register_dataclass(Batch, data_fields=list(FIELDS), meta_fields=[])


@dataclasses.dataclass(frozen=True)
class TrainState:
    """What a checkpoint holds: what trains, its optimizer's state and the number of updates made."""

    params: Params
    opt_state: Any
    step: jax.Array


@dataclasses.dataclass(frozen=True)
class StepMetrics:
    """Sums over the batch, read by the loop one step late.

    loss_sum, weight: scalars; their quotient is the loss.
    task_nll, task_tokens: [N].  example_nll, example_tokens: [B, S].
    grad_norm: before clipping.  finite: False if the update was made a no-op.
    """

    loss_sum: jax.Array
    weight: jax.Array
    task_nll: jax.Array
    task_tokens: jax.Array
    example_nll: jax.Array
    example_tokens: jax.Array
    tokens: jax.Array
    grad_norm: jax.Array
    finite: jax.Array


for _cls in (TrainState, StepMetrics):
    jax.tree_util.register_dataclass(_cls, data_fields=[f.name for f in dataclasses.fields(_cls)], meta_fields=[])


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepSettings:
    """Everything static about the step."""

    num_tasks: int
    num_segments: int
    accumulation: int = 1
    dropout_rate: float = 0.0
    neftune_alpha: float = 0.0
    objective: Objective = Objective()
    compute: Compute = Compute()


def batch_loss(
    spec: ModelSpec,
    params: Params,
    batch: Batch,
    compute: Compute,
    dropout: Dropout = NO_DROPOUT,
    objective: Objective | None = None,
):
    """(sum of loss_weights * objective, nll [B, T]). Only supervised positions go through the LM head.

    objective: None is plain cross-entropy of the model's logits.
    """
    model = spec.merge(params)
    hidden_BLD = model.batch_hidden(batch, compute, dropout)
    hidden_BTD = jnp.take_along_axis(hidden_BLD, batch.loss_index[..., None], axis=1)
    train_head = ("embed" if spec.config.tied_embeddings else "head") in spec.trainable
    objective = objective or Objective(spec.config.final_softcap)
    return _head(
        hidden_BTD, model.head_weights(), batch.loss_targets, batch.loss_weights, train_head, compute, objective
    )


def _head(hidden_BTD, head_VD, targets_BT, weights_BT, train_head: bool, compute: Compute, objective: Objective):
    def local(hidden_BTD, head_VD, targets_BT, weights_BT):
        shape = targets_BT.shape
        flat = hidden_BTD.reshape(-1, hidden_BTD.shape[-1])
        targets, weights = targets_BT.reshape(-1), weights_BT.reshape(-1)
        total, nll = head_loss(
            flat, head_VD, targets, weights, dtype=compute.dtype, train_head=train_head, objective=objective
        )
        return total[None], nll.reshape(shape)

    mesh = compute.mesh
    if mesh is not None and is_split(mesh, head_VD.shape, compute.rules):
        return split_head_loss(
            hidden_BTD,
            head_VD,
            targets_BT,
            weights_BT,
            mesh=mesh,
            rules=compute.rules,
            dtype=compute.dtype,
            train_head=train_head,
            objective=objective,
        )
    if mesh is not None and mesh.size > 1:
        # Each device takes its own rows through the head: sorting out the padding must not move rows between devices.
        rows = P(BATCH_AXES)
        local = jax.shard_map(
            local, mesh=mesh, in_specs=(rows, P(), rows, rows), out_specs=(rows, rows), check_vma=False
        )
    total, nll_BT = local(hidden_BTD, head_VD, targets_BT, weights_BT)
    return total.sum(), nll_BT


def row_keys(key, step, row_ids_B2):
    """One dropout key a row, by (step, window, row): the same on any mesh and in any microbatch."""
    key = jax.random.fold_in(key, step)
    return jax.vmap(lambda r: jax.random.fold_in(jax.random.fold_in(key, r[0]), r[1]))(row_ids_B2)


def make_train_step(spec: ModelSpec, optimizer: Optimizer, settings: StepSettings) -> Callable:
    """`train_step(state, frozen, batch, hparams, key) -> (state, StepMetrics)`, to be jitted with `state` donated.

    hparams: {"learning_rate": scalar}.  A non-finite loss or gradient: see `updated`.
    """

    # B starts at zero: without a gradient it stays there, and the layer stays as it is.
    masks = {path: layer_mask(spec, path) for path in spec.trainable}

    def micro_loss(params, frozen, batch, keys_B):
        noisy = settings.dropout_rate or settings.neftune_alpha
        dropout = Dropout(settings.dropout_rate, keys_B, settings.neftune_alpha) if noisy else NO_DROPOUT
        return batch_loss(spec, {**frozen, **params}, batch, settings.compute, dropout, settings.objective)

    def gradients(params, frozen, batch, key, step):
        keys_B = row_keys(key, step, batch.row_ids)
        grad = jax.value_and_grad(micro_loss, has_aux=True)
        if settings.accumulation == 1:
            (total, nll_BT), grads = grad(params, frozen, batch, keys_B)
            return total, nll_BT, grads

        def micro(carry, inputs):
            (total, nll), grads = grad(params, frozen, *inputs)
            return (carry[0] + total, jax.tree.map(jnp.add, carry[1], grads)), nll

        # Sums are added and divided once by the whole batch's weight: a mean of microbatch means would weigh tokens
        # unequally.
        start = (jnp.zeros((), jnp.float32), jax.tree.map(jnp.zeros_like, params))
        micros = jax.tree.map(lambda a: _split_rows(a, settings.accumulation), (batch, keys_B))
        (total, grads), nll = jax.lax.scan(micro, start, micros)
        return total, _join_rows(nll), grads

    def train_step(state: TrainState, frozen: Params, batch: Batch, hparams: dict, key):
        total, nll_BT, grads = gradients(state.params, frozen, batch, key, state.step)
        weight = batch.loss_weights.sum()
        new, grad_norm, finite = updated(optimizer, masks, state, grads, total, weight, hparams["learning_rate"])
        return new, step_metrics(settings, batch, total, weight, nll_BT, grad_norm, finite)

    return train_step


def updated(optimizer: Optimizer, masks: dict, state: TrainState, grads: Params, total, weight, rate):
    """(the next state, the gradients' norm, whether all was finite), of gradients that are sums of weight `weight`.

    masks: see `layer_mask`.  A non-finite loss or gradient leaves the state as it was, its step counter excepted.
    """
    grads = {path: g / jnp.maximum(weight, 1e-9) for path, g in grads.items()}
    grads = {path: g if masks[path] is None else g * masks[path] for path, g in grads.items()}
    grads, grad_norm = clip(grads, optimizer.clip_norm)
    finite = jnp.isfinite(total) & jnp.isfinite(grad_norm)
    params, opt_state = optimizer.update(grads, state.opt_state, state.params, rate)
    # Inside jit: buffers are donated and the loop reads metrics a step late, so afterwards there is no way back.
    keep = lambda new, old: jnp.where(finite, new, old)  # noqa: E731
    new = TrainState(
        jax.tree.map(keep, params, state.params), jax.tree.map(keep, opt_state, state.opt_state), state.step + 1
    )
    return new, grad_norm, finite


def step_metrics(settings: StepSettings, batch: Batch, total, weight, nll_BT, grad_norm, finite) -> StepMetrics:
    task_nll, task_tokens = sums_by_task(nll_BT, batch.loss_weights, batch.loss_task, settings.num_tasks)
    example_nll, example_tokens = _by_example(batch, nll_BT, settings.num_segments)
    tokens = (batch.segment_ids > 0).sum()
    return StepMetrics(total, weight, task_nll, task_tokens, example_nll, example_tokens, tokens, grad_norm, finite)


def make_eval_step(spec: ModelSpec, num_segments: int, compute: Compute) -> Callable:
    """`eval_step(params, batch) -> (nll [B, S], tokens [B, S])`: sums per example; params are all of them."""

    def eval_step(params: Params, batch: Batch):
        _, nll_BT = batch_loss(spec, params, batch, compute)
        return _by_example(batch, nll_BT, num_segments)

    return eval_step


def _by_example(batch: Batch, nll_BT, num_segments: int):
    segment_BT = jnp.take_along_axis(batch.segment_ids, batch.loss_index, axis=1)
    return sums_by_example(nll_BT, batch.loss_weights, segment_BT, num_segments)


def _split_rows(x, parts: int):
    """[B, ...] -> [parts, B / parts, ...], row r to part r mod parts: rows stay on the device that holds them."""
    return jnp.swapaxes(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 0, 1)


def _join_rows(x):
    """The inverse of `_split_rows`."""
    x = jnp.swapaxes(x, 0, 1)
    return x.reshape(-1, *x.shape[2:])
