"""Good files: overrides, where files are found, which types come out, and that nothing heavy loads."""

from __future__ import annotations

import dataclasses
import json
import subprocess
import sys
from pathlib import Path

import pytest

from itune.config import RunConfig, load_run, schema
from itune.config.macros import MACROS
from itune.data.config import DataConfig
from itune.models.config import FullConfig, LoRAConfig
from itune.training.config import AdafactorConfig, AdamWConfig

PROJECT = Path(__file__).resolve().parents[2]
NO_MODEL_DIR = "include 'gin_configs/base.gin'\nMIXTURE_OR_TASK_NAME = 'toy'\nTRAIN_STEPS = 1\n"
RECIPES = sorted((PROJECT / "gin_configs" / "recipes").glob("*.gin"))


def test_quickstart_recipe():
    config = load_run([PROJECT / "gin_configs/recipes/quickstart.gin"])
    assert type(config) is RunConfig
    assert type(config.data) is DataConfig and type(config.tuning) is LoRAConfig
    assert config.data.mixture == "quickstart"
    assert config.evaluation.held_out == ("quickstart_held_out",)
    assert config.model_dir == "runs/quickstart"


@pytest.mark.parametrize("recipe", RECIPES, ids=lambda path: path.stem)
def test_every_recipe_loads_from_anywhere(recipe, tmp_path, monkeypatch):
    here = load_run([recipe])
    monkeypatch.chdir(tmp_path)
    assert load_run([recipe]) == here  # by absolute path
    assert load_run([f"recipes/{recipe.name}"]) == here  # from the project's gin_configs
    assert load_run([f"gin_configs/recipes/{recipe.name}"]) == here
    monkeypatch.chdir(PROJECT)
    assert load_run([f"gin_configs/recipes/{recipe.name}"]) == here


def test_rates_stages_and_limits_are_bound_as_written(tmp_path):
    bindings = [
        "DataConfig.rates={'clinic/*': 2, 'sums': 0.5}",
        "DataConfig.curriculum=[(20_000, {'*': 0, 'sums': 1})]",
        "DataConfig.task_epochs={'sums': 2}",
        "DataConfig.rate_unit='supervised_tokens'",
    ]
    data = load_run(["recipes/quickstart.gin"], bindings).data
    assert data.rates == {"clinic/*": 2.0, "sums": 0.5}
    assert data.curriculum == ((20_000, {"*": 0.0, "sums": 1.0}),)
    assert (data.task_epochs, data.rate_unit) == ({"sums": 2}, "supervised_tokens")


def test_recipes_differ_where_they_say():
    full = load_run(["recipes/full_finetune.gin"])
    assert type(full.tuning) is FullConfig and full.data.mixture == "quickstart"
    real = load_run(["recipes/real_data.gin"])
    assert (real.data.mixture, real.evaluation.held_out) == ("real_data", ("real_data_held_out",))


@pytest.mark.parametrize("path", sorted((PROJECT / "gin_configs").rglob("*.gin")), ids=lambda path: path.stem)
def test_every_gin_file_has_a_header(path):
    """The command, the hardware, the time and the metric it promises."""
    header = path.read_text().split("\n\ninclude", 1)[0].lower()
    comments = " ".join(line for line in header.splitlines() if line.startswith("#"))
    assert all(word in comments for word in ("command", "hardware", "time", "metric"))


def test_command_line_beats_recipe_beats_include(write):
    name = write("BATCH_SIZE = 8\n")
    assert load_run([name]).train.batch_size == 8  # base.gin says 4
    assert load_run([name], ["BATCH_SIZE=2"]).train.batch_size == 2
    assert load_run([name], ["TrainConfig.batch_size = 16"]).train.batch_size == 16
    write("BATCH_SIZE = 32\n", "later.gin", "")
    assert load_run([name, "later.gin"]).train.batch_size == 32
    assert load_run(["recipes/quickstart.gin", name]).data.mixture == "toy"


def test_a_named_file_may_wait_for_a_later_one(write):
    write("WeightsConfig.source = 'mine'\n", "model.gin", "")
    assert load_run(["model.gin", write("")]).weights.source == "mine"


def test_bare_words_are_strings(write):
    bindings = [
        "LOSS_NORM=example",
        "MODEL_DIR=runs/a-1.b",
        "EvalConfig.split=validation[:10]",
        "WeightsConfig.source=~/m",
    ]
    config = load_run([write("")], bindings)
    assert config.train.loss_norm == "example"
    assert config.model_dir == "runs/a-1.b"
    assert config.evaluation.split == "validation[:10]"
    assert config.weights.source == "~/m"
    assert type(config.train.loss_norm) is str and type(config.model_dir) is str
    assert load_run(["run.gin"], ["LOSS_NORM='example'"]).train.loss_norm == "example"


