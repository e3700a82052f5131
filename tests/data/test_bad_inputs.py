"""A table of files that users get wrong: each is one line that names the file and line or record, and what to do.

Each case makes its mistake in an empty folder; the rest of the table is in test_bad_tasks.py.
"""

from __future__ import annotations

import gzip
import importlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from itune.data import (
    Table,
    find_file,
    read_json,
    read_records,
    read_text,
)
from tests.data.bad_inputs import Case, check
from tests.data.test_arrow_files import write_stream
from tests.data.test_tf_sources import ROWS, write

TEN_MEBIBYTES = "x" * (10 * 2**20)


def zst(data: bytes) -> bytes:
    return importlib.import_module("pyarrow").compress(data, codec="zstd", asbytes=True)


def reads(name: str, data: bytes, **options: Any) -> Callable[[Path], Any]:
    """Writes the file and reads its records."""

    def make(folder: Path) -> None:
        (folder / name).write_bytes(data)
        list(read_records(folder / name, **options))

    return make


def cut(path: Path, size: int = 9) -> Path:
    path.write_bytes(path.read_bytes()[:-size])
    return path


def cut_parquet(folder: Path) -> None:
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist([{"q": "x"}] * 99), folder / "x.parquet")
    list(read_records(cut(folder / "x.parquet")))


def twice_in_parquet(folder: Path) -> None:
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    parquet.write_table(arrow.table([[1], [2]], names=["q", "q"]), folder / "x.parquet")
    list(read_records(folder / "x.parquet"))


def named(name: str, *others: str) -> Callable[[Path], Any]:
    """Reads `name`, which is not there; `others` are, folders with a slash."""

    def make(folder: Path) -> None:
        for other in others:
            (folder / other).mkdir() if other.endswith("/") else (folder / other).write_text("{}")
        list(read_records(folder / name))

    return make


def locked(folder: Path) -> None:
    (folder / "x.jsonl").write_text("{}")
    (folder / "x.jsonl").chmod(0)
    list(read_records(folder / "x.jsonl"))


def locked_folder(folder: Path) -> None:
    (folder / "notes").mkdir(mode=0)
    list(read_records(folder / "notes"))


