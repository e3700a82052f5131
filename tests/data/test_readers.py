"""Files as users bring them: packed, tables, Parquet, patterns; each fault is one line that names its place."""

from __future__ import annotations

import gzip
import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from itune.data.fingerprint import Describer, digest
from itune.data.readers import Table, field_text, find_file, find_files, read_json, read_records, read_text
from itune.errors import UserError

PROJECT = Path(__file__).parents[2]


def zst(data: bytes) -> bytes:
    return importlib.import_module("pyarrow").compress(data, codec="zstd", asbytes=True)


def parquet(path: Path, rows: list[dict]) -> Path:
    arrow, files = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    files.write_table(arrow.Table.from_pylist(rows), path)
    return path


def records(path: Path, **options) -> list[dict]:
    return [record for _, record in read_records(path, **options)]


# Packed files


@pytest.mark.parametrize(("suffix", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", zst)])
@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.jsonl", '{"q": "é\\nx", "a": "1"}\n{"q": "y", "a": "2"}\n'),
        ("a.json", '[{"q": "é\\nx", "a": "1"},\n {"q": "y", "a": "2"}]'),
        ("a.csv", 'q,a\n"é\nx",1\n\ny,2\n'),
        ("a.tsv", 'q\ta\n"é\nx"\t1\ny\t2'),
    ],
)
def test_every_text_format_packed_or_not(
    tmp_path: Path, suffix: str, pack: Callable[[bytes], bytes], name: str, text: str
) -> None:
    (tmp_path / (name + suffix)).write_bytes(pack(text.encode("utf-8-sig")))
    expected = [{"q": "é\nx", "a": "1"}, {"q": "y", "a": "2"}]
    for asked in (name, f"{name}.gz", f"{name}.zst", f"*{Path(name).suffix}{suffix}"):
        assert records(tmp_path / asked) == expected


