"""A run, killed, stopped, damaged or misused: what is promised holds in real processes."""

from __future__ import annotations

import json
import signal
import time

import numpy as np
import pytest

from tests.world import World

QUICK = ("--gin.EvalConfig.generate_per_task=0", "--gin.EvalConfig.chat_baseline=False")


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    world = World(tmp_path_factory.mktemp("world"))
    done = world.train("undisturbed", *QUICK)
    assert done.returncode == 0, done.stderr
    return world


def final_params(world: World, workdir: str) -> dict[str, np.ndarray]:
    from itune.training.checkpoint import Checkpoints
    from itune.training.config import CheckpointConfig

    checkpoints = Checkpoints(world.folder / workdir, CheckpointConfig(), read_only=True)
    return {path: np.asarray(a) for path, a in checkpoints.restore_params(checkpoints.steps()[-1]).items()}


def timeless(world: World, workdir: str) -> list[dict]:
    """The training lines of metrics.jsonl without what the clock says: losses, tokens and epochs by task."""
    clock = ("seconds", "tokens_per_s", "supervised_tokens_per_s", "goodput")
    return [{k: v for k, v in m.items() if k not in clock} for m in world.metrics(workdir) if "loss" in m]


def assert_same_run(world: World, workdir: str, other: str = "undisturbed") -> None:
    assert timeless(world, workdir) == timeless(world, other)
    for name in ("proportions.json", "proportions.csv"):
        assert (world.folder / workdir / name).read_text() == (world.folder / other / name).read_text()
    ours, theirs = final_params(world, workdir), final_params(world, other)
    assert ours.keys() == theirs.keys()
    for path in ours:
        np.testing.assert_array_equal(ours[path], theirs[path], err_msg=path)


def wait_for_step(world: World, workdir: str, step: int, process) -> None:
    deadline = time.monotonic() + 300
    while max(world.losses(workdir), default=0) < step:
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline, "the run did not get there"
        time.sleep(0.005)


def slowed(world: World, workdir: str):
    """A run whose steps take long enough to be hit between two of them: evaluation after every step."""
    return world.start_train(workdir, *QUICK, "--gin.EvalConfig.every=1")


def test_kill_9_and_the_same_command_gives_bitwise_the_undisturbed_run(world):
    process = slowed(world, "killed")
    wait_for_step(world, "killed", 5, process)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert 5 <= max(world.losses("killed")) < 8
    resumed = world.train("killed", *QUICK)
    assert resumed.returncode == 0, resumed.stderr
    assert "Going on from step" in resumed.stderr
    assert_same_run(world, "killed")


def test_sigterm_saves_exits_75_and_goes_on(world):
    process = slowed(world, "stopped")
    wait_for_step(world, "stopped", 3, process)
    process.send_signal(signal.SIGTERM)
    _, err = process.communicate(timeout=300)
    assert process.returncode == 75, err
    newest = max(int(p.name) for p in (world.folder / "stopped" / "checkpoints").iterdir() if p.name.isdigit())
    assert newest == max(world.losses("stopped")), "it saved the step it stopped at"
    assert world.train("stopped", *QUICK).returncode == 0
    assert_same_run(world, "stopped")


