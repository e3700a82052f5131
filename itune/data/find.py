"""Where in a run an example is trained on: the other way round from `preview --step`."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator

import numpy as np
from rich.console import Console

from itune.data.feed import RecordReader
from itune.data.records import example_key
from itune.data.schedule import Plan
from itune.errors import UserError, nearest
from itune.terminal import say


@dataclasses.dataclass(frozen=True, kw_only=True)
class Appearance:
    """One time that an example is trained on. step: from 1; row: of the run, from 0; segment: its place, from 1."""

    task: str
    id: str
    step: int
    row: int
    segment: int
    epoch: int
    variant: int
    template: str
    tokens: int


def find(plan: Plan, reader: RecordReader, what: str, *, steps: int, batch_size: int) -> Iterator[Appearance]:
    """Every appearance of the example `what`, "TASK:ID" as errors and reports name it, in the run's steps.

    The id is looked up by its hash in the task's index, the rows are gone through: some 100,000 a second.
    Raises UserError for a task or an id that the run does not train on.
    """
    # A task's name and an id may both hold colons: the longest name that fits is meant.
    fits = [k for k, task in enumerate(plan.tasks) if what.startswith(f"{task.name}:")]
    if not fits:
        name = what.partition(":")[0]
        hint = nearest(name, [task.name for task in plan.tasks])
        raise UserError(f"--find={what}: the run trains on no task {name!r}; say TASK:ID.{hint}")
    number = max(fits, key=lambda k: len(plan.tasks[k].name))
    task = plan.tasks[number]
    name = what.removeprefix(f"{task.name}:")
    key = np.uint64(example_key(task.identity, name))
    wanted = {int(r): reader.record(number, int(r)) for r in np.flatnonzero(task.index.example_key == key)}
    wanted = {r: record for r, record in wanted.items() if record.id == name}  # two ids may share a hash
    if not wanted:
        raise UserError(f"--find={what}: task {task.name!r} has no example of that id among those it is trained on")
    for row in range(min(steps * batch_size, plan.ensure_rows(steps * batch_size))):
        for place, s in enumerate(plan.row(row).segments, 1):
            if s.task == number and s.record in wanted:
                record = wanted[s.record]
                yield Appearance(
                    task=task.name,
                    id=name,
                    step=row // batch_size + 1,
                    row=row,
                    segment=place,
                    epoch=s.epoch,
                    variant=record.variant,
                    template=record.template,
                    tokens=s.num_inputs + s.num_targets,
                )


def print_found(found: Iterator[Appearance], console: Console, *, output_format: str) -> None:
    """A line each as it is found, or one JSON object each; in text, also that there was none."""
    times = 0
    for a in found:
        times += 1
        if output_format == "json":
            print(json.dumps(dataclasses.asdict(a), ensure_ascii=False))
            continue
        facts = [f"epoch {a.epoch}", f"{a.tokens} tokens", f"template {a.template}" if a.template else ""]
        facts.append(f"variant {a.variant}" if a.variant else "")
        place = f"step {a.step}: row {a.row}, example {a.segment} of it"
        say(console, f"{place}   " + " \u00b7 ".join(fact for fact in facts if fact))
    if output_format != "json":
        count = "once" if times == 1 else f"{times} times"
        none = "in no step of this run: dropped as too long, or not drawn"
        say(console, f"trained on {count}; --row=I shows a row" if times else none)
