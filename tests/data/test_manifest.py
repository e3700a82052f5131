"""Manifests: what makes one invalid, and how a run gets one without SeqIO."""

from __future__ import annotations

import dataclasses
import json
import os
import stat
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from itune.data import launch
from itune.data.config import DataConfig
from itune.data.manifest import (
    DigestCache,
    Manifest,
    PreparedSplit,
    PreparedTask,
    Request,
    installed_version,
    list_directory,
)
from itune.errors import UserError
from itune.evaluation.config import EvalConfig


@pytest.fixture
def manifest(tmp_path: Path) -> Manifest:
    """Depends on inputs/a.txt, the folder inputs/, and one prepared split."""
    (tmp_path / "inputs").mkdir()
    (tmp_path / "inputs" / "a.txt").write_text("one")
    split = tmp_path / "prepared" / "toy-00" / "train"
    split.mkdir(parents=True)
    for name in ("COMPLETED", "index.npz"):
        (split / name).write_text("{}")
    task = PreparedTask(
        name="toy",
        cluster="c",
        licence="CC0",
        identity="i",
        sensitive=False,
        overlong="drop",
        truncate_side="right",
        rate=1.5,
        metrics=["exact_match"],
        splits={"train": PreparedSplit(dir=str(split), fingerprint="00", examples=1, variants=1, skipped=0)},
    )
    digests = DigestCache(tmp_path / "digests.json")
    return Manifest(
        mixture="toy",
        tokenizer="t",
        train=[task],
        held_in=[task],
        held_out=[],
        inputs=[digests.digest(tmp_path / "inputs" / "a.txt"), list_directory(tmp_path / "inputs")],
        versions={"numpy": str(installed_version("numpy")), "python": str(installed_version("python"))},
        request={"mixture": "toy"},
    )


def test_round_trip(manifest: Manifest, tmp_path: Path) -> None:
    manifest.save(tmp_path / "m.json")
    assert Manifest.load(tmp_path / "m.json") == manifest


def test_a_sensitive_manifest_is_private(manifest: Manifest, tmp_path: Path) -> None:
    secret = dataclasses.replace(manifest, train=[dataclasses.replace(manifest.train[0], sensitive=True)])
    secret.save(tmp_path / "m.json")
    assert stat.S_IMODE((tmp_path / "m.json").stat().st_mode) == 0o600


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format": 0}', '{"format": 1, "train": [3]}'])
def test_a_broken_file_is_named(text: str, tmp_path: Path) -> None:
    (tmp_path / "m.json").write_text(text)
    with pytest.raises(UserError, match=r"m\.json: not a manifest"):
        Manifest.load(tmp_path / "m.json")


def test_unchanged_is_valid(manifest: Manifest) -> None:
    assert manifest.still_valid() is None


