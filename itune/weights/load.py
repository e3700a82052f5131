"""Safetensors in a Hugging Face folder -> parameters by path, laid on the mesh one at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors import SafetensorError, safe_open

from itune.errors import UserError, nearest
from itune.models.spec import ModelSpec, Params
from itune.weights.names import TABLES

Placer = Callable[[str, np.ndarray], jax.Array]


@contextmanager
def _tensors(folder: Path) -> Iterator[dict]:
    """{tensor name: open, memory-mapped file that holds it}."""
    with ExitStack() as stack:
        where = {}
        for path in sorted(folder.glob("*.safetensors")):
            try:
                file = stack.enter_context(safe_open(path, framework="numpy"))
            except (SafetensorError, OSError) as e:
                raise UserError(f"{path}: not a readable safetensors file ({e})") from None
            where.update(dict.fromkeys(file.keys(), file))
        if not where:
            raise UserError(f"{folder}: holds no *.safetensors file")
        yield where


def load_base(folder: Path, spec: ModelSpec, place: Placer | None = None, *, frozen_dtype: str = "float32") -> Params:
    """Every base parameter of `spec`, read from `folder`.

    Args:
      place: puts one numpy array, by path, on the devices (default: the default device). Only one parameter is whole
        in host memory at a time.
      frozen_dtype: dtype of parameters that don't train; those that do are float32.

    Raises: UserError naming the file's folder and the tensor for a missing tensor, a wrong shape or an extra tensor.
    """
    place = place or (lambda path, array: jnp.asarray(array))
    table = {ours: (theirs, transposed) for ours, theirs, transposed in TABLES[spec.config.family]}
    params, seen = {}, set()
    with _tensors(folder) as where:
        for path in spec.paths:
            if path in spec.adapter_paths():
                continue
            theirs, transposed = table[path]
            names = [theirs.format(n=n) for n in range(spec.shapes[path][0])] if "{n}" in theirs else [theirs]
            shape = spec.shapes[path][1:] if "{n}" in theirs else spec.shapes[path]
            arrays = [_read(folder, where, name, shape, transposed) for name in names]
            seen.update(names)
            array = np.stack(arrays) if "{n}" in theirs else arrays[0]
            array = array.astype(np.float32 if path in spec.trainable else jnp.dtype(frozen_dtype))
            params[path] = place(path, array)
        extra = sorted(set(where) - seen - ({"lm_head.weight"} if spec.config.tied_embeddings else set()))
        if extra:
            raise UserError(
                f"{folder}: tensor {extra[0]!r} has no place in a {spec.config.family} model ({len(extra)} such)"
            )
    return params


def _read(folder: Path, where: dict[str, Any], name: str, shape: tuple[int, ...], transposed: bool) -> np.ndarray:
    """One tensor, in our orientation. Raises UserError if it is missing or not of `shape`."""
    if name not in where:
        raise UserError(f"{folder}: tensor {name!r} is missing.{nearest(name, where)}")
    array = where[name].get_tensor(name)
    array = np.ascontiguousarray(array.T) if transposed else array
    if array.shape != shape:
        theirs = tuple(reversed(shape)) if transposed else shape
        found = tuple(reversed(array.shape)) if transposed else array.shape
        raise UserError(f"{folder}: {name} has shape {found}, config.json asks for {theirs}")
    return array
