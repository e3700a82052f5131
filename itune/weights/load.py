"""Safetensors in a Hugging Face folder -> parameters by path, each device's slice read by itself.

Neither the model nor a parameter of all layers is ever whole in host memory, beyond what the devices there hold.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Sharding, SingleDeviceSharding

from itune.errors import UserError
from itune.models.spec import ModelSpec, Params
from itune.parallel.arrays import put
from itune.weights.arrays import Index, make_array
from itune.weights.names import COPIES, TABLES, UNREAD
from itune.weights.quantised import load_quantised
from itune.weights.shards import Tensors, open_tensors

Placer = Callable[[str], Sharding]


def load_base(
    folder: Path,
    spec: ModelSpec,
    place: Placer | None = None,
    *,
    frozen_dtype: str = "float32",
    instead: Mapping[str, np.ndarray] | None = None,
) -> Params:
    """Every base parameter of `spec`, read from `folder`.

    Args:
      place: where a parameter lies, by path (default: on the default device).
      frozen_dtype: dtype of parameters that don't train; those that do are float32.
      instead: parameters that a checkpoint has; they are placed and the folder's are not read.

    Raises: UserError naming the file and the tensor: missing, extra, of a wrong shape or type, not finite.
    """
    place = place or (lambda path: SingleDeviceSharding(jax.devices()[0]))
    instead = instead or {}
    table = {ours: (theirs, transposed) for ours, theirs, transposed in TABLES[spec.config.family]}
    params: Params = {}
    seen: set[str] = set()
    with open_tensors(folder) as tensors:
        for path in spec.paths:
            layer, _, leaf = path.rpartition("/")
            if path in spec.adapter_paths() or leaf == "scales":
                continue
            theirs, transposed = table[f"{layer}/w" if leaf == "codes" else path]
            shape, dtype = spec.shapes[path], jnp.dtype("float32" if path in spec.trainable else frozen_dtype)
            stacked = "{n}" in theirs
            names = [theirs.format(n=n) for n in range(shape[0])] if stacked else [theirs]
            seen.update(names)
            if leaf == "codes":
                params |= load_quantised(tensors, path, names, spec, place, transposed=transposed)
                continue
            for name in names:
                tensors.check(name, shape[1:] if stacked else shape, transposed)
            if path in instead:
                params[path] = put(instead[path].astype(dtype), place(path))
            else:
                read = _reader(tensors, names, dtype, stacked=stacked, transposed=transposed)
                params[path] = make_array(shape, place(path), read)
        _check_rest(tensors, seen, spec)
    return params


def _reader(
    tensors: Tensors, names: list[str], dtype: np.dtype, *, stacked: bool, transposed: bool
) -> Callable[[Index], np.ndarray]:
    def read(index: Index) -> np.ndarray:
        if not stacked:
            return tensors.read(names[0], index, dtype, transposed=transposed)
        layers = names[index[0]]
        first = tensors.read(layers[0], index[1:], dtype, transposed=transposed)
        out = np.empty((len(layers), *first.shape), dtype)
        out[0] = first
        for n, name in enumerate(layers[1:], 1):
            out[n] = tensors.read(name, index[1:], dtype, transposed=transposed)
        return out

    return read


def _check_rest(tensors: Tensors, seen: set[str], spec: ModelSpec) -> None:
    """What is left over has no place in the model, but for copies: a head that is tied, an embedding held twice."""
    theirs = {ours: theirs for ours, theirs, _ in TABLES[spec.config.family]}
    copies = {copy: original for copy, original in COPIES.items() if original in seen}
    if spec.config.tied_embeddings:
        copies[theirs["head"]] = theirs["embed"]
    extra = sorted(set(tensors) - seen - UNREAD)
    for name in [name for name in extra if name in copies]:
        extra.remove(name)
        _check_copy(tensors, name, copies[name])
    if extra:
        raise UserError(
            f"{tensors.folder}: tensor {extra[0]!r} has no place in a {spec.config.family} model ({len(extra)} such)"
        )


def _check_copy(tensors: Tensors, copy: str, original: str) -> None:
    """Compared at a few rows: one that is its own differs in all."""
    shape = tensors.shape(copy)
    rows = (slice(0, min(shape[0], 64)), *(slice(0, size) for size in shape[1:]))
    read = lambda name: tensors.read(name, rows, np.dtype(np.float32))  # noqa: E731
    if shape != tensors.shape(original) or not np.array_equal(read(copy), read(original)):
        tie = ", and config.json says tie_word_embeddings: one is wrong" if copy.startswith("lm_head") else ""
        raise UserError(f"{tensors.folder}: {copy} differs from {original}{tie}")
