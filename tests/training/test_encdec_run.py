"""An encoder-decoder through the whole of it: trained, measured, generated from, converted."""

from __future__ import annotations

import dataclasses
import json
import shutil
from pathlib import Path

import pytest

from itune.models.config import EncoderDecoderConfig
from itune.models.families import read_config
from tests.parity import families, our_families
from tests.training.test_loop import QUICK, assert_same_run, slowed, wait_for_step
from tests.world import World

T5 = """
DataConfig.converter = "encoder_decoder"
DataConfig.prompt_format = "seq2seq"
DataConfig.encoder_row_length = 128
"""


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    """A World whose model is a tiny Flan-T5 with the same tokenizer."""
    world = World(tmp_path_factory.mktemp("t5"))
    decoder = world.model.rename(world.folder / "decoder")
    vocab_size = json.loads((decoder / "config.json").read_text())["vocab_size"]
    world.model.mkdir()
    fields = families.T5S["flan_t5"] | {"vocab_size": vocab_size}
    (world.model / "config.json").write_text(json.dumps(fields))
    config = read_config(world.model)
    assert isinstance(config, EncoderDecoderConfig) and dataclasses.replace(config, vocab_size=101).gated
    tensors = our_families.shapes(our_families.model_spec(config))
    families.write_folder(world.model, "flan_t5", tensors)
    (world.model / "config.json").write_text(json.dumps(fields))
    for path in decoder.glob("*token*"):
        shutil.copy(path, world.model)
    recipe = world.recipe.read_text().replace("TRAIN_STEPS = 8", "TRAIN_STEPS = 12")
    world.recipe.write_text(recipe.replace("LearningRateConfig.peak = 1e-3", "LearningRateConfig.peak = 5e-3") + T5)
    return world


@pytest.mark.slow
def test_from_training_to_a_converted_folder(world):
    whole = world.train("runs/whole")
    assert whole.returncode == 0, whole.stderr[-2000:]
    lines = [json.loads(line) for line in (world.folder / "runs/whole/metrics.jsonl").read_text().splitlines()]
    losses = [line["loss"] for line in lines if "loss" in line]
    assert len(losses) == 12 and losses[-1] < losses[0] - 0.5
    evaluation = json.loads((world.folder / "runs/whole/evaluation.json").read_text())
    pooled = evaluation["pooled"]["held_in"]
    assert pooled["loss_after"] < pooled["loss_before"]
    asked = world.start("--model=runs/whole", "--prompt=3 plus 2 is", "--max_new_tokens=4", module="itune.generate")
    out, err = asked.communicate(timeout=300)
    assert asked.returncode == 0, err
    made = world.start("--model=runs/whole", "--to=out", "--dtype=float32", module="itune.convert")
    _, err = made.communicate(timeout=300)
    assert made.returncode == 0, err
    again = world.start("--model=out", "--prompt=3 plus 2 is", "--max_new_tokens=4", module="itune.generate")
    assert again.communicate(timeout=300)[0] == out


@pytest.mark.slow
def test_a_run_that_goes_on_from_a_checkpoint_ends_with_the_same_bits(world):
    assert world.train("runs/all", *QUICK).returncode == 0
    process = slowed(world, "runs/killed")
    wait_for_step(world, "runs/killed", 5, process)
    process.kill()
    process.communicate()
    resumed = world.train("runs/killed", *QUICK)
    assert resumed.returncode == 0 and "Going on from step" in resumed.stderr, resumed.stderr[-2000:]
    assert_same_run(world, "runs/killed", "runs/all")


def test_a_decoders_converter_is_refused(world):
    plain = ("DataConfig.converter='causal'", "DataConfig.prompt_format='plain'", "DataConfig.encoder_row_length=0")
    done = world.train("runs/plain", *(f"--gin.{binding}" for binding in plain))
    assert done.returncode == 2
    assert "is an encoder-decoder (t5_gated): it needs DataConfig.converter='encoder_decoder'" in done.stderr
    assert not list(Path(world.folder).glob("runs/plain/checkpoints/*"))
