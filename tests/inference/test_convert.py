"""A run goes out and comes in again: as a folder, as an adapter over its base, as what another run starts from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import jax
import numpy as np
import pytest

from itune.errors import UserError
from itune.inference import session
from itune.inference.convert import convert
from itune.models.decoder import logits
from itune.weights import resolve
from itune.weights.load import load_base
from tests.world import World


def quiet(line: str) -> None:
    pass


@pytest.fixture
def run(small_run: World, monkeypatch) -> Path:
    environment = small_run.environment()
    monkeypatch.setenv("ITUNE_CACHE_DIR", environment["ITUNE_CACHE_DIR"])
    return small_run.folder / "runs" / "lora"


def some_logits(model) -> np.ndarray:
    tokens = np.arange(3, 27, dtype=np.int32)[None]
    batch = (tokens, np.ones_like(tokens), np.arange(24, dtype=np.int32)[None])
    return np.asarray(jax.jit(lambda p: logits(model.spec.merge(p), *batch, model.compute))(model.params))


def largest_difference(one: np.ndarray, other: np.ndarray) -> float:
    return float(np.abs(one - other).max() / np.abs(one).max())


def test_merged_and_separate_compute_what_the_run_does(run, small_run, tmp_path):
    tuned, base = session.load(str(run)), session.load(str(small_run.model))
    expected = some_logits(tuned)
    assert largest_difference(expected, some_logits(base)) > 1e-4
    convert(str(run), tmp_path / "merged", dtype="float32", echo=quiet)
    convert(str(run), tmp_path / "adapter", separate=True, dtype="float32", echo=quiet)
    merged = session.load(str(tmp_path / "merged"))
    assert largest_difference(expected, some_logits(merged)) < 1e-5
    over = session.load(str(small_run.model), adapter=str(tmp_path / "adapter"))
    assert largest_difference(expected, some_logits(over)) < 1e-6
    convert(str(small_run.model), tmp_path / "again", adapter=str(tmp_path / "adapter"), dtype="float32", echo=quiet)
    assert largest_difference(expected, some_logits(session.load(str(tmp_path / "again")))) < 1e-5


def test_the_folder_says_what_it_is(run, tmp_path):
    convert(str(run), tmp_path / "out", step="1", echo=quiet)
    card = (tmp_path / "out" / "README.md").read_text()
    assert card.startswith("---\nlicense: ")
    for expected in ("tuned with itune to step 1", "toy/add", "toy/count", "## How to prompt it", "## Licences"):
        assert expected in card, expected
    assert (tmp_path / "out" / "itune_config.gin").is_file()
    assert json.loads((tmp_path / "out" / "generation_config.json").read_text())["eos_token_id"] is not None


def test_another_run_can_start_from_it(run, small_run, tmp_path):
    """`runs/mine@STEP` is a source: its checkpoint merged, made once; another checkpoint is another folder."""
    first, newest = resolve(f"{run}@1", echo=quiet), resolve(str(run), echo=quiet)
    assert first != newest and resolve(str(run), echo=quiet) == newest
    spec = session.load(str(newest)).spec
    expected = some_logits(session.load(str(run)))
    assert largest_difference(expected, some_logits(session.load(str(newest)))) < 1e-5
    one, other = load_base(first, spec), load_base(newest, spec)
    assert any(not np.array_equal(one[path], other[path]) for path in one)
    with pytest.raises(UserError, match=r"--step=7: .* has no checkpoint of that step"):
        resolve(f"{run}@7", echo=quiet)
    done = small_run.train("runs/second", "--gin.TRAIN_STEPS=1", f"--gin.WeightsConfig.source='{run}'")
    assert done.returncode == 0, done.stderr[-2000:]
    convert(str(small_run.folder / "runs/second"), tmp_path / "out", echo=quiet)
    card = (tmp_path / "out" / "README.md").read_text()
    assert "## Tuned before" in card and "on `toy` to step 2" in card, card
    assert json.loads((tmp_path / "out" / "SOURCE.json").read_text())["tuned"][-1].endswith("to step 1")


def test_the_licence_and_the_precision_of_the_base_go_along(run, small_run, tmp_path):
    """Through a folder with a card of its owners', a run, and that run's own folder as the base of the next card."""
    base = tmp_path / "base"
    shutil.copytree(small_run.model, base)
    (base / "README.md").write_text("---\nlicense: other\nlicense_name: gemma\n---\n# Model\n")
    convert(str(base), tmp_path / "first", echo=quiet)
    assert "license: gemma" in (tmp_path / "first" / "README.md").read_text()
    record = json.loads((tmp_path / "first" / "SOURCE.json").read_text())
    facts = {"file": "x-Q4_1.gguf", "quantised": "Q4_1", "precision": "4-bit dequantised"}
    (tmp_path / "first" / "SOURCE.json").write_text(json.dumps(record | facts))
    convert(str(tmp_path / "first"), tmp_path / "second", echo=quiet)
    card = (tmp_path / "second" / "README.md").read_text()
    assert "license: gemma" in card and "4-bit dequantised (from x-Q4_1.gguf)" in card
    convert(str(run), tmp_path / "adapter", separate=True, echo=quiet)
    assert "library_name: peft" in (tmp_path / "adapter" / "README.md").read_text()


def test_training_goes_on_from_an_adapter_of_pefts(run, small_run, tmp_path):
    convert(str(run), tmp_path / "adapter", separate=True, dtype="float32", echo=quiet)
    given = f"--gin.WeightsConfig.adapter='{tmp_path / 'adapter'}'"
    done = small_run.train("runs/on", "--gin.TRAIN_STEPS=1", given)
    assert done.returncode == 0, done.stderr[-2000:]
    before = json.loads((small_run.folder / "runs/on/evaluation.json").read_text())["pooled"]["held_in"]["loss_before"]
    after = json.loads((small_run.folder / "runs/lora/evaluation.json").read_text())["pooled"]["held_in"]["loss_after"]
    assert np.isclose(before, after, rtol=1e-4)
    other = small_run.train("runs/other", "--gin.TRAIN_STEPS=1", given, "--gin.LoRAConfig.rank=3")
    assert other.returncode == 2 and "LoRAConfig.rank=3, but" in other.stderr


def test_an_adapter_does_not_go_over_a_run(run):
    with pytest.raises(UserError, match="is a run, with what it trained itself"):
        session.load(str(run), adapter="anything")
