"""launch/train.slurm under a real Slurm: two nodes, both played by this machine, train one model."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.world import ROOT, World

NEEDS = ("slurmctld", "slurmd", "munged", "sbatch")
MISSING = [name for name in NEEDS if shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin") is None]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(MISSING), reason=f"no {', '.join(MISSING)}: apt-get install slurm-wlm munge"),
    pytest.mark.skipif(os.geteuid() != 0, reason="slurmd wants to be root"),
]
# Both names are this machine's; JAX looks for the coordinator at the first.
NODES = ("localhost", "localhost6")
CONF = """
ClusterName=fake
SlurmctldHost={host}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
StateSaveLocation={folder}/ctl
SlurmdSpoolDir={folder}/%n
SlurmctldPidFile={folder}/ctl.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/ctl.log
SlurmdLogFile={folder}/%n.log
SlurmctldPort={ports[0]}
SlurmdParameters=config_overrides
ProctrackType=proctrack/pgid
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
MpiDefault=none
NodeName={nodes[0]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=8 RealMemory=1000
NodeName={nodes[1]} NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=8 RealMemory=1000
PartitionName=all Nodes={nodes[0]},{nodes[1]} Default=YES State=UP
"""


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("", 0))
    ports = [probe.getsockname()[1] for probe in probes]
    for probe in probes:
        probe.close()
    return ports


@pytest.fixture
def slurm(tmp_path_factory):
    """The environment of its commands."""
    folder = Path(tmp_path_factory.mktemp("slurm"))
    (folder / "ctl").mkdir()
    (folder / "key").write_bytes(os.urandom(128))
    (folder / "key").chmod(0o400)
    host = socket.gethostname().partition(".")[0]
    (folder / "slurm.conf").write_text(CONF.format(folder=folder, host=host, nodes=NODES, ports=free_ports(3)))
    path = f"{os.environ['PATH']}:/usr/sbin"
    environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf"), "PATH": path}
    files = {"--key-file": "key", "--socket": "munge.socket", "--pid-file": "munge.pid", "--log-file": "munge.log"}
    munged = ["munged", "--foreground", "--force", f"--seed-file={folder / 'seed'}"]
    munged += [f"{flag}={folder / name}" for flag, name in files.items()]
    commands = [munged, ["slurmctld", "-D"], *[["slurmd", "-D", "-N", node] for node in NODES]]
    started = []
    try:
        for command in commands:
            quiet = subprocess.DEVNULL
            started.append(subprocess.Popen(command, env=environment, stdout=quiet, stderr=quiet))
            time.sleep(1)
        yield environment
    finally:
        for process in reversed(started):
            process.terminate()
            process.wait(30)


def test_two_nodes_train_one_model(slurm, tmp_path):
    world = World(tmp_path)
    world.devices = 2
    quick = ("--gin.EvalConfig.generate_per_task=0", "--gin.EvalConfig.chat_baseline=False", "--gin.BATCH_SIZE=4")
    log = tmp_path / "job.log"
    job = ["sbatch", "--wait", "--nodes=2", "--cpus-per-task=1", "--gpus-per-node=0", f"--output={log}"]
    words = [*job, "launch/train.slurm", f"--gin_file={world.recipe}", f"--workdir={tmp_path / 'run'}", *quick]
    environment = slurm | world.environment() | {"SLURM_CONF": slurm["SLURM_CONF"], "PATH": slurm["PATH"]}
    environment |= {"ITUNE_PYTHON": sys.executable}
    done = subprocess.run(words, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr + (log.read_text()[-3000:] if log.exists() else "")
    assert list(world.losses("run")) == list(range(1, 9)) and (tmp_path / "run" / "report.html").is_file()
    assert "rank 3 is connected to 3 peer ranks" in log.read_text().lower(), "four devices of two processes"
