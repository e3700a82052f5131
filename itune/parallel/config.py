"""The mesh's shape. Importing this does not load JAX."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping

# Ways to lay a run on devices, by name. What each sends is counted in tests/parallel/test_presets.py.
PRESETS: Mapping[str, Mapping[str, int]] = {
    "dp": {"data": -1},  # every device has the whole model
    "fsdp": {"data": 1, "fsdp": -1},  # parameters and optimizer over all devices
    "fsdp_tensor": {"data": 1, "fsdp": -1, "tensor": 2},  # and every layer's products over pairs
    "2d": {"data": 2, "fsdp": -1, "tensor": 2},  # two copies of that, as of two slices
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis. -1 (at most once) means "all that are left".

    data: rows are split, parameters copied.  fsdp: rows and parameters are split.  tensor: heads and MLP are split.
    preset: a name in PRESETS; it gives the axes that are left at their default, so preset="fsdp_tensor" with tensor=4
      is fsdp over what four-way tensor parallelism leaves. Afterwards it is "": the axes say it all.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    preset: str = ""

    def __post_init__(self) -> None:
        if self.preset and self.preset not in PRESETS:
            raise ValueError(f"MeshConfig.preset={self.preset!r} must be one of {tuple(PRESETS)}")
        for axis, size in PRESETS.get(self.preset, {}).items():
            if getattr(self, axis) == getattr(type(self), axis):
                object.__setattr__(self, axis, size)
        object.__setattr__(self, "preset", "")  # a run by a preset is the run by its axes
        sizes = (self.data, self.fsdp, self.tensor)
        if sum(s == -1 for s in sizes) > 1 or any(s == 0 or s < -1 for s in sizes):
            raise ValueError(f"MeshConfig(data, fsdp, tensor)={sizes}: sizes are positive, and at most one is -1")
