"""docs/datasets.md run as it is written: what its commands fetch, prepare and register, on made-up files."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

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
            counts = {split: int(n) for split, n in re.findall(r"(\w+) ([\d,]+)", match[3])}
            found[match[1]][match[2]] = sum(counts.values())
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
def prepared(home: Home) -> dict[str, Prepared]:
    with ThreadPoolExecutor(2) as pool:
        return dict(zip(PREPARE, pool.map(home.prepare, PREPARE), strict=True))


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


WHOLE = {
    "flan2022_published": {
        f"flan2022_published/{submix}/{kind}": ROWS for submix, kinds in KINDS_OF.items() for kind in kinds
    },
    "alpaca": {"alpaca": ROWS},
    "dolly": {f"dolly/{category}": 4 * ROWS for category in DOLLY_CLUSTERS},
    "unnatural_instructions": {"unnatural_instructions": 2 * ROWS},
    "self_instruct": {"self_instruct": ROWS},
    "self_instruct/seeds": {"self_instruct/seeds": ROWS},
    "medical_meadow": {f"medical_meadow/{name}": ROWS for name in MEADOW if name != "mmmlu"},
    "pmc_llama": {"pmc_llama": 7 * ROWS},
    "oasst1": {"oasst1": ROWS},
    "oasst2": {"oasst2": ROWS},
    "niv2_train": {"niv2/task001_films_sentiment": ROWS, "niv2/task002_counting": ROWS},
    "t0": {"p3/ag_news/about": 12, "p3/ag_news/topic": 12},
    "my_dolly": {"my_dolly": 8 * 4 * ROWS},
}
HELD_OUT = {"self_instruct": {"user_oriented": ROWS}, "niv2_train": {"niv2/task003_plays_question_generation": ROWS}}


@pytest.mark.parametrize("name", sorted(PREPARE))
def test_a_command_prepares_what_it_says(prepared: dict[str, Prepared], name: str) -> None:
    assert prepared[name]["train"] == WHOLE[name]
    assert prepared[name]["held_out"] == HELD_OUT.get(name, {})


@pytest.mark.parametrize("block", PYTHON, ids=lambda block: block.splitlines()[-1].partition("(")[0])
def test_a_python_block_registers_what_it_says(home: Home, block: str) -> None:
    called = [line for line in block.splitlines() if re.match(r"[a-z0-9_]+\(", line)]
    assert called
    code = f"{block}\nfrom itune.data import registry\nprint(sorted(registry.TASKS))"
    registered = eval(home.run(sys.executable, "-c", code, cwd=home.data / "collections").stdout)
    assert registered
