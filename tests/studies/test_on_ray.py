"""A study on a local Ray cluster of two nodes."""

from __future__ import annotations

import csv
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from itune.errors import UserError
from itune.studies.on_ray import read_resources
from tests.studies.test_ablate import QUICK, Studied

RAY = str(Path(sys.executable).parent / "ray")


@pytest.fixture(scope="module")
def studied(tmp_path_factory: pytest.TempPathFactory) -> Studied:
    world = Studied(tmp_path_factory.mktemp("study"))
    world.study.write_text(QUICK.format(recipe=world.recipe))
    return world


@pytest.fixture(scope="module")
def cluster(studied: Studied) -> Iterator[str]:
    """The address of two nodes of one processor each, and nothing else of Ray's."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    settings = {"env": studied.environment() | {"RAY_USAGE_STATS_ENABLED": "0"}, "capture_output": True, "text": True}
    common = [RAY, "start", "--num-cpus=1", "--object-store-memory=100000000", "--node-ip-address=127.0.0.1"]
    head = ["--head", f"--port={address.partition(':')[2]}", "--include-dashboard=false"]
    try:
        for words in (head, [f"--address={address}"]):
            done = subprocess.run([*common, *words], **settings, check=False)
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        yield address
    finally:
        subprocess.run([RAY, "stop", "--force"], **settings, check=False)


def test_two_nodes_make_a_studys_runs(studied: Studied, cluster: str) -> None:
    words = ("--executor=ray", f"--ray_address={cluster}")
    done = studied.ablate(*words)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "study: 4 of 4 runs or groups wait for the cluster" in done.stderr
    ended = [line.rpartition(": ")[2] for line in done.stderr.splitlines() if line.startswith("study: run")]
    assert ended == ["done"] * 4
    with open(studied.folder / "out" / "results.csv") as file:
        there = {(r["arm"], r["seed"]) for r in csv.DictReader(file) if r["kind"] == "run"}
    assert len(there) == 4
    begun = sorted(path.stat().st_mtime for path in studied.folder.glob("out/runs/*/*/config.gin"))
    ends = sorted(path.stat().st_mtime for path in studied.folder.glob("out/runs/*/*/losses.jsonl"))
    assert begun[1] < ends[0], "two at a time"
    again = studied.ablate(*words)
    assert again.returncode == 0 and again.stderr.count(": done") == 4 and "wait for the cluster" not in again.stderr


def test_what_no_node_has_is_told_at_once(studied: Studied, cluster: str) -> None:
    words = ("--executor=ray", f"--ray_address={cluster}", "--workdir=other")
    done = studied.ablate(*words, "--ray_resources=GPU=8,CPU=1")
    assert done.returncode == 2
    assert "no node of the cluster has so much (they have GPU=0, CPU=1; GPU=0, CPU=1)" in done.stderr


@pytest.mark.slow
def test_a_signal_here_saves_the_runs_there(studied: Studied, cluster: str) -> None:
    out = studied.folder / "stopped"
    words = ["--executor=ray", f"--ray_address={cluster}", f"--workdir={out}", "--gin.TRAIN_STEPS=2000"]
    command = [sys.executable, "-m", "itune.ablate", f"--gin_file={studied.study}", *words]
    settings = {"cwd": studied.folder, "env": studied.environment(), "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **settings) as process:
        until = time.monotonic() + 300
        while not list(out.glob("runs/*/seed-0/metrics.jsonl")) and time.monotonic() < until:
            time.sleep(0.2)
        process.send_signal(signal.SIGTERM)
        said = process.communicate(timeout=300)[1]
    assert process.returncode == 75, said[-2000:]
    saved = [int(path.name) for path in out.glob("runs/*/seed-0/checkpoints/[0-9]*")]
    assert saved and all(0 < step < 2000 for step in saved), saved


@pytest.mark.slow
def test_a_run_that_fails_there_is_named_here(studied: Studied, cluster: str) -> None:
    axes = "--gin.StudyConfig.axes={'MeshConfig.fsdp': ('3',)}"
    words = ("--executor=ray", f"--ray_address={cluster}", "--workdir=bad", "--gin.StudyConfig.leave_out=()")
    done = studied.ablate(*words, axes)
    assert done.returncode == 2 and "arm 'fsdp=3', seed 0: " in done.stderr, done.stderr[-2000:]


def test_resources_are_names_and_amounts() -> None:
    assert read_resources("GPU=1, CPU=8") == {"GPU": 1.0, "CPU": 8.0}
    for bad in ("GPU", "GPU=many", "=1", "GPU=-1", "GPU=nan"):
        with pytest.raises(UserError, match="must be NAME=AMOUNT, such as GPU=1"):
            read_resources(bad)
