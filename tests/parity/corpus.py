"""Texts of real data, for comparing tokenizers: read in place, never copied. Both environments import this."""

from __future__ import annotations

import gzip
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# (path below the data folder, how many texts of it at most)
FILES = (
    ("general/t0_prompts.jsonl.gz", 8000),
    ("general/alpaca_en_demo.json", 3000),
    ("general/gsm8k/train.jsonl", 3000),
    ("general/oasst_en_100_tree.jsonl", 2000),
    ("clinical/medical_meadow_small.json", 4000),
    ("clinical/medquad.jsonl.gz", 2000),
    ("clinical/mts_dialog/MTS-Dialog-TrainingSet.csv", 2000),
    ("clinical/ade/ADE-NEG.txt.gz", 1000),
)


def data_dir() -> Path | None:
    """$ITUNE_DATA_DIR, or shared/data beside the project as in tests/conftest.py; None if there is neither."""
    path = Path(os.environ.get("ITUNE_DATA_DIR") or Path(__file__).resolve().parents[3] / "shared" / "data")
    return path if path.is_dir() else None


def texts(root: Path) -> list[str]:
    """Texts in a fixed order, line breaks inside them kept; of each file, evenly spread ones."""
    found: list[str] = []
    for name, limit in FILES:
        path = root / name
        if path.is_file():
            every = [text for text in _texts(path) if text]
            found += every[:: max(1, -(-len(every) // limit))]
    return found


def _texts(path: Path) -> Iterator[str]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8", errors="replace")
    name = path.name.removesuffix(".gz")
    if name.endswith(".jsonl"):
        for line in text.split("\n"):
            if line.strip():
                yield from _strings(json.loads(line))
    elif name.endswith(".json"):
        yield from _strings(json.loads(text))
    else:
        yield from text.split("\n")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _strings(item)
