"""Runs and their checkpoints, loaded again: by generate, by evaluate, on other devices."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import types
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from rich.console import Console
from safetensors.numpy import load_file, save_file

from itune import cli, evaluate, generate
from itune.errors import UserError
from itune.inference import opening, session
from itune.parallel.config import MeshConfig
from itune.training.checkpoint import Checkpoints
from itune.training.config import CheckpointConfig
from itune.training.resume import restore_newest
from itune.training.step import TrainState
from itune.weights.shards import weights_digest
from tests.world import World


@pytest.fixture
def run(small_run: World, monkeypatch) -> Path:
    """The run directory; this process and those it starts find its cache and its task module."""
    environment = small_run.environment()
    for name in ("PYTHONPATH", "ITUNE_CACHE_DIR"):
        monkeypatch.setenv(name, environment[name])
    return small_run.folder / "runs" / "lora"


def copy(run: Path, target: Path) -> Path:
    shutil.copytree(run, target)
    return target


def test_a_run_is_its_base_and_its_adapters(run, small_run):
    tuned, base = session.load(str(run)), session.load(str(small_run.model))
    adapters = opening.read_checkpoint(run, None).params
    assert set(adapters) == set(tuned.spec.adapter_paths()) != set()
    assert any(np.abs(a).max() > 0 for path, a in adapters.items() if path.endswith("lora_b")), "they were trained"
    for path, array in {**base.params, **adapters}.items():
        np.testing.assert_array_equal(tuned.params[path], array, err_msg=path)
    assert tuned.name == f"{run} at step 2"
    assert (tuned.prompt_format, base.prompt_format) == ("plain", "chat"), "the run's own; the template's"


def test_the_step_picks_the_checkpoint(run):
    newest, first, best = (opening.read_checkpoint(run, step) for step in (None, "1", "best"))
    assert (newest.step, first.step, best.step) == (2, 1, 1), "only step 1 was saved with a loss"
    assert any((newest.params[path] != first.params[path]).any() for path in newest.params)
    with pytest.raises(UserError, match=r"--step=3: .* has no checkpoint of that step; there are 1, 2"):
        opening.read_checkpoint(run, "3")


def test_full_tuning_takes_the_place_of_the_base(small_run, tmp_path):
    config = {
        "weights": {"source": str(small_run.model)},
        "tuning": {"patterns": ["final_norm/.*"]},
        "data": {"prompt_format": "chat"},
    }
    (tmp_path / "config.json").write_text(json.dumps(config))
    scale = jnp.full((32,), 3.0)
    save(tmp_path, {"final_norm/scale": scale}, meta={"base": small_run.model.name})
    tuned = session.load(str(tmp_path))
    np.testing.assert_array_equal(tuned.params["final_norm/scale"], scale)
    assert float(tuned.params["layers/mlp_norm/scale"].max()) == 1.0
    save(tmp_path / "other", {"final_norm/scale": scale}, meta={"base": "another"})
    (tmp_path / "other" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="was tuned from another, but"):
        session.load(str(tmp_path / "other"))
    save(tmp_path / "shape", {"final_norm/scale": scale[:8]}, meta={"base": small_run.model.name})
    (tmp_path / "shape" / "config.json").write_text(json.dumps(config))
    with pytest.raises(UserError, match="final_norm/scale is not as config.json describes"):
        session.load(str(tmp_path / "shape"))


def test_other_weights_under_the_same_name_are_told(run, small_run, tmp_path):
    """The run's base is brought back trained further: neither generation nor a resumed run takes it."""
    moved, other = tmp_path / "run", tmp_path / "elsewhere" / small_run.model.name
    shutil.copytree(run, moved)
    shutil.copytree(small_run.model, other)
    config = (moved / "config.json").read_text().replace(str(small_run.model), str(other))
    (moved / "config.json").write_text(config)
    assert session.load(str(moved)).name == f"{moved} at step 2", "the same weights elsewhere are the same"
    tensors = load_file(other / "model.safetensors")
    save_file({name: array * 2 for name, array in tensors.items()}, other / "model.safetensors")
    weights_digest.cache_clear()
    with pytest.raises(UserError, match=r"was tuned from other weights than those now in .*; bring those back"):
        session.load(str(moved))
    state, data = (types.SimpleNamespace(folder=other) for _ in range(2))
    whole = types.SimpleNamespace(
        folder=moved / "checkpoints", steps=lambda: [2], restore=lambda step, state: (state, meta(moved))
    )
    with pytest.raises(UserError, match=r"was tuned from other weights .*--no-resume to start over"):
        restore_newest(whole, state, data, Console())