def test_a_damaged_checkpoint_is_named_and_the_one_before_it_taken(world):
    first = world.train("damaged", *QUICK)
    assert first.returncode == 0
    newest = world.folder / "damaged" / "checkpoints" / "8"
    victim = max((p for p in newest.rglob("*") if p.is_file()), key=lambda p: p.stat().st_size)
    data = bytearray(victim.read_bytes())
    data[len(data) // 2] ^= 1
    victim.write_bytes(data)
    again = world.train("damaged", *QUICK)
    assert again.returncode == 0, again.stderr
    assert "is damaged" in again.stderr and "Going on from step 6" in again.stderr
    assert_same_run(world, "damaged")


def test_a_stop_between_two_lines_of_metrics_changes_neither(world):
    each_third = (*QUICK, "--gin.TrainConfig.log_every=3")
    assert world.train("thirds", *each_third).returncode == 0
    process = world.start_train("thirds-stopped", *each_third, "--gin.EvalConfig.every=1")
    deadline = time.monotonic() + 300
    while not any("eval" in m and m["step"] == 4 for m in world.metrics("thirds-stopped")):
        assert process.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=300)
    assert process.returncode == 75
    # Stored already, for the steps that were made.
    partial = json.loads((world.folder / "thirds-stopped" / "proportions.json").read_text())
    assert 4 <= partial["steps"] < 8 == partial["planned_steps"]
    assert world.train("thirds-stopped", *each_third).returncode == 0
    assert [m["step"] for m in world.metrics("thirds-stopped") if "loss" in m] == [3, 6, 8]
    assert_same_run(world, "thirds-stopped", "thirds")


def test_what_a_run_says_of_its_tasks_is_what_the_plan_says(world):
    """Three ways to count: the device's sums, the tally of rows, the plan's own."""
    folder = world.folder / "undisturbed"
    plan, got = (json.loads((folder / name).read_text()) for name in ("plan.json", "proportions.json"))
    assert got.pop("planned_steps") == 8 and got == plan
    lines = [m for m in world.metrics("undisturbed") if "loss" in m]
    for name, task in got["summary"]["tasks"].items():
        assert sum(m["task_tokens"].get(name, 0) for m in lines) == task["supervised_tokens"]
        last = [m for m in lines if name in m["task_tokens"]][-1]
        assert last["task_tokens_total"][name] == task["supervised_tokens"]
    assert lines[-1]["supervised_tokens_total"] == got["summary"]["totals"]["supervised_tokens"]
    assert any(m["task_epochs"] for m in lines)


def test_a_second_trainer_is_refused_and_told_who_holds_the_directory(world):
    process = world.start_train("locked", *QUICK, "--gin.EvalConfig.every=1", "--gin.TRAIN_STEPS=2000")
    try:
        wait_for_step(world, "locked", 1, process)
        second = world.train("locked", *QUICK)
        assert second.returncode == 2
        assert f"process {process.pid} on" in second.stderr and second.stderr.count("\n") == 1
    finally:
        process.kill()
        process.communicate()


def test_another_config_in_the_same_directory_is_refused_by_name(world):
    refused = world.train("undisturbed", *QUICK, "--gin.LearningRateConfig.peak=0.5")
    assert refused.returncode == 2
    assert "learning_rate.peak = 0.001, this one has 0.5" in refused.stderr
    assert set(world.losses("undisturbed")) == set(range(1, 9)), "nothing was lost"


def test_a_finished_run_is_not_trained_again(world):
    before = world.metrics("undisturbed")
    again = world.train("undisturbed", *QUICK)
    assert again.returncode == 0
    clock = ("seconds",)
    of = lambda lines: [{k: v for k, v in line.items() if k not in clock} for line in lines]  # noqa: E731
    assert of(world.metrics("undisturbed")) == of(before), "its last evaluation is there once"
    assert sum(bool(line.get("last")) for line in before) == 1


def test_a_non_finite_loss_stops_the_run_with_the_examples(world):
    stopped = world.train("exploded", *QUICK, "--gin.LearningRateConfig.peak=1e30", "--gin.AdamWConfig.clip_norm=0.0")
    assert stopped.returncode == 3, stopped.stderr
    line = next(line for line in stopped.stderr.splitlines() if "itune: error" in line)
    assert "is not finite" in stopped.stderr and "toy/" in stopped.stderr, line
    last = world.metrics("exploded")[-1]
    assert last["finite"] is False and last["loss"] is None
    assert last["nonfinite_examples"] and all(name.startswith("toy/") for name in last["nonfinite_examples"])


