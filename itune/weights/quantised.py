"""Frozen linear layers quantised while they are read: a layer at a time is whole and in float32, on the host."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jax.sharding import Sharding

from itune.models.quantise import quantise
from itune.models.spec import ModelSpec, Params
from itune.weights.arrays import Index, make_array
from itune.weights.shards import Tensors

EVERYTHING = slice(None)


def load_quantised(
    tensors: Tensors,
    path: str,
    names: list[str],
    spec: ModelSpec,
    place: Callable[[str], Sharding],
    *,
    transposed: bool,
) -> Params:
    """{path of the codes: array, path of the scales: array} of the layers `names`.

    Blocks never straddle devices: codes are split between blocks or outputs, and what a mesh does not divide is copied.
    """
    scales_path = f"{path.rpartition('/')[0]}/scales"
    shape = spec.shapes[path]
    inputs = shape[2] if spec.quantise == "int8" else shape[1] * shape[2] * 2
    for name in names:
        tensors.check(name, (inputs, shape[-1]), transposed)

    def read(index: Index, which: int) -> np.ndarray:
        """which: 0 for codes [N, K, C or C / 2, F], 1 for scales [N, K, F]."""
        layers, *rest, outputs = index
        found = []
        for name in names[layers]:
            # A scale may depend on all inputs, so they are read whole.
            w_DF = tensors.read(name, (EVERYTHING, outputs), np.dtype(np.float32), transposed=transposed)
            found.append(quantise(spec.quantise, w_DF)[which][tuple(rest)])
        return np.stack(found)

    return {
        path: make_array(shape, place(path), lambda index: read(index, 0)),
        scales_path: make_array(spec.shapes[scales_path], place(scales_path), lambda index: read(index, 1)),
    }
