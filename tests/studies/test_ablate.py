"""`python -m itune.ablate` on a tiny model: arms in turn, what is done is kept."""

from __future__ import annotations

import csv
import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.world import World

QUICK = """
include '{recipe}'
TRAIN_STEPS = 2
CheckpointConfig.every = 0
EvalConfig.chat_baseline = False
EvalConfig.generate_per_task = 0
EvalConfig.examples_per_task = 3
StudyConfig.seeds = (0, 1)
StudyConfig.endpoint = 'held_in'
StudyConfig.leave_out = ('toy/echo',)
"""


class Studied(World):
    def ablate(self, *words: str) -> subprocess.CompletedProcess[str]:
        workdir = [] if any(word.startswith("--workdir") for word in words) else ["--workdir=out"]
        command = [sys.executable, "-m", "itune.ablate", f"--gin_file={self.study}", *workdir, *words]
        return subprocess.run(command, cwd=self.folder, env=self.environment(), capture_output=True, text=True)

    @property
    def study(self) -> Path:
        return self.folder / "study.gin"


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Studied:
    world = Studied(tmp_path_factory.mktemp("study"))
    world.study.write_text(QUICK.format(recipe=world.recipe))
    return world


def test_a_study_from_its_arms_to_its_answer(studied: Studied) -> None:
    planned = studied.ablate("--dry_run")
    assert planned.returncode == 0, planned.stderr[-2000:]
    assert "DataConfig.rate_factors: {} -> {'toy/echo': 0.0}" in planned.stdout
    assert re.fullmatch(r"2 arms x 2 seeds = 4 runs, [\d,]+ tokens; 0 done", planned.stdout.splitlines()[-1])
    assert "held equal: steps; not equal:\n    without toy/echo: tokens " in planned.stdout
    assert re.search(r"^time: .* of training steps, at 40% of the [\d,]+ GFLOP/s", planned.stdout, re.M)
    assert "times the standard deviation of an arm's difference" in planned.stdout
    done = studied.ablate()
    assert done.returncode == 0, done.stderr[-3000:]
    assert done.stderr.count("Evaluating before training") == 1, "all runs start from the same model"
    out = studied.folder / "out"
    with open(out / "results.csv") as file:
        rows = list(csv.DictReader(file))
    assert {(r["arm"], r["seed"], r["task"]) for r in rows if r["kind"] == "run"} == {
        (arm, seed, task)
        for arm in ("base", "without toy/echo")
        for seed in ("0", "1")
        for task in ("toy/add", "toy/echo")
    }
    assert "Under 5 seeds nothing is called significant; there are 2." in (out / "summary.txt").read_text()
    page = (out / "report.html").read_text()
    assert "without toy/echo" in page and "<svg" in page and "http" not in page.replace("http-equiv", "")
    assert "Not equal to the base: without toy/echo: tokens" in page
    for heading in ("Learning curves", "Training loss by task", "What the mixture became", "Cost"):
        assert f"<h2>{heading}</h2>" in page
    assert "100.0 %" in page.partition("What the mixture became")[2], "toy/add is all there is without toy/echo"
    arms = json.loads((out / "study.json").read_text())["arms"]
    assert arms["without toy/echo"]["differs"] == {"DataConfig.rate_factors": ["{}", "{'toy/echo': 0.0}"]}


def test_what_is_done_is_kept_and_what_is_missing_runs_alone(studied: Studied) -> None:
    runs = studied.folder / "out" / "runs"
    before = {path: path.stat().st_mtime_ns for path in runs.glob("*/*/losses.jsonl")}
    assert len(before) == 4
    (lost, *_) = [path for path in before if "without" in str(path)]
    lost.unlink()  # as if the study had been killed in this run
    again = studied.ablate()
    assert again.returncode == 0, again.stderr[-3000:]
    said = [line.rpartition(": ")[2] for line in again.stderr.splitlines() if line.startswith("study: run")]
    assert (said.count("done"), said.count("not run")) == (3, 1)
    after = {path: path.stat().st_mtime_ns for path in runs.glob("*/*/losses.jsonl")}
    assert [path for path in before if before[path] != after[path]] == [lost]
    assert len(after) == 4
    planned = studied.ablate("--dry_run")
    assert "time: every run is done" in planned.stdout and "nats per token, by the runs done" in planned.stdout


@pytest.mark.parametrize(("key", "said"), [("code", "other code of itune's"), ("base_weights", "other weights")])
def test_what_is_not_comparable_is_not_mixed(studied: Studied, key: str, said: str) -> None:
    path = studied.folder / "out" / "study.json"
    record = json.loads(path.read_text())
    path.write_text(json.dumps(record | {key: "0123"}))
    done = studied.ablate()
    assert done.returncode == 2 and f"its runs were made with {said} (0123, now " in done.stderr
    path.write_text(json.dumps(record))


