"""Files at URLs: Google's buckets through an emulator in this process, other systems through fsspec's memory."""

from __future__ import annotations

import gzip
import importlib
import json
import logging
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import fsspec
import pytest

from itune.data import JsonSource, find_file, find_files, read_json, read_records, read_text, remote
from itune.data.manifest import DigestCache, Manifest, remote_file
from itune.errors import UserError
from tests.data.toy import Toy
from tests.gcs import emulator

TASKS = """
    from itune.data import add_mixture, prompt_completion_task

    path = "{path}"
    prompt_completion_task("sums/one", path, licence="CC0-1.0", validation_fraction=0.0)
    add_mixture("sums", ["sums/one"])
"""


def lines(numbers: range) -> bytes:
    return b"".join(json.dumps({"prompt": f"é {i}?", "completion": str(i)}).encode() + b"\n" for i in numbers)


@pytest.fixture
def memory() -> Iterator[Any]:
    system = fsspec.filesystem("memory")
    yield system
    system.store.clear()
    system.pseudo_dirs[:] = [""]


@pytest.fixture(scope="module")
def bucket() -> Iterator[str]:
    """gs://itune-test, empty, in an emulator that lives as long as this module's tests."""
    pytest.importorskip("gcsfs")
    with emulator() as served:
        yield f"gs://{served.bucket}"


def put(url: str, data: bytes) -> str:
    system, inner = remote._open_system(url)
    system.pipe_file(inner, data)
    return url


def remove(url: str) -> None:
    system, inner = remote._open_system(url)
    system.rm_file(inner)


# Google's buckets


def test_a_bucket_is_read_as_a_folder_is(bucket: str) -> None:
    put(f"{bucket}/notes/part-1.jsonl", lines(range(2)))
    put(f"{bucket}/notes/part-2.jsonl.gz", gzip.compress(lines(range(2, 5))))
    put(f"{bucket}/other.json", b'\xef\xbb\xbf{"a": 1}')
    urls = [f"{bucket}/notes/part-1.jsonl", f"{bucket}/notes/part-2.jsonl.gz"]
    assert find_files(f"{bucket}/notes/part-*") == urls == find_files(Path(f"{bucket}/**/part-*"))
    found = list(read_records(f"{bucket}/notes/part-*"))
    assert [record["completion"] for _, record in found] == list("01234")
    assert [where for where, _ in found][1:3] == [f"{urls[0]}:2", f"{urls[1]}:1"]
    assert read_json(f"{bucket}/other.json") == {"a": 1} and read_text(Path(f"{bucket}/other.json")) == '{"a": 1}'


