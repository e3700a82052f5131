"""The files of the FLAN 2022 Collection (Longpre et al. 2023, arXiv 2301.13688) as the hub has them. No SeqIO.

flan2021_submix_original/data/train-00000-of-00002-*.parquet   DataProvenanceInitiative: a repository a submix,
                                                               the kind of prompt in a column
cot_fsopt_data/part.0.parquet                                  Open-Orca/FLAN: a folder a submix and kind
cot_fs_opt_train.jsonl.gz, flan_fs_opt_train_part1.jsonl.gz    SirNeural/flan_v2: a file likewise, without the
                                                               names of tasks
"""

from __future__ import annotations

import collections
import dataclasses
import fnmatch
import functools
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from itune.data.conversations import PLACE
from itune.data.identities import canonical
from itune.data.readers import field_text
from itune.data.record_stream import stream_records
from itune.data.splits import normalise, split_of, text_key
from itune.errors import UserError, nearest

log = logging.getLogger(__name__)

SUBMIXES = ("flan2021", "t0", "niv2", "cot", "dialog")
KINDS = ("zs_opt", "zs_noopt", "fs_opt", "fs_noopt")
# What FLAN 2022 is made of. Some copies hold other kinds, too; FLAN mixes none of them.
KINDS_OF = {"flan2021": KINDS, "t0": KINDS, "niv2": KINDS[::2], "cot": KINDS[::2], "dialog": KINDS[::2]}

_FORMATS = (".parquet", ".jsonl", ".json", ".jsonl.gz", ".jsonl.zst", ".json.gz", ".json.zst")
_SUBMIX = "(?P<submix>flan2021|flan|t0|niv2|cot|dialog)"
_KIND = "(?P<shots>zs|fs)_?(?P<options>opt|noopt)"
# Of a file or of a folder above it; the first that fits.
_NAMES = (
    re.compile(rf"{_SUBMIX}_{_KIND}_(?:data|train)(?:_part_?\d+)?"),
    re.compile(rf"{_SUBMIX}_submix_original"),
)
_DECORATION = re.compile(r"^stream_|_ii$")
_PART = re.compile(r"_part_?\d+")
# Field -> its names in the three layouts, the best first. "task" is SirNeural's, which holds the submix only.
_KEYS = {
    "inputs": ("inputs", "input"),
    "targets": ("targets", "target"),
    "task_name": ("task_name", "_task_name"),
    "task_source": ("task_source", "_task_source"),
    "template_type": ("template_type", "_template_type"),
}


FIELDS = ("inputs", "targets", "task_name", "task_source")


@dataclasses.dataclass(frozen=True)
class FlanFile:
    """kind: None where a column says it. where: the folder or file that named the submix."""

    path: Path
    submix: str
    kind: str | None
    where: str


def flan_files(folder: Path) -> list[FlanFile]:
    """The collection's files in a folder, sorted; looked at by name only.

    UserError where there are none, or two copies of one submix.
    """
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found = []
    for path in sorted(folder.rglob("*")):
        named = _named(path.relative_to(folder.parent)) if path.name.endswith(_FORMATS) else None
        if named and path.is_file():
            found.append(FlanFile(path, *named))
    if not found:
        raise UserError(
            f"{folder}: holds no file of the FLAN Collection: <submix>_submix_original/**/*.parquet, "
            "<submix>_<kind>_data/* or <submix>_<kind>_train.jsonl.gz"
        )
    copies: dict[tuple[str, str], set[str]] = collections.defaultdict(set)
    for file in found:
        for kind in [file.kind] if file.kind else KINDS:
            copies[file.submix, kind].add(file.where)
    for (submix, kind), places in copies.items():
        if len(places) > 1:
            one, other, *_ = sorted(places)
            raise UserError(f"{folder}: {submix}/{kind} is there twice, as {one} and {other}; take one away")
    return found


