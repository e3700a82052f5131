"""docs/datasets.md run as it is written: what its commands fetch, prepare and register, on made-up files."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from itune.cache import cache_dir
from itune.data.collections.alpaca_kin import DOLLY_CLUSTERS
from itune.data.collections.flan_files import KINDS_OF
from itune.data.collections.medical import MEADOW
from tasks.collections import NIV2, SOURCES
from tasks.flan import PROMPTSOURCE
from tests.tasks import owners_files
from tests.tasks.owners_files import ROWS
from tests.tasks.test_commands import PROJECT, world
from tests.tasks.test_commands import ROWS as LIBRARY_ROWS

DOC = (PROJECT / "docs" / "datasets.md").read_text("utf-8")
BLOCKS = re.findall(r"```sh\n(.*?)```", DOC, re.S)
PYTHON = re.findall(r"```python\n(.*?)```", DOC, re.S)
PREPARE = {re.findall(r"TASK_NAME=\"'(.*?)'\"", block)[0]: block for block in BLOCKS if "itune.prepare" in block}
FETCH = [block for block in BLOCKS if "itune.prepare" not in block and not block.startswith("export ")]

COUNT = """
import json
from itune.data import registry

sources = {name: registry.get(name).source for name in registry.TASKS}
print(json.dumps({name: sum(len(list(s.each_row(split))) for split in s.splits) for name, s in sources.items()}))
"""

Prepared = dict[str, dict[str, int]]


class Home:
    """A folder that is like the project's root, with $ITUNE_DATA_DIR as the doc's own commands fill it."""

    def __init__(self, folder: Path):
        self.root = world(_made(folder / "root"))
        self.data = folder / "data"
        self.cache = _made(folder / "cache")
        for name in ("models", "downloads"):  # the model is at hand; what is prepared is prepared here
            (self.cache / name).symlink_to(cache_dir() / name)
        owners_files.publish(folder / "published")
        owners_files.stand_ins(folder / "bin", folder / "published")
        self.path = f"{folder / 'bin'}{os.pathsep}{os.environ['PATH']}"
        library = _made(self.data / "library")
        (library / "ag_news").symlink_to(LIBRARY_ROWS / "ag_news")

    def run(self, *words: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
        kept = {k: v for k, v in os.environ.items() if not k.startswith("ITUNE_")}
        more = {"ITUNE_DATA_DIR": str(self.data), "ITUNE_CACHE_DIR": str(self.cache), "PATH": self.path}
        path = {"PYTHONPATH": str(PROJECT)} if cwd else {}
        done = subprocess.run(
            words,
            capture_output=True,
            text=True,
            cwd=cwd or self.root,
            env=kept | more | path | {"HF_HUB_OFFLINE": "1"},
        )
        assert done.returncode == 0, f"{words[-1]}\n{done.stderr[-3000:]}"
        return done

    def shell(self, block: str) -> str:
        block = block.replace(".venv/bin/python", sys.executable)
        return self.run("bash", "-euo", "pipefail", "-c", block).stdout

    def prepare(self, name: str) -> Prepared:
        """{"train": {task: examples in its split of that use}, ...}, of the lines that the command prints."""
        found: Prepared = {"train": {}, "held_in": {}, "held_out": {}}
        for line in self.shell(PREPARE[name]).splitlines():
            match = re.fullmatch(r"(train|held_in|held_out) +(\S+)  rate \S+  (.*?)  cluster .*", line)
            assert match, line
            counts = {split: int(n.replace(",", "")) for split, n in re.findall(r"(\w+) ([\d,]*\d)", match[3])}
            found[match[1]][match[2]] = sum(counts.values())
        return found

    def register(self, block: str) -> dict[str, int]:
        """What a python block registers in a process of its own, with the rows that each task then has."""
        done = self.run(sys.executable, "-c", block + COUNT, cwd=self.data / "collections")
        found: dict[str, int] = json.loads(done.stdout.splitlines()[-1])
        return found


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True)
    return folder


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory, smollm2: Path) -> Home:
    home = Home(tmp_path_factory.mktemp("datasets"))
    for block in FETCH:
        home.shell(block)
    return home


@pytest.fixture(scope="module")
def running(home: Home) -> Iterator[dict[str, Future[Any]]]:
    """The commands by what they prepare, the python blocks by their text; two processes at a time."""
    with ThreadPoolExecutor(2) as pool:
        commands = {name: pool.submit(home.prepare, name) for name in PREPARE}
        yield commands | {block: pool.submit(home.register, block) for block in PYTHON}
        pool.shutdown(cancel_futures=True)  # of tests that were not asked for


def test_downloads_go_where_the_collections_are_looked_for(home: Home) -> None:
    below = home.data / "collections"
    wanted = {where for where, *_ in SOURCES.values()} | {NIV2, PROMPTSOURCE}
    assert [where for where in sorted(wanted) if not (below / where).exists()] == []
    spare = {"unnatural-instructions/full_data.zip"}
    for path in below.rglob("*"):
        relative = str(path.relative_to(below))
        assert relative in spare or any(
            f"{where}/".startswith(f"{relative}/") or relative.startswith(f"{where}/") for where in wanted
        ), relative


def test_every_collection_has_a_command() -> None:
    held_out = set(re.findall(r"held_out=\"\('(.*?)',\)\"", "".join(PREPARE.values())))
    assert set(SOURCES) | {"niv2_train", "niv2_test", "t0"} == (set(PREPARE) | held_out) - {"my_dolly"}


FLAN = {
    f"flan2022_published/{submix}/{kind}": owners_files.FLAN_ROWS
    for submix, kinds in KINDS_OF.items()
    for kind in kinds
}
DOLLY = {f"dolly/{category}": 4 * ROWS for category in DOLLY_CLUSTERS}
MEADOW_SETS = {f"medical_meadow/{name}": ROWS for name in MEADOW}
KIN = {
    "alpaca": ROWS,
    "unnatural_instructions": 2 * ROWS,
    "self_instruct": ROWS,
    "self_instruct/seeds": ROWS,
    "user_oriented": ROWS,
}
FILMS, COUNTING, PLAYS, MMLU = (
    "task001_films_sentiment",
    "task002_counting",
    "task003_plays_question_generation",
    "task664_mmmlu_answer_generation_abstract_algebra",
)
TRAINED = {
    "flan2022_published": FLAN,
    "alpaca": {"alpaca": ROWS},
    "dolly": DOLLY,
    "unnatural_instructions": {"unnatural_instructions": 2 * ROWS},
    "self_instruct": {"self_instruct": ROWS},
    "self_instruct/seeds": {"self_instruct/seeds": ROWS},
    "medical_meadow": {name: rows for name, rows in MEADOW_SETS.items() if not name.endswith("/mmmlu")},
    "pmc_llama": {"pmc_llama": 7 * ROWS},
    "oasst1": {"oasst1": ROWS},
    "oasst2": {"oasst2": ROWS},
    "niv2_train": {f"niv2/{FILMS}": ROWS, f"niv2/{COUNTING}": ROWS},
    "t0": {"p3/ag_news/about": 12, "p3/ag_news/topic": 12},
    "my_dolly": {"my_dolly": sum(DOLLY.values())},
}
HELD_OUT = {"self_instruct": {"user_oriented": ROWS}, "niv2_train": {f"niv2/{PLAYS}": ROWS}}
# The last function that a python block calls -> what the block registers.
REGISTERED = {
    "flan_collection": FLAN,
    "user_oriented": KIN | DOLLY,
    "medical_meadow": MEADOW_SETS,
    "pmc_llama_instructions": {"pmc_llama": 7 * ROWS, "pmc/liveqa": ROWS, "pmc/medicationqa": ROWS},
    "open_assistant": {"oasst2_english": ROWS},
    "niv2_tasks": {f"niv2/{name}": ROWS for name in (FILMS, COUNTING, PLAYS)}
    | {f"paper/{name}": ROWS for name in (FILMS, COUNTING, PLAYS, MMLU)},
    "promptsource_tasks": {"news": 8},
}


def last_call(block: str) -> str:
    return re.findall(r"^(\w+)\(", block, re.M)[-1]


@pytest.mark.parametrize("name", sorted(PREPARE))
def test_a_command_prepares_what_it_says(running: dict[str, Future[Any]], name: str) -> None:
    prepared = running[name].result()
    assert prepared["train"] == TRAINED[name]
    assert prepared["held_out"] == HELD_OUT.get(name, {})


@pytest.mark.parametrize("block", PYTHON, ids=last_call)
def test_a_python_block_registers_what_it_says(running: dict[str, Future[Any]], block: str) -> None:
    assert running[block].result() == REGISTERED[last_call(block)]
