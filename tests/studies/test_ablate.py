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

from tests.world import TASKS, World, write_model

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


MORE_TASKS = """
add_task("toy/more", templates=COUNT, cluster="more", identity="toy/more", **COMMON)
"""


class Studied(World):
    def __init__(self, folder: Path):
        super().__init__(folder)
        (self.folder / "toy_tasks.py").write_text(TASKS + MORE_TASKS)

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
    assert "time: every run is done" in planned.stdout and "nats per target token, by the runs done" in planned.stdout


@pytest.mark.parametrize(
    ("key", "said"),
    [
        ("code", "its runs were made with other code of itune's"),
        ("weights", "runs of the arm 'base' were made with other weights"),
        ("data", "runs of the arm 'base' were made with other data"),
    ],
)
def test_what_is_not_comparable_is_not_mixed(studied: Studied, key: str, said: str) -> None:
    path = studied.folder / "out" / "study.json"
    text = path.read_text()
    record = json.loads(text)
    (record if key == "code" else record["made"][record["arms"]["base"]["digest"]])[key] = "0123"
    path.write_text(json.dumps(record))
    done = studied.ablate()
    assert done.returncode == 2 and f"{said} (0123, now " in done.stderr and done.stderr.count("itune: error") == 1
    path.write_text(text)


AMOUNTS = """
import json, sys
from itune.studies.arms import load_study
from itune.studies.amounts import equalise
found = {}
for unit in ("steps", "tokens", "supervised_tokens", "shared_examples"):
    study = load_study([sys.argv[1]], ["TRAIN_STEPS=20", f"StudyConfig.held_equal={unit}"], "other")
    facts = equalise(study, lambda line: None)[1]
    found[unit] = {name: dict(fact.amounts) for name, fact in facts.items()}
print(json.dumps(found))
"""


def test_an_arm_may_have_the_bases_amounts_in_other_steps(studied: Studied) -> None:
    command = [sys.executable, "-c", AMOUNTS, str(studied.study)]
    done = subprocess.run(command, cwd=studied.folder, env=studied.environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    found = json.loads(done.stdout.splitlines()[-1])
    for unit in ("tokens", "supervised_tokens"):
        base, arm = found[unit]["base"], found[unit]["without toy/echo"]
        step = arm[unit] / arm["steps"]
        assert arm["steps"] != 20 and abs(arm[unit] - base[unit]) <= step, (unit, found)
    base, arm = found["steps"]["base"], found["steps"]["without toy/echo"]
    assert arm["steps"] == 20
    # toy/add is two thirds of the base, and all of the arm.
    left = found["shared_examples"]["without toy/echo"]
    assert left["examples"] == pytest.approx(base["examples"] * 2 / 3, rel=0.1) and left["steps"] < 20


def test_arms_of_many_kinds(studied: Studied) -> None:
    """Each says what it does to the mixture, in names, patterns, clusters and sources."""
    write_model(studied.folder / "other", seed=1)
    given = [
        "--gin.StudyConfig.leave_out=('cluster:echo',)",
        """--gin.StudyConfig.arms={'more sums': ("DataConfig.rate_factors={'source:toy/sums': 3.0}",)}""",
        "--gin.StudyConfig.add=('toy/more',)",
        "--gin.StudyConfig.axes={'DataConfig.rate_cap': ('10',), 'WeightsConfig.source': ('other',)}",
    ]
    planned = studied.ablate("--dry_run", "--workdir=kinds", *given)
    assert planned.returncode == 0, planned.stderr[-2000:]
    said = planned.stdout
    for arm in ("without cluster:echo", "more sums", "with toy/more", "rate_cap=10", "source=other"):
        assert re.search(
            rf"^{re.escape(arm)}  \([0-9a-f]{{12}}\): [\d,]+ tokens a run, 0 of 2 runs done$", said, re.M
        ), arm
    assert "    DataConfig.mixture: 'toy' -> 'toy+toy/more'" in said
    assert "    more sums: " in said


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (
            "leave_out=('toy/ehco',)",
            "arm 'without toy/ehco': DataConfig.rate_factors: no task of the mixture is called",
        ),
        ("leave_out=('cluster:ehco',)", "is called 'cluster:ehco'. Did you mean 'cluster:echo'?"),
        ("add=('toy/mroe',)", "Did you mean 'toy/more'"),
        ("axes={'DataConfig.max_tasks': ('2',)}", "arm 'max_tasks=2': trains on the same rows as the base"),
        ("axes={'WeightsConfig.source': ('gone/model',)}", "arm 'source=gone/model': WeightsConfig.source"),
    ],
)
def test_a_study_that_can_not_be_is_one_line(studied: Studied, given: str, said: str) -> None:
    names = [f"--gin.StudyConfig.{given}"]
    names += [] if "leave_out" in given else ["--gin.StudyConfig.leave_out=()"]
    done = studied.ablate("--dry_run", "--workdir=bad", *names)
    errors = [line for line in done.stderr.splitlines() if line.startswith("itune: error")]
    assert done.returncode == 2 and len(errors) == 1 and said in errors[0], done.stderr[-2000:]


