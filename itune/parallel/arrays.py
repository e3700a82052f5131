"""Arrays over the devices of several processes: made of what each process has, and fetched whole by all.

Legend: B rows of a batch.
"""

from __future__ import annotations

from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh, Sharding

from itune.parallel.mesh import batch_sharding


def spans_processes(mesh: Mesh) -> bool:
    """Whether some of its devices are other processes'."""
    return len({device.process_index for device in mesh.devices.flat}) > 1


def own_rows(mesh: Mesh, B: int) -> list[int]:
    """Which rows of a batch of B this process' devices take: of the sharding, for tensor axes may span processes."""
    slices = batch_sharding(mesh).addressable_devices_indices_map((B,)).values()
    return sorted({row for index in slices if index for row in range(*index[0].indices(B))})


def put(array: np.ndarray, sharding: Sharding) -> jax.Array:
    """A host array that every process has whole, on the devices of all: each takes its slices."""
    if sharding.is_fully_addressable:
        return jax.device_put(array, sharding)
    return jax.make_array_from_callback(array.shape, sharding, lambda index: array[index])


def put_rows(batch: Any, mesh: Mesh, rows: list[int], B: int) -> Any:
    """A host batch of `rows` alone, of B in all, on the mesh."""
    sharding, at = batch_sharding(mesh), {row: place for place, row in enumerate(rows)}

    def one(own: np.ndarray) -> jax.Array:
        def read(index: Any) -> np.ndarray:
            return own[[at[row] for row in range(*index[0].indices(B))]]

        return jax.make_array_from_callback((B, *own.shape[1:]), sharding, read)

    return jax.tree.map(one, batch)


def fetch(tree: Any) -> Any:
    """The tree's arrays on the host, whole. All processes call it, for what lies elsewhere is sent."""
    return jax.device_get(jax.tree.map(_whole, tree))


def _whole(leaf: Any) -> Any:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return leaf
    from jax.experimental.multihost_utils import process_allgather

    return process_allgather(leaf, tiled=True)
