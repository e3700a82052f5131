"""launch/study.slurm with a stand-in for the study and for scontrol."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "study.slurm"


@pytest.fixture
def stand_ins(tmp_path: Path) -> dict[str, str]:
    python, scontrol = tmp_path / "python", tmp_path / "scontrol"
    python.write_text(
        f"#!/bin/bash\necho \"$@\" > {tmp_path}/said\ntrap 'sleep 0.2; exit 75' TERM\n"
        f"[ -f {tmp_path}/long ] && while true; do sleep 0.05; done\nexit $(cat {tmp_path}/code)\n"
    )
    scontrol.write_text(f'#!/bin/bash\necho "$@" > {tmp_path}/queued\n')
    for path in (python, scontrol):
        path.chmod(0o755)
    (tmp_path / "code").write_text("0")
    slurm = {"SLURM_ARRAY_TASK_ID": "2", "SLURM_ARRAY_TASK_COUNT": "4", "SLURM_ARRAY_JOB_ID": "77"}
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    return dict(os.environ) | slurm | {"PATH": path, "ITUNE_PYTHON": str(python), "SLURM_ARRAY_TASK_MIN": "0"}


def test_a_task_of_the_array_takes_its_part(tmp_path: Path, stand_ins: dict[str, str]) -> None:
    (tmp_path / "code").write_text("3")
    done = subprocess.run([SCRIPT, "--gin_file=a b.gin"], env=stand_ins, capture_output=True, text=True)
    assert done.returncode == 3, "a run that diverged is told"
    assert (tmp_path / "said").read_text() == "-m itune.ablate --gin_file=a b.gin --part=2/4\n"
    assert not (tmp_path / "queued").exists()


def test_what_is_preempted_saves_and_is_queued_again(tmp_path: Path, stand_ins: dict[str, str]) -> None:
    (tmp_path / "long").touch()
    process = subprocess.Popen([SCRIPT], env=stand_ins)
    for _ in range(200):
        if (tmp_path / "said").exists():
            break
        time.sleep(0.05)
    time.sleep(0.3)  # the stand-in has set its trap by then
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 75
    assert (tmp_path / "queued").read_text() == "requeue 77_2\n"


def test_an_array_begins_at_zero(stand_ins: dict[str, str]) -> None:
    done = subprocess.run([SCRIPT], env=stand_ins | {"SLURM_ARRAY_TASK_MIN": "1"}, capture_output=True, text=True)
    assert done.returncode == 2 and "must begin at 0" in done.stderr
    alone = {k: v for k, v in stand_ins.items() if not k.startswith("SLURM")}
    done = subprocess.run([SCRIPT], env=alone, capture_output=True, text=True)
    assert done.returncode != 0 and "sbatch --array=0-N" in done.stderr
