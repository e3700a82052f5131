"""Runs that share a step are what each is alone."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest

from itune.config.load import load_run
from itune.errors import UserError
from itune.inference.opening import read_checkpoint
from itune.training.stacked import shape_of, train_together
from tests.world import World

STEPS = 20
RUN = """
import json, logging, sys
from pathlib import Path
import jax
from itune.config.load import load_run
from itune.training.loop import train
from itune.training.session import Session
from itune.training.stacked import train_together

recipe, out, *more = sys.argv[1:]
said = ["TRAIN_STEPS=20", "EvalConfig.generate_per_task=0", "EvalConfig.chat_baseline=False", "DROPOUT_RATE=0.1",
        "CheckpointConfig.every=10", "LearningRateConfig.peak=1e-2", *more]
arms = {"first": [], "seed": ["RunConfig.seed=7"], "mixture": ["DataConfig.rate_factors={'toy/echo': 0.0}"],
        "rate": ["LearningRateConfig.peak=1e-3"], "diverges": ["LearningRateConfig.peak=1e30"]}
if more:
    arms = {name: arms[name] for name in ("first", "seed")}

def configs(kind):
    for name, other in arms.items():
        kept = [s for s in said if not any(a.split("=")[0] == s.split("=")[0] for a in other)]
        yield load_run([recipe], [*kept, *other], model_dir=f"{out}/{kind}/{name}")

jax.config.update("jax_log_compiles", True)
compiled = []
logging.getLogger("jax._src.dispatch").addFilter(lambda record: compiled.append(record.getMessage()))
session = Session(before=Path(out) / "before")
codes = [[train(c, session=session) for c in configs("alone")]]
counts = [len(session._kept[kind]) for kind in ("base", "model", "evaluator")]
counts.append(sum("compilation of jit(train_step)" in line for line in compiled))
jax.config.update("jax_log_compiles", False)
codes.append(train_together(list(configs("together")), session=session))
if not more:
    codes.append([train(list(configs("apart"))[1])])
