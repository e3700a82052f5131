"""Records of data files: JSON, JSONL, CSV, TSV, Parquet, Arrow and TFRecord, packed or not, one or a pattern of them.

They may lie on this machine, at a URL (itune/data/remote.py), or be a data set of the hub (itune/data/hf_datasets.py).
Every fault is one UserError that names the file and its line or record, and holds none of the record's text.
"""

from __future__ import annotations

import contextlib
import csv
import dataclasses
import glob
import gzip
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from itune.data import remote
from itune.data.arrow_files import arrow_records, is_saved, library, parquet_records, saved_files, split_hint
from itune.data.hf_datasets import hub_files, is_hub_name
from itune.data.tfrecords import is_tfrecord, tfrecord_records
from itune.errors import UserError, nearest

_PACKED = (".gz", ".zst")
_ENCODINGS = ("utf-8", "utf-8-sig", "utf-16", "utf-32", "latin-1", "ascii", "cp1252", "cp437", "gb18030", "shift-jis")
# csv's own limit, 128 KiB, is under the length of a long visit note; this is the most that it takes on every system.
_LONGEST_FIELD = 2**31 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class Table:
    """How the text of a table is read. `.csv` is `Table()`, `.tsv` is `Table(delimiter="\\t")`.

    Attributes:
      delimiter: one character between fields.
      quote: the character around fields that hold delimiters, newlines or quotes (doubled within); "" where quotes are
        plain text, as in many TSV files.
      columns: names of the columns of a file that does not begin with them.
    """

    delimiter: str = ","
    quote: str = '"'
    columns: Sequence[str] = ()

    def __post_init__(self) -> None:
        for name, value in (("delimiter", self.delimiter), ("quote", self.quote)):
            if len(value) > 1 or value in ("\r", "\n") or not (value or name == "quote"):
                raise UserError(f"Table: {name}={value!r} must be one character")
        if isinstance(self.columns, str):
            raise UserError(f"Table: columns={self.columns!r} must be a tuple of names")
        object.__setattr__(self, "columns", tuple(self.columns))  # a list would not be hashable


# Files


def find_file(path: str | Path) -> Path:
    """`path`, or the same with .gz or .zst put on or taken off; on this machine. UserError where there is none."""
    if remote.is_remote(path) or is_hub_name(path):
        raise UserError(f"{path}: not on this machine; read_records, read_json and read_text take it as it is")
    if "\0" in str(path):
        raise UserError(f"{str(path)!r}: no file can have this name")
    path = Path(path).expanduser()
    plain = path.with_suffix("") if path.suffix in _PACKED else path
    try:
        for candidate in (path, plain, *(plain.with_name(plain.name + suffix) for suffix in _PACKED)):
            if candidate.is_file():
                return candidate
        if path.is_dir():
            held = "name one of its files, or a pattern such as '*.jsonl'" if any(path.iterdir()) else "and it is empty"
            raise UserError(f"{path}: a folder, not a file; {held}")
        siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    except (OSError, ValueError) as error:  # a folder that may not be read; a name that no file can have
        said = error.strerror if isinstance(error, OSError) else error
        raise UserError(f"{str(path)!r}: cannot be looked up: {said}") from None
    raise UserError(f"{path}: no such file.{split_hint(path) or nearest(path.name, siblings)}")


def find_files(path: str | Path) -> list[Path | str]:
    """The file of that name (see `find_file`), or those that a pattern fits, sorted: "notes/**/part-*.jsonl.gz".

    In a pattern * and ? stand for characters, [ab] for one of them, ** for any folders; names that begin with a dot
    are passed over. A folder that Hugging Face's `save_to_disk` wrote stands for its files, and "hf:org/name" for
    those of a data set of the hub. Files at a URL ("gs://bucket/part-*.jsonl") come as text.

    UserError where no file fits.
    """
    if not str(path):
        raise UserError("an empty path: name a file, or a pattern of files")
    if is_hub_name(path):
        return list(hub_files(str(path)))
    if remote.is_remote(path):
        urls = remote.find(path)
        if not urls:
            raise UserError(f"{remote.url_of(path)}: no file fits this pattern")
        return list(urls)
    path = Path(path).expanduser()
    try:
        if path.is_dir() and is_saved(path):
            return list(saved_files(path))
        if not glob.has_magic(str(path)) or path.exists():
            return [find_file(path)]
        found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    except OSError as error:  # a folder that may not be read
        raise UserError(f"{path}: cannot be looked up: {error.strerror}") from None
    if not found:
        raise UserError(f"{path}: no file fits this pattern")
    return list(found)


