"""launch/gke: the YAML as a cluster would read it, and its commands as a pod would run them."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from itune.cli import EXIT_USER_ERROR
from itune.parallel.watch import EXIT_PEER_LOST, EXIT_STUCK
from itune.training.loop import EXIT_NONFINITE
from itune.training.signals import EXIT_PREEMPTED
from tests.launch.jobset import JOBSET
from tests.world import ROOT, World

GKE = ROOT / "launch" / "gke"
FILES = ("study.yaml", "train.yaml", "train_slices.yaml")
STUDY = """
include '{recipe}'
TRAIN_STEPS = 2
CheckpointConfig.every = 0
EvalConfig.chat_baseline = False
EvalConfig.generate_per_task = 0
EvalConfig.examples_per_task = 3
StudyConfig.seeds = (0,)
StudyConfig.endpoint = 'held_in'
StudyConfig.leave_out = ('toy/echo',)
"""

Job = dict[str, Any]


def read(name: str) -> dict[str, Any]:
    return yaml.safe_load((GKE / name).read_text("utf-8"))


def jobs(name: str) -> dict[str, Job]:
    """{name of the replicated job: the Job's spec}"""
    return {job["name"]: job["template"]["spec"] for job in read(name)["spec"]["replicatedJobs"]}


EVERY = {f"{name}:{job}": spec for name in FILES for job, spec in jobs(name).items()}


def container(job: Job) -> dict[str, Any]:
    (only,) = job["template"]["spec"]["containers"]
    return only


def action(job: Job, code: int) -> str:
    """What Kubernetes does with a pod that ends so: the first rule that fits, else it counts as a failure."""
    for rule in job["podFailurePolicy"]["rules"]:
        on = rule.get("onExitCodes")
        if on and (code in on["values"]) == (on["operator"] == "In"):
            return rule["action"]
    return "Count"


@pytest.mark.parametrize("name", FILES)
def test_a_jobset_reads_it(name: str) -> None:
    jsonschema.validate(read(name), JOBSET)
    replicated = read(name)["spec"]["replicatedJobs"]
    for place, job in enumerate(replicated):
        before = {earlier["name"] for earlier in replicated[:place]}
        assert {d["name"] for d in job.get("dependsOn", [])} <= before, "a job may wait for an earlier one alone"


@pytest.mark.parametrize("job", EVERY.values(), ids=EVERY)
def test_what_a_job_names_is_there(job: Job) -> None:
    pod, main = job["template"]["spec"], container(job)
    named = {r["onExitCodes"]["containerName"] for r in job["podFailurePolicy"]["rules"] if "onExitCodes" in r}
    assert named == {main["name"]}
    assert {m["name"] for m in main["volumeMounts"]} == {v["name"] for v in pod["volumes"]}
    given = {variable["name"] for variable in main["env"]} | {"JOB_COMPLETION_INDEX"}
    assert set(re.findall(r"\$\{?([A-Z_]+)", main["args"][0])) <= given
    assert "$(" not in main["args"][0], "Kubernetes would put a variable in before bash does"
    (mount,) = main["volumeMounts"]
    folders = [v["value"] for v in main["env"] if v["name"] in ("WORKDIR", "ITUNE_CACHE_DIR", "ITUNE_DATA_DIR")]
    assert len(folders) == 3 and all(folder.startswith(mount["mountPath"] + "/") for folder in folders)
    resources = main["resources"]
    assert resources.get("limits", {}).get("google.com/tpu") == resources["requests"].get("google.com/tpu")
    topology = pod.get("nodeSelector", {}).get("cloud.google.com/gke-tpu-topology")
    if topology:  # all chips of the slice: in one pod, or four in each of a pod a host
        wide, high = map(int, topology.split("x"))
        hosts = job["completions"] if wide * high > 8 else 1
        assert resources["limits"]["google.com/tpu"] == wide * high / hosts <= 8
        assert job["parallelism"] == job["completions"], "all at once, or none begins"
    gin_file = next(v["value"] for v in main["env"] if v["name"] == "GIN_FILE")
    assert (ROOT / gin_file).is_file()


def test_each_exit_code_has_its_rule() -> None:
    train, prepare, parts = EVERY["train.yaml:train"], EVERY["study.yaml:prepare"], EVERY["study.yaml:parts"]
    hosts = EVERY["train_slices.yaml:slice"]
    assert action(hosts, EXIT_PREEMPTED) == action(hosts, EXIT_PEER_LOST) == "Ignore"
    assert action(hosts, EXIT_STUCK) == "Count" and action(hosts, EXIT_USER_ERROR) == "FailJob"
    assert action(train, EXIT_PREEMPTED) == action(parts, EXIT_PREEMPTED) == "Ignore"
    assert action(train, EXIT_USER_ERROR) == action(prepare, EXIT_USER_ERROR) == "FailJob"
    assert action(train, EXIT_NONFINITE) == "FailJob"
    assert action(parts, EXIT_USER_ERROR) == action(parts, EXIT_NONFINITE) == "FailIndex"
    for job in (train, prepare, parts):
        assert action(job, 1) == action(job, 137) == "Count"
        first = job["podFailurePolicy"]["rules"][0]
        assert first["action"] == "Ignore" and first["onPodConditions"] == [{"type": "DisruptionTarget"}]
    assert parts["backoffLimitPerIndex"] > 0 and parts["completionMode"] == "Indexed", "FailIndex needs both"


def test_a_part_for_each_index() -> None:
    job = jobs("study.yaml")["parts"]
    given = {variable["name"]: variable["value"] for variable in container(job)["env"]}
    assert int(given["PARTS"]) == job["completions"] >= job["parallelism"]


class Pod(World):
    """The container's command under bash, with its own environment but for what says where things are."""

    def start_job(self, job: Job, **changed: str) -> subprocess.Popen[str]:
        main = container(job)
        environment = self.environment() | {v["name"]: v["value"] for v in main["env"]}
        here = {"ITUNE_CACHE_DIR": str(self.cache), "ITUNE_DATA_DIR": str(self.folder), "JAX_PLATFORMS": "cpu"}
        path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        environment |= here | {"PATH": path} | changed
        command = [*main["command"], *main["args"]]
        return subprocess.Popen(command, cwd=ROOT, env=environment, stderr=subprocess.PIPE, text=True)

    def run_job(self, job: Job, **changed: str) -> tuple[int, str]:
        process = self.start_job(job, **changed)
        _, said = process.communicate(timeout=300)
        return process.returncode, said


@pytest.fixture(scope="module")
def pod(tmp_path_factory: pytest.TempPathFactory) -> Pod:
    world = Pod(tmp_path_factory.mktemp("pod"))
    (world.folder / "study.gin").write_text(STUDY.format(recipe=world.recipe))
    return world


def test_the_parts_of_a_study_make_all_of_its_runs(pod: Pod) -> None:
    out = pod.folder / "a study"  # the blank shows what is not quoted
    where = {"GIN_FILE": str(pod.folder / "study.gin"), "WORKDIR": str(out), "PARTS": "2"}
    code, said = pod.run_job(EVERY["study.yaml:prepare"], **where)
    assert code == 0, said[-3000:]
    assert not list(out.glob("runs/*/*")), "prepared, not run"
    done = []
    for index in ("0", "1"):
        code, said = pod.run_job(EVERY["study.yaml:parts"], JOB_COMPLETION_INDEX=index, **where)
        assert code == 0, said[-3000:]
        done.append({path.parts[-3].rpartition("-")[0] for path in out.glob("runs/*/*/losses.jsonl")})
    assert [len(names) for names in done] == [1, 2] and done[0] < done[1], "each part its own run"
    assert (out / "report.html").is_file(), "the last part leaves the answers"


def test_a_preempted_run_is_started_again_and_goes_on(pod: Pod) -> None:
    job = EVERY["train.yaml:train"]
    where = {"GIN_FILE": str(pod.folder / "slow.gin"), "WORKDIR": str(pod.folder / "trained")}
    quick = f"include '{pod.recipe}'\nEvalConfig.chat_baseline = False\nEvalConfig.generate_per_task = 0\n"
    (pod.folder / "slow.gin").write_text(quick + "EvalConfig.every = 1\n")  # time to hit it between two steps
    process = pod.start_job(job, **where)
    deadline = time.monotonic() + 120
    while not pod.losses("trained") and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)  # to the container's first process, as the kubelet does
    _, said = process.communicate(timeout=120)
    assert process.returncode == EXIT_PREEMPTED, said[-3000:]
    assert action(job, process.returncode) == "Ignore"
    saved = max(pod.losses("trained"))
    assert saved < 8
    code, said = pod.run_job(job, **where)
    assert code == 0 and f"Going on from step {saved}" in said, said[-3000:]


