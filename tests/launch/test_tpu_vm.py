"""launch/tpu_vm.sh with a stand-in for gcloud, which runs what is meant for the VM in a folder that plays its home."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "launch" / "tpu_vm.sh"
RECORDER = '#!/bin/bash\npython3 -c "import json, os, sys; print(json.dumps([*sys.argv[1:], os.getcwd()]))" NAME "$@"'
HOST = ["itune-1", "--zone=us-east5-b"]


# A checkout is sent by git; a source archive has none.
in_a_clone = pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a clone")


class Cloud:
    """What was called, and the folder that plays the VM's home."""

    def __init__(self, folder: Path):
        self.calls = folder / "calls.jsonl"
        self.home = folder / "home"
        self.home.mkdir()
        self.bin = folder / "bin"
        self.bin.mkdir()
        self.stand_in(
            "gcloud", 'for word; do case "$word" in --command=*) cd $VM && bash -c "${word#--command=}";; esac; done'
        )
        for name in ("systemd-run", "systemctl", "journalctl", "apt-get", "make"):
            self.stand_in(name, "")
        (self.bin / "sudo").write_text('#!/bin/bash\nexec env "$@"\n')
        (self.bin / "sudo").chmod(0o755)

    def stand_in(self, name: str, does: str) -> None:
        path = self.bin / name
        path.write_text(f"{RECORDER.replace('NAME', name)} >> {self.calls}\n{does.replace('$VM', str(self.home))}\n")
        path.chmod(0o755)

    def run(self, *words: str, **changed: str) -> subprocess.CompletedProcess[str]:
        named = {"TPU_NAME": "itune-1", "TPU_ZONE": "us-east5-b", "TPU_TYPE": "v6e-8"}
        path = f"{self.bin}{os.pathsep}{os.environ['PATH']}"
        environment = (
            {k: v for k, v in os.environ.items() if not k.startswith("TPU_")} | named | {"PATH": path} | changed
        )
        self.calls.write_text("")
        return subprocess.run([SCRIPT, *words], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=60)

    def called(self, name: str) -> list[list[str]]:
        """The words of each call of `name`."""
        calls = [json.loads(line) for line in self.calls.read_text().splitlines()]
        return [call[1:-1] for call in calls if call[0] == name]

    def folder_of(self, name: str) -> str:
        return next(call[-1] for call in map(json.loads, self.calls.read_text().splitlines()) if call[0] == name)


@pytest.fixture
def cloud(tmp_path: Path) -> Cloud:
    return Cloud(tmp_path)


def test_a_request_is_queued_with_the_image_of_its_type(cloud: Cloud) -> None:
    done = cloud.run("create", "--spot")
    assert done.returncode == 0, done.stderr
    asked = ["--node-id=itune-1", "--accelerator-type=v6e-8", "--runtime-version=v2-alpha-tpuv6e", "--spot"]
    assert cloud.called("gcloud") == [["compute", "tpus", "queued-resources", "create", *HOST, *asked]]
    assert cloud.run("create", TPU_TYPE="v5litepod-4", TPU_VERSION="mine").returncode == 0
    assert "--runtime-version=mine" in cloud.called("gcloud")[0]


def test_a_type_without_a_size_is_refused(cloud: Cloud) -> None:
    done = cloud.run("create", TPU_TYPE="v6e")
    assert done.returncode == 2 and "like v6e-8" in done.stderr and not cloud.called("gcloud")


def test_all_hosts_of_a_slice_run_the_training_and_nothing_else(cloud: Cloud) -> None:
    (cloud.home / "itune").mkdir()
    assert cloud.run("run", "--gin_file=a.gin", TPU_TYPE="v6e-32").returncode == 0
    assert "--worker=all" in cloud.called("gcloud")[0]
    assert cloud.called("systemd-run")[0][-2:] == ["--gin_file=a.gin", "--coordinator=auto"]
    assert cloud.run("run", "--gin_file=a.gin").returncode == 0
    assert "--worker=all" not in cloud.called("gcloud")[0] and cloud.called("systemd-run")[0][-1] == "--gin_file=a.gin"
    done = cloud.run("run", "ablate", "--gin_file=a.gin", TPU_TYPE="v6e-32")
    assert done.returncode == 2 and "one process" in done.stderr and not cloud.called("gcloud")


def test_status_of_the_request_and_of_the_run(cloud: Cloud) -> None:
    done = cloud.run("status")
    assert done.returncode == 0, done.stderr
    first, second = cloud.called("gcloud")
    assert first == ["compute", "tpus", "queued-resources", "describe", *HOST, "--format=value(state.state)"]
    assert second[:5] == ["compute", "tpus", "tpu-vm", "ssh", HOST[0]]
    assert "--unit=itune" in cloud.called("journalctl")[0]
    cloud.stand_in("gcloud", 'case "$*" in *ssh*) exit 255;; esac')
    done = cloud.run("status")
    assert done.returncode == 0 and "no VM yet" in done.stderr


