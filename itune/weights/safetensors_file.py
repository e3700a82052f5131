"""Writing safetensors with one tensor in memory at a time (which the library's own writer cannot), and in shards."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from itune.weights.shards import INDEX

DTYPES = {"float32": ("F32", np.dtype("<f4")), "bfloat16": ("BF16", np.dtype(ml_dtypes.bfloat16))}


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor to be written: its array is made when its turn comes."""

    name: str
    shape: tuple[int, ...]
    make: Callable[[], np.ndarray]


def write_file(
    path: Path, entries: Sequence[Entry], dtype: str = "float32", metadata: Mapping[str, str] | None = None
) -> dict[str, Any]:
    """Returns: {"bytes": size, "sha256": hex}. bfloat16 is rounded to nearest, ties to even."""
    name, stored = DTYPES[dtype]
    header: dict[str, Any] = {"__metadata__": {"format": "pt", **(metadata or {})}}
    offset = 0
    for entry in entries:
        end = offset + stored.itemsize * int(np.prod(entry.shape, dtype=np.int64))
        header[entry.name] = {"dtype": name, "shape": list(entry.shape), "data_offsets": [offset, end]}
        offset = end
    head = json.dumps(header, separators=(",", ":")).encode()
    head += b" " * (-len(head) % 8)
    digest, size = hashlib.sha256(), 0
    with path.open("wb") as out:
        for chunk in _chunks(struct.pack("<Q", len(head)) + head, entries, stored):
            digest.update(chunk)
            size += out.write(chunk)
        out.flush()
        os.fsync(out.fileno())
    return {"bytes": size, "sha256": digest.hexdigest()}


def _chunks(head: bytes, entries: Sequence[Entry], stored: np.dtype) -> Iterator[bytes]:
    yield head
    for entry in entries:
        array = entry.make()
        assert array.shape == entry.shape, (entry.name, array.shape, entry.shape)
        yield np.ascontiguousarray(array.astype(stored, copy=False)).tobytes()


def write_shards(folder: Path, entries: Sequence[Entry], dtype: str, max_bytes: int) -> None:
    """model.safetensors; or, above `max_bytes`, model-00001-of-0000N.safetensors and their index, as transformers'."""
    itemsize = DTYPES[dtype][1].itemsize
    shards: list[list[Entry]] = [[]]
    room = max_bytes
    for entry in entries:
        size = itemsize * int(np.prod(entry.shape, dtype=np.int64))
        if size > room and shards[-1]:
            shards.append([])
            room = max_bytes
        shards[-1].append(entry)
        room -= size
    if len(shards) == 1:
        write_file(folder / "model.safetensors", shards[0], dtype)
        return
    weight_map: dict[str, str] = {}
    total = 0
    for number, shard in enumerate(shards, 1):
        name = f"model-{number:05}-of-{len(shards):05}.safetensors"
        total += write_file(folder / name, shard, dtype)["bytes"]
        weight_map |= {entry.name: name for entry in shard}
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (folder / INDEX).write_text(json.dumps(index, indent=2, sort_keys=True) + "\n", "utf-8")