@pytest.mark.parametrize("name", EVERY)
def test_a_mistake_ends_with_one_line_and_is_not_tried_again(pod: Pod, name: str) -> None:
    where = {"GIN_FILE": "no_such.gin", "WORKDIR": str(pod.folder / "never"), "JOB_COMPLETION_INDEX": "0"}
    code, said = pod.run_job(EVERY[name], **where)
    assert code == EXIT_USER_ERROR and "no_such.gin" in said and said.count("\n") == 1, said
    assert action(EVERY[name], code) in ("FailJob", "FailIndex")


def test_the_image_is_made_of_what_is_there() -> None:
    text = (GKE / "Dockerfile").read_text("utf-8")
    assert "--require-hashes -r requirements.lock" in text and "FROM python:3.11-slim" in text
    for source in re.findall(r"^COPY (\S+) ", text, re.MULTILINE):
        assert (ROOT / source).exists()
    # The line of the Dockerfile that looks up jax's version, over the lock itself.
    (look_up,) = re.findall(r'version="\$\((.*)\)"', text)
    found = subprocess.run(["bash", "-c", look_up], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert re.fullmatch(r"\d+\.\d+\.\d+\n", found)
    (work,) = re.findall(r"^WORKDIR (\S+)$", text, re.MULTILINE)
    assert {container(job)["workingDir"] for job in EVERY.values()} == {work}
