"""The house in order: sizes, headers, locks, links; and no trace of any one machine."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import itune

ROOT = Path(__file__).parent.parent
README_EXAMPLE = "tasks/units.py"  # the file that the README tells its reader to write
NOT_OURS = {"LICENSE"}
TEXT = {
    ".py",
    ".gin",
    ".md",
    ".toml",
    ".txt",
    ".in",
    ".lock",
    ".yaml",
    ".json",
    ".jsonl",
    ".html",
    ".css",
    ".js",
    ".sh",
    "",
}
FOLDERS = ("itune", "tasks", "tests", "gin_configs", "launch", "benchmarks", "docs", ".ci")


def project_files() -> list[Path]:
    """Every text file that belongs to the project: in its folders and beside them, built things left out."""
    found = [path for path in ROOT.iterdir() if path.is_file()]
    for folder in FOLDERS:
        for where, folders, names in os.walk(ROOT / folder):
            folders[:] = [name for name in folders if name != "__pycache__"]
            found += [Path(where, name) for name in names]
    return sorted(path for path in found if path.suffix in TEXT and path.name not in NOT_OURS)


def python_files() -> list[Path]:
    return [path for path in project_files() if path.suffix == ".py"]


def markdown(name: str) -> str:
    """A document's text without its HTML comments."""
    return re.sub(r"<!--.*?-->", "", (ROOT / name).read_text("utf-8"), flags=re.DOTALL)


def lines(path: Path) -> list[str]:
    return path.read_text("utf-8").splitlines()


