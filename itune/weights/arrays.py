"""Arrays on a mesh, made of the slices that this process's devices hold, one after another."""

from __future__ import annotations

from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import Sharding

Index = tuple[slice, ...]


def make_array(shape: tuple[int, ...], sharding: Sharding, read: Callable[[Index], np.ndarray]) -> jax.Array:
    """An array from `read(index)`, called once for each different slice that this process's devices hold."""
    by_device = sharding.addressable_devices_indices_map(shape)
    devices: dict[str, list] = {}
    for device, index in by_device.items():
        devices.setdefault(str(index), []).append((device, index))
    parts = []
    for group in devices.values():
        data = read(group[0][1] or (slice(None),) * len(shape))
        parts += [jax.device_put(data, device) for device, _ in group]
        jax.block_until_ready(parts[-1])  # or the host would read ahead of the transfers, and hold what they wait for
    return jax.make_array_from_single_device_arrays(shape, sharding, parts)