def test_parquet_and_arrow_and_tables_in_a_bucket(bucket: str, tmp_path: Path) -> None:
    arrow, parquet = importlib.import_module("pyarrow"), importlib.import_module("pyarrow.parquet")
    rows = [{"q": "é", "n": 1}, {"q": "\n", "n": 2}]
    table = arrow.Table.from_pylist(rows)
    parquet.write_table(table, tmp_path / "x.parquet")
    with arrow.ipc.new_stream(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    for name in ("x.parquet", "x.arrow"):
        url = put(f"{bucket}/tables/{name}", (tmp_path / name).read_bytes())
        assert list(read_records(url)) == [(f"{url}[0]", rows[0]), (f"{url}[1]", rows[1])]
    url = put(f"{bucket}/tables/x.csv", b'q,a\n"1\n2",3\n')
    assert list(read_records(url)) == [(f"{url}:2", {"q": "1\n2", "a": "3"})]


def test_faults_in_a_bucket_name_the_url(bucket: str) -> None:
    put(f"{bucket}/faults/train.jsonl", b'{"q": "\xe9"}\n')
    put(f"{bucket}/faults/cut.jsonl.gz", gzip.compress(lines(range(99)))[:-9])
    for path, message in (
        ("faults/train.jsonl", "faults/train.jsonl:1: not utf-8-sig (byte 0xe9); declare its encoding="),
        ("faults/cut.jsonl.gz", "faults/cut.jsonl.gz: cannot be read: Compressed file ended"),
        ("faults/trian.jsonl", "faults/trian.jsonl: no such file. Did you mean 'train.jsonl'?"),
        ("faults/*.csv", "faults/*.csv: no file fits this pattern"),
        ("faults", "faults: a folder, not a file; name one of its files, or a pattern such as '*.jsonl'"),
    ):
        with pytest.raises(UserError) as error:
            list(read_records(f"{bucket}/{path}"))
        assert str(error.value).startswith(f"{bucket}/{message}") and "\n" not in str(error.value)
    with pytest.raises(UserError, match="gs://no-such-bucket/x.json: no such file"):
        read_json("gs://no-such-bucket/x.json")


def test_a_task_over_a_bucket_is_prepared_and_rechecked(bucket: str, toy: Toy) -> None:
    one = put(f"{bucket}/task/part-1.jsonl", lines(range(3)))
    toy.write(TASKS.format(path=f"{bucket}/task/part-*.jsonl"))
    manifest = toy.prepare(eval_split="train")
    (train,) = manifest.train
    assert train.splits["train"].examples == 3
    inputs = {entry.path for entry in manifest.inputs}
    assert {one, f"pattern:{bucket}/task/part-*.jsonl"} <= inputs
    manifest.save(toy.folder / "manifest.json")
    manifest = Manifest.load(toy.folder / "manifest.json")
    assert manifest.still_valid() is None and manifest.refreshed() == manifest
    put(one, lines(range(3)))  # the same content again: another generation, the same checksum
    assert manifest.still_valid() is None
    two = put(f"{bucket}/task/part-2.jsonl", lines(range(3, 5)))
    assert manifest.still_valid() == f"{bucket}/task/part-*.jsonl stands for other files now"
    remove(two)
    before = toy.fingerprint()
    put(one, lines(range(4)))
    assert manifest.still_valid() == f"{one} has changed"
    assert toy.fingerprint() != before
    remove(one)
    assert manifest.still_valid() == f"{one} is gone"


# Any system of fsspec's


def test_other_systems_and_spellings(memory: Any) -> None:
    put("memory://box/a.jsonl", lines(range(2)))
    assert [r["completion"] for _, r in read_records("memory://box/*.jsonl")] == ["0", "1"]
    source = JsonSource(
        Path("memory://box/a.jsonl"), fields=("prompt",), split_by=("prompt",), identity="x", validation_fraction=0.0
    )
    assert source.files == ("memory://box/a.jsonl",) and source.num_input_examples("train") == 2
    for path in ("a/b.jsonl", "/a/b", "c:/x", "hf:org/name", "hf:/a/b", "a:b"):
        assert not remote.is_remote(path), path
    with pytest.raises(UserError, match="memory://box/a.jsonl: not on this machine; read_records"):
        find_file("memory://box/a.jsonl")


def test_the_copy_is_private_and_removed(memory: Any) -> None:
    put("memory://box/a.txt", b"secret")
    with remote.fetched("memory://box/a.txt") as copy:
        assert copy.name == "a.txt" and copy.parent.stat().st_mode & 0o077 == 0
    assert not copy.parent.exists()
    records = read_records(put("memory://box/b.jsonl", lines(range(9))))
    next(records)
    records.close()


@pytest.mark.parametrize(
    ("about", "version"),
    [
        ({"size": 3, "md5Hash": "m", "etag": "e", "generation": "1"}, (3, "md5Hash=m")),
        ({"size": 3, "crc32c": "c", "etag": "e"}, (3, "crc32c=c")),
        ({"size": None, "ETag": "e", "LastModified": "yesterday"}, (0, "ETag=e")),
        ({"size": 3, "generation": "7"}, (3, "generation=7")),
        ({"size": 3, "mtime": 1.5}, (3, "mtime=1.5")),
    ],
)
def test_what_tells_contents_apart(monkeypatch: pytest.MonkeyPatch, memory: Any, about: dict, version: tuple) -> None:
    monkeypatch.setattr(type(memory), "info", lambda self, path: about)
    assert remote.version("memory://a/b") == version
    monkeypatch.setattr(type(memory), "info", lambda self, path: {"size": 3, "type": "file"})
    with pytest.raises(UserError, match="memory://a/b: its server gives neither checksum, etag nor time"):
        remote.version("memory://a/b")


def test_a_change_is_noticed_by_size_or_version(memory: Any, tmp_path: Path) -> None:
    url = put("memory://box/a.jsonl", b"1")
    before = DigestCache(tmp_path / "d.json").digest(url)
    assert (before.path, before.size, before.mtime_ns) == (url, 1, 0) and remote_file(url) == before
    put(url, b"2")
    assert remote_file(url) != before


def test_without_the_network_the_answer_is_one_line(
    monkeypatch: pytest.MonkeyPatch, memory: Any, caplog: pytest.LogCaptureFixture
) -> None:
    entry = remote_file(put("memory://box/a.jsonl", b"1"))
    manifest = Manifest(
        mixture="m", tokenizer="t", train=[], held_in=[], held_out=[], inputs=[entry], versions={}, request={}
    )
    assert manifest.still_valid() is None

    def away(self: Any, path: str) -> None:
        logging.getLogger("gcsfs").exception("out of retries")
        raise ConnectionError("Cannot connect to host storage.example:443\nand so on")

    monkeypatch.setattr(type(memory), "info", away)
    message = "memory://box/a.jsonl: cannot be reached: ConnectionError: Cannot connect to host storage.example:443"
    with pytest.raises(UserError) as error:
        list(read_records("memory://box/a.jsonl"))
    assert str(error.value) == message
    with pytest.raises(UserError) as error:
        manifest.still_valid()
    assert str(error.value) == f"{message}; so it is not known whether the data has changed since it was prepared"
    assert not caplog.records


def test_a_download_that_stops_short_is_noticed(monkeypatch: pytest.MonkeyPatch, memory: Any) -> None:
    put("memory://box/a.jsonl", lines(range(9)))
    monkeypatch.setattr(type(memory), "get_file", lambda self, path, local: Path(local).write_bytes(b"{}"))
    with pytest.raises(UserError, match=r"memory://box/a.jsonl: 2 bytes arrived of \d+; try again"):
        list(read_records("memory://box/a.jsonl"))


def test_what_is_not_installed_or_known(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.delitem(importlib.import_module("fsspec.registry")._registry, "gs", raising=False)
    monkeypatch.setitem(sys.modules, "gcsfs", None)
    with pytest.raises(UserError, match="gs://b/x.jsonl: reading it needs gcsfs; pip install gcsfs"):
        list(read_records("gs://b/x.jsonl"))
    with pytest.raises(UserError, match="memori://b/x: fsspec knows no memori://. Did you mean 'memory'?"):
        list(read_records("memori://b/x"))
    monkeypatch.setitem(sys.modules, "fsspec.core", None)
    with pytest.raises(UserError, match="gs://b/x: reading it needs fsspec; pip install fsspec"):
        list(read_records("gs://b/x"))
