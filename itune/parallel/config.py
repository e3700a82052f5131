"""The mesh's shape, and which of its axes splits what. Importing this does not load JAX."""

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
class Rules:
    """Logical axis of parameters -> the mesh axis that splits it; None is a copy on every device.

    An axis lies where it does here or is copied: rows lie along data and fsdp, so that what layers compute with can be
    split over tensor alone, and only what is gathered before it is used over fsdp.
    """

    embed: str | None = "fsdp"
    heads: str | None = "tensor"
    kv_heads: str | None = "tensor"
    mlp: str | None = "tensor"
    vocab: str | None = "tensor"
    layers: str | None = None
    adapters: str | None = None

    def updated(self, overrides: Mapping[str, str | None]) -> Rules:
        """With other axes for some. Raises: ValueError for an axis that there is not, or that lies elsewhere."""
        known = {field.name: field.default for field in dataclasses.fields(self)}
        for name, axis in overrides.items():
            if name not in known:
                raise ValueError(f"rules has {name!r}, which is no logical axis; they are {', '.join(known)}")
            if axis is not None and axis != known[name]:
                where = f"lie on {known[name]} or be copied (None)" if known[name] else "only be copied (None)"
                raise ValueError(f"rules puts {name} on {axis!r}; it may {where}")
        return dataclasses.replace(self, **overrides)


RULES = Rules()


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeshConfig:
    """Devices along each axis. -1 (at most once) means "all that are left".

    data: rows are split, parameters copied.  fsdp: rows and parameters are split.  tensor: heads and MLP are split.
    preset: a name in PRESETS; it gives the axes that are left at their default, so preset="fsdp_tensor" with tensor=4
      is fsdp over what four-way tensor parallelism leaves. Afterwards it is "": the axes say it all.
    rules: what is to lie otherwise than the model's family has it, such as {"heads": None}: see `Rules`.
    """

    data: int = -1
    fsdp: int = 1
    tensor: int = 1
    preset: str = ""
    rules: dict[str, str | None] = dataclasses.field(default_factory=dict, hash=False)

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
        RULES.updated(self.rules)
