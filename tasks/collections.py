"""Collections taken whole from their owners' files: put below $ITUNE_DATA_DIR/collections, and asked for by name.

    flan/                        flan2022_published, flan2022_published/cot/fs_opt, ...
    natural-instructions/        niv2_train, niv2_test, niv2/task001_..., ...
    promptsource/                t0 (tasks/flan.py), over the data sets of tasks/library
    alpaca_data.json             alpaca
    databricks-dolly-15k.jsonl   dolly
    unnatural-instructions/      unnatural_instructions
    self-instruct/               self_instruct, self_instruct/seeds, user_oriented
    medical_meadow/              medical_meadow
    pmc_llama/                   pmc_llama
    oasst1/, oasst2/             oasst1, oasst2

docs/datasets.md says where each comes from, with the commands that fetch it. Nothing is read until one is asked for.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import itune.data as data  # its names one by one: those that register load SeqIO
from itune.data import Summary, provide_niv2

DATA_DIR_VARIABLE = "ITUNE_DATA_DIR"
COLLECTION = "collections"
SEVERAL = "unknown: each data set has its own"
HOW = "docs/datasets.md says where it comes from"
Register = Callable[[Path], object]

# name of what is asked for -> (where below the folder, how that is registered, licence, in a few words)
SOURCES: dict[str, tuple[str, Register, str, str]] = {
    "flan2022_published": (
        "flan",
        lambda path: data.flan_collection(path),
        SEVERAL,
        "the FLAN 2022 Collection's own rows at its own rates",
    ),
    "alpaca": (
        "alpaca_data.json",
        lambda path: data.stanford_alpaca(path),
        "CC-BY-NC-4.0",
        "52,002 instructions written by text-davinci-003",
    ),
    "dolly": (
        "databricks-dolly-15k.jsonl",
        lambda path: data.dolly_tasks(path),
        "CC-BY-SA-3.0",
        "15,011 instructions written by Databricks' staff",
    ),
    "unnatural_instructions": (
        "unnatural-instructions/full_data.jsonl",
        lambda path: data.unnatural_instructions(path),
        "MIT",
        "instructions written by a model, with reformulations",
    ),
    "self_instruct": (
        "self-instruct/all_instances_82K.jsonl",
        lambda path: data.self_instruct(path),
        "Apache-2.0",
        "Self-Instruct's 82,000 written by GPT-3",
    ),
    "self_instruct/seeds": (
        "self-instruct/seed_tasks.jsonl",
        lambda path: data.self_instruct_seeds(path),
        "Apache-2.0",
        "Self-Instruct's 175 seeds",
    ),
    "user_oriented": (
        "self-instruct/user_oriented_instructions.jsonl",
        lambda path: data.user_oriented(path),
        "Apache-2.0",
        "Self-Instruct's 252 instructions to evaluate with",
    ),
    "medical_meadow": (
        "medical_meadow",
        lambda path: data.medical_meadow(path),
        SEVERAL,
        "medAlpaca's Medical Meadow",
    ),
    "pmc_llama": (
        "pmc_llama/release.json",
        lambda path: data.pmc_llama_instructions(path),
        "openrail; its sources have their own",
        "PMC-LLaMA's 513,999 instructions",
    ),
    "oasst1": (
        "oasst1",
        lambda path: data.open_assistant(path, name="oasst1"),
        "Apache-2.0",
        "Open Assistant's conversations, release 1",
    ),
    "oasst2": (
        "oasst2",
        lambda path: data.open_assistant(path, name="oasst2"),
        "Apache-2.0",
        "Open Assistant's conversations, release 2",
    ),
}
NIV2 = "natural-instructions"


def folder() -> Path | None:
    """$ITUNE_DATA_DIR/collections, None where the variable is not set."""
    there = os.environ.get(DATA_DIR_VARIABLE)
    return Path(there).expanduser() / "collections" if there else None


def missing(where: str) -> str:
    """Why what lies at `where` is not there, for `mark_unavailable`."""
    below = folder()
    if below is None:
        return f"its files are not in the project; put them into ${DATA_DIR_VARIABLE}/collections/{where} ({HOW})"
    return f"{below / where} is not there ({HOW})"


def provide_collections() -> None:
    """Makes all of it known; nothing is read."""
    for name, (where, register, _, _) in SOURCES.items():
        data.provide([name], functools.partial(_register, name, where, register), functools.partial(_describe, name))
    below = folder()
    if below is not None and (below / NIV2).is_dir():
        provide_niv2(below / NIV2)
    else:
        data.provide(["niv2", "niv2_train", "niv2_test"], _no_niv2, list)


def _register(name: str, where: str, register: Register) -> None:
    below = folder()
    if below is None or not (below / where).exists():
        data.mark_unavailable(name, missing(where))
    else:
        register(below / where)


def _no_niv2() -> None:
    for name in ("niv2", "niv2_train", "niv2_test"):
        data.mark_unavailable(name, missing(NIV2))


def _describe(name: str) -> Sequence[Summary]:
    where, _, licence, description = SOURCES[name]
    below = folder()
    if below is None or not (below / where).exists():
        description = f"{description} (not here: {where})"
    return [Summary(name=name, licence=licence, collection=COLLECTION, description=description)]
