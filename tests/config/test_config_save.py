"""config.gin reads back to the same run; config.json is asdict; the digest moves with every field but model_dir."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from itune.config import config_digest, load_run, save_run
from itune.config.run import RunConfig
from itune.data.config import DataConfig
from itune.evaluation.config import EvalConfig
from itune.models.config import FullConfig, WeightsConfig
from itune.parallel.config import MeshConfig
from itune.training.config import AdafactorConfig, LearningRateConfig, TrainConfig

PROJECT = Path(__file__).resolve().parents[2]
UNUSUAL = RunConfig(
    model_dir='runs/it\'s "here" # not a comment\n\\ ü',
    seed=-7,
    data=DataConfig(
        mixture="m", modules=("a.b", "c"), feature_lengths={"inputs": 10, "targets": 20}, curriculum=((9, {"a": 1.0}),)
    ),
    train=TrainConfig(steps=12345678901, loss_norm="example", dropout_rate=0.1),
    weights=WeightsConfig(source="%not_a_macro", scan_layers=False),
    tuning=FullConfig(patterns=(r"layers/.*\d+", "@x()")),
    optimizer=AdafactorConfig(decay_rate=1e-30, factored=False),
    learning_rate=LearningRateConfig(peak=1e22, shape="rsqrt"),
    mesh=MeshConfig(data=2, fsdp=-1, rules={"heads": None}),
    evaluation=EvalConfig(held_in=(), held_out=("x",)),
)


@pytest.mark.parametrize("config", [UNUSUAL, load_run(["recipes/quickstart.gin"])], ids=["unusual", "quickstart"])
def test_round_trip(config, tmp_path, monkeypatch):
    save_run(config, tmp_path / "run")
    monkeypatch.chdir(tmp_path)
    again = load_run(["run/config.gin"])
    assert again == config
    assert type(again.tuning) is type(config.tuning) and type(again.optimizer) is type(config.optimizer)
    assert json.loads((tmp_path / "run/config.json").read_text()) == json.loads(json.dumps(dataclasses.asdict(config)))
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.gin", "config.json"]


def test_a_saved_run_takes_overrides(tmp_path):
    save_run(UNUSUAL, tmp_path)
    again = load_run([tmp_path / "config.gin"], ["TRAIN_STEPS=5", "LOSS_NORM=tokens"], model_dir="elsewhere")
    assert (again.train.steps, again.train.loss_norm, again.model_dir) == (5, "tokens", "elsewhere")
    assert dataclasses.replace(again, model_dir=UNUSUAL.model_dir, train=UNUSUAL.train) == UNUSUAL


def test_saving_again_replaces(tmp_path):
    save_run(UNUSUAL, tmp_path)
    changed = dataclasses.replace(UNUSUAL, seed=8)
    save_run(changed, tmp_path)
    assert load_run([tmp_path / "config.gin"]) == changed


def test_digest_ignores_model_dir_only():
    digest = config_digest(UNUSUAL)
    assert config_digest(dataclasses.replace(UNUSUAL, model_dir="b")) == digest
    changes = {
        "seed": 8,
        "data": dataclasses.replace(UNUSUAL.data, feature_lengths={"inputs": 11, "targets": 20}),
        "evaluation": EvalConfig(held_out=("y",)),
        "tuning": FullConfig(),
        "optimizer": AdafactorConfig(),
        "mesh": MeshConfig(data=2),
    }
    digests = {config_digest(dataclasses.replace(UNUSUAL, **{name: value})) for name, value in changes.items()}
    assert len(digests | {digest}) == len(changes) + 1


def test_digest_of_equal_runs_is_equal(tmp_path):
    """Across processes and dict orders: it is compared with a stored one on resume."""
    save_run(UNUSUAL, tmp_path)
    assert config_digest(load_run([tmp_path / "config.gin"])) == config_digest(UNUSUAL)
    turned = dataclasses.replace(UNUSUAL.data, feature_lengths={"targets": 20, "inputs": 10})
    assert config_digest(dataclasses.replace(UNUSUAL, data=turned)) == config_digest(UNUSUAL)
