"""A run resumed at any of its steps, in fresh processes, on 1, 2 or 4 hosts, sees the batches it would have seen."""

import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from itune.data.feed import feed
from itune.data.manifest import Manifest, PreparedSplit, PreparedTask
from tests.data.resume_worker import BATCH, digest, make_plan
from tests.data.test_feed import write_task

STEPS = 200
PROJECT = Path(__file__).resolve().parents[2]


def prepared(task, examples, variants, **fields):
    split = PreparedSplit(
        dir=str(task.directory), fingerprint=task.name, examples=examples, variants=variants, skipped=0
    )
    texts = {"cluster": "c", "licence": "l", "identity": task.name, "overlong": "truncate_inputs"}
    return PreparedTask(
        name=task.name,
        sensitive=False,
        truncate_side="right",
        metrics=[],
        splits={"train": split},
        **(texts | fields),
    )


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    train = [
        prepared(write_task(folder, "a", 40, variants=2), 40, 2, rate=1.0),
        prepared(write_task(folder, "b", 25), 25, 1, rate=0.3, overlong="drop"),
        prepared(write_task(folder, "c", 60), 60, 1, rate=2.0),
    ]
    empty = {"tokenizer": "", "held_in": [], "held_out": [], "inputs": [], "versions": {}, "request": {}}
    Manifest(mixture="m", train=train, **empty).save(folder / "manifest.json")
    return folder


@pytest.fixture(scope="module")
def batches(folder):
    """Those of the run that is never interrupted; beside the data, the state of each of its steps."""
    plan, reader = make_plan(folder)
    (folder / "states.json").write_text(json.dumps([plan.locate(step * BATCH) for step in range(STEPS)]))
    assert max(plan.draws.draws(0, 2000)["epoch"]) >= 5, "several epochs"
    return list(itertools.islice(feed(plan, reader, batch_size=BATCH), STEPS))


@pytest.mark.parametrize("hosts", [1, 2, 4])
def test_every_step_can_be_resumed_on_any_number_of_hosts(folder, batches, hosts):
    command = [sys.executable, "-m", "tests.data.resume_worker", str(folder), str(hosts)]
    workers = [
        subprocess.Popen(
            [*command, str(host)], cwd=PROJECT, env=os.environ | {"JAX_PLATFORMS": "cpu"}, stdout=subprocess.PIPE
        )
        for host in range(hosts)
    ]
    for host, worker in enumerate(workers):
        out, _ = worker.communicate(timeout=300)
        assert worker.returncode == 0
        mine = [r for r in range(BATCH) if r * hosts // BATCH == host]
        assert json.loads(out) == [digest(batch, mine) for batch in batches], f"host {host} of {hosts}"
    assert len({digest(batch) for batch in batches}) == STEPS