print(json.dumps([codes, counts]))
"""
STEPS = 20
GOING_ON, DIVERGED = [0] * 4, [3]


def run(world: World, out: str, *more: str) -> tuple[list[list[int]], list[int]]:
    """(exit codes of the runs alone, together and, for one, in a session of its own; how much the first ones kept)."""
    command = [sys.executable, "-c", textwrap.dedent(RUN), str(world.recipe), str(world.folder / out), *more]
    done = subprocess.run(command, cwd=world.folder, env=world.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """alone/<arm> and together/<arm>, of the same configurations."""
    world = World(tmp_path_factory.mktemp("stacked"))
    codes, kept = run(world, ".")
    assert codes == [GOING_ON + DIVERGED, GOING_ON + DIVERGED, [0]]
    assert kept[:3] == [1, 1, 1], "one base, one model and one evaluator for five runs"
    assert kept[3] <= 2, "and one compiled step for each number of supervised tokens a row"
    return world.folder


def test_what_is_shared_changes_no_bit(trained: Path) -> None:
    shared, own = (read_checkpoint(trained / kind / "seed", None).params for kind in ("alone", "apart"))
    for path, array in own.items():
        np.testing.assert_array_equal(shared[path], array, err_msg=path)
    ends = [json.loads((trained / kind / "seed" / "evaluation.json").read_text()) for kind in ("alone", "apart")]
    assert ends[0]["after"] == ends[1]["after"]


def lines(run: Path) -> list[dict]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize("arm", ["first", "seed", "mixture", "rate"])
def test_each_run_is_what_it_is_alone(trained: Path, arm: str) -> None:
    alone, together = trained / "alone" / arm, trained / "together" / arm
    one, other = read_checkpoint(alone, None), read_checkpoint(together, None)
    assert one.step == other.step == STEPS and one.params.keys() == other.params.keys()
    for path, array in one.params.items():
        assert array.shape == other.params[path].shape
        np.testing.assert_allclose(other.params[path], array, atol=1e-5, err_msg=path)
    assert max(np.abs(a).max() for p, a in one.params.items() if p.endswith("lora_b")) > 1e-3, "it has learnt"
    steps = [[line for line in lines(run) if "loss" in line] for run in (alone, together)]
    assert [line["step"] for line in steps[0]] == [line["step"] for line in steps[1]] == list(range(1, STEPS + 1))
    for a, b in zip(*steps, strict=True):
        assert b["loss"] == pytest.approx(a["loss"], abs=1e-5) and b["grad_norm"] == pytest.approx(
            a["grad_norm"], rel=1e-4
        )
        assert b["task_tokens"] == a["task_tokens"] and b["task_loss"] == pytest.approx(a["task_loss"], abs=1e-4)
    ends = [json.loads((run / "evaluation.json").read_text())["after"] for run in (alone, together)]
    assert ends[1]["held_in"]["toy/add"]["loss"] == pytest.approx(ends[0]["held_in"]["toy/add"]["loss"], abs=1e-5)
    assert (together / "report.html").is_file() and (together / "losses.jsonl").is_file()


def test_a_run_that_diverges_ends_where_it_does_alone(trained: Path) -> None:
    """And the others go on as if it were not there, as the test above says of them."""
    alone, together = trained / "alone" / "diverges", trained / "together" / "diverges"
    steps = [json.loads((run / "proportions.json").read_text())["steps"] for run in (alone, together)]
    assert steps[0] == steps[1] < STEPS
    ends = [lines(run)[-1] for run in (alone, together)]
    assert ends[0]["step"] == ends[1]["step"] and ends[0]["nonfinite_examples"] == ends[1]["nonfinite_examples"]
    assert {p.name for p in alone.iterdir()} == {p.name for p in together.iterdir()}


def test_magnitudes_train_side_by_side_over_a_mesh(trained: Path) -> None:
    """DoRA, on two devices that halve the rows."""
    world = World(trained)
    world.devices = 2
    codes, _ = run(world, "mesh", "LoRAConfig.dora=True", "MeshConfig.data=2")
    assert codes == [[0, 0], [0, 0]]
    for arm in ("first", "seed"):
        alone, together = (
            read_checkpoint(trained / "mesh" / kind / arm, None).params for kind in ("alone", "together")
        )
        assert any(path.endswith("lora_m") for path in alone)
        for path, array in alone.items():
            np.testing.assert_allclose(together[path], array, atol=1e-5, err_msg=path)


def test_the_arms_differ(trained: Path) -> None:
    found = {
        arm: read_checkpoint(trained / "together" / arm, None).params for arm in ("first", "seed", "mixture", "rate")
    }
    for arm in ("seed", "mixture", "rate"):
        assert max(np.abs(a - found["first"][path]).max() for path, a in found[arm].items()) > 1e-3
    kept = read_checkpoint(trained / "together" / "seed", "10")
    alone = read_checkpoint(trained / "alone" / "seed", "10")
    for path, array in alone.params.items():
        np.testing.assert_allclose(kept.params[path], array, atol=1e-5)


def test_which_runs_may_share_a_step(trained: Path) -> None:
    load = lambda *said: load_run([trained / "toy.gin"], said, model_dir="x")  # noqa: E731
    base = shape_of(load())
    alike = (
        "RunConfig.seed=3",
        "LearningRateConfig.peak=1.0",
        "DataConfig.rates={'toy/add': 5.0}",
        "DataConfig.window=4",
    )
    assert all(shape_of(load(said)) == base for said in alike) and base is not None
    others = ("LoRAConfig.rank=2", "LoRAConfig.dora=True", "TRAIN_STEPS=9", "BATCH_SIZE=4", "DataConfig.row_length=256")
    assert all(shape_of(load(said)) not in (base, None) for said in others)
    alone = ("LoRAConfig.train=('final_norm/scale',)", "TrainConfig.z_loss=0.1")
    assert all(shape_of(load(said)) is None for said in alone)
    two = [dataclasses.replace(load(), model_dir="x"), dataclasses.replace(load("TRAIN_STEPS=9"), model_dir="y")]
    with pytest.raises(UserError, match="can't share a step"):
        train_together(two)
