"""Gradients that each device keeps a part of are summed into that part, not into copies of the whole."""

from __future__ import annotations

import functools
import math

import jax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P

STAGES = ("fsdp_major", "fsdp_minor")
LEAST_SPLIT = 16  # devices along fsdp, below which one stage is as good


@functools.cache
def staged_mesh(mesh: Mesh) -> tuple[Mesh, tuple[str, ...]]:
    """(the mesh, the names of its axes that are fsdp): on a large TPU fsdp is two axes, on all else one.

    Of a reduce-scatter over all chips of a torus libtpu makes an all-reduce, of which each chip then throws most away:
    twice the bytes. Of one over a part of them, followed by one over the others, it makes no such thing.
    """
    size = mesh.shape["fsdp"]
    major = max(n for n in range(1, math.isqrt(size) + 1) if size % n == 0)
    if mesh.devices.flat[0].platform != "tpu" or size < LEAST_SPLIT or major == 1:
        return mesh, ("fsdp",)
    sizes = {name: n for axis, n in mesh.shape.items() for name, n in _stages(axis, n, major)}
    devices = mesh.devices.reshape(tuple(sizes.values()))
    types = (mesh.axis_types[0],) * len(sizes)
    return Mesh(devices, tuple(sizes), axis_types=types), STAGES


def _stages(axis: str, size: int, major: int) -> list[tuple[str, int]]:
    return [(axis, size)] if axis != "fsdp" else [(STAGES[0], size // major), (STAGES[1], major)]


@functools.partial(jax.custom_vjp, nondiff_argnums=(1,))
def kept_in_parts(weights, sharding: NamedSharding):
    """`weights`; their gradient is laid as `sharding` says, where it arises: inside the layers' loop, say."""
    return weights


def _forward(weights, sharding):
    return weights, None


def _backward(sharding, _, gradient):
    mesh, stages = staged_mesh(sharding.mesh)
    constrain = jax.lax.with_sharding_constraint
    for count in range(1, len(stages)):
        spec = P(*(stages[:count] if target == "fsdp" else target for target in sharding.spec))
        gradient = constrain(gradient, NamedSharding(mesh, spec))
    return (constrain(gradient, sharding),)


kept_in_parts.defvjp(_forward, _backward)
