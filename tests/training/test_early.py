"""Early stopping: what counts as better, and that a run that is stopped and goes on ends as any other."""

from __future__ import annotations

import json
import math
import os
import signal

import numpy as np
import pytest

from itune.config.load import load_run
from itune.errors import UserError
from itune.evaluation.config import EvalConfig
from itune.inference import opening
from itune.training.early import DevLosses
from itune.training.loop import train
from itune.training.reading import MetricsReader
from itune.training.stacked import shape_of

BINDINGS = (
    "TRAIN_STEPS=8",
    "BATCH_SIZE=8",
    "EvalConfig.generate_per_task=0",
    "EvalConfig.chat_baseline=False",
    "EvalConfig.every=1",
    "EvalConfig.patience=1",
    "LearningRateConfig.peak=3.0",  # so that the second step is worse than the first
    "EvalConfig.unseen=('toy/c*',)",
    "CheckpointConfig.every=50",
)


def test_what_is_better():
    dev = DevLosses(EvalConfig(every=1, patience=2, min_gain=0.1))
    for step, loss in enumerate((2.0, 1.95, 1.8, None, 1.75), 1):
        dev.add(step, loss)
        assert (dev.best, dev.since_better) == ((1, 0), (2, 1), (3, 0), (3, 1), (5, 2))[step - 1]
    assert dev.over and not DevLosses(EvalConfig(every=1), dev.stored()).over, "patience 0 never stops"
    assert DevLosses(EvalConfig(every=1, patience=2, min_gain=0.1), json.loads(json.dumps(dev.stored()))).over
    assert dev.line() == {"dev_loss": 1.75, "since_better": 2, "best_step": 5}
    assert dev.told(5, 8)["stopped early"].endswith("the best was 1.7500 at step 5 (--step=best)")
    assert dev.told(8, 8) == {}
    none = DevLosses(EvalConfig(every=1, patience=1))
    none.add(1, math.nan)
    assert none.best is None and none.over and none.line()["dev_loss"] is None
    with pytest.raises(ValueError, match="patience=1 counts evaluations during training: set every, too"):
        EvalConfig(patience=1)


@pytest.fixture
def config(small_run, monkeypatch):
    monkeypatch.chdir(small_run.folder)
    for name in ("PYTHONPATH", "ITUNE_CACHE_DIR"):
        monkeypatch.setenv(name, small_run.environment()[name])
    return lambda name, *more: load_run([small_run.recipe], [*BINDINGS, *more], model_dir=small_run.folder / name)


def lines(folder):
    """Of metrics.jsonl, without what the clock says."""
    clock = ("seconds", "tokens_per_s", "supervised_tokens_per_s", "goodput")
    found = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if k not in clock} for line in found]


def checkpoint(folder, step=None):
    found = opening.read_checkpoint(folder, step)
    return found.step, found.params


def test_a_run_ends_where_nothing_is_better_however_often_it_is_stopped(config, small_run, monkeypatch):
    whole, stopped = small_run.folder / "early", small_run.folder / "early-stopped"
    assert train(config("early")) == 0
    assert [(m["step"], m["since_better"]) for m in lines(whole) if "dev_loss" in m] == [(1, 0), (2, 1)]
    assert checkpoint(whole)[0] == 2 and checkpoint(whole, "best")[0] == 1, "the best is kept, though none was due"
    facts = json.loads((whole / "evaluation.json").read_text())["facts"]
    assert facts["stopped early"].startswith("at step 2 of 8: no better dev loss in 1 evaluations")
    # Unseen tasks are measured before and after, and never between.
    assert ["toy/count" in m["eval"]["held_out"] for m in lines(whole) if "eval" in m] == [True, False, False, True]
    assert all(set(m["eval"]["held_in"]) == {"toy/add", "toy/echo"} for m in lines(whole) if "eval" in m)

    push = MetricsReader.push

    def stops_at_one(self, step, *more):
        os.kill(os.getpid(), signal.SIGTERM)  # after the step, before its evaluation
        return push(self, step, *more)

    with monkeypatch.context() as patched:
        patched.setattr(MetricsReader, "push", stops_at_one)
        assert train(config("early-stopped")) == 75
    assert checkpoint(stopped)[0] == 1
    for _ in range(2):  # and once more, when it has ended: nothing is trained any further
        assert train(config("early-stopped")) == 0
        assert lines(stopped)[: len(lines(whole))] == lines(whole)
        assert checkpoint(stopped)[0] == 2 and checkpoint(stopped, "best")[0] == 1
        for path, array in checkpoint(whole)[1].items():
            np.testing.assert_array_equal(checkpoint(stopped)[1][path], array, err_msg=path)


def test_what_cannot_be_chosen_by_is_told(config, small_run):
    with pytest.raises(UserError, match=r"EvalConfig.choose_by='held_out' needs a held-out task that is not unseen"):
        train(config("none", "EvalConfig.choose_by='held_out'"))
    bindings = [b.replace("toy/c*", "toy/cuont") for b in BINDINGS]
    typo = load_run([small_run.recipe], bindings, model_dir=small_run.folder / "typo")
    with pytest.raises(UserError, match=r"no held-out task is called 'toy/cuont'. Did you mean 'toy/count'\?"):
        train(typo)
    assert shape_of(typo) is None, "runs of one step end together"
