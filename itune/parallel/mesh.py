"""The mesh and the rules that lay logical axes on it."""

from __future__ import annotations

import math

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

from itune.parallel.config import MeshConfig, Rules

AXES = ("data", "fsdp", "tensor")
BATCH_AXES = ("data", "fsdp")


def make_mesh(config: MeshConfig, devices=None) -> Mesh:
    """A (data, fsdp, tensor) mesh over `devices` (default: all of them).

    Raises: ValueError if the sizes don't multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = [getattr(config, axis) for axis in AXES]
    known = math.prod(s for s in sizes if s != -1)
    if -1 in sizes and len(devices) % known == 0:
        sizes[sizes.index(-1)] = len(devices) // known
    if math.prod(sizes) != len(devices):
        raise ValueError(
            f"MeshConfig(data, fsdp, tensor)={tuple(getattr(config, a) for a in AXES)} "
            f"does not cover {len(devices)} devices"
        )
    # Auto axes: jax.make_mesh defaults to Explicit ones, where with_sharding_constraint only asserts.
    return Mesh(np.asarray(devices).reshape(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def check_rows(mesh: Mesh, *, batch_size: int, accumulation: int) -> None:
    """Raises ValueError, in the user's terms, if rows don't divide over the mesh."""
    rows = math.prod(mesh.shape[a] for a in BATCH_AXES)
    if batch_size % (rows * accumulation):
        raise ValueError(
            f"TrainConfig.batch_size={batch_size} must divide by data x fsdp x accumulation = {rows * accumulation}"
        )


def param_sharding(mesh: Mesh, axes: tuple[str | None, ...], shape: tuple[int, ...], rules: Rules) -> NamedSharding:
    """The sharding of one parameter by its logical axes. A dimension that its mesh axis does not divide is copied.

    rules: the model's, of `itune.models.rules.rules_for`: heads are whole on a device where these are its own.
    Raises: AttributeError naming a logical axis without a rule.
    """
    spec = []
    for name, size in zip(axes, shape, strict=True):
        target = None if name is None else getattr(rules, name)
        spec.append(target if target is not None and size % mesh.shape[target] == 0 else None)
    return NamedSharding(mesh, P(*spec))


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Rows over data x fsdp; everything else whole. Its addressable indices say which rows a process reads."""
    return NamedSharding(mesh, P(BATCH_AXES))


def replicated(mesh: Mesh) -> NamedSharding:
    return NamedSharding(mesh, P())
