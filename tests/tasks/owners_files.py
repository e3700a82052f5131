"""Small made-up files in their owners' layouts, and stand-ins for the clients that fetch them.

`publish(FOLDER)` lays a file or folder out below FOLDER under the address that docs/datasets.md fetches it from:
FOLDER/databricks/databricks-dolly-15k/... for the hub, FOLDER/github.com/... for an address.

`stand_ins(FOLDER, PUBLISHED)` makes FOLDER/hf, curl, git and unzip, which copy from there; put FOLDER first in $PATH.
"""

from __future__ import annotations

import json
import stat
import sys
import zipfile
from pathlib import Path
from typing import Any

from itune.data.collections.alpaca_kin import DOLLY_CLUSTERS
from itune.data.collections.flan_files import KINDS_OF
from itune.data.collections.medical import MEADOW
from itune.data.collections.pmc_llama import PMC_SOURCES
from tests.data.test_collections_flan import parquet
from tests.data.test_collections_flan import row as flan_row
from tests.data.test_collections_instructions import as_list, dolly, jsonl, triple, unnatural
from tests.data.test_collections_open_assistant import TREES, flat, message, packed, table_row
from tests.data.test_niv2 import task_json
from tests.tasks.flan_world import PROMPTS

ROWS = 60  # of a task: a tenth of them is enough for a validation split
FLAN_ROWS = 500  # a hundredth
NIV2 = {
    "train": {
        "task001_films_sentiment": {"Source": ["films"]},
        "task002_counting": {"Source": ["synthetic"], "Categories": ["Program Execution"]},
        "task664_mmmlu_answer_generation_abstract_algebra": {
            "Source": ["mmmlu"],
            "Categories": ["Question Answering"],
        },
    },
    "test": {"task003_plays_question_generation": {"Source": ["plays"], "Categories": ["Question Generation"]}},
    "excluded": {},
}


def instances(number: int, **more: Any) -> dict[str, Any]:
    """A record of Self-Instruct's seeds, and with `motivation_app` of its user-oriented instructions."""
    return {
        "id": f"task_{number}",
        "instruction": f"Do {number}.",
        "instances": [{"input": "", "output": "Yes."}],
    } | more


def oasst_tree(number: int) -> dict[str, Any]:
    reply = message(0, "assistant", rank=0, message_id=f"a{number}", text=f"It is {number}.")
    prompt = message(0, message_id=f"q{number}", text=f"What is {number}?", replies=[reply])
    return {"message_tree_id": f"q{number}", "tree_state": "ready_for_export", "prompt": prompt}


def publish(folder: Path) -> None:
    """Everything that docs/datasets.md fetches."""
    numbers = range(ROWS)
    for submix, kinds in KINDS_OF.items():
        rows = [flan_row(i, f"{submix}_made", kind) for kind in kinds for i in range(FLAN_ROWS)]
        data = folder / "DataProvenanceInitiative" / f"{submix}_submix_original" / "data"
        parquet(data / "train-00000-of-00001-3567632fcf5dcbb6.parquet", rows)
    raw = folder / "raw.githubusercontent.com"
    as_list(raw / "tatsu-lab/stanford_alpaca/main/alpaca_data.json", [triple(i) for i in numbers])
    rows = [dolly(i, category) for i in range(4 * ROWS) for category in DOLLY_CLUSTERS]
    jsonl(folder / "databricks/databricks-dolly-15k/databricks-dolly-15k.jsonl", rows)
    self_instruct = raw / "yizhongw/self-instruct/main"
    jsonl(self_instruct / "data/gpt3_generations/batch_221203/all_instances_82K.jsonl", [triple(i) for i in numbers])
    seeds = [instances(i, name=f"n{i}", is_classification=False) for i in numbers]
    jsonl(self_instruct / "data/seed_tasks.jsonl", seeds)
    jsonl(
        self_instruct / "human_eval/user_oriented_instructions.jsonl",
        [instances(i, motivation_app="Mail") for i in numbers],
    )
    _unnatural(folder)
    for name, about in MEADOW.items():
        place = folder / "medalpaca" / f"medical_meadow_{name}"
        as_list(place / f"{about.files[0]}.json", [triple(i) for i in numbers])
        (place / "README.md").write_text("A card.")
    rows = [triple(i, source) for i in numbers for source in PMC_SOURCES]
    as_list(folder / "axiong/pmc_llama_instructions/release.json", rows)
    _open_assistant(folder / "OpenAssistant")
    _niv2(folder / "github.com/allenai/natural-instructions")
    prompts = folder / "github.com/bigscience-workshop/promptsource/promptsource/templates/ag_news/templates.yaml"
    prompts.parent.mkdir(parents=True)
    prompts.write_text(PROMPTS)