FILES = [
    Case(
        "gz cut short",
        reads("x.jsonl.gz", gzip.compress(b'{"q": 1}\n' * 99, mtime=0)[:-9]),
        "FOLDER/x.jsonl.gz: cannot be read: Compressed file ended before .*",
    ),
    Case("no gz at all", reads("x.jsonl.gz", b'{"q": 1}\n'), "FOLDER/x.jsonl.gz: cannot be read: Not a gzipped file"),
    Case(
        "gz with a wrong checksum",
        reads("x.jsonl.gz", gzip.compress(b'{"q": 1}\n', mtime=0)[:-8] + b"12345678"),
        "FOLDER/x.jsonl.gz: cannot be read: CRC check failed.*",
    ),
    Case(
        "zst cut short",
        reads("x.jsonl.zst", zst(b'{"q": 1}\n' * 99)[:-5]),
        "FOLDER/x.jsonl.zst: cannot be read: Truncated .*",
    ),
    Case("no zst at all", reads("x.jsonl.zst", b"plain text"), "FOLDER/x.jsonl.zst: cannot be read: ZSTD .*"),
    Case(
        "bad UTF-8",
        reads("x.jsonl", b'{"q": 1}\n{"q": "\xe9"}\n'),
        r"FOLDER/x.jsonl:2: not utf-8-sig \(byte 0xe9\); declare its encoding=",
    ),
    Case(
        "unknown encoding",
        reads("x.jsonl", b"{}", encoding="utf_80"),
        "FOLDER/x.jsonl: unknown encoding 'utf_80'. Did you mean 'utf-8'\\?",
    ),
    Case("no text encoding", reads("x.jsonl", b"{}", encoding="base64"), "FOLDER/x.jsonl: unknown encoding 'base64'"),
    Case(
        "UTF-16 undeclared",
        reads("x.csv", "q,a\n1,2\n".encode("utf-16-le")),
        "FOLDER/x.csv:1: holds a NUL character; if it is UTF-16, declare its encoding=",
    ),
    Case(
        "UTF-16 cut short",
        reads("x.csv", "q,a\n1,2\n".encode("utf-16")[:-1], encoding="utf-16"),
        "FOLDER/x.csv:2: not utf-16 .*declare its encoding=",
    ),
    Case("a NUL", reads("x.jsonl", b'{"q": 1}\n\n{"q": "a\0b"}\n'), "FOLDER/x.jsonl:3: holds a NUL character; .*"),
    Case(
        "missing file",
        named("train.jsonl", "trian.jsonl"),
        "FOLDER/train.jsonl: no such file. Did you mean 'trian.jsonl'\\?",
    ),
    Case("missing folder", named("absent/x.jsonl"), "FOLDER/absent/x.jsonl: no such file."),
    Case(
        "a folder",
        named("notes", "notes/", "notes/a.jsonl"),
        "FOLDER/notes: a folder, not a file; name one of its files, or a pattern such as .*",
    ),
    Case("an empty folder", named("notes", "notes/"), "FOLDER/notes: a folder, not a file; and it is empty"),
    Case("a pattern that fits nothing", named("*.csv", "a.jsonl"), r"FOLDER/\*.csv: no file fits this pattern"),
    Case(
        "an empty pattern", lambda folder: list(read_records("")), "an empty path: name a file, or a pattern of files"
    ),
    Case("an impossible name", lambda folder: find_file("a\0b"), r"'a\\x00b': no file can have this name"),
    Case(
        "a name too long",
        lambda folder: find_file(folder / ("x" * 300)),
        "'FOLDER/x+': cannot be looked up: File name too long",
    ),
    Case("unreadable folder", locked_folder, "FOLDER/notes: cannot be looked up: Permission denied"),
    Case("unreadable", locked, "FOLDER/x.jsonl: cannot be read: Permission denied"),
    Case("an empty file", reads("x.jsonl", b""), "FOLDER/x.jsonl: no records in this file"),
    Case("only a header", reads("x.csv", b"q,a\n"), "FOLDER/x.csv: no records in this file"),
    Case("an empty list", reads("x.json", b"[]"), "FOLDER/x.json: no records in this file"),
    Case(
        "a list cut short",
        reads("x.json", b'[{"q": 1},\n {"q": 2},\n {"q'),
        "FOLDER/x.json:3: not JSON: Unterminated string .*",
    ),
    Case(
        "a line cut short",
        reads("x.jsonl", b'{"q": 1}\n{"q": '),
        "FOLDER/x.jsonl:2: not JSON: Expecting value; expected a record a line, or one list",
    ),
    Case(
        "a number for an object",
        reads("x.jsonl", b'{"q": 1}\n7\n'),
        "FOLDER/x.jsonl:2: expected a JSON object, found int",
    ),
    Case(
        "a number in the list",
        reads("x.json", b'[{"q": 1}, 7]'),
        r"FOLDER/x.json\[1\]: expected a JSON object, found int",
    ),
    Case(
        "deep nesting",
        reads("x.jsonl", b'{"q": ' + b"[" * 100_000),
        "FOLDER/x.jsonl:1: not JSON: maximum recursion depth .*",
    ),
    Case(
        "ten mebibytes and no end",
        reads("x.jsonl", b'{"q": "' + TEN_MEBIBYTES.encode()),
        "FOLDER/x.jsonl:1: not JSON: Unterminated string .{0,80}",
    ),
    Case(
        "a number of 5,000 digits",
        reads("x.jsonl", b'{"q": ' + b"9" * 5000 + b"}"),
        "FOLDER/x.jsonl:1: not JSON: Exceeds the limit .*",
    ),
    Case(
        "a field too many",
        reads("x.csv", b"q,a\n1,2\n1,2,3\n"),
        "FOLDER/x.csv:3: this row has 3 fields, the header has 2",
    ),
    Case(
        "another delimiter", reads("x.csv", b"q;a\n1;2,5\n"), "FOLDER/x.csv:2: this row has 2 fields, the header has 1"
    ),
    Case(
        "a quote without end",
        reads("x.csv", b'q,a\n1,2\n"x,\ny,3\n'),
        "FOLDER/x.csv:3: not a row of this table: unexpected end of data; .*",
    ),
    Case("a column twice", reads("x.csv", b"q,a,q\n1,2,3\n"), "FOLDER/x.csv:1: column 'q' comes twice in the header"),
    Case("a column twice in Parquet", twice_in_parquet, "FOLDER/x.parquet: column 'q' comes twice"),
    Case("a table's delimiter", lambda folder: Table(delimiter="||"), r"Table: delimiter='\|\|' must be one character"),
    Case(
        "Parquet cut short",
        cut_parquet,
        "FOLDER/x.parquet: cannot be read as Parquet: Parquet magic bytes not found .*",
    ),
    Case(
        "packed Parquet",
        reads("x.parquet.gz", b"PAR1"),
        "FOLDER/x.parquet.gz: .parquet files are compressed inside; unpack this one",
    ),
    Case(
        "Arrow cut short",
        lambda folder: list(read_records(cut(write_stream(folder / "x.arrow", [{"q": "x"}] * 9, None), 8))),
        r"FOLDER/x.arrow(\[9\])?: cannot be read as Arrow: the stream does not end; the file is cut short",
    ),
    Case("no Arrow at all", reads("x.arrow", b"plain text and more"), "FOLDER/x.arrow: cannot be read as Arrow: .*"),
    Case(
        "TFRecord cut short",
        lambda folder: list(read_records(cut(write(folder / "x.tfrecord", ROWS)))),
        r"FOLDER/x.tfrecord\[5\]: cannot be read as TFRecord: truncated record at \d+",
    ),
    Case(
        "no TFRecord at all",
        reads("x.tfrecord", b"plain text and more of it"),
        r"FOLDER/x.tfrecord\[0\]: cannot be read as TFRecord: corrupted record at 0 .*",
    ),
    Case(
        "not JSON",
        lambda folder: read_json(folder / "x.json") if (folder / "x.json").write_text("{]") else None,
        "FOLDER/x.json:1: not JSON: .*",
    ),
    Case(
        "latin-1 text",
        lambda folder: read_text(folder / "x.txt") if (folder / "x.txt").write_bytes(b"a\n\xe9") else None,
        r"FOLDER/x.txt:2: not utf-8-sig \(byte 0xe9\); declare its encoding=",
    ),
    Case(
        "a hub's option",
        lambda folder: list(read_records("hf:org/name?spilt=train")),
        "hf:org/name.spilt=train: no option 'spilt', only config and split. Did you mean 'split'\\?",
    ),
    Case(
        "a system unknown",
        lambda folder: list(read_records("gss://bucket/x.jsonl")),
        "gss://bucket/x.jsonl: fsspec knows no gss://. Did you mean 'gs'\\?",
    ),
]


@pytest.mark.parametrize("case", FILES, ids=lambda case: case.name)
def test_bad_files(case: Case, tmp_path: Path) -> None:
    if case.name.startswith("unreadable") and os.geteuid() == 0:
        pytest.skip("root reads every file")
    check(case, tmp_path)