@in_a_clone
def test_setup_sends_the_last_commit_and_installs_it(cloud: Cloud) -> None:
    python = cloud.home / "itune" / ".venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.write_text(f"{RECORDER.replace('NAME', 'python')} >> {cloud.calls}\n")
    python.chmod(0o755)
    done = cloud.run("setup")
    assert done.returncode == 0, done.stderr
    assert (cloud.home / "itune" / "itune" / "train.py").is_file() and not (cloud.home / "itune" / ".git").exists()
    assert cloud.called("make") == [["venv"]] and cloud.folder_of("make") == str(cloud.home / "itune")
    lock = (ROOT / "requirements.lock").read_text("utf-8").splitlines()
    (version,) = [row.split("==")[1].split()[0] for row in lock if row.startswith("jax==")]
    assert cloud.called("python")[0][-1] == f"jax[tpu]=={version}"
    assert "python3.11-venv" in cloud.called("apt-get")[1]


def test_a_run_is_a_unit_of_systemd_with_its_words_as_they_are(cloud: Cloud) -> None:
    (cloud.home / "itune").mkdir()
    words = ["--gin_file=a b.gin", "--gin.DataConfig.rates={'clinic/*': 2.0}", "--workdir=runs/$x"]
    done = cloud.run("run", "ITUNE_DATA_DIR=my data", *words)
    assert done.returncode == 0, done.stderr
    (unit,) = cloud.called("systemd-run")
    command = unit.index(".venv/bin/python")
    assert unit[command:] == [".venv/bin/python", "-m", "itune.train", *words]
    assert {"--unit=itune", "--setenv=JAX_PLATFORMS=tpu,cpu", "--setenv=ITUNE_DATA_DIR=my data"} < set(unit[:command])
    assert {f"--uid={os.getuid()}", f"--working-directory={cloud.home / 'itune'}"} < set(unit[:command])


def test_another_command_runs_like_the_training(cloud: Cloud) -> None:
    (cloud.home / "itune").mkdir()
    assert cloud.run("run", "A=1", "ablate", "--gin_file=study.gin", "--part=1/2").returncode == 0
    (unit,) = cloud.called("systemd-run")
    assert unit[-4:] == ["-m", "itune.ablate", "--gin_file=study.gin", "--part=1/2"] and "--setenv=A=1" in unit


def test_fetch_and_delete(cloud: Cloud) -> None:
    assert cloud.run("--dry-run", "fetch", "docs/quickstart").stdout == (
        "gcloud compute tpus tpu-vm scp --recurse itune-1:itune/docs/quickstart docs --zone=us-east5-b \n"
    )
    assert cloud.run("delete").returncode == 0
    assert cloud.called("gcloud") == [["compute", "tpus", "queued-resources", "delete", *HOST, "--force", "--quiet"]]


WORDS = {
    "create": ["--spot"],
    "status": [],
    "setup": [],
    "run": ["--gin_file=a b.gin"],
    "fetch": ["docs/quickstart"],
    "delete": [],
}


@in_a_clone
@pytest.mark.parametrize("what", WORDS)
def test_a_dry_run_prints_the_very_calls_and_makes_none(cloud: Cloud, what: str) -> None:
    for folder in ("itune", "itune/.venv", "itune/.venv/bin"):
        (cloud.home / folder).mkdir()
    (cloud.home / "itune/.venv/bin/python").symlink_to("/bin/true")
    printed = cloud.run("--dry-run", what, *WORDS[what])
    assert printed.returncode == 0 and not cloud.calls.read_text(), printed.stderr
    # bash reads its own quoting back: shlex does not know $'...'.
    said = subprocess.run(
        ["bash", "-c", printed.stdout],
        env=os.environ | {"PATH": f"{cloud.bin}{os.pathsep}{os.environ['PATH']}"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        check=False,
    )
    assert b"not found" not in said.stderr
    dry = cloud.called("gcloud")
    assert cloud.run(what, *WORDS[what]).returncode == 0
    assert dry == cloud.called("gcloud") != []


@pytest.mark.parametrize(
    ("words", "said"),
    [([], "say one of"), (["make"], "there is no make"), (["run"], "say what"), (["fetch"], "one folder")],
)
def test_a_mistake_is_one_line(cloud: Cloud, words: list[str], said: str) -> None:
    done = cloud.run(*words)
    assert done.returncode == 2 and said in done.stderr and done.stderr.count("\n") == 1
    assert not cloud.called("gcloud")