def meta(run: Path) -> dict:
    return dict(opening.read_checkpoint(run, None).meta)


def save(folder: Path, params: dict, meta: dict, **losses: float) -> None:
    folder.mkdir(exist_ok=True)
    checkpoints = Checkpoints(folder, CheckpointConfig())
    for step in sorted(losses) or ["1"]:
        state = TrainState(params, {}, jnp.asarray(int(step.strip("step")), jnp.int32))
        checkpoints.save(state, meta, loss=losses.get(step))
        checkpoints.finish()
    checkpoints.close()


def test_the_best_checkpoint_survives_a_resume(tmp_path):
    """Its loss is on disk: a later process keeps it, though others are newer."""
    w = {"w": jnp.zeros(8)}
    save(tmp_path, w, {}, step1=2.0, step2=1.0, step3=3.0, step4=3.0)
    save(tmp_path, w, {}, step5=3.0, step6=3.0)
    assert opening.read_checkpoint(tmp_path, "best").step == 2
    save(tmp_path / "none", w, {})
    with pytest.raises(UserError, match="was saved with a loss"):
        opening.read_checkpoint(tmp_path / "none", "best")


def test_a_checkpoint_is_read_on_other_devices_than_it_was_saved_on(tmp_path):
    sharding = jax.sharding.NamedSharding(jax.make_mesh((8,), ("data",)), jax.sharding.PartitionSpec("data"))
    save(tmp_path, {"w": jax.device_put(jnp.arange(8.0), sharding)}, {})
    code = (
        "import sys, jax; from pathlib import Path; from itune.inference import opening, session; "
        "print(len(jax.devices()), opening.read_checkpoint(Path(sys.argv[1]), None).params['w'].tolist())"
    )
    alone = {k: v for k, v in os.environ.items() if k != "XLA_FLAGS"}
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], env=alone, capture_output=True, text=True)
    assert done.stdout == f"1 {list(map(float, range(8)))}\n", done.stderr


def call(main, capsys, *argv: str) -> tuple[int, str, str]:
    code = cli.run(main, argv)
    out, err = capsys.readouterr()
    return code, out, err


def test_generate_from_a_run(run, capsys):
    flags = ("--prompt=1 plus 2 is", "--max_new_tokens=6", "--format=json")
    code, out, err = call(generate.main, capsys, f"--model={run}", *flags)
    assert code == 0 and err == f"{run} at step 2: prompt format 'plain'\n"
    assert json.loads(out)["prompt"] == "1 plus 2 is"
    code, out, err = call(generate.main, capsys, f"--model={run}", "--step=7", *flags)
    assert (code, out, err.count("\n")) == (2, "", 1) and "there are 1, 2" in err


def test_generation_is_divided_as_training_is(run, capsys):
    asked = ("--prompt=1 plus 2 is", "--prompt=say ab", "--max_new_tokens=6", "--format=json", "--temperature=0.9")
    one, many = (call(generate.main, capsys, f"--model={run}", *asked, *more) for more in ((), ("--mesh=2,2,2",)))
    assert one[0] == many[0] == 0 and one[1] == many[1] and one[1].count("\n") == 2
    placed = session.load(str(run), mesh=MeshConfig(data=2, fsdp=2, tensor=2)).params
    assert all(len(array.sharding.device_set) == 8 for array in placed.values())
    assert any(not array.sharding.is_fully_replicated for array in placed.values())
    for mesh, message in (
        ("2,2", "--mesh=2,2: three numbers are needed"),
        ("3,1,1", "MeshConfig(data, fsdp, tensor)=(3, 1, 1) does not cover 8 devices"),
        ("1,1,8", "MeshConfig.tensor=8 must divide the model's 4 query heads (2 key-value heads)"),
    ):
        code, out, err = call(generate.main, capsys, f"--model={run}", f"--mesh={mesh}", *asked)
        assert (code, out, err.count("\n")) == (2, "", 1) and message in err


