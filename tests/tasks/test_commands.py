"""`python -m itune.tasks` as its users meet it, and the tutorial of docs/tasks.md run as it is written."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
ROWS = PROJECT / "tests" / "tasks" / "rows"


def world(folder: Path) -> Path:
    """A folder in which commands run as in the project's root, and write nothing there."""
    for name in ("itune", "gin_configs", "docs", ".venv"):
        (folder / name).symlink_to(PROJECT / name)
    (folder / "tasks").mkdir()
    for path in (PROJECT / "tasks").iterdir():
        if path.name != "library":
            (folder / "tasks" / path.name).symlink_to(path)
    (folder / "tasks" / "library").mkdir()
    for path in (PROJECT / "tasks" / "library").iterdir():
        (folder / "tasks" / "library" / path.name).symlink_to(path)
    return folder


def command(cwd: Path, *words: str, **environment: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if k not in ("ITUNE_DATA_DIR", "ITUNE_LIBRARY_DIR", "PYTHONPATH")}
    return subprocess.run(
        [sys.executable, "-m", "itune.tasks", *words],
        capture_output=True,
        text=True,
        cwd=cwd,
        env=kept | {"PYTHONPATH": str(cwd)} | environment,
    )


def said(done: subprocess.CompletedProcess[str], code: int = 0) -> list[str]:
    assert done.returncode == code, done.stderr[-2000:]
    return done.stdout.splitlines()


def made_niv2(folder: Path, count: int) -> None:
    """A folder of natural-instructions' layout; nothing in it is anybody's."""
    for below in ("tasks", "splits/default"):
        (folder / below).mkdir(parents=True)
    names = [f"task{n:04d}_made_{n}" for n in range(1, count + 1)]
    for n, name in enumerate(names):
        head = {"Categories": [f"Kind {n % 5}"], "Source": [f"source {n % 90}"], "Definition": ["Do it."]}
        rest = {"Positive Examples": [], "Instances": [{"id": name, "input": "i" * 200, "output": ["o"]}]}
        (folder / "tasks" / f"{name}.json").write_text(json.dumps(head | rest | {"Instance License": ["MIT"]}))
    for use, listed in (("train", names[10:]), ("test", names[:10]), ("excluded", [])):
        (folder / "splits" / "default" / f"{use}_tasks.txt").write_text("\n".join(listed))


# Listing


def test_a_listing_with_1600_tasks_of_niv2_loads_no_seqio(tmp_path: Path) -> None:
    made_niv2(tmp_path / "collections" / "natural-instructions", 1600)
    done = command(PROJECT, "list", ITUNE_DATA_DIR=str(tmp_path), PYTHONPROFILEIMPORTTIME="1")
    lines = said(done)
    loaded = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines() if line.startswith("import time:")}
    assert "itune.data.catalogue" in loaded and loaded.isdisjoint({"seqio", "tensorflow", "jax"})
    assert sum(line.startswith("niv2/task") for line in lines) == 1600
    counts = {line.strip().partition(":")[0]: line for line in lines[-3:]}
    assert "niv2 1,600" in counts["by collection"] and "kind_0 320" in counts["by cluster"]
    only = said(command(PROJECT, "list", "--cluster=kind_3", ITUNE_DATA_DIR=str(tmp_path)))
    assert sum(line.startswith("niv2/task") for line in only) == 320


def test_filters_and_json() -> None:
    found = json.loads(said(command(PROJECT, "list", "--cluster=nli", "--at_most=3000", "--format=json"))[0])
    assert {summary["name"].partition("/")[0] for summary in found} == {"rte", "cb", "wnli"}
    found = json.loads(said(command(PROJECT, "list", "--licence=cc-by-nc", "--collection=library", "--format=json"))[0])
    assert found and all("nc" in summary["licence"].casefold() for summary in found)
    lines = said(command(PROJECT, "list", "--collection=mixtures"))
    assert any(line.startswith("flan2022 ") for line in lines) and "0 tasks, " in lines[-3]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("list", "--cluster=nly"), "--cluster=nly: no task is of it. Did you mean 'nli'?"),
        (("list", "rte"), "list: takes no name"),
        (("show",), "show: a NAME is needed"),
        (("new", "My-Task"), "NAME='My-Task': must be small letters, digits and _, a letter first"),
        (("new", "rte"), "rte: there is a task of this name; python -m itune.tasks show rte"),
        (("list", "--module_import=nosuch"), "--module_import=nosuch: no module named 'nosuch'"),
        (("show", "rte/zs_otp"), "no task or mixture is called 'rte/zs_otp'. Did you mean 'rte/zs_opt'?"),
    ],
)
def test_bad_words_are_one_line(words: tuple[str, ...], message: str) -> None:
    done = command(PROJECT, *words)
    assert done.returncode == 2
    assert [line for line in done.stderr.splitlines() if line.startswith("itune:")] == [f"itune: error: {message}"]


