"""Prepare on a Beam runner: the bytes of the local pool, and nothing done twice."""

from __future__ import annotations

import hashlib
import os
import sys
from pathlib import Path

import pytest

from itune.errors import UserError
from tests.data.toy import TASKS, Toy, modes, split_of

DEAD = """
    def fails(split):
        raise OSError("gone")
    add_task("dead", source=RowSource(fails, fields=("question", "answer")), templates=(ASK,), cluster="d",
             identity="d", **RIGHTS)
    add_mixture("with_dead", ["sums", "secret", "dead"])
"""
# In this process: the default lets Beam look for a runner of its own to fetch.
OPTIONS = ["--direct_running_mode=in_memory"]


def _files(cache: Path) -> dict[str, str]:
    files = [p for p in (cache / "prepared").glob("*/*/*") if p.is_file()]
    return {str(p.relative_to(cache)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def _stamps(cache: Path) -> dict[str, tuple[int, int]]:
    return {name: ((cache / name).stat().st_ino, (cache / name).stat().st_mtime_ns) for name in _files(cache)}


def test_a_runner_writes_the_bytes_of_the_local_pool_and_once(toy: Toy) -> None:
    pytest.importorskip("apache_beam")
    toy.write(TASKS + DEAD)
    asked = {"mixture": "with_dead", "variants": 2, "on_failed_source": "skip"}
    local = toy.prepare(**asked)
    cache = toy.folder / "cache"
    expected = _files(cache)
    assert len(expected) == 3 * 2 * 3
    (cache / "prepared").rename(toy.folder / "before")
    beam = toy.prepare(**asked, runner="FnApiRunner", beam_options=OPTIONS)
    assert _files(cache) == expected
    assert (beam.train, beam.failed, beam.held_in) == (local.train, local.failed, local.held_in)
    assert [entry.name for entry in beam.failed] == ["dead"]
    assert modes(Path(split_of(beam, "secret").dir).parent) == {"0o700", "0o600"}
    assert not list((cache / "prepared").glob(".beam-*"))
    stamps = _stamps(cache)
    toy.prepare(**asked, runner="FnApiRunner", beam_options=OPTIONS)
    assert _stamps(cache) == stamps


def test_one_runner_takes_up_what_another_left(toy: Toy) -> None:
    pytest.importorskip("apache_beam")
    toy.prepare(mixture="sums/one")
    stamps = _stamps(toy.folder / "cache")
    toy.prepare(mixture="sums", runner="FnApiRunner", beam_options=OPTIONS)
    assert len(_stamps(toy.folder / "cache")) == 2 * len(stamps)
    assert stamps.items() <= _stamps(toy.folder / "cache").items()


def test_without_beam_the_runner_is_one_clear_line(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "apache_beam", None)
    monkeypatch.delitem(sys.modules, "itune.data.prepare_beam", raising=False)
    monkeypatch.delattr("itune.data.prepare_beam", raising=False)
    with pytest.raises(UserError, match=r"--runner needs Apache Beam, .*: pip install 'itune\[beam\]'"):
        toy.prepare(runner="DirectRunner")


def test_an_unknown_runner_is_named(toy: Toy) -> None:
    pytest.importorskip("apache_beam")
    with pytest.raises(UserError, match="--runner=NoSuchRunner: "):
        toy.prepare(runner="NoSuchRunner")
    assert os.listdir(toy.folder / "cache" / "prepared").count(".beam") == 0
