"""A run's step without its arrays: shapes, dtypes and where they lie, on devices that need not be here."""

from __future__ import annotations

import dataclasses
import math
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh, NamedSharding

from itune.batch import Batch
from itune.models.compute import Compute
from itune.models.spec import ModelSpec
from itune.parallel.mesh import batch_sharding, param_sharding, replicated
from itune.training.setup import StepParts, state_shardings
from itune.training.step import TrainState

LOSS_FIELDS = ("loss_index", "loss_targets", "loss_task")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shapes:
    """Of a batch: rows B, row_length L, supervised T a row, segments S a row, encoder_length Le (0: a decoder)."""

    rows: int
    row_length: int
    supervised: int
    segments: int
    encoder_length: int = 0
    prefix_lm: bool = False
    num_tasks: int = 1


def abstract_batch(shapes: Shapes, mesh: Mesh) -> Batch:
    """What `itune.data.feed` gives, rows over data x fsdp."""
    rows = batch_sharding(mesh)
    array = lambda n, dtype=jnp.int32: jax.ShapeDtypeStruct((shapes.rows, n), dtype, sharding=rows)  # noqa: E731
    L, T, Le = shapes.row_length, shapes.supervised, shapes.encoder_length
    fields = {name: array(L) for name in ("tokens", "segment_ids", "positions")}
    fields |= {name: array(T) for name in LOSS_FIELDS} | {"loss_weights": array(T, jnp.float32), "row_ids": array(2)}
    if shapes.prefix_lm:
        fields["bidirectional"] = array(L, jnp.bool_)
    if Le:
        fields |= {f"encoder_{name}": array(Le) for name in ("tokens", "positions", "segment_ids")}
    return Batch(**fields)


def abstract_params(spec: ModelSpec, compute: Compute) -> dict[str, Any]:
    """As a run loads them: what trains in float32, what is frozen in `compute.activations`, codes as they are."""
    mesh = compute.mesh
    assert mesh is not None, "parameters without arrays need to be told their devices"

    def one(path: str) -> jax.ShapeDtypeStruct:
        dtype = jnp.float32 if path in spec.trainable else spec_dtype(spec, path, compute.activations)
        shape = spec.shapes[path]
        return jax.ShapeDtypeStruct(shape, dtype, sharding=param_sharding(mesh, spec.axes[path], shape, compute.rules))

    return {path: one(path) for path in spec.paths}


def spec_dtype(spec: ModelSpec, path: str, frozen_dtype: str) -> Any:
    """Of a frozen parameter in memory."""
    from itune.models.quantise import codes_dtype

    leaf = path.rpartition("/")[2]
    if leaf == "codes":
        return codes_dtype(spec.quantise)
    return jnp.float32 if leaf == "scales" else jnp.dtype(frozen_dtype)


def abstract_step(parts: StepParts, shapes: Shapes) -> tuple[Any, ...]:
    """The step's arguments (state, frozen, batch, hparams, key), as ShapeDtypeStructs on `parts.compute.mesh`."""
    mesh = parts.compute.mesh
    assert mesh is not None, "a step without arrays needs to be told its devices"
    params = abstract_params(parts.spec, parts.compute)
    train, frozen = parts.spec.partition(params)
    opt_state = jax.eval_shape(parts.optimizer.init, train)
    opt_state = jax.tree.map(_on, opt_state, state_shardings(opt_state, parts.spec, mesh, parts.compute.rules))
    copied = replicated(mesh)
    key = jax.eval_shape(lambda: jax.random.key(0))
    step: Any = jax.ShapeDtypeStruct((), jnp.int32, sharding=copied)
    state = TrainState(train, opt_state, step)
    hparams = {"learning_rate": jax.ShapeDtypeStruct((), jnp.float32, sharding=copied)}
    return state, frozen, abstract_batch(shapes, mesh), hparams, _on(key, copied)


def _on(leaf: Any, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)


def bytes_per_device(tree: Any) -> int:
    """Of arrays or ShapeDtypeStructs: what one device holds of them."""
    return sum(math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize for leaf in jax.tree.leaves(tree))