def test_runs_that_cannot_be_loaded(run, tmp_path):
    for name, broken in {
        "none": "the run has no checkpoint yet",
        "config": "a run without config.json",
        "garbled": "config.json: not JSON",
        "foreign": "not a config.json that this itune wrote",
    }.items():
        folder = copy(run, tmp_path / name)
        if name == "none":
            shutil.rmtree(folder / "checkpoints")
        elif name == "config":
            (folder / "config.json").unlink()
        else:
            (folder / "config.json").write_text("{" if name == "garbled" else "{}")
        with pytest.raises(UserError, match=broken):
            session.load(str(folder))


def test_evaluate_measures_what_the_run_measured(run, capsys):
    code, out, err = call(evaluate.main, capsys, f"--model={run}", "--format=json")
    assert code == 0, err
    assert "evaluating on one" not in err, "all eight devices of this process took part"
    found, trained = json.loads(out), json.loads((run / "evaluation.json").read_text())
    assert found["step"] == 2 and found["predictions"] == []
    assert set(found["after"]["held_in"]) == {"toy/add", "toy/echo"} and set(found["after"]["held_out"]) == {
        "toy/count"
    }
    for group in ("held_in", "held_out"):
        for task, result in found["after"][group].items():
            assert result["examples"] == trained["after"][group][task]["examples"]
            assert result["loss"] == pytest.approx(trained["after"][group][task]["loss"], rel=1e-5)
            assert result["loss"] != pytest.approx(trained["before"][group][task]["loss"], rel=1e-5)
    assert json.loads((run / "evaluation-step-2.json").read_text()) == found


def test_evaluate_another_step_with_metrics_in_a_run_that_moved(run, tmp_path, capsys):
    moved = copy(run, tmp_path / "moved")
    flags = ("--step=best", "--gin.EvalConfig.generate_per_task=2", "--gin.EvalConfig.examples_per_task=3")
    code, out, err = call(evaluate.main, capsys, f"--model={moved}", *flags, "--gin.MeshConfig.data=3")
    assert code == 0, err
    assert "does not cover 8 devices: evaluating on one" in err.replace("\n", " ")
    for text in ("held in", "held out", "toy/add", "toy/count", "loss", "exact_match"):
        assert text in out
    assert "change" not in out, "there is nothing to compare with"
    record = json.loads((moved / "evaluation-step-1.json").read_text())
    assert record["after"]["held_in"]["toy/add"]["examples"] == 3
    assert len(record["predictions"]) == 6 and all(p["after"] is not None for p in record["predictions"])
    assert not (run / "evaluation-step-1.json").exists()


def test_evaluate_refuses_to_measure_another_run(run, tmp_path, capsys):
    code, out, err = call(evaluate.main, capsys, f"--model={run}", "--gin.LoRAConfig.rank=2")
    assert (code, out, err.count("\n")) == (2, "", 1) and "would change the run's tuning" in err
    code, _, err = call(evaluate.main, capsys, f"--model={run}", "--gin.EvalConfig.evry=2")
    assert code == 2 and "Did you mean" in err
    code, _, err = call(evaluate.main, capsys, f"--model={tmp_path}")
    assert code == 2 and "no run directory" in err


def test_evaluate_without_a_checkpoint_of_that_step(run, capsys):
    code, _, err = call(evaluate.main, capsys, f"--model={run}", "--step=9")
    assert (code, err.count("\n")) == (2, 1) and "there are 1, 2" in err