# Showing and checking


def test_show_says_what_it_is_and_renders_each_variant() -> None:
    text = "\n".join(said(command(PROJECT, "show", "copa", ITUNE_LIBRARY_DIR=str(ROWS))))
    assert "cluster   commonsense" in text and "hf:aps/super_glue (copa)" in text
    assert all(f"copa/{variant}: " in text for variant in ("zs", "zs_opt", "fs", "fs_opt", "inv", "fs_inv"))
    assert "oneDNN" not in command(PROJECT, "show", "copa/zs", ITUNE_LIBRARY_DIR=str(ROWS)).stderr
    assert text.count("[1] template") == 6 and text.count("    =>\n") == 6
    missing = said(command(PROJECT, "show", "copa/zs", ITUNE_LIBRARY_FROM="files"))
    assert "no example can be shown: copa: no files of its split 'validation'" in missing[-1]


def test_check_finds_what_is_wrong(tmp_path: Path) -> None:
    home = world(tmp_path)
    said(command(home, "new", "mine", "--to=here"))
    path = home / "here" / "my_cluster" / "mine.yaml"
    good = path.read_text()
    relative = str(path.relative_to(home))
    lines = said(command(home, "check", relative, "--model=none"))
    assert lines[-1] == "6 tasks, 0 errors, 0 warnings"
    path.write_text(good.replace("Does this message ask", "Does the message ask"))
    lines = said(command(home, "check", relative, "--model=none"))
    assert lines[-2].startswith("warning: mine: golden: prompts are not those in here/my_cluster/mine.golden.json")
    assert said(command(home, "check", relative, "--model=none", "--write_golden"))[-1].endswith("0 warnings")
    assert "Does the message ask" in (path.parent / "mine.golden.json").read_text()
    path.write_text(good.replace("{message}\n\n      Does", "{mesage}\n\n      Does"))
    done = command(home, "check", relative, "--model=none")
    assert done.returncode == 2 and "uses field {mesage}" in done.stderr and "Did you mean 'message'?" in done.stderr
    path.write_text(good.replace('targets: "{message}"', 'targets: "{{about}}"'))
    lines = said(command(home, "check", relative, "--model=none"), code=1)
    assert any("unfilled: template 'write_message'" in line for line in lines)
    path.write_text(good.replace("name: mine", "name: other"))
    done = command(home, "check", relative, "--model=none")
    assert done.returncode == 2 and "name: is 'other'; the file must be called other.yaml" in done.stderr
    (path.parent / "mine.validation.jsonl").write_text("")
    path.write_text(good)
    done = command(home, "check", relative, "--model=none")
    assert done.returncode == 2 and "mine.validation.jsonl: no records in this file" in done.stderr


def test_new_replaces_nothing(tmp_path: Path) -> None:
    home = world(tmp_path)
    said(command(home, "new", "mine", "--to=here"))
    path = home / "here" / "my_cluster" / "mine.yaml"
    path.write_text("edited")
    done = command(home, "new", "mine", "--to=here")
    assert done.returncode == 2 and path.read_text() == "edited"
    assert "itune: error: here/my_cluster/mine.yaml: is there already; nothing was written" in done.stderr
    lines = said(command(home, "new", "front_desk_mail"))
    assert lines[-1] == "next: python -m itune.tasks check front_desk_mail"
    assert (home / "tasks" / "library" / "my_cluster" / "front_desk_mail.golden.json").is_file()
    listed = said(command(home, "list", "--cluster=my_cluster"))
    assert listed[0].startswith("front_desk_mail ")


def test_the_tutorial_runs_as_it_is_written(tmp_path: Path, smollm2: Path) -> None:
    text = (PROJECT / "docs" / "tasks.md").read_text("utf-8")
    section = text.partition("## Tutorial")[2].partition("\n## ")[0]
    blocks = re.findall(r"```sh\n(.*?)```", section, re.S)
    assert len(blocks) == 4
    home = world(tmp_path)
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks)],
        capture_output=True,
        text=True,
        cwd=home,
        env={k: v for k, v in os.environ.items() if k not in ("ITUNE_DATA_DIR", "ITUNE_LIBRARY_DIR")},
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert "6 tasks, 0 errors, 0 warnings" in done.stdout
    assert "mine/front_desk/wants_appointment.golden.json: written" in done.stdout
    assert "whether a message asks for an appointment  [fs fs_inv fs_opt inv zs zs_opt]" in done.stdout
    assert "wants_appointment/zs_opt" in done.stdout + done.stderr