@pytest.mark.slow
def test_a_proposal_looks_at_arms_of_other_steps(studied: Studied) -> None:
    words = [
        "--workdir=mixed",
        "--gin.StudyConfig.seeds=(0,)",
        "--gin.StudyConfig.leave_out=()",
        "--gin.TRAIN_STEPS=20",
    ]
    words += ["--gin.StudyConfig.random_mixtures=3", "--gin.StudyConfig.mix=('toy/add',)"]
    words += ["--gin.StudyConfig.held_equal='supervised_tokens'"]
    done = studied.ablate(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    arms = json.loads((studied.folder / "mixed" / "study.json").read_text())["arms"]
    assert {arm["amounts"]["steps"] for arm in arms.values()} > {20}
    proposed = studied.ablate(*words, "--propose")
    assert proposed.returncode == 0 and proposed.stdout, proposed.stderr[-2000:]
    assert "runs that are done are of" not in proposed.stdout, "four mixtures were run, and two groups need as many"


def test_who_stopped_early_is_said(studied: Studied) -> None:
    """Nothing is better by 100 nats: at the second evaluation of six steps each run ends."""
    often = ("TRAIN_STEPS=6", "EvalConfig.every=1", "EvalConfig.patience=1", "EvalConfig.min_gain=100.0")
    bindings = [f"--gin.{binding}" for binding in (*often, "StudyConfig.seeds=(0,)")]
    done = studied.ablate("--workdir=early", *bindings)
    assert done.returncode == 0, done.stderr[-3000:]
    page = (studied.folder / "early" / "report.html").read_text()
    assert "Every arm may stop early (EvalConfig.patience)" in page
    for arm in ("base", "without toy/echo"):
        assert f"{arm}: seed 0 stopped at step 2 of 6." in page.replace("Base: ", "base: ").replace(
            "Without", "without"
        ), arm


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
    return {(row["arm"], row["seed"], row["task"]): float(row["value"]) for row in rows}


def test_runs_of_one_shape_train_in_one_step(studied: Studied) -> None:
    """As each trains alone; one that was lost runs alone."""
    words = ["--gin.StudyConfig.together=3", "--gin.StudyConfig.seeds=(0,)"]
    words.append("--gin.StudyConfig.axes={'LearningRateConfig.peak': ('1e-4',)}")
    done = studied.ablate("--workdir=together", *words)
    assert done.returncode == 0, done.stderr[-3000:]
    out = studied.folder / "together"
    assert len(list(out.glob("runs/*/*/losses.jsonl"))) == 3 and "3 runs" in done.stderr
    mine, alone = losses(out), losses(studied.folder / "out")
    both = {key for key in alone if key[1] == "0"}
    assert {key: mine[key] for key in both} == {key: pytest.approx(alone[key], abs=1e-4) for key in both}
    (lost, *_) = out.glob("runs/*/seed-0/losses.jsonl")
    lost.unlink()
    again = studied.ablate("--workdir=together", *words)
    assert again.returncode == 0 and lost.is_file() and again.stderr.count(": done") == 2


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
