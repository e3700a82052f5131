"""Where an example is trained on agrees with what each step says it trains on."""

from __future__ import annotations

import io
import json
import types

import numpy as np
import pytest
from rich.console import Console

from itune.data.find import find, print_found
from itune.data.records import example_key
from itune.data.schedule import Plan, PlanTask, TaskIndex
from itune.errors import UserError

STEPS, SIZE = 6, 2


def task(name: str, ids: list[str], targets: int = 3, variants: int = 1) -> PlanTask:
    n = len(ids) * variants
    zeros = np.zeros(n, np.int32)
    keys = np.array([example_key(f"source of {name}", i) for i in ids], np.uint64)
    index = TaskIndex(
        inputs=np.full(n, 3, np.int32),
        targets=np.full(n, targets, np.int32),
        example_key=np.repeat(keys, variants),
        template=zeros.astype(np.int16),
        shard=zeros,
        offset=zeros,
    )
    identity = f"source of {name}"
    return PlanTask(name=name, identity=identity, rate=1.0, index=index, variants=variants, overlong="drop")


IDS = {"a": [f"x-{n}" for n in range(5)], "a:b": [f"x-{n}" for n in range(4)], "other": ["x:0", "b:x-1"]}


@pytest.fixture
def plan() -> Plan:
    tasks = [task("a", IDS["a"], variants=2), task("a:b", IDS["a:b"]), task("other", IDS["other"])]
    long = np.array([3, 40], np.int32)  # the second of "other" is always dropped
    tasks[2].index.targets[:] = long
    return Plan(tasks, seed=0, row_length=20, window=8, feature_lengths={"inputs": 8, "targets": 8})


class Reader:
    def __init__(self, plan: Plan):
        self._plan = plan

    def record(self, number: int, record: int):
        task = self._plan.tasks[number]
        example, variant = divmod(record, task.variants)
        return types.SimpleNamespace(id=IDS[task.name][example], variant=variant, template=f"t{variant}")


def found(plan: Plan, what: str) -> list:
    return list(find(plan, Reader(plan), what, steps=STEPS, batch_size=SIZE))


@pytest.mark.parametrize(("name", "id"), [(name, id) for name, ids in IDS.items() for id in ids])
def test_found_steps_are_those_that_train_on_it(plan: Plan, name: str, id: str):
    number = [t.name for t in plan.tasks].index(name)
    reader = Reader(plan)
    expected = []
    for step in range(STEPS):
        for task_name, record in plan.examples_of_step(step, SIZE):
            if task_name == name and reader.record(number, record).id == id:
                expected.append(step + 1)
    appearances = found(plan, f"{name}:{id}")
    assert [a.step for a in appearances] == expected
    assert bool(expected) == (id != "b:x-1")
    for a in appearances:
        segment = plan.row(a.row).segments[a.segment - 1]
        assert (segment.task, segment.epoch) == (number, a.epoch)
        assert (a.step - 1) * SIZE <= a.row < a.step * SIZE
        record = reader.record(number, segment.record)
        assert (record.id, record.variant, record.template) == (a.id, a.variant, a.template)


def test_both_variants_of_an_example_are_found(plan: Plan):
    assert {a.variant for a in found(plan, "a:x-1")} == {0, 1}


def test_what_is_not_there_is_named(plan: Plan):
    with pytest.raises(UserError, match="no task 'othr'.*TASK:ID.*Did you mean 'other'"):
        found(plan, "othr:x-1")
    with pytest.raises(UserError, match="task 'a' has no example of that id"):
        found(plan, "a:x-9")
    with pytest.raises(UserError, match="no task 'a'; say TASK:ID"):
        found(plan, "a")


def test_two_ids_of_one_hash_are_told_apart(plan: Plan):
    plan.tasks[1].index.example_key[:] = example_key("source of a:b", "x-2")  # all of them
    one = found(plan, "a:b:x-2")
    assert 0 < len(one) < sum(len([s for s in plan.row(i).segments if s.task == 1]) for i in range(STEPS * SIZE))


def test_what_is_printed(plan: Plan, capsys: pytest.CaptureFixture):
    appearances = found(plan, "other:x:0")
    out = io.StringIO()
    print_found(iter(appearances), Console(file=out, width=60), output_format="text")
    lines = out.getvalue().splitlines()
    assert (
        len(lines) == len(appearances) + 1 and lines[-1] == f"trained on {len(appearances)} times; --row=I shows a row"
    )
    assert lines[0].startswith(f"step {appearances[0].step}: row {appearances[0].row}, example ")
    print_found(iter([]), Console(file=out, width=60), output_format="text")
    assert out.getvalue().splitlines()[-1].startswith("in no step of this run")
    print_found(iter(appearances), Console(file=out), output_format="json")
    printed = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [p["step"] for p in printed] == [a.step for a in appearances]
