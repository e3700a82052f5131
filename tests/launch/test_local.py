"""launch/local.sh: several processes on this machine, stopped together, and one exit code for all."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from itune.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR
from itune.parallel.watch import EXIT_PEER_LOST
from tests.world import ROOT, World

SCRIPT = ROOT / "launch" / "local.sh"
# What the script calls: a port is asked for; process N ends as its file says, or lives until a signal comes. The first
# then takes longest.
STAND_IN = """#!/bin/bash
if [ "$1" = -c ]; then echo 4321; exit; fi
echo "$@" > {folder}/said${{@: -1}}
if [ -e {folder}/code${{@: -1}} ]; then exit "$(cat {folder}/code${{@: -1}})"; fi
save() {{ if [ "${{@: -1}}" = --process_id=0 ]; then sleep 0.5; fi; }}
trap 'save "$@"; exit 75' TERM
trap 'save "$@"; exit 130' INT
echo $$ > {folder}/pid${{@: -1}}
while true; do sleep 0.05; done
"""


class Local:
    """The script over processes that only end as they are told."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.python = folder / "python"
        self.python.write_text(STAND_IN.format(folder=folder))
        self.python.chmod(0o755)

    def start(self, *words: str) -> subprocess.Popen[str]:
        return start(words, os.environ | {"ITUNE_PYTHON": str(self.python)})

    def ends(self, *codes: int) -> int:
        for process, code in enumerate(codes):
            (self.folder / f"code--process_id={process}").write_text(str(code))
        process = self.start(str(len(codes)), "4", "--gin_file=a b.gin")
        process.communicate(timeout=60)
        return process.returncode

    def pids(self, count: int) -> list[int]:
        files = [self.folder / f"pid--process_id={n}" for n in range(count)]
        wait_until(lambda: all(file.exists() and file.read_text().strip() for file in files))
        return [int(file.read_text()) for file in files]


def start(words, environment) -> subprocess.Popen[str]:
    """As a terminal would: at the head of a process group, in which SIGINT is not ignored."""
    # Not by preexec_fn: that forks, which JAX, if it is loaded here, warns of.
    become = "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    return subprocess.Popen(
        [sys.executable, "-c", become, SCRIPT, *words],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def wait_until(there, process: subprocess.Popen[str] | None = None) -> None:
    deadline = time.monotonic() + 240
    while not there():
        assert process is None or process.poll() is None, process.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(pid: int) -> bool:
    """Not one that has ended, and whose new parent has not asked how."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


@pytest.fixture
def local(tmp_path: Path) -> Iterator[Local]:
    yield Local(tmp_path)
    for file in tmp_path.glob("pid--*"):
        with contextlib.suppress(ProcessLookupError):  # as it should be
            os.kill(int(file.read_text()), signal.SIGKILL)


@pytest.mark.parametrize(
    ("codes", "code"),
    [
        ((0, 0), 0),
        ((0, EXIT_USER_ERROR, 0), EXIT_USER_ERROR),
        ((3, 0), 3),
        ((137, EXIT_PEER_LOST), EXIT_PEER_LOST),  # one was killed: what the others say of it counts
        ((EXIT_INTERRUPTED, EXIT_INTERRUPTED), EXIT_INTERRUPTED),
        ((0, 139), 139),
    ],
)
def test_it_ends_as_its_processes_do(local: Local, codes: tuple[int, ...], code: int) -> None:
    assert local.ends(*codes) == code


def test_each_process_gets_the_words_and_its_number(local: Local) -> None:
    assert local.ends(0, 0) == 0
    for n in (0, 1):
        said = (local.folder / f"said--process_id={n}").read_text()
        which = f"--coordinator=127.0.0.1:4321 --num_processes=2 --process_id={n}"
        assert said == f"-m itune.train --gin_file=a b.gin {which}\n"


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, EXIT_INTERRUPTED), (signal.SIGTERM, 75)])
@pytest.mark.parametrize("group", [True, False], ids=["terminal", "kill"])
def test_a_signal_goes_to_all_and_is_waited_for(local: Local, number: int, code: int, group: bool) -> None:
    process = local.start("3", "1", "--gin_file=a.gin")
    pids = local.pids(3)
    (os.killpg if group else os.kill)(process.pid, number)
    # Not by communicate(), which waits for all that could still write.
    assert process.wait(60) == code and not any(alive(pid) for pid in pids)
    process.communicate()


@pytest.mark.parametrize("words", [[], ["2"], ["0", "1", "--a"], ["2", "x", "--a"], ["--gin_file=a.gin", "2", "4"]])
def test_a_mistake_is_one_line(local: Local, words: list[str]) -> None:
    process = local.start(*words)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 2 and said.count("\n") == 1 and "say PROCESSES DEVICES" in said


def test_ctrl_c_saves_one_step_of_a_run_and_ends_all(tmp_path: Path) -> None:
    world, folder = World(tmp_path), tmp_path / "run"
    environment = world.environment() | {"ITUNE_PYTHON": sys.executable, "XLA_FLAGS": ""}
    flags = ("--gin.BATCH_SIZE=4", "--gin.TRAIN_STEPS=2000", "--gin.CheckpointConfig.every=0")
    quick = ("--gin.EvalConfig.generate_per_task=0", "--gin.EvalConfig.chat_baseline=False")
    process = start(("2", "2", f"--gin_file={world.recipe}", f"--workdir={folder}", *flags, *quick), environment)
    wait_until(lambda: max(world.losses("run"), default=0) > 2, process)
    (children,) = Path(f"/proc/{process.pid}/task").glob("*/children")
    pids = [int(pid) for pid in children.read_text().split()]
    assert len(pids) == 2
    os.killpg(process.pid, signal.SIGINT)
    process.wait(240)
    assert not any(alive(pid) for pid in pids), "the script waits for all"
    _, said = process.communicate()
    assert process.returncode == EXIT_INTERRUPTED, said
    assert "goes on from the newest checkpoint" in said and "Traceback" not in said
    (saved,) = (int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
    assert saved == max(world.losses("run")) < 2000
    assert (folder / "checkpoints" / "digests" / f"{saved}.json").is_file()


def test_a_slip_in_the_configuration_ends_all_with_its_code(tmp_path: Path) -> None:
    world = World(tmp_path)
    environment = world.environment() | {"ITUNE_PYTHON": sys.executable, "XLA_FLAGS": ""}
    slip = ("--gin.LearningRateConfig.peek=1", f"--workdir={tmp_path / 'run'}")
    process = start(("2", "1", f"--gin_file={world.recipe}", *slip), environment)
    _, said = process.communicate(timeout=240)
    assert process.returncode == EXIT_USER_ERROR, said
    assert {line.partition(": error")[0] for line in said.splitlines()} == {"itune"} and "'peak'" in said
