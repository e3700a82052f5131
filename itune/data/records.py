"""Prepared records: what one is, its bytes, and a directory of them that appears whole or not at all.

<task>-<fingerprint>/<split>/
  data-00000-of-00001.array_record   one msgpack record each, record r = example * V + variant
  index.npz                          per record: inputs, targets, example_key, template, shard, offset
  COMPLETED                          JSON: every input, every digest; written last
"""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import msgpack
import numpy as np
from array_record.python import array_record_module

from itune.errors import UserError

COMPLETED = "COMPLETED"
INDEX = "index.npz"
SHARD_BYTES = 256 * 2**20
TEMPORARY = ".tmp-"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Span:
    """Consecutive tokens of one role. ids: int32 [n]. Only supervised spans are learnt."""

    role: str
    supervised: bool
    ids: np.ndarray


@dataclasses.dataclass(frozen=True, kw_only=True)
class Record:
    """One rendering of one example: ordered spans, where they came from, and the texts that evaluation shows."""

    spans: tuple[Span, ...]
    id: str
    task: str
    split: str
    example: int
    variant: int
    template: str = ""
    inputs_text: str = ""
    targets_text: str = ""
    extras: dict[str, str] = dataclasses.field(default_factory=dict)

    def num_tokens(self, *, supervised: bool) -> int:
        """Tokens in the supervised (EOS included) or in the other spans."""
        return sum(len(span.ids) for span in self.spans if span.supervised == supervised)


def encode_record(record: Record) -> bytes:
    """The record's msgpack. The same record gives the same bytes."""
    fields = {f.name: getattr(record, f.name) for f in dataclasses.fields(record)}
    fields["spans"] = [[s.role, s.supervised, np.asarray(s.ids, "<i4").tobytes()] for s in record.spans]
    fields["extras"] = dict(sorted(record.extras.items()))
    return msgpack.packb(fields, use_bin_type=True)


def decode_record(data: bytes) -> Record:
    """The inverse of `encode_record`. Raises ValueError on bytes that are no record."""
    try:
        fields = msgpack.unpackb(data, raw=False)
        spans = tuple(Span(role=r, supervised=s, ids=np.frombuffer(b, "<i4")) for r, s, b in fields.pop("spans"))
        return Record(spans=spans, **fields)
    except (KeyError, TypeError, AttributeError, ValueError, msgpack.UnpackException) as error:
        raise ValueError(f"not a prepared record: {type(error).__name__}") from error


def example_key(identity: str, source_id: str) -> int:
    """uint64 that orders an example: a hash of its data set's identity and its id there, of no task's name."""
    digest = hashlib.blake2b(digest_size=8, person=b"itune-example")
    digest.update(identity.encode() + b"\0" + source_id.encode())
    return int.from_bytes(digest.digest(), "little")


