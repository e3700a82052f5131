"""How a forward pass is computed: dtype, loops, what the backward pass keeps, devices."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable

import jax
from jax.sharding import Mesh

from itune.models.linear import PRODUCT


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
    """How a forward pass is computed; none of it changes what is computed.

    dtype: of the operands of wide products.  scan: loop over one compiled layer.  attention: backend.
    remat: what the backward pass makes again, see `WeightsConfig`.  mesh: None for one device, the default one.
    """

    dtype: str = "float32"
    scan: bool = True
    attention: str = "auto"
    remat: str = "cheap"
    mesh: Mesh | None = None

    @property
    def platform(self) -> str:
        """What it is compiled for, which need not be what this machine has."""
        return jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform

    @property
    def activations(self) -> str:
        """The dtype of what lies between products. On CPU float32: elementwise bfloat16 is emulated there."""
        return "float32" if self.platform == "cpu" else self.dtype

    def again(self, function: Callable) -> Callable:
        """For what is cheap to make again (norms, rotations, activations, thin adapter products): not kept for the
        backward pass, unless remat is "none" or already covers the whole layer."""
        return jax.checkpoint(function, prevent_cse=not self.scan) if self.remat == "cheap" else function

    def layer(self, function: Callable) -> Callable:
        """Around a whole layer: of "full" only its inputs are kept, of "dots" also what wide products gave."""
        policies = {"full": None, "dots": jax.checkpoint_policies.save_only_these_names(PRODUCT)}
        if self.remat not in policies:
            return function
        return jax.checkpoint(function, prevent_cse=not self.scan, policy=policies[self.remat])
