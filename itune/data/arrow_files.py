"""Records of Parquet and Arrow files, and of folders that Hugging Face's `save_to_disk` wrote, with pyarrow alone.

`datasets` keeps the names of class labels in the schema: a record {"label": 1} gets "label_name": "positive" beside it
(a list of names for a list of labels, null for -1, which stands for no label). `label` itself stays the number.
"""

from __future__ import annotations

import importlib
import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from itune.errors import UserError, nearest

# Written by `save_to_disk`: of a Dataset, of a DatasetDict.
STATE, SPLITS = "state.json", "dataset_dict.json"
_END_OF_STREAM = b"\xff\xff\xff\xff\x00\x00\x00\x00"
_FILE_MAGIC = b"ARROW1"

Record = dict[str, Any]
Namer = Callable[[Any], Any]


def library(module: str, path: str | Path) -> Any:
    """An optional library, loaded by the first file that needs it. UserError where it is not installed."""
    try:
        # Not an import statement: a task's fingerprint follows those, and would change once the library is loaded.
        return importlib.import_module(module)
    except ImportError:
        name = module.partition(".")[0]
        raise UserError(f"{path}: reading it needs {name}; pip install {name}") from None


def parquet_records(file: Path, shown: str) -> Iterator[tuple[str, Record]]:
    """Yields (where, record). `shown`: the file's name in `where` ("x.parquet[7]") and in errors."""
    arrow, parquet = library("pyarrow", shown), library("pyarrow.parquet", shown)
    index = 0
    try:
        with parquet.ParquetFile(file) as opened:
            schema = opened.schema_arrow
            _check_columns(shown, schema.names)
            namers = label_namers(schema.metadata, shown)
            for batch in opened.iter_batches():
                for record in batch.to_pylist():
                    yield f"{shown}[{index}]", _named(record, namers, f"{shown}[{index}]")
                    index += 1
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise _unreadable(shown, index, "Parquet", error) from None


def arrow_records(file: Path, shown: str) -> Iterator[tuple[str, Record]]:
    """The same of an Arrow file, mapped into memory: a stream, as `datasets` writes, or Arrow's own file format."""
    arrow = library("pyarrow", shown)
    index = 0
    try:
        with arrow.memory_map(str(file)) as source:
            if source.size() == 0:
                raise UserError(f"{shown}: cannot be read as Arrow: it is empty")
            for batch in _batches(arrow, source, shown):
                _check_columns(shown, batch.schema.names)
                namers = label_namers(batch.schema.metadata, shown)
                for record in batch.to_pylist():
                    yield f"{shown}[{index}]", _named(record, namers, f"{shown}[{index}]")
                    index += 1
    except (OSError, ValueError, arrow.ArrowException) as error:
        raise _unreadable(shown, index, "Arrow", error) from None


def _batches(arrow: Any, source: Any, shown: str) -> Iterator[Any]:
    if source.read(len(_FILE_MAGIC)) == _FILE_MAGIC:
        source.seek(0)
        reader = arrow.ipc.open_file(source)
        yield from (reader.get_batch(i) for i in range(reader.num_record_batches))
        return
    # pyarrow takes the end of the file for the end of the stream: one cut short between batches would seem whole.
    source.seek(max(0, source.size() - len(_END_OF_STREAM)))
    whole = source.read() == _END_OF_STREAM
    source.seek(0)
    yield from arrow.ipc.open_stream(source)
    if not whole:
        raise UserError(f"{shown}: cannot be read as Arrow: the stream does not end; the file is cut short")


def _unreadable(shown: str, index: int, kind: str, error: Exception) -> UserError:
    place = f"{shown}[{index}]" if index else shown
    return UserError(f"{place}: cannot be read as {kind}: {' '.join(str(error).split())[:200]}")


def _check_columns(shown: str, names: list[str]) -> None:
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise UserError(f"{shown}: column {twice[0]!r} comes twice")


# Folders


def is_saved(folder: Path) -> bool:
    """Whether `save_to_disk` wrote this folder."""
    return (folder / STATE).is_file() or (folder / SPLITS).is_file()


def saved_files(folder: Path) -> list[Path]:
    """The data files of a saved Dataset, in its order. UserError naming the splits for a DatasetDict's folder."""
    if (folder / SPLITS).is_file() and not (folder / STATE).is_file():
        names = _json(folder / SPLITS).get("splits") or []
        raise UserError(f"{folder}: holds the splits {', '.join(names)}; name one, such as {folder / str(names[0])}")
    state = _json(folder / STATE)
    if state.get("_indices_data_files"):
        raise UserError(f"{folder}: rows were chosen when it was saved; load it with datasets and save it again")
    try:
        files = [folder / entry["filename"] for entry in state["_data_files"]]
    except (KeyError, TypeError):
        raise UserError(f"{folder / STATE}: names no '_data_files'") from None
    for file in files:
        if not file.is_file():
            raise UserError(f"{file}: no such file, though {folder / STATE} names it")
    return files


def split_hint(path: Path) -> str:
    """The nearest split, for a path in a DatasetDict's folder that is not there; else ""."""
    if not (path.parent / SPLITS).is_file():
        return ""
    names = _json(path.parent / SPLITS).get("splits") or []
    return nearest(path.name, names) or f" Its splits are {', '.join(names)}."


def _json(path: Path) -> Mapping[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


# Names of labels


def label_namers(metadata: Mapping[bytes, bytes] | None, shown: str) -> dict[str, Namer]:
    """{"label": function(1) -> "positive"} of the columns that hold class labels, from a schema's metadata."""
    if not metadata or b"huggingface" not in metadata:
        return {}
    try:
        features = json.loads(metadata[b"huggingface"])["info"]["features"]
        return {name: namer for name, feature in features.items() if (namer := _namer(feature)) is not None}
    except (ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{shown}: the features in its schema are not as datasets writes them") from None


def _namer(feature: Any) -> Namer | None:
    """For a ClassLabel, or a list of them in either spelling: [feature], or {"_type": "List", "feature": ...}."""
    if isinstance(feature, list):
        feature = {"_type": "List", "feature": feature[0]}
    if not isinstance(feature, dict):
        return None
    if feature.get("_type") == "ClassLabel" and feature.get("names"):
        names = list(feature["names"])

        def name(value: Any) -> Any:
            return None if value is None or value == -1 else names[_checked(value, len(names))]

        return name
    if feature.get("_type") in ("List", "LargeList", "Sequence"):
        inner = _namer(feature["feature"])
        if inner is not None:
            return lambda values: None if values is None else [inner(value) for value in values]
    return None


def _checked(value: int, count: int) -> int:
    if not 0 <= value < count:
        raise IndexError(f"is {value}, but there are names for 0 to {count - 1}")
    return value


def _named(record: Record, namers: Mapping[str, Namer], where: str) -> Record:
    for column, namer in namers.items():
        try:
            record.setdefault(f"{column}_name", namer(record.get(column)))
        except IndexError as error:
            raise UserError(f"{where}: label {column!r} {error}") from None
    return record
