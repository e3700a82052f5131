"""What a source reads, as inputs of the manifest: files, and what patterns and folders stand for."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest

from itune.data.manifest import InputFile, Manifest, list_pattern
from itune.data.source_files import data_files
from tests.data.toy import Toy

TASKS = """
    from itune.data import add_mixture, prompt_completion_task
    prompt_completion_task("sums/one", {path}, licence="CC0-1.0", validation_fraction=0.0)
    add_mixture("sums", ["sums/one"])
"""


def part(path: Path, *answers: str) -> Path:
    rows = [{"prompt": f"What is {answer}?", "completion": answer} for answer in answers]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def test_a_file_that_comes_to_fit_a_pattern_is_noticed(toy: Toy) -> None:
    first = part(toy.folder / "notes" / "part-1.jsonl", "one")
    toy.write(TASKS.format(path=repr(str(toy.folder / "notes" / "part-*.jsonl"))))
    manifest = toy.prepare(eval_split="train")
    before = toy.fingerprint()
    assert manifest.still_valid() is None and manifest.refreshed() == manifest
    part(toy.folder / "notes" / "other.jsonl", "none")
    assert manifest.still_valid() is None
    second = part(toy.folder / "notes" / "part-2.jsonl", "two")
    assert manifest.still_valid() == f"{toy.folder}/notes/part-*.jsonl stands for other files now"
    assert toy.fingerprint() != before
    second.unlink()
    assert manifest.still_valid() is None and toy.fingerprint() == before
    first.unlink()
    assert manifest.still_valid() == f"{first} is gone"


def test_where_files_lie_does_not_enter_a_fingerprint(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        part(tmp_path / folder / "part-1.jsonl", "one")
    digests = [InputFile(path=str(tmp_path / f / "part-1.jsonl"), size=1, mtime_ns=1, sha256="x") for f in "ab"]
    one, other = ([digest, list_pattern(tmp_path / f / "part-*")] for digest, f in zip(digests, "ab", strict=True))
    assert one != other and data_files(one) == data_files(other) == [("part-1.jsonl", "x")]


def test_a_plain_file_beside_a_packed_one_is_noticed(toy: Toy) -> None:
    path = toy.folder / "x.jsonl"
    path.with_suffix(".jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "q", "completion": "a"}\n'))
    toy.write(TASKS.format(path=repr(str(path))))
    manifest = toy.prepare(eval_split="train")
    assert manifest.still_valid() is None
    part(path, "two")
    assert manifest.still_valid() == f"{path} stands for other files now"


@pytest.mark.parametrize("path", ["gs://bucket/part-*.jsonl", "gs://bucket/x.jsonl"])
def test_entries_of_files_at_urls_are_not_looked_up_on_this_disk(path: str) -> None:
    entries = [InputFile(path=f"{mark}{path}", size=1, mtime_ns=0, sha256="x") for mark in ("", "pattern:")]
    assert [(e.is_remote, e.is_pattern) for e in entries] == [(True, False), (True, True)]
    nothing: dict = {"train": [], "held_in": [], "held_out": [], "versions": {}, "request": {}}
    manifest = Manifest(mixture="m", tokenizer="t", inputs=entries, **nothing)
    assert manifest.refreshed() == manifest
