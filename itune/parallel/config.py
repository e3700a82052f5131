"""The mesh's shape. Importing this does not load JAX."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis. -1 (at most once) means "all that are left".

    data: rows are split, parameters copied.  fsdp: rows and parameters are split.  tensor: heads and MLP are split.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1

    def __post_init__(self) -> None:
        sizes = (self.data, self.fsdp, self.tensor)
        if sum(s == -1 for s in sizes) > 1 or any(s == 0 or s < -1 for s in sizes):
            raise ValueError(f"MeshConfig(data, fsdp, tensor)={sizes}: sizes are positive, and at most one is -1")
