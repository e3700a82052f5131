"""One contract for all tasks: each that `import tasks` makes known is looked up, rendered and checked by itself."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from itune.data import identities

PROJECT = Path(__file__).parents[2]
LIBRARY = sorted((PROJECT / "tasks" / "library").glob("*/*.yaml"))
CLUSTERS = (
    "nli",
    "reading_comprehension",
    "closed_book_qa",
    "commonsense",
    "coreference",
    "sentiment",
    "paraphrase",
    "structure_to_text",
    "translation",
    "summarisation",
    "miscellaneous",
    "reading_comprehension_with_commonsense",
)


def run(*arguments: str, **environment: str) -> str:
    kept = {k: v for k, v in os.environ.items() if not k.startswith("ITUNE_")}
    done = subprocess.run(
        [sys.executable, *arguments], capture_output=True, text=True, cwd=PROJECT, env=kept | environment
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.fixture(scope="module")
def found() -> dict[str, Any]:
    data = Path(os.environ.get("ITUNE_DATA_DIR") or PROJECT.parent / "shared" / "data")
    environment = {"ITUNE_DATA_DIR": str(data)} if data.is_dir() else {}
    result: dict[str, Any] = json.loads(run("-m", "tests.tasks.contract", **environment).splitlines()[-1])
    return result


def test_every_task_keeps_the_contract(found: dict[str, Any]) -> None:
    assert found["faults"] == {}
    assert found["tasks"] >= 300 and found["rendered"] >= 10_000 and found["unavailable"] < 70


def test_prompts_are_the_golden_ones(found: dict[str, Any]) -> None:
    assert found["golden"] == [], "tests/tasks/contract.py says how they are written; look at the difference"


def test_the_library_covers_flans_clusters_and_two_more() -> None:
    clusters = [path.parent.name for path in LIBRARY]
    assert {cluster for cluster in CLUSTERS if clusters.count(cluster) < 2} == set()
    assert set(clusters) - set(CLUSTERS) == {"chain_of_thought", "dialog"}


@pytest.mark.parametrize("path", LIBRARY, ids=lambda path: path.stem)
def test_a_data_set_says_where_it_comes_from_and_has_prompts_enough(path: Path) -> None:
    declared = yaml.safe_load(path.read_text("utf-8"))
    assert declared["name"] == path.stem and declared["cluster"] == path.parent.name
    assert identities.is_known(declared["identity"]), "an alias that FLAN or the hub knows would not be held out"
    assert declared.get("hf") and declared["licence"] and declared["citation"]
    assert sum(w.get("only") != "opt" for w in declared["templates"]) >= 7
    assert len(declared.get("inversions", ())) >= 2


def test_the_catalogue_is_what_the_modules_register() -> None:
    code = (
        "import json, pathlib, tempfile\nfrom tests.tasks import make_catalogue\n"
        "with tempfile.TemporaryDirectory() as folder: found = make_catalogue.catalogue(pathlib.Path(folder))\n"
        "print(json.dumps(found))"
    )
    written = json.loads((PROJECT / "tasks" / "catalogue.json").read_text("utf-8"))
    assert json.loads(run("-c", code).splitlines()[-1]) == written, "run tests/tasks/make_catalogue.py"


def test_importing_tasks_loads_neither_seqio_nor_tensorflow() -> None:
    code = (
        "import sys, tasks\nprint([m for m in ('seqio', 'tensorflow', 'jax') if m in sys.modules], len(tasks.LIBRARY))"
    )
    assert run("-c", code).strip() == f"[] {len(LIBRARY)}"
