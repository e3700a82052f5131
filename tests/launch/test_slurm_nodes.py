"""launch/train.slurm under a real Slurm: two nodes, both played by this machine, train one model."""

from __future__ import annotations

import contextlib
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import pytest

from tests.world import ROOT, World

PATH = f"{os.environ.get('PATH', '')}:/usr/sbin"
NEEDS = ("slurmctld", "slurmd", "munged", "sbatch", "sinfo", "squeue", "scancel")
MISSING = [name for name in NEEDS if shutil.which(name, path=PATH) is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd wants to be root"),
]
# Addresses for names: JAX looks for the coordinator at the first node's name, and nothing has to resolve these.
# Debian's Slurm takes no two nodes of one NodeHostname, nor a second node after one named localhost. Each needs its own
# port, for slurmd listens at all addresses.
CONF = """
ClusterName=fake
SlurmctldHost={host}(127.0.0.1)
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/ctl
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/ctl.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd-%n.log
SlurmctldPort={ports[0]}
SlurmdParameters=config_overrides
MailProg=/bin/true
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
# JAX's port follows from the job's number.
FirstJobId={job}
NodeName={nodes[0]} Port={ports[1]} CPUs=8 RealMemory=1000
NodeName={nodes[1]} Port={ports[2]} CPUs=8 RealMemory=1000
PartitionName=all Nodes=ALL Default=YES State=UP
"""
NODES = ("127.0.0.1", "127.0.0.2")
STEPS = 8


class Slurm:
    """A controller, two nodes and munge, in a folder of their own."""

    def __init__(self, folder: Path):
        self.folder = folder
        self.conf = folder / "slurm.conf"
        (folder / "ctl").mkdir()
        (folder / "key").write_bytes(os.urandom(128))
        (folder / "key").chmod(0o400)
        host = socket.gethostname().partition(".")[0]
        job = random.SystemRandom().randrange(1, 60000)
        self.conf.write_text(CONF.format(folder=folder, host=host, nodes=NODES, ports=free_ports(3), job=job))
        self.environment = self.within(os.environ)
        self.daemons: list[subprocess.Popen[bytes]] = []

    def within(self, environment: Mapping[str, str]) -> dict[str, str]:
        outside = {k: v for k, v in environment.items() if not k.startswith(("SLURM", "SRUN", "SBATCH"))}
        return outside | {"SLURM_CONF": str(self.conf), "PATH": PATH}

    def start(self) -> None:
        files = {"--key-file": "key", "--socket": "munge.socket", "--pid-file": "munge.pid", "--log-file": "munge.log"}
        munged = ["munged", "--foreground", "--force", f"--seed-file={self.folder / 'seed'}"]
        self._daemon([*munged, *[f"{flag}={self.folder / name}" for flag, name in files.items()]])
        self._wait("munge", lambda: (self.folder / "munge.socket").exists())
        self._daemon(["slurmctld", "-D"])
        for node in NODES:
            self._daemon(["slurmd", "-D", "-N", node])
        self._wait("idle nodes", lambda: self.call("sinfo", "--noheader", "--Node", "--format=%T") == "idle\nidle\n")

    def stop(self) -> list[int]:
        """Ends the jobs, the nodes and the rest; returns what would not end and had to be killed."""
        with contextlib.suppress(subprocess.TimeoutExpired):  # there may be no controller
            self.call("scancel", "--user=root")
            deadline = time.monotonic() + 60  # itune saves first; Slurm kills it after 30 s
            while self.call("squeue", "--noheader") and time.monotonic() < deadline:
                time.sleep(0.2)
        for daemon in reversed(self.daemons):
            daemon.terminate()
        for daemon in self.daemons:
            try:
                daemon.wait(30)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        left = self._tasks()
        for process in left:
            os.kill(process, signal.SIGKILL)
        return left

    def call(self, *words: str) -> str:
        return subprocess.run(words, env=self.environment, capture_output=True, text=True, timeout=60).stdout

    def logs(self) -> str:
        return "".join(f"\n== {log.name}\n{log.read_text()[-2000:]}" for log in sorted(self.folder.glob("*.log")))

    def _daemon(self, command: list[str]) -> None:
        quiet = subprocess.DEVNULL
        streams = {"stdin": quiet, "stdout": quiet, "stderr": quiet}
        self.daemons.append(subprocess.Popen(command, env=self.environment, **streams))

    def _wait(self, what: str, there: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 60
        while not there():
            gone = [daemon.args for daemon in self.daemons if daemon.poll() is not None]
            assert not gone and time.monotonic() < deadline, f"no {what}; ended: {gone}{self.logs()}"
            time.sleep(0.2)

    def _tasks(self) -> list[int]:
        """The processes that were started with this configuration, but for the daemons."""
        ours, told = {daemon.pid for daemon in self.daemons}, f"SLURM_CONF={self.conf}".encode()
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if told in (folder / "environ").read_bytes().split(b"\0") and int(folder.name) not in ours:
                    found.append(int(folder.name))
            except OSError:
                pass
        return found


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture
def slurm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Slurm]:
    cluster = Slurm(tmp_path_factory.mktemp("slurm"))
    try:
        cluster.start()
        yield cluster
    finally:
        left = cluster.stop()
    assert not left, f"processes {left} outlived the cluster{cluster.logs()}"


def test_two_nodes_train_one_model(slurm: Slurm, tmp_path: Path) -> None:
    world = World(tmp_path)
    quick = ("--gin.EvalConfig.generate_per_task=0", "--gin.EvalConfig.chat_baseline=False", "--gin.BATCH_SIZE=4")
    world.devices = 4
    one = world.train("one", *quick)
    assert one.returncode == 0, one.stderr
    world.devices = 2
    log = tmp_path / "job.log"
    job = ["sbatch", "--wait", "--nodes=2", "--cpus-per-task=1", "--gpus-per-node=0", f"--output={log}"]
    words = [*job, "launch/train.slurm", f"--gin_file={world.recipe}", f"--workdir={tmp_path / 'run'}", *quick]
    environment = slurm.within(world.environment() | {"ITUNE_PYTHON": sys.executable})
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    said = log.read_text() if log.exists() else ""
    assert done.returncode == 0, done.stderr + said[-3000:] + slurm.logs()
    assert (tmp_path / "run" / "report.html").is_file()
    assert "rank 3 is connected to 3 peer ranks" in said.lower(), "four devices of two processes"
    ours, theirs = world.losses("run"), world.losses("one")
    assert list(ours) == list(theirs) == list(range(1, STEPS + 1))
    np.testing.assert_allclose(list(ours.values()), list(theirs.values()), rtol=2e-6)
