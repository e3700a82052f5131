"""The safetensors files of a Hugging Face folder as one set of tensors, memory-mapped and read slice by slice."""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from itune.errors import UserError, nearest
from itune.weights.arrays import Index

INDEX = "model.safetensors.index.json"
FLOATS = ("F64", "F32", "F16", "BF16")
# Some files hold T5's shared embedding under the encoder's name only.
ALIASES = {"shared.weight": "encoder.embed_tokens.weight"}
LFS = b"version https://git-lfs"


class Tensors:
    """{name: tensor} of a folder; nothing is read before it is asked for."""

    def __init__(self, folder: Path, files: Mapping[str, tuple[Path, Any]], prefix: str = "") -> None:
        """files: tensor name -> (the file that holds it, that file opened).  prefix: of the names in the files."""
        self.folder = folder
        self._files = dict(files)
        self._stored = {name: prefix + name for name in files}
        for name, other in ALIASES.items():
            if other in self._files and name not in self._files:
                self._files[name], self._stored[name] = self._files.pop(other), other

    def __iter__(self) -> Iterator[str]:
        return iter(self._files)

    def __contains__(self, name: str) -> bool:
        return name in self._files

    def shape(self, name: str) -> tuple[int, ...]:
        """Raises: UserError with the nearest name if there is no such tensor, or if it holds no floats."""
        if name not in self._files:
            raise UserError(f"{self.folder}: tensor {name!r} is missing.{nearest(name, self._files)}")
        path, file = self._files[name]
        part = file.get_slice(self._stored[name])
        if part.get_dtype() not in FLOATS:
            raise UserError(
                f"{path}: {name} is of type {part.get_dtype()}, not one of {', '.join(FLOATS)}; quantised checkpoints "
                "can't be read: take the original one, or a .gguf file"
            )
        return tuple(part.get_shape())

    def check(self, name: str, shape: tuple[int, ...], transposed: bool) -> None:
        """Raises: UserError if the tensor (transposed, if so) is not of our `shape`; see also `shape`."""
        theirs = tuple(reversed(shape)) if transposed else shape
        found = self.shape(name)
        if found != theirs:
            raise UserError(f"{self.folder}: {name} has shape {found}, config.json asks for {theirs}")

    def sample(self, name: str) -> np.ndarray:
        """The first 8 numbers, float32, of the first, middle and last row; of a vector its first 24."""
        _, file = self._files[name]
        part = file.get_slice(self._stored[name])
        shape = part.get_shape()
        if len(shape) < 2:
            return np.asarray(part[: min(24, shape[0])] if shape else part[()], np.float32)
        rest = (*(0 for _ in shape[1:-1]), slice(0, min(8, shape[-1])))
        rows = dict.fromkeys((0, shape[0] // 2, shape[0] - 1)) if shape[0] else {}
        return np.concatenate([np.ravel(part[(row, *rest)]).astype(np.float32) for row in rows] or [np.zeros(0, "f4")])

    def read(self, name: str, index: Index, dtype: np.dtype, *, transposed: bool = False) -> np.ndarray:
        """tensor[index] (of its transpose, if `transposed`) as a contiguous array of `dtype`.

        Raises: UserError if a number in it is not finite.
        """
        path, file = self._files[name]
        part = file.get_slice(self._stored[name])
        array = part[tuple(reversed(index))].T if transposed else part[index]
        array = np.ascontiguousarray(array, dtype)
        # The largest by size, through float32: bfloat16's own comparisons are slow.
        if array.size and not np.isfinite(np.abs(array.astype(np.float32, copy=False)).max()):
            raise UserError(f"{path}: {name} holds numbers that are not finite (NaN or infinity)")
        return array


@functools.lru_cache(maxsize=4)
def weights_digest(folder: Path) -> str:
    """SHA-256 (hex) over every tensor's name, shape and up to 24 of its numbers, as float32.

    The same for the same weights in other files or a wider type; weights that were trained further have another.
    Raises: UserError as `open_tensors`.
    """
    digest = hashlib.sha256()
    with open_tensors(folder) as tensors:
        for name in sorted(tensors):
            digest.update(f"{name} {tensors.shape(name)}".encode())
            digest.update(tensors.sample(name).tobytes())
    return digest.hexdigest()


@contextmanager
def open_tensors(folder: Path) -> Iterator[Tensors]:
    """The tensors of model.safetensors.index.json's files, or without one of every *.safetensors.

    Raises: UserError naming the file that is missing, broken or no safetensors, and a tensor that two files hold.
    """
    with ExitStack() as stack:
        index = _read_index(folder / INDEX)
        paths = sorted(folder.glob("*.safetensors"))
        if index is not None:
            paths = [folder / name for name in sorted(set(index.values()))]
        if not paths:
            raise UserError(f"{folder}: holds no *.safetensors file")
        found: dict[str, tuple[Path, Any]] = {}
        for path in paths:
            file = stack.enter_context(_open(path, folder))
            for name in file.keys():  # noqa: SIM118 - it is no dict
                if name in found:
                    raise UserError(f"{path}: tensor {name!r} is in {found[name][0].name} too")
                found[name] = (path, file)
        for name, file_name in (index or {}).items():
            if name not in found:
                raise UserError(f"{folder / file_name}: tensor {name!r} is missing; {INDEX} says it is here")
            if found[name][0].name != file_name:
                raise UserError(f"{folder / INDEX}: says {name!r} is in {file_name}; it is in {found[name][0].name}")
        yield Tensors(folder, found)


def _read_index(path: Path) -> dict[str, str] | None:
    """{tensor: file name}; None where there is no index."""
    if not path.is_file():
        return None
    try:
        weight_map = json.loads(path.read_text("utf-8"))["weight_map"]
        if not all(isinstance(file, str) and Path(file).name == file for file in weight_map.values()):
            raise ValueError("weight_map must map tensors to file names")
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: not an index of safetensors files ({error})") from None
    return weight_map


def _open(path: Path, folder: Path) -> Any:
    try:
        with path.open("rb") as file:
            head = file.read(len(LFS))
    except FileNotFoundError:
        raise UserError(f"{path}: is missing, and {INDEX} lists it; is the download complete?") from None
    if head == LFS:
        raise UserError(f"{path}: is a git-lfs pointer and not the weights; fetch them with: git -C {folder} lfs pull")
    if not head:
        raise UserError(f"{path}: not a readable safetensors file (it is empty)")
    try:
        return safe_open(path, framework="numpy")
    except (SafetensorError, OSError) as error:
        raise UserError(f"{path}: not a readable safetensors file ({error})") from None
