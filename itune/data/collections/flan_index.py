"""Which tasks the files of the FLAN Collection hold, and how many rows of each: found by one pass over all of them.

{"files": {"cot_fsopt_data/part.0.parquet": {"size": 123, "kinds": {"fs_opt": {"cot_creak": 14, ...}}}}}
"""

from __future__ import annotations

import collections
import gzip
import json
import os
import re
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from itune.data.collections.flan_files import FlanFile, flan_files, flan_records
from itune.errors import UserError

# Rows held before they are written, by `split_flan`.
_HELD_ROWS = 20_000


class FlanTask(NamedTuple):
    """One task in one kind of prompt. rows: how many, duplicates and blank ones among them."""

    submix: str
    kind: str
    name: str
    files: tuple[FlanFile, ...]
    rows: int


def flan_index(folder: str | Path, index: str | Path | None = None) -> list[FlanTask]:
    """The tasks of a folder, sorted. Reads every row once, where the JSON file `index` does not hold the result yet.

    Rows without a task name (SirNeural's copy) count for the name "". UserError where `index` is of other files.
    """
    folder = Path(folder).expanduser()
    files = flan_files(folder)
    path = None if index is None else Path(index).expanduser()
    if path is not None and path.is_file():
        counts = _load(path, folder, files)
    else:
        counts = {file: _counts(file) for file in files}
        if path is not None:
            _save(path, folder, counts)
    found: dict[tuple[str, str, str], dict[FlanFile, int]] = collections.defaultdict(dict)
    for file, kinds in counts.items():
        for kind, names in kinds.items():
            for name, count in names.items():
                found[file.submix, kind, name][file] = count
    return [FlanTask(*key, tuple(held), sum(held.values())) for key, held in sorted(found.items())]


Counts = Mapping[str, Mapping[str, int]]


def _counts(file: FlanFile) -> Counts:
    counts: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    for _, kind, row in flan_records(file):
        counts[kind][row["task_name"]] += 1
    return counts


def _save(path: Path, folder: Path, counts: Mapping[FlanFile, Counts]) -> None:
    files = {
        str(file.path.relative_to(folder)): {"size": file.path.stat().st_size, "kinds": kinds}
        for file, kinds in counts.items()
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile("w", dir=path.parent, delete=False, encoding="utf-8") as file:
        json.dump({"files": files}, file, indent=1, sort_keys=True)
    os.replace(file.name, path)


def _load(path: Path, folder: Path, files: Sequence[FlanFile]) -> dict[FlanFile, Counts]:
    try:
        known = json.loads(path.read_text(encoding="utf-8"))["files"]
        sizes = {name: entry["size"] for name, entry in known.items()}
        counts = {name: {k: dict(v) for k, v in entry["kinds"].items()} for name, entry in known.items()}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise UserError(f"{path}: is no index of the FLAN Collection; delete it to have it made again") from None
    there = {str(file.path.relative_to(folder)): file for file in files}
    for name in sorted(sizes.keys() | there.keys()):
        if name not in there or sizes.get(name) != there[name].path.stat().st_size:
            raise UserError(f"{path}: {name} in {folder} is not as indexed; delete the index to have it made again")
    return {there[name]: kinds for name, kinds in counts.items()}


def split_flan(folder: str | Path, to: str | Path) -> int:
    """Writes the collection's rows to a folder of one file a task: `to`/cot_fsopt_data/cot_creak.jsonl.gz, ...

    A task of `flan_collection(per_task=True)` then reads its own file, and not all of its submix. One pass, in memory
    are 20,000 rows. Returns how many rows there were. UserError where `to` is there already, or rows have no task name.
    """
    folder, out = Path(folder).expanduser(), Path(to).expanduser()
    if out.exists():
        raise UserError(f"{out}: is there already; give split_flan a new folder")
    out.mkdir(parents=True)
    held: dict[Path, list[str]] = collections.defaultdict(list)
    rows = 0
    for path, line in _lines(flan_files(folder), out):
        held[path].append(line)
        rows += 1
        if rows % _HELD_ROWS == 0:
            _flush(held)
    _flush(held)
    return rows


def _lines(files: Sequence[FlanFile], out: Path) -> Iterator[tuple[Path, str]]:
    for file in files:
        for where, kind, row in flan_records(file):
            if not row["task_name"]:
                raise UserError(f"{where}: has no task name; take another copy of the collection")
            name = re.sub(r"[^\w.:-]", "_", row["task_name"])
            path = out / f"{file.submix}_{kind.replace('_', '')}_data" / f"{name}.jsonl.gz"
            yield path, json.dumps(row | {"template_type": kind}, ensure_ascii=False) + "\n"


def _flush(held: dict[Path, list[str]]) -> None:
    for path, lines in held.items():
        path.parent.mkdir(exist_ok=True)
        with gzip.open(path, "at", encoding="utf-8", compresslevel=3) as file:
            file.writelines(lines)
    held.clear()
