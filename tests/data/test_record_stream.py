"""`stream_records` is `read_records`, a record at a time."""

from __future__ import annotations

import gzip
import json
import random

import pytest

from itune.data import record_stream
from itune.data.readers import read_records
from itune.data.record_stream import stream_records
from itune.errors import UserError

TEXTS = ["plain", "ein Ü", "日本\u2028語", '"[{]},\\', "", "😀" * 5, "x" * 300, "-1e5", "\\u00e9"]


@pytest.mark.parametrize("chunk", [1, 2, 7, 64, 1 << 20])
@pytest.mark.parametrize("layout", ["lines", "list", "indented", "bom"])
@pytest.mark.parametrize("suffix", ["", ".gz", ".zst"])
def test_it_reads_what_read_records_reads(tmp_path, monkeypatch, chunk, layout, suffix):
    monkeypatch.setattr(record_stream, "CHUNK", chunk)
    keyed = random.Random(chunk)
    records = [{"n": i, "t": keyed.choice(TEXTS), "deep": [{"a": [None, 1.5, True]}]} for i in range(30)]
    ascii_only = chunk == 7
    if layout == "lines":
        text = "\n".join(json.dumps(record, ensure_ascii=ascii_only) for record in records) + "\n\n"
    else:
        text = json.dumps(records, ensure_ascii=ascii_only, indent=4 if layout == "indented" else None)
    data = text.encode("utf-8-sig" if layout == "bom" else "utf-8")
    path = tmp_path / f"records.json{suffix}"
    if suffix == ".zst":
        import pyarrow

        with pyarrow.OSFile(str(path), "wb") as file, pyarrow.CompressedOutputStream(file, "zstd") as stream:
            stream.write(data)
    else:
        path.write_bytes(gzip.compress(data) if suffix else data)
    assert list(stream_records(path)) == list(read_records(path)) and len(list(stream_records(path))) == 30


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b'{"a": 1}\n{"a": \n', r"x.json:2: not JSON: .*; expected a record a line, or one list"),
        (b'{"a": 1}\n{"a": "\xff"}\n', r"x.json:2: not utf-8 \(byte 0xff\); convert the file"),
        (b'[{"a": 1}, {"a" 2}, ' + b'{"a": 3}, ' * 50 + b"]", r"x.json\[1\]: not JSON: Expecting ':' delimiter"),
        (b'[{"a": 1}, {"a": 2}', r"x.json\[2\]: not JSON"),
        (b'[{"a": 1}, {"a": "unended}]', r"x.json\[1\]: not JSON: Unterminated string"),
        (b'[{"a": "\xff"}]', r"x.json\[0\]: not utf-8 \(byte 0xff\); convert the file"),
        (b'[{"a": 1}, 7]', r"x.json\[1\]: expected a JSON object, found int"),
        (b"[]", "x.json: no records in this file"),
        (b"", "x.json: no records in this file"),
    ],
)
def test_faults_name_file_and_record(tmp_path, data, message):
    path = tmp_path / "x.json"
    path.write_bytes(data)
    with pytest.raises(UserError, match=message):
        list(stream_records(path))


def test_a_broken_list_is_not_read_to_its_end(tmp_path, monkeypatch):
    monkeypatch.setattr(record_stream, "CHUNK", 64)
    monkeypatch.setattr(record_stream, "LONGEST", 256)
    path = tmp_path / "x.json"
    path.write_bytes(b'[{"a": "never ends ' + b"x" * 100_000 + b"\xff")  # a byte that would be another error
    with pytest.raises(UserError, match=r"x.json\[0\]: not JSON: Unterminated string"):
        list(stream_records(path))


def test_packed_files_cut_short_and_missing_ones(tmp_path):
    path = tmp_path / "x.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"a": 1}\n' * 1000)[:-10])
    with pytest.raises(UserError, match="x.jsonl.gz: cannot be read: "):
        list(stream_records(path))
    with pytest.raises(UserError, match="y.jsonl: no such file"):
        list(stream_records(tmp_path / "y.jsonl"))
