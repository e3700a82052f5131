"""Every test here runs in an empty working directory, with the project's gin files in reach."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

Write = Callable[..., str]

PREAMBLE = """include 'gin_configs/base.gin'
MIXTURE_OR_TASK_NAME = "toy"
TRAIN_STEPS = 10
MODEL_DIR = "runs/toy"
"""


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """write(text, name="run.gin", preamble=PREAMBLE) -> the name; `text` begins on line 5."""
    monkeypatch.chdir(tmp_path)

    def write_gin(text: str, name: str = "run.gin", preamble: str = PREAMBLE) -> str:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(preamble + text)
        return name

    return write_gin
