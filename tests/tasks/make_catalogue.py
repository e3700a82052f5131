"""Writes tasks/catalogue.json: what each module of tasks/ registers. Run it when a task is added there.

.venv/bin/python -m tests.tasks.make_catalogue
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import os
import tempfile
from pathlib import Path
from typing import Any

MODULES = {
    "tasks.clinic": "synthetic clinic",
    "tasks.formats": "public data",
    "tasks.clinic_public": "public clinical data",
    "tasks.mixtures": "mixtures",
}
TARGET = Path(__file__).resolve().parents[2] / "tasks" / "catalogue.json"


def catalogue(folder: Path) -> dict[str, list[dict[str, Any]]]:
    """{module: its tasks and mixtures}. folder: an empty one, which stands for the real data: nothing of it is read."""
    for name in ("medqa/US/train.jsonl", "medqa/US/test.jsonl", "mtsamples/mtsamples.csv"):
        path = folder / "clinical" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    for name in ("MTS-Dialog-TrainingSet.csv", "MTS-Dialog-ValidationSet.csv"):
        path = folder / "clinical" / "mts_dialog" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    os.environ["ITUNE_DATA_DIR"] = str(folder)
    from itune.data import registry

    found, seen = {}, set[str]()
    for module, collection in MODULES.items():
        importlib.import_module(module)
        new = [info for name, info in registry.TASKS.items() if name not in seen]
        seen |= {info.name for info in new}
        mixtures = [name for name in registry.mixture_names() if name not in seen]
        seen |= set(mixtures)
        found[module] = [
            {
                "name": info.name,
                "cluster": info.cluster,
                "licence": info.licence,
                "collection": collection,
                "identity": info.identity,
                "description": info.description,
            }
            for info in new
        ] + [{"name": name, "collection": collection, "mixture": True} for name in mixtures]
    flan = importlib.import_module("tasks.flan")
    made = (dataclasses.asdict(flan.summary(name)) for name in flan.DESCRIPTIONS)
    found["tasks.flan"] = [{key: value for key, value in summary.items() if value} for summary in made]
    return found


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as folder:
        found = catalogue(Path(folder))
    TARGET.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n", "utf-8")
    print({module: len(tasks) for module, tasks in found.items()})
