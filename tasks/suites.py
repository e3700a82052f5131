"""Test suites from their owners' files, put below $ITUNE_DATA_DIR/suites: what a model is evaluated on, never trained.

    mmlu/     mmlu, mmlu/<subject>
    bbh/      bbh, bbh/<task>, bbh_cot, bbh/<task>_cot
    mgsm/     mgsm, mgsm/<language>
    tydiqa/   tydiqa, tydiqa/<language>

docs/evaluation.md says which files. Super-NaturalInstructions' test tasks are niv2_test (tasks/collections.py).
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable
from pathlib import Path

import itune.data as data
from itune.data import Summary

COLLECTION = "suites"
Register = Callable[[Path], object]

# folder -> (names, how they are registered, licence, in a few words)
SUITES: dict[str, tuple[tuple[str, ...], Register, str, str]] = {
    "mmlu": (("mmlu",), lambda path: data.mmlu_tasks(path), "MIT", "57 subjects, five exemplars each"),
    "bbh": (("bbh", "bbh_cot"), lambda path: data.bbh_tasks(path), "MIT", "BIG-Bench Hard's 27 tasks, three exemplars"),
    "mgsm": (
        ("mgsm", "mgsm_direct"),
        lambda path: data.mgsm_tasks(path),
        "CC-BY-SA-4.0",
        "sums in 11 languages, eight exemplars",
    ),
    "tydiqa": (("tydiqa",), lambda path: data.tydiqa_tasks(path), "Apache-2.0", "questions on a passage, 9 languages"),
}


def provide_suites() -> None:
    """Makes them known; nothing is read."""
    for where, (names, register, _, _) in SUITES.items():
        data.provide(names, functools.partial(_register, where, names, register), functools.partial(_describe, where))


def _folder(where: str) -> Path | None:
    there = os.environ.get("ITUNE_DATA_DIR")
    return Path(there).expanduser() / "suites" / where if there else None


def _register(where: str, names: tuple[str, ...], register: Register) -> None:
    folder = _folder(where)
    if folder is not None and folder.is_dir():
        register(folder)
        return
    for name in names:
        data.mark_unavailable(
            name, f"its files are not in the project; put them into $ITUNE_DATA_DIR/suites/{where} (docs/evaluation.md)"
        )


def _describe(where: str) -> list[Summary]:
    names, _, licence, description = SUITES[where]
    folder = _folder(where)
    if folder is None or not folder.is_dir():
        description = f"{description} (not here: suites/{where})"
    return [Summary(name=name, licence=licence, collection=COLLECTION, description=description) for name in names]