@pytest.mark.parametrize("module", ["generate", "evaluate", "harness"])
def test_help_loads_nothing(module):
    code = (
        f"import sys; from itune import {module}\n"
        f"try: {module}.main(['--help'])\n"
        "except SystemExit: pass\n"
        "print([m for m in ('jax', 'numpy', 'gin', 'tensorflow') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and "--step" in done.stdout
    assert done.stdout.splitlines()[-1] == "[]"


def test_any_model_is_measured_on_any_mixture(run, small_run, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(small_run.folder)
    lengths = ["--gin.DataConfig.row_length=128", '--gin.TASK_FEATURE_LENGTHS={"inputs": 40, "targets": 16}']
    common = ["--mixture=toy/echo", "--module_import=toy_tasks", "--gin.EvalConfig.rank_per_task=6", *lengths]
    found = {}
    for name, model in (("tuned", run), ("base", small_run.model)):
        words = [f"--model={model}", f"--workdir={tmp_path / name}", "--format=json", *common]
        assert evaluate.main(words) == 0
        found[name] = json.loads(capsys.readouterr().out)
        assert json.loads((tmp_path / name / "evaluation.json").read_text()) == found[name]
    base, tuned = (found[name]["after"]["held_in"]["toy/echo"] for name in ("base", "tuned"))
    assert tuned["loss"] != base["loss"] and tuned["metrics"]["rank_chance"] == 25.0
    assert found["tuned"]["step"] == 2 and found["base"]["step"] is None
    (first, *_) = found["base"]["ranked"]
    # The scores are those of the scorer that transformers' agree with: once more, by hand.
    loaded = session.load(str(small_run.model), prompt_format="plain")
    prompt = loaded.encode("say " + first["options"][first["target"]])
    replies = [[*loaded.tokenizer.encode(option), loaded.tokenizer.eos_id] for option in first["options"]]
    scores = [s.logprob for s in loaded.scorer(4).score([(prompt, reply) for reply in replies])]
    np.testing.assert_allclose(first["logprob"], scores, atol=1e-3)
    assert found["base"]["averages"]["held_in"]["all tasks"]["loss"] == {"mean": base["loss"], "tasks": 1}
    with pytest.raises(UserError, match="--adapter goes with --mixture or --gin_file"):
        evaluate.main([f"--model={run}", "--adapter=x"])


def test_a_suite_is_ranked_from_its_owners_files(small_run, tmp_path):
    """In a process of its own: tasks/ reads the environment when it is imported."""
    for split in ("dev", "test"):
        path = tmp_path / "data" / "suites" / "mmlu" / split / f"anatomy_{split}.csv"
        path.parent.mkdir(parents=True)
        path.write_text("".join(f"{split} {n}?,w,x,y,z,{'ABCD'[n % 4]}\n" for n in range(6)))
    lengths = ["--gin.DataConfig.row_length=512", '--gin.TASK_FEATURE_LENGTHS={"inputs": 480, "targets": 8}']
    more = ["--gin.EvalConfig.examples_per_task=4", "--gin.EvalConfig.generate_per_task=1", "--format=json"]
    more += ["--gin.EvalConfig.shots=2", f"--workdir={tmp_path / 'out'}"]
    command = [sys.executable, "-m", "itune.evaluate", f"--model={small_run.model}", "--gin_file=suites/mmlu.gin"]
    command += [*lengths, *more]
    environment = small_run.environment() | {"ITUNE_DATA_DIR": str(tmp_path / "data")}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout)
    metrics = found["after"]["held_in"]["mmlu/anatomy"]["metrics"]
    assert metrics["rank_chance"] == 25.0 and metrics["rank_accuracy/of"] == 4.0
    assert all(row["options"] == ["A", "B", "C", "D"] for row in found["ranked"])
    assert all(row["prompt"].count("Answer:") == 3 for row in found["ranked"]), "two exemplars and the question"
    lines = [json.loads(line) for line in (tmp_path / "out" / "predictions.jsonl").read_text().splitlines()]
    assert lines == found["predictions"] and len(lines) == 1
    assert lines[0]["references"] == [lines[0]["target"]] and "accuracy" in lines[0]["scores"]["after"]
    assert len((tmp_path / "out" / "ranked.jsonl").read_text().splitlines()) == 4
    (tmp_path / "data" / "suites" / "mmlu").rename(tmp_path / "gone")
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2 and "put them into $ITUNE_DATA_DIR/suites/mmlu" in done.stderr.splitlines()[-1]