def test_zst_of_several_frames_is_read_whole(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl.zst"
    path.write_bytes(zst(b'{"q": 1}\n') + zst(b'{"q": 2}\n'))
    assert records(path) == [{"q": 1}, {"q": 2}]


def test_without_pyarrow_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("x.jsonl.zst", "x.parquet"):
        path = tmp_path / name
        path.write_bytes(b"x")
        monkeypatch.setitem(sys.modules, "pyarrow", None)
        with pytest.raises(UserError, match=f"{name}: reading it needs pyarrow; pip install pyarrow"):
            records(path)


# Tables


def test_tables(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes('\ufeffq,"a ""b"""\r\n"1,\r\n2",é\r\n'.encode())
    assert list(read_records(path)) == [(f"{path}:2", {"q": "1,\r\n2", 'a "b"': "é"})]
    path.write_bytes("q;a\nfièvre;1\n".encode("latin-1"))
    semicolons = Table(delimiter=";")
    assert records(path, encoding="latin-1", table=semicolons) == [{"q": "fièvre", "a": "1"}]
    with pytest.raises(UserError, match=r"x.csv:2: not utf-8-sig \(byte 0xe8\); declare its encoding="):
        records(path, table=semicolons)
    path.write_bytes("q,a\nx,y\n".encode("utf-16"))
    assert records(path, encoding="utf-16") == [{"q": "x", "a": "y"}]
    path.write_text('"he said\t"yes"\n', encoding="utf-8")
    assert records(path, table=Table(delimiter="\t", quote="", columns=["q", "a"])) == [{"q": '"he said', "a": '"yes"'}]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"delimiter": ", "}, "Table: delimiter=', ' must be one character"),
        ({"delimiter": ""}, "Table: delimiter='' must be one character"),
        ({"quote": "''"}, "Table: quote=\"''\" must be one character"),
        ({"columns": "q"}, "Table: columns='q' must be a tuple of names"),
    ],
)
def test_bad_tables_are_refused(options: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        Table(**options)
    assert str(error.value) == message


# Parquet


def test_parquet_keeps_types_and_nests(tmp_path: Path) -> None:
    rows = [{"q": "é", "n": 2, "messages": [{"role": "user", "content": "x"}]}, {"q": None, "n": 3, "messages": []}]
    path = parquet(tmp_path / "x.parquet", rows)
    assert list(read_records(path)) == [(f"{path}[0]", rows[0]), (f"{path}[1]", rows[1])]
    assert field_text(rows[0], "n", "x") == "2" and field_text(rows[1], "q", "x") == ""
    (_, record), *_ = read_records(parquet(tmp_path / "bytes.parquet", [{"q": b"x"}]))
    with pytest.raises(UserError, match="here: 'q' is a bytes, must be text"):
        field_text(record, "q", "here")


# Patterns


def test_patterns_are_sorted_and_pass_over_hidden_files_and_folders(tmp_path: Path) -> None:
    for name in ("b.jsonl", "a.jsonl", ".c.jsonl", "sub/d.jsonl"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps({"name": name}), encoding="utf-8")
    (tmp_path / "folder.jsonl").mkdir()
    assert [p.name for p in find_files(tmp_path / "*.jsonl")] == ["a.jsonl", "b.jsonl"]
    assert [r["name"] for r in records(tmp_path / "**" / "*.jsonl")] == ["a.jsonl", "b.jsonl", "sub/d.jsonl"]
    bracketed = tmp_path / "x[1].jsonl"
    bracketed.write_text("{}", encoding="utf-8")
    assert find_files(bracketed) == [bracketed]  # a file of that very name is no pattern
    with pytest.raises(UserError, match=r"\*.csv: no file fits this pattern"):
        find_files(tmp_path / "*.csv")


# Faults

LONG = "x" * (10 * 2**20)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.jsonl", b"", "x.jsonl: no records in this file"),
        ("x.jsonl", b"\n \n", "x.jsonl: no records in this file"),
        ("x.json", b"[]", "x.json: no records in this file"),
        ("x.csv", b"q,a\n", "x.csv: no records in this file"),
        (
            "x.jsonl.gz",
            gzip.compress(b'{"q": 1}\n' * 99, mtime=0)[:-9],
            "x.jsonl.gz: cannot be read: Compressed file ended",
        ),
        ("x.jsonl.gz", b'{"q": 1}\n', "x.jsonl.gz: cannot be read: Not a gzipped file"),
        ("x.jsonl.zst", zst(b'{"q": 1}\n' * 99)[:-5], "x.jsonl.zst: cannot be read: Truncated"),
        ("x.jsonl.zst", b"plain text", "x.jsonl.zst: cannot be read: ZSTD"),
        ("x.jsonl", b'{"q": 1}\n{"q": "\xe9"}\n', "x.jsonl:2: not utf-8-sig (byte 0xe9); declare its encoding="),
        ("x.json", b'{\n "q": 1\n}', "x.json:1: not JSON"),
        ("x.jsonl", b'{"q": ' + b"[" * 100_000, "x.jsonl:1: not JSON: maximum recursion depth"),
        ("x.jsonl", b'{"q": 1}\n"text"\n', "x.jsonl:2: expected a JSON object, found str"),
        ("x.csv", b"q,a\n1,2\n1,2,3\n", "x.csv:3: this row has 3 fields, the header has 2"),
        ("x.csv", b'q,a\n"1\n",2\n3\n', "x.csv:4: this row has 1 fields, the header has 2"),
        ("x.csv", b'q,a\n1,2\n"never ends,\nx\ny', "x.csv:3: not a row of this table: unexpected end of data"),
        ("x.csv", b'q,a\n"he" said,2\n', "x.csv:2: not a row of this table: ',' expected after '\"'; if quotes"),
        ("x.csv", b"q,a,q\n1,2,3\n", "x.csv:1: column 'q' comes twice in the header"),
        ("x.parquet", b"", "x.parquet: cannot be read as Parquet: Parquet file size is 0 bytes"),
        ("x.parquet", b"plain text, and some more", "x.parquet: cannot be read as Parquet: Parquet magic bytes"),
    ],
)
def test_bad_files(tmp_path: Path, name: str, data: bytes, message: str) -> None:
    path = tmp_path / name
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        records(path)
    assert str(error.value).startswith(f"{tmp_path}/{message}") and "\n" not in str(error.value)


