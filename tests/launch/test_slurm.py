"""launch/*.slurm with stand-ins for itune, srun and scontrol."""

from __future__ import annotations

import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
FILES = ("study.slurm", "train.slurm")
MODULES = {"study.slurm": "-m itune.ablate", "train.slurm": "-m itune.train"}
JOBS = {"study.slurm": "77_2", "train.slurm": "79"}


class Slurm:
    """One job: what was said to itune, what was queued again."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.stand_in(
            "python",
            f"echo \"$@\" > {folder}/said; env > {folder}/environment; trap 'sleep 0.2; exit 75' TERM\n"
            f"echo $$ > {folder}/trapped\n[ -f {folder}/long ] && while true; do sleep 0.05; done\n"
            f"exit $(cat {folder}/code)",
        )
        # As srun does: its own options first; a signal that it gets itself ends the step by SIGKILL.
        self.stand_in(
            "srun",
            f'echo "$@" > {folder}/step\nwhile [[ "$1" == --* ]]; do shift; done\n"$@" & child=$!\n'
            "trap 'kill -KILL $child' TERM\nwait $child",
        )
        self.stand_in("scontrol", f'echo "$@" > {folder}/queued')
        self.ends_with(0)

    def stand_in(self, name: str, does: str) -> None:
        (self.folder / name).write_text(f"#!/bin/bash\n{does}\n")
        (self.folder / name).chmod(0o755)

    def ends_with(self, code: int) -> None:
        (self.folder / "code").write_text(str(code))

    def start(self, file: str, *words: str, **changed: str) -> subprocess.Popen[str]:
        # A copy, elsewhere, is what Slurm runs.
        script = Path(shutil.copy(ROOT / "launch" / file, self.folder / "slurm_script"))
        job = {"SLURM_JOB_ID": "79", "SLURM_JOB_NUM_NODES": "1", "SLURM_CPUS_PER_TASK": "8"}
        if file == "study.slurm":
            job |= {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_JOB_ID": "77"}
            job |= {"SLURM_ARRAY_TASK_MIN": "0"}
        path = f"{self.folder}{os.pathsep}{os.environ['PATH']}"
        outside = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SRUN"))}
        environment = outside | job | {"PATH": path, "ITUNE_PYTHON": str(self.folder / "python")} | changed
        environment = {k: v for k, v in environment.items() if v}
        return subprocess.Popen([script, *words], cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)

    def run(self, file: str, *words: str, **changed: str) -> tuple[int, str]:
        process = self.start(file, *words, **changed)
        _, said = process.communicate(timeout=60)
        return process.returncode, said

    def read(self, name: str) -> str | None:
        path = self.folder / name
        return path.read_text() if path.exists() else None


@pytest.fixture
def slurm(tmp_path: Path) -> Slurm:
    return Slurm(tmp_path)


@pytest.mark.parametrize("file", FILES)
def test_the_words_go_to_itune_and_its_exit_code_comes_back(slurm: Slurm, file: str) -> None:
    slurm.ends_with(3)
    code, said = slurm.run(file, "--gin_file=a b.gin")
    assert code == 3, said
    part = " --part=2/4" if file == "study.slurm" else ""
    assert slurm.read("said") == f"{MODULES[file]} --gin_file=a b.gin{part}\n"
    assert slurm.read("queued") is None, "a run that diverged would diverge again"
    assert (slurm.read("step") or "").startswith("--ntasks=1 "), "a step, for Slurm signals steps when it preempts"
    assert "SRUN_CPUS_PER_TASK=8\n" in (slurm.read("environment") or "")


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("whole_job", [False, True], ids=["step", "job"])
def test_what_is_preempted_saves_and_is_queued_again(slurm: Slurm, file: str, whole_job: bool) -> None:
    (slurm.folder / "long").touch()
    process = slurm.start(file)
    deadline = time.monotonic() + 30
    while not slurm.read("trapped") and time.monotonic() < deadline:
        time.sleep(0.02)
    task = int(slurm.read("trapped") or "")
    if whole_job:
        process.send_signal(signal.SIGTERM)  # the batch script too, and first
        time.sleep(0.1)
    os.kill(task, signal.SIGTERM)  # Slurm signals a step's tasks itself
    process.communicate(timeout=30)
    assert process.returncode == 75
    assert slurm.read("queued") == f"requeue {JOBS[file]}\n"


@pytest.mark.parametrize("file", FILES)
@pytest.mark.parametrize("code", [0, 1, 2, 130])
def test_nothing_else_is_queued_again(slurm: Slurm, file: str, code: int) -> None:
    slurm.ends_with(code)
    assert slurm.run(file)[0] == code
    assert slurm.read("queued") is None


@pytest.mark.parametrize("file", FILES)
def test_slurm_signals_the_step_in_time(file: str) -> None:
    text = (ROOT / "launch" / file).read_text("utf-8")
    asked = dict(re.findall(r"^#SBATCH --([a-z-]+)(?:=(\S+))?$", text, re.MULTILINE))
    assert re.fullmatch(r"TERM@\d+", asked["signal"]), "B: would have it signal the batch script alone"
    assert {"requeue", "ntasks" if file == "study.slurm" else "ntasks-per-node"} <= set(asked) and asked[
        "open-mode"
    ] == "append"
    directives, _, rest = text.partition("\nset -euo pipefail\n")
    assert "#SBATCH" in directives and "#SBATCH" not in rest, "sbatch reads none after the first command"


def test_an_array_begins_at_zero(slurm: Slurm) -> None:
    code, said = slurm.run("study.slurm", SLURM_ARRAY_TASK_MIN="1")
    assert code == 2 and "must begin at 0" in said
    code, said = slurm.run("study.slurm", SLURM_ARRAY_TASK_ID="")
    assert code != 0 and "sbatch --array=0-N" in said


@pytest.mark.parametrize(("per_node", "tasks"), [("", 2), ("1", 2), ("8", 16)])
def test_a_run_takes_as_many_tasks_as_it_is_given(slurm: Slurm, per_node: str, tasks: int) -> None:
    code, said = slurm.run("train.slurm", SLURM_JOB_NUM_NODES="2", SLURM_NTASKS_PER_NODE=per_node)
    assert code == 0 and (slurm.read("step") or "").startswith(f"--ntasks={tasks} "), said