def _named(path: Path) -> tuple[str, str | None, str] | None:
    """cot_fsopt_data/part.0.parquet -> ("cot", "fs_opt", "cot_fsopt_data")."""
    for part in reversed(path.parts):
        stem = part.partition(".")[0]
        for name in _NAMES:
            if match := name.fullmatch(stem):
                groups = match.groupdict()
                kind = f"{groups['shots']}_{groups['options']}" if groups.get("shots") else None
                submix = "flan2021" if groups["submix"] == "flan" else groups["submix"]
                return submix, kind, _PART.sub("", part)
    return None


def flan_records(file: FlanFile) -> Iterator[tuple[str, str, dict[str, str]]]:
    """Yields (where, kind, {"inputs", "targets", "task_name", "task_source"}) of a file, in its order.

    task_name is "" in SirNeural's files. UserError for a row without one of these, or of an unknown kind.
    """
    for where, record in stream_records(file.path):
        # SirNeural's "task" is the submix.
        optional = ("task_source", "task_name") if "task" in record else ("task_source",)
        row = {name: _text(record, name, where, name in optional) for name in FIELDS}
        yield where, file.kind or _kind(record, where), row


def _text(record: Mapping[str, Any], name: str, where: str, optional: bool = False) -> str:
    key = next((key for key in _KEYS[name] if key in record), name)
    return field_text(record, key, where, optional)


def _kind(record: Mapping[str, Any], where: str) -> str:
    kind = _text(record, "template_type", where)
    if kind not in KINDS:
        hint = nearest(kind, KINDS) or f" They are {', '.join(KINDS)}."
        raise UserError(f"{where}: template_type is {kind!r:.40}, which is no kind of prompt.{hint}")
    return kind


@dataclasses.dataclass(frozen=True)
class Choice:
    """Which task names are taken: those that one of `tasks` means, all where it is empty, but for `leave_out`.

    Each is a name, a pattern ("*winogrande*"), or a data set by any of its names ("rte" for "super_glue/rte:1.0.2").
    """

    tasks: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    names: str = ""  # identities.state(), by which a fingerprint sees that other names are meant

    def takes(self, name: str) -> bool:
        return _taken(self, name)


@functools.lru_cache(maxsize=65536)
def _taken(choice: Choice, name: str) -> bool:
    if choice.tasks and not any(means(wanted, name) for wanted in choice.tasks):
        return False
    return not any(means(unwanted, name) for unwanted in choice.leave_out)


def means(wanted: str, name: str) -> bool:
    """Whether `wanted` is the task name, a pattern that fits it, or a name of its data set."""
    return wanted == name or fnmatch.fnmatchcase(name, wanted) or canonical(wanted) == canonical(source_of(name))


def source_of(name: str) -> str:
    """The data set of a task name: "cot_esnli_ii" (inputs and targets change places) and "cot_esnli" are one."""
    return _DECORATION.sub("", name)


def flan_rows(
    split: str,
    *,
    files: Sequence[FlanFile],
    kind: str,
    choice: Choice,
    task: str | None,
    identity: str,
    validation_fraction: float,
) -> Iterator[dict[str, str]]:
    """The rows of a `StreamedSource`. Exact duplicates are kept once; what is blank is left out and counted.

    task: only the rows of exactly this task name.
    """
    seen: set[int] = set()
    blank = twice = 0
    chosen = bool(choice.tasks or choice.leave_out)
    for file in files:
        for where, kind_of_row, row in flan_records(file):
            if kind_of_row != kind or (task is not None and row["task_name"] != task):
                continue
            if chosen and not row["task_name"]:
                raise UserError(f"{where}: has no task name to choose by; take another copy of the collection")
            if not choice.takes(row["task_name"]):
                continue
            if not row["inputs"].strip() or not row["targets"].strip():
                blank += 1
                continue
            row_id = text_key(row["task_name"], row["inputs"], row["targets"])
            if (number := int(row_id, 16)) in seen:
                twice += 1
                continue
            seen.add(number)
            key = normalise(row["inputs"]) or row["inputs"]
            if split_of(key, identity=identity, validation_fraction=validation_fraction) == split:
                yield {"id": row_id, **row, PLACE: where}
    if blank or twice:
        log.warning("%s: %d rows left out as blank, %d as duplicates", files[0].where, blank, twice)