@contextlib.contextmanager
def _at_hand(file: Path | str) -> Iterator[Path]:
    """The file itself, or a copy for as long as it is read of one at a URL."""
    if isinstance(file, Path):
        yield file
    else:
        with remote.fetched(file) as copy:
            yield copy


def read_text(path: str | Path, encoding: str = "utf-8-sig") -> str:
    """The whole text of a plain, .gz or .zst file, less its byte-order mark.

    UserError naming the file for one that cannot be read or unpacked, and its line for bytes that are not `encoding`.
    """
    file = _one_file(path)
    with _at_hand(file) as copy:
        return _decode(_read_bytes(copy, str(file)), str(file), encoding)


def _one_file(path: str | Path) -> Path | str:
    return remote.url_of(path) if remote.is_remote(path) else find_file(path)


def _decode(data: bytes, shown: str, encoding: str) -> str:
    try:
        text = data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{shown}:{line}: not {encoding} (byte 0x{data[error.start]:02x}); declare its encoding="
        ) from None
    except UnicodeError as error:  # UTF-16 and UTF-32 cut short or without their mark
        raise UserError(f"{shown}: not {encoding}: {error}; declare its encoding=") from None
    except (LookupError, ValueError):  # ValueError: a name with a NUL
        raise UserError(f"{shown}: unknown encoding {encoding!r}{_nearest_encoding(encoding)}") from None
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UserError(f"{shown}:{line}: holds a NUL character; if it is UTF-16, declare its encoding=")
    return text


def _nearest_encoding(name: str) -> str:
    hint = nearest(name.lower().replace("_", "-"), _ENCODINGS)
    return f".{hint}" if hint else ""


def _read_bytes(path: Path, shown: str) -> bytes:
    try:
        if path.suffix == ".zst":
            return _unpack_zst(path, shown)
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        said = error.strerror if isinstance(error, OSError) and error.strerror else error
        raise UserError(f"{shown}: cannot be read: {str(said).partition(' (b')[0]}") from None  # gzip quotes the file


def _unpack_zst(path: Path, shown: str) -> bytes:
    arrow = library("pyarrow", shown)
    if not arrow.Codec.is_available("zstd"):
        raise UserError(f"{shown}: the installed pyarrow has no zstd; unpack the file first")
    with arrow.OSFile(str(path)) as file, arrow.CompressedInputStream(file, "zstd") as stream:
        data: bytes = stream.read()
    return data


# Records


def read_json(path: str | Path, encoding: str = "utf-8-sig") -> Any:
    """The one JSON value in a file. UserError naming file and line where it is not JSON."""
    file = _one_file(path)
    return _parse_json(str(file), read_text(file, encoding))


