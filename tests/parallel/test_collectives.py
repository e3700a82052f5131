"""What a program sends between devices, against what was written into it."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import pytest
from jax import lax
from jax.sharding import PartitionSpec as P

from itune.parallel.collectives import by_kind, collectives
from itune.parallel.config import MeshConfig
from itune.parallel.mesh import make_mesh

MESH = MeshConfig(data=2, fsdp=2, tensor=2)


def found_in(function, in_specs, out_specs, *shapes):
    mesh = make_mesh(MESH)
    mapped = jax.shard_map(function, mesh=mesh, in_specs=in_specs, out_specs=out_specs, check_vma=False)
    arguments = [jax.ShapeDtypeStruct(shape, jnp.float32) for shape in shapes]
    return collectives(jax.jit(mapped).lower(*arguments).compile().as_text(), mesh)


def test_each_kind_its_axes_and_its_bytes():
    """A ring of n devices: an all-reduce sends 2 (n - 1) / n of the array, the others half of that."""

    def function(x):  # [8, 16] on each device
        whole = lax.all_gather(x, "fsdp", tiled=True)
        part = lax.psum_scatter(jnp.sin(whole), "tensor", tiled=True)
        return lax.psum(part, ("data", "fsdp"))

    found = by_kind(found_in(function, P(), P(), (8, 16)))
    assert found[("all-gather", "fsdp")] == (1, 16 * 16 * 4 // 2)
    assert found[("all-reduce", "data+fsdp")] == (1, 2 * 8 * 16 * 4 * 3 // 4)
    assert found[("reduce-scatter", "tensor")] == (1, 16 * 16 * 4 // 2)


def test_a_loop_is_counted_as_often_as_it_turns():
    def function(x):
        def inner(y, _):
            return lax.psum(jnp.cos(y), "tensor"), None

        def outer(y, _):
            return lax.psum(lax.scan(inner, y, length=5)[0], "data"), None

        return lax.scan(outer, x, length=3)[0]

    found = by_kind(found_in(function, P(), P(), (4,)))
    assert {key: times for key, (times, _) in found.items()} == {
        ("all-reduce", "tensor"): 15,
        ("all-reduce", "data"): 3,
    }


@pytest.mark.parametrize("axis", ["data", "fsdp", "tensor"])
def test_a_permutation_goes_along_its_axis(axis):
    found = found_in(lambda x: lax.ppermute(x, axis, [(0, 1), (1, 0)]), P(), P(), (4, 4))
    assert [(c.kind, c.axes, c.moved) for c in found] == [("collective-permute", axis, 64)]
    assert "ppermute" in found[0].where
