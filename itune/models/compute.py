"""How a forward pass is computed: dtype, loops, what the backward pass keeps, devices."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from itune.models.linear import PRODUCT
from itune.parallel.config import RULES, Rules
from itune.parallel.gradients import kept_in_parts
from itune.parallel.mesh import BATCH_AXES, batch_sharding, param_sharding


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
    """How a forward pass is computed; none of it changes what is computed.

    dtype: of the operands of wide products.  scan: loop over one compiled layer.  attention: backend.
    remat: what the backward pass makes again, see `WeightsConfig`.  mesh: None for one device, the default one.
    rules: where the model's parameters lie on the mesh, of `itune.models.rules.rules_for`.
    """

    dtype: str = "float32"
    scan: bool = True
    attention: str = "auto"
    remat: str = "cheap"
    mesh: Mesh | None = None
    rules: Rules = RULES

    @property
    def platform(self) -> str:
        """What it is compiled for, which need not be what this machine has."""
        return jax.default_backend() if self.mesh is None else self.mesh.devices.flat[0].platform

    @property
    def activations(self) -> str:
        """The dtype of what lies between products. On CPU float32: elementwise bfloat16 is emulated there."""
        return "float32" if self.platform == "cpu" else self.dtype

    def rows(self, x):
        """x [B, ...] with its rows over the mesh and the rest whole.

        The compiler is free to undo that, and does where an embedding that is split along the width hands its layout on
        to the activations: every device then had all rows of T5.
        """
        if self.mesh is None or self.mesh.size == 1:
            return x
        # Of a batch that the mesh does not divide, as generation may have, every device keeps all rows.
        whole = x.shape[0] % math.prod(self.mesh.shape[axis] for axis in BATCH_AXES)
        return x if whole else jax.lax.with_sharding_constraint(x, batch_sharding(self.mesh))

    def layer_weights(self, state):
        """One layer's parameters out of the stack, an `nnx.State`; their gradients lie as they do."""
        mesh = self.mesh
        if mesh is None or mesh.size == 1:
            return state

        def one(variable):
            value = variable[...]
            if not jnp.issubdtype(value.dtype, jnp.floating):
                return variable  # codes of quantised weights have no gradient
            axes = variable.get_metadata("logical_axes")[-value.ndim :]
            return variable.replace(kept_in_parts(value, param_sharding(mesh, axes, value.shape, self.rules)))

        return jax.tree.map(one, state, is_leaf=lambda x: isinstance(x, nnx.Variable))

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