def test_missing_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.csv.zst").write_bytes(b"")
    for name, message in (
        ("empty", "empty: a folder, not a file; and it is empty"),
        (".", ": a folder, not a file; name one of its files, or a pattern such as '*.jsonl'"),
        ("note.csv.zst", "note.csv.zst: no such file. Did you mean 'notes.csv.zst'?"),
        ("absent/x.csv", "absent/x.csv: no such file."),
        ("empty/*", "empty/*: no file fits this pattern"),
    ):
        with pytest.raises(UserError) as error:
            records(tmp_path / name)
        assert str(error.value).endswith(message), name
    with pytest.raises(UserError, match="absent.json: no such file"):
        read_json(tmp_path / "absent.json")
    with pytest.raises(UserError, match="absent.txt: no such file"):
        find_file(tmp_path / "absent.txt")


def test_a_missing_column_is_named_with_the_nearest_or_all(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_text("question,answer\n1,2\n", encoding="utf-8")
    ((where, record),) = read_records(path)
    with pytest.raises(UserError, match="x.csv:2: no 'qestion' in this record. Did you mean 'question'?"):
        field_text(record, "qestion", where)
    with pytest.raises(UserError, match="x.csv:2: no 'dialogue' in this record. It has question, answer."):
        field_text(record, "dialogue", where)


@pytest.mark.parametrize(
    ("name", "text"),
    [("x.jsonl", f'{{"q": "{LONG}"}}\n'), ("x.csv", f'q\n"{LONG}"\n'), ("x.tsv", f"q\n{LONG}")],
    ids=["jsonl", "csv", "tsv"],
)
def test_a_line_of_ten_mebibytes(tmp_path: Path, name: str, text: str) -> None:
    path = tmp_path / name
    path.write_text(text, encoding="utf-8")
    assert records(path) == [{"q": LONG}]


# Fingerprints


def test_reading_does_not_change_a_fingerprint(tmp_path: Path) -> None:
    """pyarrow is loaded by the first file that needs it: a task's fingerprint must not tell before from after."""
    path = parquet(tmp_path / "x.parquet", [{"q": "x"}])
    code = f"""
import sys
from itune.data.fingerprint import Describer, digest
from itune.data.readers import read_records
def fingerprint():
    describer = Describer("toy")
    return digest([describer.describe(read_records, "rows"), describer.objects])
before = fingerprint()
assert "pyarrow" not in sys.modules
assert [r for _, r in read_records({str(path)!r})] == [{{"q": "x"}}]
assert "pyarrow" in sys.modules and fingerprint() == before
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT)
    assert done.returncode == 0, done.stderr


def test_how_a_table_is_read_enters_the_fingerprint() -> None:
    def fingerprint(table: Table) -> str:
        describer = Describer("toy")
        return digest([describer.describe(table, "table"), describer.objects])

    assert fingerprint(Table(delimiter=";")) == fingerprint(Table(delimiter=";")) != fingerprint(Table())
    described = Describer("toy")
    described.describe(read_records, "rows")
    labels = " ".join(described.objects)
    for function in (
        "_decode",
        "_table_rows",
        "parquet_records",
        "arrow_records",
        "tfrecord_records",
        "_unpack_zst",
        "hub_files",
        "fetched",
    ):
        assert f"{function}#" in labels  # a change to any reader makes prepared data stale


def test_text_less_its_mark_whatever_the_declared_encoding(tmp_path: Path) -> None:
    path = tmp_path / "x.txt"
    path.write_bytes("é".encode("utf-8-sig"))
    assert read_text(path, "utf-8") == read_text(path) == "é"
    path.write_bytes("é".encode("utf-16")[:-1])
    with pytest.raises(UserError, match="x.txt:1: not utf-16"):
        read_text(path, "utf-16")