def test_a_run_that_skips_such_steps_names_their_examples_and_goes_on(world):
    skips = ("--gin.LearningRateConfig.peak=1e30", "--gin.AdamWConfig.clip_norm=0.0", "--gin.TRAIN_STEPS=3")
    done = world.train("skips", *QUICK, *skips, '--gin.TrainConfig.on_nonfinite="skip"')
    assert done.returncode == 0, done.stderr
    wrong = [m for m in world.metrics("skips") if m.get("nonfinite_examples")]
    told = [line for line in done.stderr.splitlines() if line.startswith("itune: warning: step ")]
    assert wrong and [line.split(":")[2].strip() for line in told] == [f"step {m['step']}" for m in wrong]
    assert all(m["nonfinite_examples"][0] in line for m, line in zip(wrong, told, strict=True))


def test_the_run_directory_holds_what_is_promised(world):
    folder = world.folder / "undisturbed"
    for name in (
        "config.gin",
        "config.json",
        "manifest.json",
        "plan.json",
        "metrics.jsonl",
        "predictions.jsonl",
        "proportions.json",
        "proportions.csv",
        "worst.jsonl",
        "evaluation.json",
        "report.html",
    ):
        assert (folder / name).is_file(), name
    evaluation = json.loads((folder / "evaluation.json").read_text())
    assert evaluation["pooled"]["held_in"]["n"] == 12 and set(evaluation["after"]["held_out"]) == {"toy/count"}
    record = [m for m in world.metrics("undisturbed") if "loss" in m][-1]
    assert record["supervised_tokens"] == sum(record["task_tokens"].values())
    assert {"tokens_per_s", "supervised_tokens_per_s", "fill", "learning_rate", "grad_norm", "row"} <= set(record)
    # An adapter's checkpoint never holds the base.
    size = sum(p.stat().st_size for p in (folder / "checkpoints" / "8").rglob("*") if p.is_file())
    assert size < (world.model / "model.safetensors").stat().st_size * 6


def test_a_trace_of_the_steps_asked_for_and_where_the_time_went(world):
    """The trace is of steps 2 and 3; a run that goes on has its earlier processes' time too."""
    traced = ("--gin.LoggingConfig.profile_start=2", "--gin.LoggingConfig.profile_steps=2", "--gin.TRAIN_STEPS=4")
    done = world.train("traced", *QUICK, *traced)
    assert done.returncode == 0, done.stderr
    folder = world.folder / "traced"
    (trace,) = (folder / "profile").rglob("*.xplane.pb")
    assert b"train" in trace.read_bytes() and str(folder / "profile") in done.stderr.replace("\n", "")
    first = json.loads((folder / "time.json").read_text())
    assert 0 < first["goodput"] <= 1 and first["compile"] > 0 and first["evaluation"] > 0
    assert first["steps"] == pytest.approx(sum(m["seconds"] for m in world.metrics("traced") if "loss" in m), rel=0.01)
    assert world.train("traced", *QUICK, *traced).returncode == 0  # nothing left to train
    second = json.loads((folder / "time.json").read_text())
    assert second["running"] > first["running"] and second["steps"] == pytest.approx(first["steps"], rel=0.01)


