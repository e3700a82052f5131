"""Records of data files: JSON, JSONL, CSV, TSV and Parquet, packed or not, one file or a pattern of them.

Every fault is one UserError that names the file and its line or record, and holds none of the record's text.
"""

from __future__ import annotations

import csv
import dataclasses
import glob
import gzip
import importlib
import io
import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from itune.errors import UserError, nearest

_PACKED = (".gz", ".zst")
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
    """`path`, or the same with .gz or .zst put on or taken off. UserError naming it where there is none of them."""
    path = Path(path).expanduser()
    plain = path.with_suffix("") if path.suffix in _PACKED else path
    for candidate in (path, plain, *(plain.with_name(plain.name + suffix) for suffix in _PACKED)):
        if candidate.is_file():
            return candidate
    if path.is_dir():
        held = "name one of its files, or a pattern such as '*.jsonl'" if any(path.iterdir()) else "and it is empty"
        raise UserError(f"{path}: a folder, not a file; {held}")
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UserError(f"{path}: no such file.{nearest(path.name, siblings)}")


def find_files(path: str | Path) -> list[Path]:
    """The file of that name (see `find_file`), or those that a pattern fits, sorted: "notes/**/part-*.jsonl.gz".

    In a pattern * and ? stand for characters, [ab] for one of them, ** for any folders; names that begin with a dot
    are passed over. UserError where no file fits.
    """
    path = Path(path).expanduser()
    if not glob.has_magic(str(path)) or path.exists():
        return [find_file(path)]
    found = sorted(p for p in map(Path, glob.glob(str(path), recursive=True)) if p.is_file())
    if not found:
        raise UserError(f"{path}: no file fits this pattern")
    return found


def read_text(path: str | Path, encoding: str = "utf-8-sig") -> str:
    """The whole text of a plain, .gz or .zst file, less its byte-order mark.

    UserError naming the file for one that cannot be read or unpacked, and its line for bytes that are not `encoding`.
    """
    path = find_file(path)
    data = _read_bytes(path)
    try:
        return data.decode(encoding).removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: not {encoding} (byte 0x{data[error.start]:02x}); declare its encoding="
        ) from None
    except UnicodeError as error:  # UTF-16 and UTF-32 cut short or without their mark
        raise UserError(f"{path}: not {encoding}: {error}; declare its encoding=") from None
    except LookupError:
        raise UserError(f"{path}: unknown encoding {encoding!r}") from None


def _read_bytes(path: Path) -> bytes:
    try:
        if path.suffix == ".zst":
            return _unpack_zst(path)
        data = path.read_bytes()
        return gzip.decompress(data) if path.suffix == ".gz" else data
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None


def _unpack_zst(path: Path) -> bytes:
    arrow = _arrow("pyarrow", path)
    if not arrow.Codec.is_available("zstd"):
        raise UserError(f"{path}: the installed pyarrow has no zstd; unpack the file first")
    with arrow.OSFile(str(path)) as file, arrow.CompressedInputStream(file, "zstd") as stream:
        data: bytes = stream.read()
    return data


def _arrow(module: str, path: Path) -> Any:
    """pyarrow comes with tensorflow-datasets, and is loaded only for files that need it."""
    try:
        # Not an import statement: a task's fingerprint follows those, and would change once the library is loaded.
        return importlib.import_module(module)
    except ImportError:
        raise UserError(f"{path}: reading it needs pyarrow; pip install pyarrow") from None


# Records


def read_json(path: str | Path, encoding: str = "utf-8-sig") -> Any:
    """The one JSON value in a file. UserError naming file and line where it is not JSON."""
    path = find_file(path)
    return _parse_json(path, read_text(path, encoding))


def read_records(
    path: str | Path, encoding: str = "utf-8-sig", table: Table | None = None
) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (where, record) from each file that `path` names or fits.

    .csv, .tsv and .parquet are read as that; anything else as a table where `table` is given, and otherwise as a JSON
    list of objects or as JSONL: the first character tells which. Blank lines are skipped. Fields of CSV and TSV are
    text; those of JSON and Parquet have their types. Parquet has no use for `encoding` and `table`.

    `where` is "file:7" in JSONL and tables (the record's first line) and "file[7]" in JSON lists and Parquet (its index
    from 0).

    Raises:
      UserError: no such file, one that cannot be read, a record that is not one, or a file without any.
    """
    for file in find_files(path):
        empty = True
        for where, record in _file_records(file, encoding, table):
            if not isinstance(record, dict):
                raise UserError(f"{where}: expected a JSON object, found {type(record).__name__}")
            empty = False
            yield where, record
        if empty:
            raise UserError(f"{file}: no records in this file")


def _file_records(file: Path, encoding: str, table: Table | None) -> Iterable[tuple[str, Any]]:
    kind = Path(file.stem).suffix if file.suffix in _PACKED else file.suffix
    if kind == ".parquet":
        return _parquet(file)
    tables = {".csv": Table(), ".tsv": Table(delimiter="\t")}
    text = read_text(file, encoding)
    if table is not None or kind in tables:
        return _table_rows(file, text, table or tables[kind])
    if text.lstrip()[:1] == "[":
        return ((f"{file}[{index}]", record) for index, record in enumerate(_parse_json(file, text)))
    return _json_lines(file, text)


def _parse_json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        line = getattr(error, "lineno", 1)
        raise UserError(f"{path}:{line}: not JSON: {getattr(error, 'msg', error)}") from None


def _json_lines(path: Path, text: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): JSON strings may hold U+2028 and other characters that it breaks at.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except (ValueError, RecursionError) as error:
                raise UserError(
                    f"{path}:{number}: not JSON: {getattr(error, 'msg', error)}; expected a record a line, or one list"
                ) from None


def _table_rows(path: Path, text: str, table: Table) -> Iterator[tuple[str, dict[str, str]]]:
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


def _parquet(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    arrow, parquet = _arrow("pyarrow", path), _arrow("pyarrow.parquet", path)
    index = 0
    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches():
                for record in batch.to_pylist():
                    yield f"{path}[{index}]", record
                    index += 1
    except (OSError, ValueError, arrow.ArrowException) as error:
        place = f"{path}[{index}]" if index else str(path)
        raise UserError(f"{place}: cannot be read as Parquet: {' '.join(str(error).split())}") from None


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