def test_values_take_their_fields_types(write):
    config = load_run([write("EvalConfig.held_out = ['a', 'b']\nLearningRateConfig.peak = 1\n")])
    assert config.evaluation.held_out == ("a", "b")
    assert type(config.learning_rate.peak) is float
    for module in ('"tasks.mine"', '("tasks.mine",)', '["tasks.mine"]'):
        assert load_run(["run.gin"], [f"MIXTURE_OR_TASK_MODULE={module}"]).data.modules == ("tasks.mine",)
    assert load_run(["run.gin"], ["MIXTURE_OR_TASK_MODULE=tasks.mine"]).data.modules == ("tasks.mine",)


def test_slots_macros_and_blocks(write):
    text = "OPTIMIZER = @AdafactorConfig()\nRunConfig.optimizer = %OPTIMIZER\nAdafactorConfig:\n  decay_rate = 0.7\n"
    config = load_run([write(text)])
    assert config.optimizer == AdafactorConfig(decay_rate=0.7)
    assert type(load_run(["run.gin"], ["OPTIMIZER=@AdamWConfig()"]).optimizer) is AdamWConfig
    assert load_run(["run.gin"], ["TRAIN_STEPS=%BATCH_SIZE"]).train.steps == 4


def test_workdir_sets_model_dir(write, tmp_path):
    name = write("")
    assert load_run([name], model_dir=tmp_path / "a").model_dir == str(tmp_path / "a")
    assert load_run([name], model_dir="2024").model_dir == "2024"  # a path even where gin would read a number
    assert load_run([write("RunConfig.model_dir = 'b'\n", preamble=NO_MODEL_DIR)], model_dir="c").model_dir == "c"


def test_a_file_included_twice_is_read_once(write):
    """Else its second reading would undo what came between."""
    write("BATCH_SIZE = 8\n", "a.gin", "include 'gin_configs/base.gin'\n")
    write("DROPOUT_RATE = 0.1\n", "b.gin", "include 'gin_configs/base.gin'\n")
    start = "include 'a.gin'\ninclude 'b.gin'\nMIXTURE_OR_TASK_NAME = 'toy'\nTRAIN_STEPS = 1\nMODEL_DIR = 'a'\n"
    train = load_run([write("", preamble=start)]).train
    assert (train.batch_size, train.dropout_rate) == (8, 0.1)


def test_includes_resolve_beside_the_including_file(write, tmp_path, monkeypatch):
    write("BATCH_SIZE = 8\n", "deep/a.gin", "include 'gin_configs/base.gin'\n")
    start = "include 'a.gin'\nMIXTURE_OR_TASK_NAME = 'toy'\nTRAIN_STEPS = 1\nMODEL_DIR = 'a'\n"
    path = tmp_path / write("", "deep/run.gin", start)
    monkeypatch.chdir("/")
    assert load_run([path]).train.batch_size == 8


def test_no_state_is_kept_between_loads(write):
    name = write("")
    first = load_run([name])
    changed = load_run([name], ["BATCH_SIZE=8", "RunConfig.optimizer=@AdafactorConfig()"])
    assert changed != first
    assert load_run([name]) == first


def test_every_field_of_run_config_can_be_bound():
    """A slot whose class is not registered could not be filled."""
    for hint in schema.fields_of(RunConfig).values():
        for cls in schema.slot_classes(hint):
            assert schema.CLASSES.get(cls.__name__) is cls


def test_macro_table_is_what_base_gin_does():
    text = (PROJECT / "gin_configs/base.gin").read_text()
    mapped = dict(line.split(" = %")[::-1] for line in text.splitlines() if " = %" in line and "REQUIRED" not in line)
    assert mapped == {macro.name: macro.binding for macro in MACROS}


def test_loading_imports_nothing_heavy():
    code = (
        "import sys; from itune.config import load_run; load_run(['recipes/quickstart.gin']);"
        "print([m for m in ('jax', 'flax', 'optax', 'tensorflow', 'seqio', 'numpy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=PROJECT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_gin_itself_reads_the_recipes_alike():
    """Our resolver gives gin's files gin's meaning: gin, with the dataclasses registered, builds the same values."""
    code = """
import dataclasses, json, sys, gin
from itune.config.schema import CLASSES
gin.add_config_file_search_path(sys.argv[1])
for cls in CLASSES.values():
    gin.external_configurable(cls)
found = {}
for path in sys.argv[2:]:
    gin.clear_config()
    gin.parse_config_file(path)
    found[path] = dataclasses.asdict(gin.get_configurable('RunConfig')())
print(json.dumps(found))
"""
    args = [sys.executable, "-c", code, str(PROJECT), *map(str, RECIPES)]
    done = subprocess.run(args, cwd=PROJECT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for path, values in json.loads(done.stdout).items():
        assert values == json.loads(json.dumps(dataclasses.asdict(load_run([path]))))
