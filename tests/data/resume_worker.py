"""One host of a run that is resumed at every step, in a process of its own: prints a digest of each step's rows."""

from __future__ import annotations

import hashlib
import json
import sys
from pathlib import Path

import numpy as np

from itune.batch import FIELDS, Batch
from itune.data import schedule
from itune.data.feed import Reader, feed
from itune.data.manifest import Manifest
from itune.data.plan_tasks import PlanTask
from itune.data.schedule import Plan

BATCH = 4
PLAN = {
    "seed": 5,
    "row_length": 96,
    "window": 48,
    "feature_lengths": {"inputs": 48, "targets": 16},
    "curriculum": ((700, {"a": 5.0}), (1500, {"b": 0.0})),
    "task_epochs": {"c": 9},
}


def make_plan(folder: Path) -> tuple[Plan, Reader]:
    tasks = [PlanTask.from_manifest(task, "train") for task in Manifest.load(folder / "manifest.json").train]
    return Plan(tasks, **PLAN), Reader(tasks)


def digest(batch: Batch, rows: slice | list[int] = slice(None)) -> str:
    found = hashlib.sha256()
    for name in FIELDS:
        if (column := getattr(batch, name)) is not None:
            found.update(np.ascontiguousarray(np.asarray(column)[rows]).tobytes())
    return found.hexdigest()


def main(folder: Path, hosts: int, host: int) -> None:
    """A checkpoint holds a window and a row of it, and nothing else of the data."""
    schedule._CHUNK_DRAWS = 512  # quicker for 200 plans of a few windows; how much is planned at once shows nowhere
    found = []
    for window, row in json.loads((folder / "states.json").read_text()):
        plan, reader = make_plan(folder)
        pick = [r for r in range(BATCH) if r * hosts // BATCH == host]
        batches = feed(
            plan, reader, batch_size=BATCH, start_row=plan.index_of(window, row), pick=pick, num_threads=1, prefetch=1
        )
        found.append(digest(next(batches)))
    print(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