def test_a_changed_input_is_named(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "inputs" / "a.txt"
    path.write_text("two")  # the same size
    os.utime(path, ns=(0, manifest.inputs[0].mtime_ns + 1))
    assert manifest.still_valid() == f"{path} has changed"
    path.write_text("longer")
    os.utime(path, ns=(0, manifest.inputs[0].mtime_ns))  # the same time
    assert manifest.still_valid() == f"{path} has changed"
    path.unlink()
    assert manifest.still_valid() == f"{path} is gone"


def test_a_touched_input_is_still_valid_and_read_once(manifest: Manifest, tmp_path: Path) -> None:
    path = tmp_path / "inputs" / "a.txt"
    os.utime(path, ns=(0, 5))
    assert manifest.still_valid() is None
    assert manifest.refreshed().inputs[0].mtime_ns == 5


def test_a_new_file_in_a_folder_is_noticed_but_no_cache(manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "inputs" / "__pycache__").mkdir()
    assert manifest.still_valid() is None
    (tmp_path / "inputs" / "new_task.py").write_text("")
    assert "files were added" in str(manifest.still_valid())


def test_another_version_is_named(manifest: Manifest) -> None:
    older = dataclasses.replace(manifest, versions={"numpy": "0.1"})
    assert str(older.still_valid()).endswith("it was 0.1")
    missing = dataclasses.replace(manifest, versions={"no-such-distribution": "1"})
    assert missing.still_valid() == "no-such-distribution is version None, it was 1"


@pytest.mark.parametrize("name", ["COMPLETED", "index.npz"])
def test_a_lost_shard_is_noticed(name: str, manifest: Manifest) -> None:
    (Path(manifest.train[0].splits["train"].dir) / name).unlink()
    assert "is gone or not complete" in str(manifest.still_valid())


def test_rechecking_two_thousand_inputs_takes_under_half_a_second(manifest: Manifest) -> None:
    many = dataclasses.replace(manifest, inputs=manifest.inputs * 1000, train=manifest.train * 1000)
    started = time.monotonic()
    assert many.still_valid() is None
    assert time.monotonic() - started < 0.5


def test_digests_are_remembered_by_size_and_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a"
    path.write_text("one")
    os.utime(path, ns=(10**18, 10**18))
    digests = DigestCache(tmp_path / "digests.json")
    first = digests.digest(path)
    digests.save()
    again = DigestCache(tmp_path / "digests.json")
    with monkeypatch.context() as patch:
        patch.setattr("itune.data.manifest.file_sha256", lambda path: pytest.fail("read again"))
        assert again.digest(path) == first
    path.write_text("two")
    assert again.digest(path).sha256 != first.sha256


# The trainer's side


@pytest.fixture
def prepared(manifest: Manifest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> list[Request]:
    """Stands in for the prepare process; the requests that it got."""
    requests: list[Request] = []

    def _prepare(request: Request, path: Path, echo: Any) -> None:
        requests.append(request)
        manifest.save(path)

    monkeypatch.setattr(launch, "_run_prepare", _prepare)
    return requests


def _ensure(tmp_path: Path, **fields: Any) -> Manifest:
    data = DataConfig(mixture="toy", **fields)
    return launch.ensure_prepared(data, EvalConfig(), tmp_path / "model", cache=tmp_path / "cache", echo=lambda _: None)


def test_a_valid_manifest_is_used_again(prepared: list[Request], manifest: Manifest, tmp_path: Path) -> None:
    assert _ensure(tmp_path) == manifest
    assert _ensure(tmp_path) == manifest
    assert len(prepared) == 1


def test_a_changed_input_prepares_again(prepared: list[Request], tmp_path: Path) -> None:
    _ensure(tmp_path)
    (tmp_path / "inputs" / "a.txt").write_text("longer")
    _ensure(tmp_path)
    assert len(prepared) == 2


def test_another_request_has_another_manifest(
    prepared: list[Request], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _ensure(tmp_path)
    _ensure(tmp_path, variants=2)
    _ensure(tmp_path, prompt_format="chat")
    monkeypatch.setenv("ITUNE_DATA_DIR", str(tmp_path))
    _ensure(tmp_path)
    assert [request.variants for request in prepared] == [1, 2, 1, 1]


def test_a_touched_input_is_refreshed_in_the_cache(prepared: list[Request], tmp_path: Path) -> None:
    _ensure(tmp_path)
    os.utime(tmp_path / "inputs" / "a.txt", ns=(0, 7))
    assert _ensure(tmp_path).inputs[0].mtime_ns == 7
    saved = next((tmp_path / "cache" / "manifests").glob("*.json"))
    assert json.loads(saved.read_text())["inputs"][0]["mtime_ns"] == 7
    assert len(prepared) == 1


def _child(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, source: str) -> None:
    """Runs `source` in place of `itune.prepare`, with the request's path in `asked`."""
    program = "import sys, pathlib\nasked = pathlib.Path(sys.argv[1].partition('=')[2])\n" + source
    script = tmp_path / "child.py"
    script.write_text(program)
    real = launch._stream
    monkeypatch.setattr(
        launch, "_stream", lambda command, *rest: real([sys.executable, str(script), *command[3:]], *rest)
    )


def test_the_childs_error_is_the_parents(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _child(tmp_path, monkeypatch, "asked.with_suffix('.error').write_text('task x: no'); sys.exit(2)")
    with pytest.raises(UserError, match=r"^task x: no$"):
        _ensure(tmp_path)


def test_a_killed_child_is_explained_and_leaves_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _child(tmp_path, monkeypatch, "import os; os.kill(os.getpid(), 9)")
    for _ in range(2):
        with pytest.raises(UserError, match="killed, probably for lack of memory"):
            _ensure(tmp_path)


def test_the_childs_lines_are_echoed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _child(tmp_path, monkeypatch, "print('prepare: 1/1'); sys.exit(3)")
    lines: list[str] = []
    with pytest.raises(UserError, match="status 3"):
        launch.ensure_prepared(
            DataConfig(mixture="toy"), EvalConfig(), tmp_path, cache=tmp_path / "cache", echo=lines.append
        )
    assert lines == ["preparing 'toy': not prepared before", "prepare: 1/1"]