def test_worst_examples_are_those_of_the_evaluation(world):
    """All six of each task asked for again: their losses, by tokens, are the task's own loss."""
    lines = [json.loads(x) for x in (world.folder / "undisturbed" / "worst.jsonl").read_text().splitlines()]
    assert len(lines) == 3 * 5 and all(x["prompt"] and x["target"] and x["template"] for x in lines)
    for line in (x for x in lines if x["task"] == "toy/add"):
        n = int(line["id"].removeprefix("validation-"))
        a, b = n % 7, n % 5  # as the task makes its rows
        assert line["prompt"] == {"plus": f"{a} plus {b} is", "sum": f"sum {a} {b}"}[line["template"]]
        assert line["target"] == str(a + b)
    command = ("--model=" + str(world.folder / "undisturbed"), "--gin.EvalConfig.worst_examples=6")
    process = world.start(*command, "--format=json", module="itune.evaluate")
    out, err = process.communicate(timeout=300)
    assert process.returncode == 0, err
    record = json.loads(out)
    for group in ("held_in", "held_out"):
        for task, result in record["after"][group].items():
            worst = [x for x in record["worst"] if (x["group"], x["task"]) == (group, task)]
            assert len(worst) == result["examples"] == 6
            assert [x["loss"] for x in worst] == sorted((x["loss"] for x in worst), reverse=True)
            tokens = [x["tokens"] for x in worst]
            assert np.average([x["loss"] for x in worst], weights=tokens) == pytest.approx(result["loss"])
            trained = [x for x in lines if (x["group"], x["task"]) == (group, task)]
            for a, b in zip(trained, worst[:5], strict=True):
                # The run knows more: the loss before. Ties aside, the same examples.
                assert a["loss"] == pytest.approx(b["loss"], rel=1e-5) and a["loss_before"] is not None


def test_preview_finds_the_steps_of_an_example(world):
    """And the step shows it."""
    command = (f"--gin_file={world.recipe}", f"--workdir={world.folder / 'found'}", "--format=json")
    out, err = world.start(*command, "--find=toy/add:train-3", module="itune.preview").communicate(timeout=300)
    found = [json.loads(line) for line in out.splitlines()]
    assert found, err
    step = found[0]["step"]
    out, err = world.start(*command, f"--step={step}", module="itune.preview").communicate(timeout=300)
    rows = [json.loads(line) for line in out.splitlines()]
    (row,) = (r for r in rows if r["row"] == found[0]["row"])
    example = row["examples"][found[0]["segment"] - 1]
    assert (example["task"], example["id"], example["epoch"]) == ("toy/add", "train-3", found[0]["epoch"])


def test_dry_run_prints_config_and_plan_and_trains_nothing(world):
    done = world.train("dry", *QUICK, "--dry_run", "--format=json")
    printed = json.loads(done.stdout)
    assert printed["config"]["train"]["steps"] == 8
    assert printed["plan"]["summary"]["tasks"]["toy/add"]["share_asked"] == pytest.approx(2 / 3)
    assert not (world.folder / "dry" / "metrics.jsonl").exists()


def test_training_never_imports_tensorflow_or_seqio(world):
    import subprocess
    import sys

    code = (
        "import sys; from itune import train; code = train.main(sys.argv[1:]); "
        "bad = [m for m in ('tensorflow', 'seqio', 'torch') if m in sys.modules]; assert not bad, bad; sys.exit(code)"
    )
    arguments = [f"--gin_file={world.recipe}", f"--workdir={world.folder / 'imports'}", *QUICK, "--gin.TRAIN_STEPS=2"]
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=world.folder,
        env=world.environment(),
        capture_output=True,
        text=True,
        timeout=600,
    )
    assert done.returncode == 0, done.stderr


def test_the_same_command_on_eight_devices_gives_the_same_losses(world):
    rows = ("--gin.BATCH_SIZE=4", "--gin.EvalConfig.generate_per_task=1")
    mesh = ("--gin.MeshConfig.data=2", "--gin.MeshConfig.fsdp=2", "--gin.MeshConfig.tensor=2")
    one = world.train("one", *QUICK[1:], *rows)
    world.devices = 8
    try:
        eight = world.train("eight", *QUICK[1:], *rows, *mesh)
        too_few = world.train("few", *QUICK, "--gin.MeshConfig.data=3")
    finally:
        world.devices = 1
    assert one.returncode == eight.returncode == 0, eight.stderr
    ours, theirs = world.losses("eight"), world.losses("one")
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), atol=1e-5)
    texts = [(world.folder / run / "predictions.jsonl").read_text().count("\n") for run in ("one", "eight")]
    assert texts[0] == texts[1] == 3
    assert too_few.returncode == 2 and "does not cover 8 devices" in too_few.stderr
