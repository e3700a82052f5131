"""The embedding's rows of tokens, where its table is split over devices.

Legend: B rows, L tokens, V vocabulary, D width, E the part of it that one device holds.
"""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from itune.parallel.config import Rules
from itune.parallel.mesh import BATCH_AXES, param_sharding


def lookup(table_VD, tokens, dtype: str, mesh: Mesh | None, rules: Rules):
    """table_VD[tokens] in `dtype`. tokens: int32 of any shape, rows over (data, fsdp).  rules: by which the table lies.

    Of a split table each device looks its own part up for the tokens of all its fsdp group, and they exchange what each
    row needs; the gradient comes back the same way. Left to the compiler, every device would make a gradient of the
    whole table and sum it with all others.
    """
    if mesh is None or mesh.size == 1 or tokens.ndim != 2:
        return table_VD[tokens].astype(dtype)
    vocab, width = param_sharding(mesh, ("vocab", "embed"), table_VD.shape, rules).spec
    if tokens.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH_AXES):
        return table_VD[tokens].astype(dtype)

    def local(table_VE, tokens_BL):
        if width:
            tokens_BL = lax.all_gather(tokens_BL, width, axis=0, tiled=True)
        if vocab:
            own_BL = tokens_BL - lax.axis_index(vocab) * table_VE.shape[0]
            inside_BL = (own_BL >= 0) & (own_BL < table_VE.shape[0])
            x_BLE = jnp.where(inside_BL[..., None], table_VE[jnp.where(inside_BL, own_BL, 0)].astype(dtype), 0)
            x_BLE = lax.psum(x_BLE, vocab)
        else:
            x_BLE = table_VE[tokens_BL].astype(dtype)
        return lax.all_to_all(x_BLE, width, split_axis=0, concat_axis=2, tiled=True) if width else x_BLE

    rows = P(BATCH_AXES)
    return jax.shard_map(local, mesh=mesh, in_specs=(P(vocab, width), rows), out_specs=rows, check_vma=False)(
        table_VD, tokens
    )