def test_an_arm_may_have_the_bases_tokens_in_other_steps(studied: Studied) -> None:
    def planned(unit: str) -> dict[str, dict[str, int]]:
        code = (
            "import sys\nfrom itune.studies.arms import load_study\nfrom itune.studies.amounts import equalise\n"
            f"said = ['TRAIN_STEPS=20', 'StudyConfig.held_equal={unit}']\n"
            f"study = load_study([{str(studied.study)!r}], said, 'other')\n"
            "arms, found = equalise(study, lambda line: None)[:2]\n"
            "import json\nprint(json.dumps({name: dict(amount) for name, amount in found.items()}))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code], cwd=studied.folder, env=studied.environment(), capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr[-2000:]
        found: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
        return found

    for unit in ("tokens", "supervised_tokens"):
        found = planned(unit)
        base, arm = found["base"], found["without toy/echo"]
        step = arm[unit] / arm["steps"]
        assert arm["steps"] != 20 and abs(arm[unit] - base[unit]) <= step, (unit, found)
    found = planned("steps")
    assert found["without toy/echo"]["steps"] == 20


def test_arms_of_fewer_tasks_draw_from_fewer(studied: Studied) -> None:
    one = ["--gin.StudyConfig.leave_out=()", "--gin.StudyConfig.axes={'DataConfig.max_tasks': ('1',)}"]
    planned = studied.ablate("--dry_run", "--workdir=few", *one)
    assert planned.returncode == 0, planned.stderr[-2000:]
    assert "max_tasks=1  (" in planned.stdout and "    max_tasks=1: examples " in planned.stdout


@pytest.mark.slow
def test_processes_share_a_study(studied: Studied) -> None:
    """Two at once, as a Slurm array or a JobSet starts them; each takes its runs, the last one writes all answers."""
    out = studied.folder / "shared"
    command = [sys.executable, "-m", "itune.ablate", f"--gin_file={studied.study}", f"--workdir={out}"]
    settings = {"cwd": studied.folder, "env": studied.environment(), "stderr": subprocess.PIPE, "text": True}
    started = [subprocess.Popen([*command, f"--part={n}/2"], **settings) for n in range(2)]
    said = [process.communicate(timeout=300)[1] for process in started]
    assert [process.returncode for process in started] == [0, 0], said
    assert sorted(
        line.partition(" of ")[0][-1] for text in said for line in text.splitlines() if "run " in line[:11]
    ) == [*"1234"]
    assert len(list(out.glob("runs/*/*/losses.jsonl"))) == 4
    done = subprocess.run(command, **settings, check=False)
    assert done.returncode == 0 and done.stderr.count(": done") == 4
    wrong = subprocess.run([*command, "--part=2/2"], **settings, check=False)
    assert wrong.returncode == 2 and "--part=2/2: must be INDEX/COUNT" in wrong.stderr


def losses(study: Path) -> dict[tuple[str, str, str], float]:
    with open(study / "results.csv") as file:
        rows = [row for row in csv.DictReader(file) if row["kind"] == "run"]
    return {(row["arm"], row["seed"], row["task"]): float(row["loss"]) for row in rows}


def test_runs_of_one_shape_train_in_one_step(studied: Studied) -> None:
    """As each trains alone; one that was lost runs alone, and what another shape has is apart."""
    axes = "--gin.StudyConfig.axes={'LearningRateConfig.peak': ('1e-4',), 'LoRAConfig.rank': ('2',)}"
    done = studied.ablate("--workdir=together", "--gin.StudyConfig.together=3", axes)
    assert done.returncode == 0, done.stderr[-3000:]
    out = studied.folder / "together"
    assert len(list(out.glob("runs/*/*/losses.jsonl"))) == 8 and "2 runs" in done.stderr
    with open(out / "results.csv") as file:
        mine = {(r["arm"], r["seed"], r["task"]): float(r["loss"]) for r in csv.DictReader(file) if r["kind"] == "run"}
    with open(studied.folder / "out" / "results.csv") as file:
        theirs = {
            (r["arm"], r["seed"], r["task"]): float(r["loss"]) for r in csv.DictReader(file) if r["kind"] == "run"
        }
    assert {key: mine[key] for key in theirs} == {key: pytest.approx(value, abs=1e-4) for key, value in theirs.items()}
    (lost, *_) = out.glob("runs/*/seed-1/losses.jsonl")
    lost.unlink()
    again = studied.ablate("--workdir=together", "--gin.StudyConfig.together=3", axes)
    assert again.returncode == 0 and lost.is_file() and again.stderr.count(": done") == 7


@pytest.mark.slow
def test_a_signal_saves_all_runs_of_a_step_and_each_goes_on_alone(studied: Studied) -> None:
    out = studied.folder / "stopped"
    words = ["--gin.TRAIN_STEPS=300", "--gin.StudyConfig.together=2", "--gin.StudyConfig.seeds=(0,)"]
    command = [sys.executable, "-m", "itune.ablate", f"--gin_file={studied.study}", f"--workdir={out}", *words]
    settings = {"cwd": studied.folder, "env": studied.environment(), "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **settings) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if line.startswith("step "):
                process.send_signal(signal.SIGTERM)
                break
        process.stderr.read()
    assert process.returncode == 75
    saved = [max(int(p.name) for p in run.glob("checkpoints/[0-9]*")) for run in out.glob("runs/*/seed-0")]
    assert len(saved) == 2 and saved[0] == saved[1] and 0 < saved[0] < 300
    again = subprocess.run(command, **settings, check=False)
    assert again.returncode == 0 and again.stderr.count(f"Going on from step {saved[0]}") == 2, again.stderr[-2000:]
