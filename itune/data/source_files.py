"""The splits and files of a task's source, be it itune's, SeqIO's or TFDS's: inputs of fingerprint and manifest."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from itune.data import remote
from itune.data.hf_datasets import is_hub_name
from itune.data.manifest import DigestCache, InputFile, list_pattern
from itune.data.tfrecords import broken_place
from itune.errors import UserError

# Beside the shards of a TFDS data set: its features, splits and the names of its labels.
_TFDS_ABOUT = ("*.json", "*.labels.txt")


def source_splits(source: Any, task: str) -> tuple[str, ...]:
    """UserError naming the task where the source cannot say: a TFDS data set that is not there."""
    try:
        return tuple(source.splits)
    except Exception as error:
        raise _failed(error, task) from error


def source_files(source: Any, digests: DigestCache, task: str) -> list[InputFile]:
    """Digests of the files that a source says it reads, and what its patterns and folders stand for.

    Asked are `.files` and `.named_files` (RowSource), `.paths`, and the shards of SeqIO's file sources and of TFDS.
    UserError naming the task for one that is not there, or a pattern that fits none.
    """
    try:
        return list(_inputs(source, digests, task))
    except Exception as error:
        raise _failed(error, task) from error


def data_files(inputs: list[InputFile]) -> list[tuple[str, str]]:
    """(name, sha256) of the files among `inputs`, for a fingerprint: where they lie does not enter it."""
    return [(Path(entry.path).name, entry.sha256) for entry in inputs if not entry.is_pattern]


def blame(source: Any, split: str) -> str:
    """ " (x.tfrecord[7])": the record that a SeqIO or TFDS source over TFRecord failed on, or ""."""
    if not (hasattr(source, "_split_to_filepattern") or hasattr(source, "tfds_dataset")):
        return ""
    return broken_place([str(file) for file in source.list_shards(split) if not remote.is_remote(str(file))])


def _inputs(source: Any, digests: DigestCache, task: str) -> Iterator[InputFile]:
    files = {_place(file) for file in (*_named(source), *_shards(source, task))}
    for file in sorted(files, key=str):
        if isinstance(file, Path) and not file.is_file():
            raise UserError(f"task {task!r}: {file}: no such file; put it there, or take the task out of the mixture")
        yield digests.digest(file)
    if (inner := getattr(source, "_original_source", None)) is not None:  # SeqIO's few-shot source draws from another
        yield from _inputs(inner, digests, task)
    for named in getattr(source, "named_files", ()):
        if not is_hub_name(named) and _place(named) not in files:
            yield list_pattern(named)


def _named(source: Any) -> list[str | Path]:
    named = getattr(source, "files", None) or getattr(source, "paths", None) or ()
    if isinstance(named, Mapping):
        named = [path for paths in named.values() for path in ([paths] if isinstance(paths, str | Path) else paths)]
    return list(named)


def _shards(source: Any, task: str) -> Iterator[str | Path]:
    if hasattr(source, "_split_to_filepattern"):
        for split in source.splits:
            shards = source.list_shards(split)
            if not shards:
                pattern = source._split_to_filepattern[split]
                raise UserError(f"task {task!r}, split {split!r}: no file fits {pattern!r}")
            yield from shards
    elif hasattr(source, "tfds_dataset"):
        for split in source.splits:
            for shard in source.list_shards(split):
                yield shard
                if not remote.is_remote(shard):
                    yield from (path for about in _TFDS_ABOUT for path in Path(shard).parent.glob(about))


def _place(file: str | Path) -> Path | str:
    return remote.url_of(file) if remote.is_remote(file) else Path(file).expanduser().absolute()


def _failed(error: Exception, task: str) -> UserError:
    if isinstance(error, UserError):
        return error if repr(task) in str(error) else UserError(f"task {task!r}: {error}")
    # Only names and places are looked up here, no rows: the message holds no one's text.
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    return UserError(f"task {task!r}: its source fails: {type(error).__name__}: {lines[0][:300]}")
