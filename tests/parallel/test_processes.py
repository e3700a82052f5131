"""Runs over several real processes on this machine: the same losses as one, and what becomes of them when one goes."""

from __future__ import annotations

import json
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

from itune.parallel.watch import EXIT_PEER_LOST, EXIT_STUCK
from itune.training.signals import EXIT_PREEMPTED
from tests.world import World

STEPS = 40  # enough to be hit amid them: a stop takes as long as word of it does
SHAPE = ("--gin.BATCH_SIZE=4", f"--gin.TRAIN_STEPS={STEPS}", "--gin.EvalConfig.chat_baseline=False")
QUICK = (*SHAPE, "--gin.EvalConfig.generate_per_task=0")
SLOW = (*QUICK, "--gin.EvalConfig.every=1")
SOON = ("--heartbeat_timeout=4",)
# A process whose rows stop coming once a file says so; everything else of it lives on.
STALLS = """
import pathlib, sys, time
from itune.data import reader
real = reader.Reader.record
def record(self, *which):
    while pathlib.Path({flag!r}).exists(): time.sleep(0.1)
    return real(self, *which)
reader.Reader.record = record
from itune import cli, train
sys.exit(cli.run(train.main))
"""


class Cluster(World):
    def launch(self, workdir: str, count: int, *flags: str, code: dict[int, str] | None = None) -> list:
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        started = []
        for i in range(count):
            which = (f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}", f"--process_id={i}")
            words = [f"--gin_file={self.recipe}", f"--workdir={self.folder / workdir}", *flags, *which]
            how = ["-c", code[i]] if code and i in code else ["-m", "itune.train"]
            with (self.folder / f"{workdir}-{i}.log").open("w") as log:
                quiet = subprocess.DEVNULL
                command = [sys.executable, *how, *words]
                started.append(
                    subprocess.Popen(command, cwd=self.folder, env=self.environment(), stdout=quiet, stderr=log)
                )
        return started

    def said(self, workdir: str, i: int) -> str:
        return (self.folder / f"{workdir}-{i}.log").read_text()

    def codes(self, processes: list) -> list[int]:
        try:
            return [process.wait(timeout=240) for process in processes]
        finally:
            for process in processes:
                process.kill()

    def wait_for(self, workdir: str, step: int, processes: list) -> None:
        deadline = time.monotonic() + 240
        while max(self.losses(workdir), default=0) < step:
            assert all(p.poll() is None for p in processes), self.said(workdir, 0) + self.said(workdir, 1)
            assert time.monotonic() < deadline
            time.sleep(0.01)


@pytest.fixture(scope="module")
def cluster(tmp_path_factory):
    world = Cluster(tmp_path_factory.mktemp("cluster"))
    world.devices = 4
    done = world.train("one", *SHAPE)
    assert done.returncode == 0, done.stderr
    return world


def assert_as_one(cluster: Cluster, workdir: str) -> None:
    """The sums over processes may add in another order: nothing else differs."""
    ours, theirs = cluster.losses(workdir), cluster.losses("one")
    assert list(ours) == list(theirs)
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=2e-6)


@pytest.mark.slow
def test_four_processes_train_and_report_as_one(cluster):
    """Tensor axes span processes here, so that two of them read the same rows."""
    cluster.devices = 1
    mesh = ("--gin.MeshConfig.data=2", "--gin.MeshConfig.tensor=2")
    assert cluster.codes(cluster.launch("four", 4, *SHAPE, *mesh)) == [0] * 4, cluster.said("four", 0)
    assert_as_one(cluster, "four")
    assert all(not cluster.said("four", i).count("step ") for i in (1, 2, 3)), "only process 0 speaks"
    for name in ("proportions.json", "plan.json"):
        assert (cluster.folder / "four" / name).read_text() == (cluster.folder / "one" / name).read_text()
    texts = [
        [json.loads(line)["after"] for line in (cluster.folder / run / "predictions.jsonl").read_text().splitlines()]
        for run in ("one", "four")
    ]
    assert texts[0] == texts[1] and len(texts[0]) == 6
    assert (cluster.folder / "four" / "report.html").is_file()


def test_a_signal_to_one_saves_one_step_of_all_and_fewer_go_on(cluster):
    cluster.devices = 2
    processes = cluster.launch("stopped", 2, *SLOW)
    cluster.wait_for("stopped", 2, processes)
    processes[1].send_signal(signal.SIGTERM)
    assert cluster.codes(processes) == [EXIT_PREEMPTED] * 2, cluster.said("stopped", 0) + cluster.said("stopped", 1)
    saved = {int(p.name) for p in (cluster.folder / "stopped" / "checkpoints").iterdir() if p.name.isdigit()}
    assert max(saved) == max(cluster.losses("stopped")) < STEPS
    assert (cluster.folder / "stopped" / "checkpoints" / "digests" / f"{max(saved)}.json").is_file()
    resumed = cluster.train("stopped", *QUICK)  # one process with two devices
    assert resumed.returncode == 0 and f"Going on from step {max(saved)}" in resumed.stderr, resumed.stderr
    assert_as_one(cluster, "stopped")


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_one_is_killed_the_other_says_so_and_both_go_on_later(cluster, victim):
    cluster.devices, name = 2, f"killed-{victim}"
    processes = cluster.launch(name, 2, *SLOW, *SOON)
    cluster.wait_for(name, 4, processes)
    processes[victim].kill()
    codes = cluster.codes(processes)
    assert codes[victim] == -signal.SIGKILL and codes[1 - victim] == EXIT_PEER_LOST, cluster.said(name, 1 - victim)
    assert f"process {victim}" in cluster.said(name, 1 - victim).splitlines()[-1]
    assert cluster.codes(cluster.launch(name, 2, *QUICK)) == [0, 0], cluster.said(name, 0)
    assert "Going on from step" in cluster.said(name, 0)
    assert_as_one(cluster, name)


@pytest.mark.slow
def test_one_that_lives_but_does_not_come_is_named(cluster):
    cluster.devices, flag = 2, cluster.folder / "stall"
    stalls = STALLS.format(flag=str(flag))
    # The feed reads ahead: there must be enough steps behind that.
    flags = (*QUICK[:1], *QUICK[2:], "--gin.TRAIN_STEPS=2000", "--gin.CheckpointConfig.every=0", "--step_timeout=6")
    processes = cluster.launch("stalled", 2, *flags, code={1: stalls})
    cluster.wait_for("stalled", 2, processes)
    flag.touch()
    assert cluster.codes(processes) == [EXIT_STUCK] * 2, cluster.said("stalled", 0)[-2000:]
    for i in (0, 1):
        assert "not arrived: process 1 on " in cluster.said("stalled", i)


def test_processes_that_differ_do_not_begin(cluster):
    cluster.devices = 1
    first = cluster.launch("differ", 2, *QUICK)
    first[1].kill()
    first[1].wait()
    words = [word for word in first[0].args if not word.startswith("--process_id")]
    other = subprocess.run(
        [*words, "--process_id=1", "--gin.LearningRateConfig.peak=0.5"],
        cwd=cluster.folder,
        env=cluster.environment(),
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert cluster.codes(first[:1]) == [2] and other.returncode == 2
    said = cluster.said("differ", 0)
    assert "process 1 on " in said and "learning_rate.peak = 0.5, process 0 has 0.001" in said
    assert said.count("itune: error") == 1 and "itune: error" not in other.stderr
    assert not (cluster.folder / "differ" / "checkpoints").exists()
