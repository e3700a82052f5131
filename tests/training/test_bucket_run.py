"""A run in a bucket, killed and gone on with on another machine, is the undisturbed run bit for bit; and is read."""

from __future__ import annotations

import json
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from itune.inference.opening import open_model
from itune.storage import copy, names
from itune.storage.lease import NAME
from tests.gcs import Emulator, emulator
from tests.world import World

QUICK = ("--gin.EvalConfig.generate_per_task=0", "--gin.EvalConfig.chat_baseline=False")
CLOCK = ("seconds", "goodput", "tokens_per_s", "supervised_tokens_per_s")


@pytest.fixture(scope="module")
def served() -> Iterator[Emulator]:
    with emulator() as found:
        yield found


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory, served: Emulator) -> World:
    return World(tmp_path_factory.mktemp("world"))


def train(world: World, place: str, *arguments: str):
    return world.start(f"--gin_file={world.recipe}", f"--workdir={place}", *QUICK, *arguments)


def ended(process) -> tuple[int, str]:
    _, err = process.communicate(timeout=300)
    return process.returncode, err


def lines(text: bytes | str) -> list[dict]:
    found = [json.loads(line) for line in (text.decode() if isinstance(text, bytes) else text).splitlines()]
    return [{k: v for k, v in line.items() if k not in CLOCK} for line in found if "loss" in line]


def test_killed_and_gone_on_with_elsewhere_it_is_the_undisturbed_run(
    world: World, served: Emulator, monkeypatch: pytest.MonkeyPatch
) -> None:
    local, url = world.folder / "local", served.url("exp/run")
    assert ended(train(world, str(local)))[0] == 0
    process = train(world, url, "--gin.EvalConfig.every=1")  # slow enough to be hit
    deadline = time.monotonic() + 300
    while max(copy.committed(served.objects("exp/run/")), default=0) < 4:
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()

    code, err = ended(train(world, url, "--gin.LearningRateConfig.peak=0.5"))
    assert code == 2 and f"{names.local_folder(url).name}: holds a run with learning_rate.peak" in err
    world.cache = world.another_cache("other")
    served.age(f"exp/run/{NAME}", 100)
    code, err = ended(train(world, url))
    assert code == 0, err
    assert "Going on from step" in err and f"All of it is in {url}" in err
    assert lines(served.read("exp/run/metrics.jsonl")) == lines((local / "metrics.jsonl").read_text())
    assert {"exp/run/report.html", "exp/run/evaluation.json"} <= set(served.objects())
    assert b"gs://itune-test/exp/run" in served.read("exp/run/config.gin")

    monkeypatch.setenv("ITUNE_CACHE_DIR", str(world.folder / "third"))
    found, ours = open_model(url), open_model(str(local))
    assert found.name == f"{url} at step 8" and found.trained.keys() == ours.trained.keys()
    for path, array in ours.trained.items():
        np.testing.assert_array_equal(found.trained[path], array, err_msg=path)
    (state,) = Path(world.folder / "third/runs").glob("*/run/checkpoints/*/state")
    assert state.parent.name == "8", "only what is read was brought"


def test_sigterm_pushes_and_exits_75_and_a_second_trainer_is_refused(world: World, served: Emulator) -> None:
    url = served.url("exp/stopped")
    process = train(world, url, "--gin.EvalConfig.every=1", "--gin.TRAIN_STEPS=2000")
    deadline = time.monotonic() + 300
    while not copy.committed(served.objects("exp/stopped/")):
        assert process.poll() is None and time.monotonic() < deadline, process.communicate()
        time.sleep(0.005)
    code, err = ended(train(world, url))
    assert code == 2 and f"process {process.pid} on" in err and err.count("\n") == 1, "on this machine, by its lock"
    process.send_signal(signal.SIGTERM)
    code, err = ended(process)
    assert code == 75, err
    newest = max(copy.committed(served.objects("exp/stopped/")))
    assert newest == max(line["step"] for line in lines(served.read("exp/stopped/metrics.jsonl")))
    assert json.loads(served.read(f"exp/stopped/{NAME}"))["released"]
