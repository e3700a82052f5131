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
from itune.storage import copy
from itune.storage.lease import NAME
from itune.training.loop import EXIT_NONFINITE
from itune.training.signals import EXIT_PREEMPTED
from tests.gcs import emulator
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
    def launch(
        self, workdir: str, count: int, *flags: str, code: dict[int, str] | None = None, place: str = ""
    ) -> list:
        """place: where the run lives, if not in the folder `workdir`."""
        with socket.socket() as probe:
            probe.bind(("", 0))
            port = probe.getsockname()[1]
        started = []
        for i in range(count):
            which = (f"--coordinator=127.0.0.1:{port}", f"--num_processes={count}", f"--process_id={i}")
            words = [f"--gin_file={self.recipe}", f"--workdir={place or self.folder / workdir}", *flags, *which]
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
            self.assert_at_work(workdir, processes, deadline)

    def assert_at_work(self, workdir: str, processes: list, deadline: float) -> None:
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


def assert_as_one(cluster: Cluster, workdir: str, one: str = "one") -> None:
    assert_same_losses(cluster.losses(workdir), cluster.losses(one))


def assert_same_losses(ours: dict[int, float], theirs: dict[int, float]) -> None:
    """The sums over processes may add in another order: nothing else differs."""
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


def test_lines_of_several_steps_and_a_stop_amid_one_are_those_of_one_process(cluster):
    """Each process reads its sums at the same steps, whatever the time."""
    each_seventh = (*QUICK, "--gin.TrainConfig.log_every=7")
    cluster.devices = 4
    alone = cluster.train("sevenths-one", *each_seventh)
    assert alone.returncode == 0, alone.stderr
    cluster.devices = 2
    processes = cluster.launch("sevenths", 2, *each_seventh, "--gin.EvalConfig.every=1")
    cluster.wait_for("sevenths", 7, processes)
    processes[1].send_signal(signal.SIGTERM)
    assert cluster.codes(processes) == [EXIT_PREEMPTED] * 2, cluster.said("sevenths", 0)
    assert cluster.codes(cluster.launch("sevenths", 2, *each_seventh)) == [0, 0], cluster.said("sevenths", 0)
    assert list(cluster.losses("sevenths")) == [7, 14, 21, 28, 35, 40]
    assert_as_one(cluster, "sevenths", "sevenths-one")


@pytest.mark.parametrize("log_every", [1, 7])
def test_a_loss_that_is_not_finite_stops_all_at_the_same_step(cluster, log_every):
    cluster.devices, name = 2, f"exploded-{log_every}"
    explodes = ("--gin.LearningRateConfig.peak=1e30", "--gin.AdamWConfig.clip_norm=0.0")
    never = ("--gin.CheckpointConfig.every=0", "--step_timeout=60")
    every = f"--gin.TrainConfig.log_every={log_every}"
    codes = cluster.codes(cluster.launch(name, 2, *QUICK, *explodes, *never, every))
    assert codes == [EXIT_NONFINITE] * 2, cluster.said(name, 0) + cluster.said(name, 1)
    last = cluster.metrics(name)[-1]
    # Of several steps the line's loss may be that of the finite ones, or it is the gradient that was not.
    assert last["finite"] is False and last["nonfinite_examples"] and (log_every > 1 or last["loss"] is None)
    said = [line for line in cluster.said(name, 0).splitlines() if "itune: error" in line]
    assert len(said) == 1 and f"step {last['step']}: " in said[0] and last["nonfinite_examples"][0] in said[0]
    assert "itune: error" not in cluster.said(name, 1)
    assert not list((cluster.folder / name / "checkpoints").glob("[0-9]*")), "nothing is kept of it"


def test_a_run_in_a_bucket_goes_on_from_it_with_all_its_processes(cluster):
    """Both are killed; another machine, whose processes share a cache, takes what the bucket holds."""
    cluster.devices = 2
    with emulator() as served:
        url = served.url("exp/shared")
        processes = cluster.launch("bucket", 2, *SLOW, place=url)
        deadline = time.monotonic() + 240
        while max(copy.committed(served.objects("exp/shared/")), default=0) < 4:
            cluster.assert_at_work("bucket", processes, deadline)
        for process in processes:
            process.kill()
        cluster.codes(processes)
        saved = max(copy.committed(served.objects("exp/shared/")))
        home = cluster.cache
        cluster.cache = cluster.another_cache("other")
        served.age(f"exp/shared/{NAME}", 100)
        try:
            again = cluster.codes(cluster.launch("bucket-again", 2, *QUICK, place=url))
        finally:
            cluster.cache = home
        said = cluster.said("bucket-again", 0)
        assert again == [0, 0], said + cluster.said("bucket-again", 1)
        assert f"Going on from step {saved}" in said and f"All of it is in {url}" in said
        assert STEPS in copy.committed(served.objects("exp/shared/"))
        lines = [json.loads(line) for line in served.read("exp/shared/metrics.jsonl").decode().splitlines()]
    assert_same_losses({m["step"]: m["loss"] for m in lines if "loss" in m}, cluster.losses("one"))


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