def read_records(
    path: str | Path, encoding: str = "utf-8-sig", table: Table | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (where, record) from each file that `path` names or fits, as `find_files` says.

    .csv, .tsv, .parquet, .arrow and .tfrecord are read as that; anything else as a table where `table` is given, and
    otherwise as a JSON list of objects or as JSONL: the first character tells which. Blank lines are skipped. Fields of
    CSV and TSV are text; those of the others have their types. Only text has use for `encoding` and `table`. Class
    labels of Hugging Face data sets get their names beside them (itune/data/arrow_files.py).

    `where` is "file:7" in JSONL and tables (the record's first line) and "file[7]" elsewhere (its index from 0).

    Raises:
      UserError: no such file, one that cannot be read, a record that is not one, or a file without any.
    """
    for file in find_files(path):
        empty = True
        with _at_hand(file) as copy:
            for where, record in _file_records(copy, str(file), encoding, table):
                if not isinstance(record, dict):
                    raise UserError(f"{where}: expected a JSON object, found {type(record).__name__}")
                empty = False
                yield where, record
        if empty:
            raise UserError(f"{file}: no records in this file")


def _file_records(file: Path, shown: str, encoding: str, table: Table | None) -> Iterable[tuple[str, Any]]:
    if is_tfrecord(file.name):
        return tfrecord_records(file, shown)
    kind = Path(file.stem).suffix if file.suffix in _PACKED else file.suffix
    binary = {".parquet": parquet_records, ".arrow": arrow_records}
    if kind in binary:
        if file.suffix in _PACKED:
            raise UserError(f"{shown}: {kind} files are compressed inside; unpack this one")
        return binary[kind](file, shown)
    tables = {".csv": Table(), ".tsv": Table(delimiter="\t")}
    text = _decode(_read_bytes(file, shown), shown, encoding)
    if table is not None or kind in tables:
        return _table_rows(shown, text, table or tables[kind])
    if text.lstrip()[:1] == "[":
        return ((f"{shown}[{index}]", record) for index, record in enumerate(_parse_json(shown, text)))
    return _json_lines(shown, text)


def _parse_json(path: str, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise UserError(f"{path}:{line}: not JSON: {getattr(error, 'msg', error)}") from None


def _json_lines(path: str, text: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): JSON strings may hold U+2028 and other characters that it breaks at.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path}:{number}: not JSON: {getattr(error, 'msg', error)}; expected a record a line, or one list"
                ) from None


def _table_rows(path: str, text: str, table: Table) -> Iterator[tuple[str, dict[str, str]]]:
    csv.field_size_limit(_LONGEST_FIELD)
    quoting: dict[str, Any] = {"quotechar": table.quote} if table.quote else {"quoting": csv.QUOTE_NONE}
    # newline="": line breaks inside quotes stay as they are. strict: a quote that never ends would swallow the rest.
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=table.delimiter, strict=True, **quoting)
    columns, names = list(table.columns), "columns="
    while True:
        where = f"{path}:{reader.line_num + 1}"
        try:
            fields = next(reader)
        except StopIteration:
            return
        except csv.Error as error:
            hint = "; if quotes are plain text here, declare table=Table(quote='')" if table.quote else ""
            raise UserError(f"{where}: not a row of this table: {error}{hint}") from None
        if not fields:
            continue
        if not columns:
            columns, names = fields, "the header"
            _check_columns(where, columns)
            continue
        if len(fields) != len(columns):
            raise UserError(f"{where}: this row has {len(fields)} fields, {names} has {len(columns)}")
        yield where, dict(zip(columns, fields, strict=True))


def _check_columns(where: str, columns: Sequence[str]) -> None:
    twice = sorted({name for name in columns if columns.count(name) > 1})
    if twice:
        raise UserError(f"{where}: column {twice[0]!r} comes twice in the header")


def require(record: Mapping[str, Any], key: str, where: str) -> None:
    """UserError with the nearest key, or the record's first ones, where `key` is missing."""
    if key not in record:
        hint = nearest(key, record) or f" It has {', '.join(list(record)[:12]) or 'nothing'}."
        raise UserError(f"{where}: no {key!r} in this record.{hint}")


def field_text(record: Mapping[str, Any], key: str, where: str, optional: bool = False) -> str:
    """record[key] as text; numbers are spelt out, null (and a missing key, if optional) is "". UserError otherwise."""
    if not optional:
        require(record, key, where)
    value = record.get(key)
    if value is None:
        return ""
    if not isinstance(value, str | bool | int | float):
        raise UserError(f"{where}: {key!r} is a {type(value).__name__}, must be text")
    text = value if isinstance(value, str) else json.dumps(value)
    if not encodable(text):
        raise UserError(f"{where}: {key!r} holds half of a surrogate pair; mend the file's escapes")
    return text


def encodable(text: str) -> bool:
    """JSON can spell half of a surrogate pair ("\\ud83d"), which no encoding can write and no tokenizer reads."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True
