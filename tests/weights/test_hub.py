"""hf:ORG/NAME from a local cache in the hub's own layout; no network is there to be asked."""

from __future__ import annotations

import json
import shutil
import types
from pathlib import Path

import pytest

from itune.errors import UserError
from itune.weights import resolve
from tests.world import write_model

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """A cache that holds acme/tiny at one commit, which main and v1 name."""
    from huggingface_hub import constants

    home = tmp_path / "hub"
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(home))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repo = home / "models--acme--tiny"
    for ref in ("main", "v1"):
        (repo / "refs").mkdir(parents=True, exist_ok=True)
        (repo / "refs" / ref).write_text(COMMIT)
    made = write_model(tmp_path / "made")
    snapshot, blobs = repo / "snapshots" / COMMIT, repo / "blobs"
    snapshot.mkdir(parents=True)
    blobs.mkdir()
    for number, path in enumerate(sorted(made.iterdir())):
        shutil.copy(path, blobs / f"{number:040}")
        (snapshot / path.name).symlink_to(Path("../../blobs") / f"{number:040}")
    return snapshot


@pytest.mark.parametrize("source", ["hf:acme/tiny", "hf:acme/tiny@v1", f"hf:acme/tiny@{COMMIT}"])
def test_a_cached_model_needs_no_network(hub, source):
    lines = []
    assert resolve(source, echo=lines.append).resolve() == hub.resolve()
    assert lines == []


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("hf:tiny", r"a model on the hub is hf:ORG/NAME or hf:ORG/NAME@REVISION"),
        ("hf:acme/tiny@", r"a model on the hub is hf:ORG/NAME"),
        (
            "hf:acme/other",
            r"hf:acme/other: not .* in the local cache, and it cannot be fetched .* hf download acme/other",
        ),
        ("hf:acme/tiny@v2", r"hf:acme/tiny@v2: not .* in the local cache"),
    ],
)
def test_what_cannot_be_had_is_one_line(hub, source, message):
    with pytest.raises(UserError, match=message) as caught:
        resolve(source, echo=lambda line: None)
    assert "\n" not in str(caught.value)


def test_a_download_that_was_cut_short_is_not_taken_for_whole(hub):
    """One of two shards, or a tokenizer alone."""
    weights = hub / "model.safetensors"
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (hub / "model.safetensors.index.json").write_text(json.dumps(index))
    weights.rename(hub / "model-00001-of-00002.safetensors")
    with pytest.raises(UserError, match=r"not \(whole\) in the local cache"):
        resolve("hf:acme/tiny", echo=lambda line: None)
    (hub / "model.safetensors.index.json").unlink()
    (hub / "model-00001-of-00002.safetensors").unlink()
    with pytest.raises(UserError, match=r"no \*.safetensors file here"):
        resolve("hf:acme/tiny", echo=lambda line: None)


def test_pickles_in_a_cached_model_stay_where_they_are(hub):
    (hub / "model.safetensors").unlink()
    (hub / "pytorch_model.bin").write_bytes(b"never read")
    with pytest.raises(UserError, match=r"pytorch_model.bin is a pickle: .* python -c"):
        resolve("hf:acme/tiny", echo=lambda line: None)


def errors():
    from huggingface_hub import errors as found

    return found


@pytest.mark.parametrize(
    ("name", "message"),
    [
        (
            "GatedRepoError",
            "its owner asks for access: accept the terms on .*/acme/tiny, then set HF_TOKEN",
        ),
        ("RevisionNotFoundError", "no revision None"),
        ("RepositoryNotFoundError", "no such model on the hub, or one that needs HF_TOKEN"),
    ],
)
def test_what_the_hub_answers_is_told(monkeypatch, name, message):
    import huggingface_hub

    def download(repo, local_files_only=False, **options):
        if local_files_only:
            raise errors().LocalEntryNotFoundError("not here")
        response = types.SimpleNamespace(headers={}, request=None)
        raise getattr(errors(), name)("no", response=response)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError, match=message):
        resolve("hf:acme/tiny", echo=lambda line: None)


def test_only_what_is_read_is_fetched(monkeypatch):
    import fnmatch

    from itune.weights.hub import IGNORED, PATTERNS

    wanted = [
        "config.json",
        "model-00001-of-00002.safetensors",
        "tokenizer.json",
        "chat_template.jinja",
        "spiece.model",
    ]
    unwanted = ["pytorch_model.bin", "original/consolidated.00.pth", "onnx/model.onnx", "tf_model.h5", "a.gguf"]
    unwanted += [
        "consolidated.safetensors",
        "training_args.bin",
        "pytorch_model.bin.index.json",
        "original/params.json",
    ]

    def kept(name):
        fits = lambda patterns: any(fnmatch.fnmatch(name, pattern) for pattern in patterns)  # noqa: E731
        return fits(PATTERNS) and not fits(IGNORED)

    assert [name for name in wanted + unwanted if kept(name)] == wanted