def _unnatural(folder: Path) -> None:
    written = jsonl(folder / "full_data.jsonl", [unnatural(i) for i in range(ROWS)])
    packed_file = folder / "github.com/orhonovich/unnatural-instructions/raw/main/data/full_data.zip"
    packed_file.parent.mkdir(parents=True)
    with zipfile.ZipFile(packed_file, "w") as archive:
        archive.write(written, "full_data.jsonl")
    written.unlink()


def _open_assistant(folder: Path) -> None:
    """Release 2 with its trees and tables, release 1 with tables alone."""
    trees = [oasst_tree(i) for i in range(ROWS)]
    packed(folder / "oasst2" / TREES, trees)
    for split, some in (("train", trees[6:]), ("validation", trees[:6])):
        rows = [table_row(m) for tree in some for m in flat(tree["prompt"])]
        for release in ("oasst1", "oasst2"):
            parquet(folder / release / "data" / f"{split}-00000-of-00001-b42a775f407cee45.parquet", rows)


def _niv2(folder: Path) -> None:
    number = 0
    for use, listed in NIV2.items():
        names = folder / "splits" / "default" / f"{use}_tasks.txt"
        names.parent.mkdir(parents=True, exist_ok=True)
        names.write_text("".join(f"{name}\n" for name in listed))
        for name, changes in listed.items():
            number += 1
            path = folder / "tasks" / f"{name}.json"
            path.parent.mkdir(exist_ok=True)
            path.write_text(json.dumps(task_json(number, ROWS, **changes), indent=4))


# The clients that fetch


CLIENT = '''\
#!{python}
"""Copies from {published} what {name} would fetch."""
import os, shutil, sys, zipfile
from pathlib import Path

PUBLISHED = Path({published!r})
words, options = [], {{}}
rest = iter(sys.argv[1:])
for word in rest:
    if word in {valued!r}:
        options[word] = next(rest)
    elif not word.startswith("-"):
        words.append(word)


def copy(there, here):
    if there.is_dir():
        shutil.copytree(there, here, dirs_exist_ok=True)
    else:
        here.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(there, here)


def at(address):
    return PUBLISHED / address.removeprefix("https://")


{body}
'''
CLIENTS = {
    # hf download ORG/NAME [FILE ...] --repo-type dataset --local-dir FOLDER
    "hf": (
        ("--repo-type", "--local-dir"),
        """\
verb, repository, *files = words
assert verb == "download" and options["--repo-type"] == "dataset"
for file in files or [""]:
    copy(PUBLISHED / repository / file, Path(options["--local-dir"]) / file)""",
    ),
    # curl -L --create-dirs -o FILE ADDRESS
    "curl": (
        ("-o",),
        """\
assert "-L" in sys.argv and "--create-dirs" in sys.argv
copy(at(*words), Path(options["-o"]))""",
    ),
    "git": (
        ("--depth",),
        """\
verb, address, folder = words
assert verb == "clone" and not Path(folder).exists()
copy(at(address), Path(folder))""",
    ),
    "unzip": (
        ("-d",),
        """\
zipfile.ZipFile(*words).extractall(options["-d"])""",
    ),
}


def stand_ins(folder: Path, published: Path) -> None:
    folder.mkdir()
    for name, (valued, body) in CLIENTS.items():
        path = folder / name
        path.write_text(
            CLIENT.format(python=sys.executable, published=str(published), name=name, valued=valued, body=body)
        )
        path.chmod(path.stat().st_mode | stat.S_IXUSR)