def file_sha256(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fsync(path: Path) -> None:
    """Make a file's bytes, or a directory's entries, survive a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_atomic(path: Path, data: bytes, *, private: bool = False) -> None:
    """Replace `path` by `data`: readers see the old bytes or the new ones."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    fsync(path.parent)


class NoRoom(UserError):
    """The disk is full, or a quota is. written: bytes of the split until then."""

    def __init__(self, message: str, written: int = 0):
        super().__init__(message)
        self.written = written


_NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


def is_no_room(error: Exception) -> bool:
    """ArrayRecord's writer tells the system's error in words only."""
    if isinstance(error, OSError):
        return error.errno in _NO_ROOM
    return isinstance(error, RuntimeError) and any(os.strerror(code) in str(error) for code in _NO_ROOM)


@contextlib.contextmanager
def private_files(private: bool) -> Iterator[None]:
    """While open, new files are 0600 and new directories 0700 from their first byte on (ArrayRecord opens its own)."""
    if not private:
        yield
        return
    before = os.umask(0o077)
    try:
        yield
    finally:
        os.umask(before)


def make_private(directory: Path) -> None:
    """0700/0600 for a directory and all in it: a task may be marked sensitive after it was prepared."""
    directory.chmod(0o700)
    for path in directory.rglob("*"):
        path.chmod(0o700 if path.is_dir() else 0o600)


def read_completed(directory: Path) -> dict[str, Any] | None:
    """COMPLETED's JSON, or None if the directory isn't whole: COMPLETED or a file that it lists is missing or short."""
    try:
        completed = json.loads((directory / COMPLETED).read_text())
        whole = all((directory / name).stat().st_size == size for name, size in completed["sizes"].items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
    return completed if whole else None


def read_records(directory: Path, records: Sequence[int]) -> list[bytes]:
    """The bytes of some records of a prepared split, by record number."""
    with np.load(directory / INDEX) as index:
        shard, offset = index["shard"][list(records)], index["offset"][list(records)]
    names = sorted(path.name for path in directory.glob("data-*.array_record"))
    found = []
    for s, o in zip(shard, offset, strict=True):
        reader = array_record_module.ArrayRecordReader(str(directory / names[s]))
        found.append(reader.read([int(o)])[0])
        reader.close()
    return found


@contextlib.contextmanager
def locked(directory: Path, waiting: Callable[[], None] = lambda: None) -> Iterator[None]:
    """Hold a directory's lock (a file beside it) against other processes; freed by the system if this one is killed."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    with open(directory.with_name(f".{directory.name}.lock"), "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            waiting()
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


class SplitWriter:
    """Writes a split beside its final place and renames it there when it is whole.

    Killed at any moment, `directory` either doesn't exist or has COMPLETED; what is left over starts with ".tmp-".
    """

    def __init__(self, directory: Path, *, identity: str, private: bool, shard_bytes: int = SHARD_BYTES):
        self._directory = directory
        self._identity = identity
        self._private = private
        self._shard_bytes = shard_bytes
        self._temporary = directory.with_name(f"{TEMPORARY}{directory.name}-{os.getpid()}")
        self._writer: Any = None
        self._num_shards = 0
        self._total = 0
        self._columns: dict[str, list[int]] = {n: [] for n in ("inputs", "targets", "example_key", "shard", "offset")}
        self._templates: list[str] = []
        with private_files(private):
            directory.parent.mkdir(parents=True, exist_ok=True)
            self._temporary.mkdir()

    @contextlib.contextmanager
    def _room(self) -> Iterator[None]:
        try:
            yield
        except (OSError, RuntimeError) as error:
            if not is_no_room(error):
                raise
            raise NoRoom(f"no room for {self._directory}: {error}", self._total) from error

    def add(self, record: Record) -> None:
        """Append a record, in the order of its number. Raises NoRoom."""
        with self._room():
            self._add(record)

    def _add(self, record: Record) -> None:
        if self._writer is None:
            path = self._temporary / f"data-{self._num_shards:05d}"
            with private_files(self._private):
                self._writer = array_record_module.ArrayRecordWriter(str(path), "group_size:1")
            self._num_shards, self._bytes, self._offset = self._num_shards + 1, 0, 0
        data = encode_record(record)
        self._writer.write(data)
        row = {
            "inputs": record.num_tokens(supervised=False),
            "targets": record.num_tokens(supervised=True),
            "example_key": example_key(self._identity, record.id),
            "shard": self._num_shards - 1,
            "offset": self._offset,
        }
        for name, value in row.items():
            self._columns[name].append(value)
        self._templates.append(record.template)
        self._bytes, self._offset, self._total = self._bytes + len(data), self._offset + 1, self._total + len(data)
        if self._bytes >= self._shard_bytes:
            self._close_shard()

    def finish(self, completed: dict[str, Any]) -> dict[str, Any]:
        """Seal the split: shards and index reach the disk, then COMPLETED, then the directory gets its name.

        Raises NoRoom.
        """
        with self._room():
            return self._finish(completed)

    def _finish(self, completed: dict[str, Any]) -> dict[str, Any]:
        self._close_shard()
        names = []
        with private_files(self._private):
            for shard in range(self._num_shards):
                name = f"data-{shard:05d}-of-{self._num_shards:05d}.array_record"
                (self._temporary / f"data-{shard:05d}").rename(self._temporary / name)
                names.append(name)
            template_names = self._write_index()
            names.append(INDEX)
            for name in names:
                fsync(self._temporary / name)
            completed = completed | {
                "template_names": template_names,
                "records": len(self._templates),
                "sha256": {name: file_sha256(self._temporary / name) for name in names},
                "sizes": {name: (self._temporary / name).stat().st_size for name in names},
            }
            data = json.dumps(completed, sort_keys=True).encode()
            write_atomic(self._temporary / COMPLETED, data, private=self._private)
        fsync(self._temporary)
        os.rename(self._temporary, self._directory)
        fsync(self._directory.parent)
        return completed

    def abort(self) -> None:
        """Forget what was written."""
        if self._writer is not None:
            with contextlib.suppress(Exception):  # a full disk fails this, too
                self._writer.close()
        shutil.rmtree(self._temporary, ignore_errors=True)

    def _close_shard(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def _write_index(self) -> list[str]:
        template_names = sorted(set(self._templates))
        number = {name: i for i, name in enumerate(template_names)}
        dtypes = {"example_key": np.uint64}
        columns = {n: np.array(v, dtypes.get(n, np.int32)) for n, v in self._columns.items()}
        columns["template"] = np.array([number[name] for name in self._templates], np.int16)
        with open(self._temporary / INDEX, "wb") as file:
            np.savez(file, allow_pickle=False, **columns)
        return template_names