def show(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_files_are_of_a_readable_size():
    long = {show(path): len(lines(path)) for path in python_files() if len(lines(path)) > 450}
    assert not long, f"over 450 lines: {long}"


def test_commands_are_thin():
    """`python -m itune.<name>`: flags, then one call."""
    commands = [
        path for path in (ROOT / "itune").glob("*.py") if 'if __name__ == "__main__":' in path.read_text("utf-8")
    ]
    assert "train.py" in {path.name for path in commands}
    long = {show(path): len(lines(path)) for path in commands if len(lines(path)) > 60}
    assert not long, f"commands over 60 lines: {long}"


def test_nothing_depends_on_one_machine():
    """No absolute paths of whoever wrote it, no sibling folders (only the tests' conftest looks for data there)."""
    # Put together here, so that this file does not find itself.
    needles = [f"/{folder}/" for folder in ("work", "root", "home")] + ["../" + "shared", "file:" + "//"]
    allowed = {"tests/conftest.py"}
    found = []
    for path in project_files():
        text = path.read_text("utf-8")
        found += [
            f"{show(path)} mentions {needle}" for needle in needles if needle in text and show(path) not in allowed
        ]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("path", sorted((ROOT / "gin_configs").rglob("*.gin")), ids=show)
def test_gin_files_say_what_they_promise(path):
    """The header of a gin file: command, hardware, time, metric."""
    header = []
    for line in lines(path):
        if not line.startswith("#"):
            break
        header.append(line.lower())
    for word in ("command", "hardware", "time", "metric"):
        assert any(word in line for line in header), f"{show(path)}: its header does not state the {word}"


def pins(lock: str) -> dict[str, str]:
    """{"jax": "0.10.2", ...}"""
    found = re.findall(r"^([A-Za-z0-9._-]+)(?:\[[^]]*\])?==([^\s;\\]+)", (ROOT / lock).read_text("utf-8"), re.MULTILINE)
    return {_normal(name): version for name, version in found}


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _asked(path: str) -> list[str]:
    rows = [line.split("#")[0].strip() for line in lines(ROOT / path)]
    return [_normal(re.split(r"[\[=<>!~ ]", row)[0]) for row in rows if row]


def test_the_lock_pins_everything_with_hashes():
    entries = re.split(r"\n(?=\S)", (ROOT / "requirements.lock").read_text("utf-8"))
    entries = [entry for entry in entries if not entry.startswith("#")]
    bare = [entry.split()[0] for entry in entries if "==" not in entry or "--hash=sha256:" not in entry]
    assert not bare, f"make lock: no exact pin with hashes for {bare}"
    assert len(entries) > 50


@pytest.mark.parametrize("name", ["requirements", "requirements-parity"])
def test_the_locks_hold_what_is_asked_for(name):
    missing = sorted(set(_asked(f"{name}.in")) - set(pins(f"{name}.lock")))
    assert not missing, f"make lock: {name}.lock lacks {missing}"


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-parity.lock"])
def test_the_locks_name_no_index_and_no_place(name):
    """An index, a host or a local file in a lock would break it elsewhere."""
    found = re.findall(
        r"^.*(?:://|--index|--extra-index|--find-links|--trusted-host| @ |\+cpu).*$",
        (ROOT / name).read_text("utf-8"),
        re.MULTILINE,
    )
    assert not found, found


def _setup(*words: str) -> list[str]:
    done = subprocess.run([sys.executable, "setup.py", "--quiet", *words], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.split()


def test_setup_reads_the_version():
    assert _setup("--version") == [itune.__version__]


def test_the_lock_satisfies_setup():
    """The library's ranges admit what the project itself runs on, and ask for nothing that the lock lacks."""
    from packaging.requirements import Requirement

    text = (ROOT / "setup.py").read_text("utf-8")
    block = text[text.index("install_requires=[") : text.index("extras_require")]
    wanted = [Requirement(row) for row in re.findall(r'"([^"]+)"', block)]
    locked = pins("requirements.lock")
    unmet = [str(row) for row in wanted if locked.get(_normal(row.name)) not in row.specifier]
    assert len(wanted) > 15
    assert not unmet, (
        f"setup.py asks for {unmet}, requirements.lock has {[locked.get(_normal(Requirement(r).name)) for r in unmet]}"
    )


def test_the_locks_agree():
    """The references are compared on the same numpy, tokenizers and gguf as itune runs on."""
    ours, theirs = pins("requirements.lock"), pins("requirements-parity.lock")
    differ = {name: (ours[name], theirs[name]) for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}
    differ = {
        name: pair for name, pair in differ.items() if name in ("numpy", "tokenizers", "gguf", "safetensors", "jinja2")
    }
    assert not differ, differ


def test_make_help_lists_every_target():
    text = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^\.PHONY: (\S+)$", text, re.MULTILINE))
    described = set(re.findall(r"^([a-z-]+):.*##", text, re.MULTILINE))
    assert {"quickstart", "test", "parity", "lint"} <= targets
    assert targets == described


@pytest.mark.parametrize("name", ["README.md", "CONTRIBUTING.md", "launch/README.md", "CHANGELOG.md"])
def test_links_lead_somewhere(name):
    path = ROOT / name
    links = re.findall(r"\]\(([^)#\s]+)[^)]*\)", markdown(name))
    dead = [link for link in links if "://" not in link and not (path.parent / link).exists()]
    assert not dead, f"{name} links to {dead}"


def test_the_readme_names_real_files_targets_and_commands():
    """What stands in backquotes and looks like a path, a make target or a module of itune is one."""
    text = markdown("README.md")
    makefile = (ROOT / "Makefile").read_text("utf-8")
    targets = set(re.findall(r"^\.PHONY: (\S+)$", makefile, re.MULTILINE))
    wrong = [f"make {name}" for name in re.findall(r"\bmake ([a-z-]+)`", text) if name not in targets]
    modules = re.findall(r"python -m (itune\.[a-z_.]+)", text)
    wrong += [name for name in modules if not ROOT.joinpath(*name.split(".")).with_suffix(".py").exists()]
    folders = "|".join(map(re.escape, FOLDERS))
    paths = re.findall(rf"(?<![\w/])(?:{folders})/[\w./-]*\w", text)
    wrong += [path for path in paths if not (ROOT / path).exists() and path != README_EXAMPLE]
    assert modules
    assert not wrong, wrong


def test_the_task_in_the_readme_works():
    """As its reader would have it: as a module of its own; it registers, and renders a prompt."""
    code = re.search(r"```python\n(.*?)```", markdown("README.md"), re.DOTALL)
    assert code is not None
    assert README_EXAMPLE in code[1]
    check = """
import seqio
task = seqio.get_mixture_or_task("units/grams")
row = next(task.get_dataset({"inputs": 64, "targets": 64}, "validation", shuffle=False).as_numpy_iterator())
print(task.output_features["inputs"].vocabulary.decode(row["inputs"].tolist()), "->", row["id"].decode())
"""
    done = subprocess.run(
        [sys.executable, "-c", code[1] + check], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert re.search(r"10\b.* grams.* -> kg-10$", done.stdout.strip()) or "10 kg? -> kg-10" in done.stdout, done.stdout


def test_the_changelog_has_a_place_for_what_comes_next():
    assert "## Unreleased" in lines(ROOT / "CHANGELOG.md")
    assert "Apache License" in (ROOT / "LICENSE").read_text("utf-8")
