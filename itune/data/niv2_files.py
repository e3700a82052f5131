"""The files of Super-NaturalInstructions: which tasks there are, what is known before they are read, rows. No SeqIO."""

from __future__ import annotations

import dataclasses
import functools
import json
import logging
import os
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from itune.data import identities
from itune.data import splits as splits_lib
from itune.data.keyed import key64
from itune.data.readers import encodable, field_text, read_json, read_text, require
from itune.errors import UserError, nearest

log = logging.getLogger(__name__)
TRAIN, TEST, EXCLUDED = "train", "test", "excluded"
# Sources that are no data set: tasks that name them share no rows.
_NO_SOURCE = {"synthetic": ""}

# A file's keys stand in the owners' order: what the registry needs comes first, but for the licence, which comes last.
_HEAD_BYTES, _TAIL_BYTES = 8192, 1024
_HEAD = ("Categories", "Source", "Instance License")  # the last may be missing: early releases have none
_KEY = re.compile(r'[\s{,]*"((?:[^"\\]|\\.)*)"\s*:\s*')
_LICENCE = re.compile(r'"Instance License"\s*:\s*')  # inside a string its quotes would be escaped
_DECODER = json.JSONDecoder()


def task_files(folder: Path) -> dict[str, Path]:
    """Name -> tasks/<name>.json, sorted. UserError where there are none."""
    tasks = folder / "tasks"
    if not tasks.is_dir():
        raise UserError(f"{tasks}: no such folder; NIv2's own layout has tasks/*.json and splits/*/*_tasks.txt")
    files = {name.removesuffix(".json"): tasks / name for name in sorted(os.listdir(tasks)) if name.endswith(".json")}
    if not files:
        raise UserError(f"{tasks}: no .json file in it")
    return files


def read_splits(folder: Path, splits: str, files: Mapping[str, Path]) -> dict[str, list[str]]:
    """{"train": names, "test": names, "excluded": names} as splits/<splits>/*_tasks.txt list them.

    UserError naming file and line for a task that has no file, or is listed before.
    """
    parent = folder / "splits"
    if not (parent / splits).is_dir():
        known = sorted(p.name for p in parent.iterdir() if p.is_dir()) if parent.is_dir() else []
        hint = nearest(splits, known) or f" There are {', '.join(known) or 'none'}."
        raise UserError(f"{parent / splits}: no such folder of split files.{hint}")
    listed: dict[str, list[str]] = {TRAIN: [], TEST: [], EXCLUDED: []}
    first: dict[str, str] = {}
    for use, names in listed.items():
        path = parent / splits / f"{use}_tasks.txt"
        for number, line in enumerate(read_text(path).splitlines(), 1):
            name, where = line.strip(), f"{path}:{number}"
            if not name:
                continue
            if name in first:
                raise UserError(f"{where}: {name!r} is listed before, in {first[name]}")
            first[name] = where
            # Tasks that are excluded anyway need not be there.
            if name in files or use == EXCLUDED:
                names.append(name)
            else:
                raise UserError(f"{where}: no file {name}.json in {folder / 'tasks'}.{nearest(name, files)}")
    return listed


# Heads: what the registry knows of a task


def read_head(path: Path) -> dict[str, list[str]]:
    """{"Categories", "Source", "Instance License"}, each a list of text; only the first cannot be empty.

    Reads both ends of the file, and all of it only where its beginning lacks one of the first two. UserError where
    there is no category, or such a file is not JSON.
    """
    try:
        with open(path, "rb") as file:
            start = file.read(_HEAD_BYTES)
            file.seek(max(0, os.fstat(file.fileno()).st_size - _TAIL_BYTES))
            end = file.read()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    found = _leading_values(start.decode("utf-8", "replace"))
    licence = _LICENCE.search(text := end.decode("utf-8", "replace"))
    if licence and "Instance License" not in found:
        found["Instance License"] = _DECODER.raw_decode(text, licence.end())[0]
    if not all(key in found for key in _HEAD[:2]):
        found = _whole(path)
    require(found, "Categories", str(path))
    head = {key: _texts(found.get(key) or [], path, key) for key in _HEAD}
    if not head["Categories"]:
        raise UserError(f"{path}: 'Categories' is empty")
    return head


def _leading_values(text: str) -> dict[str, Any]:
    """The values of an object's first keys, as far as the text goes: '{"a": [1], "b": {"c"' -> {"a": [1]}."""
    values: dict[str, Any] = {}
    position = 0
    while found := _KEY.match(text, position):
        try:
            values[found[1]], position = _DECODER.raw_decode(text, found.end())
        except (ValueError, RecursionError):  # cut off here; what is no JSON at all shows when the whole is read
            break
    return values


def _texts(value: Any, path: Path, key: str) -> list[str]:
    values = [value] if isinstance(value, str) else value
    if not isinstance(values, list) or not all(isinstance(v, str) for v in values):
        raise UserError(f"{path}: {key!r} must be text or a list of text")
    return [v.strip() for v in values if v.strip()]


def read_heads(paths: Sequence[Path]) -> dict[Path, dict[str, list[str]]]:
    """`read_head` of each. UserError for all that cannot be read at once."""
    heads: dict[Path, dict[str, list[str]]] = {}
    errors: list[str] = []
    for path in paths:
        try:
            heads[path] = read_head(path)
        except UserError as error:
            errors.append(str(error))
    if errors:
        raise UserError("; ".join(errors[:5]) + (f"; and {len(errors) - 5} more files" if len(errors) > 5 else ""))
    return heads


@dataclasses.dataclass(frozen=True, kw_only=True)
class Listing:
    """What a copy of natural-instructions holds.

    Attributes:
      files: by name, all of tasks/.
      listed: names by "train", "test" and, as the split files have it, "excluded".
      heads: by path, of what is trained and tested on.
      excluded: name -> why it is neither.
    """

    files: dict[str, Path]
    listed: dict[str, list[str]]
    heads: dict[Path, dict[str, list[str]]]
    excluded: dict[str, str]


def listing(folder: Path, splits: str | None, leave_out: Sequence[str]) -> Listing:
    """Reads names of files, lists and heads. leave_out: data sets whose tasks are not trained on. Raises: UserError."""
    files = task_files(folder)
    listed = {TRAIN: list(files), TEST: []} if splits is None else read_splits(folder, splits, files)
    heads = read_heads([files[name] for name in (*listed[TRAIN], *listed[TEST])])
    unwanted = {identities.canonical(name) for name in leave_out}
    left = {name: found for name in listed[TRAIN] if (found := _of(name, heads[files[name]]["Source"], unwanted))}
    listed[TRAIN] = [name for name in listed[TRAIN] if name not in left]
    used = {*listed[TRAIN], *listed[TEST]}
    excluded = {}
    for name in files:
        if name in left:
            excluded[name] = f"it is of {left[name]}, which is not trained on (leave_out)"
        elif name not in used:
            how = "excluded from training and testing" if name in listed.get(EXCLUDED, ()) else "in none of the lists"
            excluded[name] = f"it is {how} of {folder / 'splits' / str(splits)}"
    return Listing(files=files, listed=listed, heads=heads, excluded=excluded)


def _of(name: str, sources: Sequence[str], unwanted: Collection[str]) -> str:
    """Which of the unwanted data sets a task is made of, by its sources or a word of its name; "" for none."""
    called = (identities.canonical(text) for text in (*sources, *re.split(r"[-_]", name)))
    return next((found for found in called if found in unwanted), "")


def task_name(prefix: str, name: str) -> str:
    return f"{prefix}/{name.replace('-', '_')}"


def clusters_of(
    heads: Mapping[Path, Mapping[str, list[str]]], clusters: Mapping[str, str], folder: Path
) -> dict[Path, str]:
    """The cluster of each: its first category, by the name that `clusters` gives it. UserError for an unknown one."""
    categories = {path: head["Categories"][0] for path, head in heads.items()}
    for category in clusters:
        if category not in categories.values():
            raise UserError(
                f"{folder}: no task is of the category {category!r}.{nearest(category, {*categories.values()})}"
            )
    return {path: clusters.get(category) or _slug(category) for path, category in categories.items()}


def identity_of(sources: Sequence[str], named: Mapping[str, str] | None = None) -> str:
    """["GLUE CoLA", "synthetic"] -> "glue_cola"; "" where none is a data set. named: Source -> identity."""
    known = _NO_SOURCE | dict(named or {})
    return "_".join(filter(None, (known.get(source, _slug(source)) for source in sources)))


def licence_of(head: Mapping[str, Sequence[str]]) -> str:
    return ", ".join(head["Instance License"]) or "unknown"


def _slug(text: str) -> str:
    """ "Question Generation" -> "question_generation"."""
    return "_".join(re.findall(r"\w+", text.casefold()))


# Whole files


def _whole(path: str | Path) -> dict[str, Any]:
    data = read_json(path)
    if not isinstance(data, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(data).__name__}")
    return data


class Prompts:
    """definitions: wordings of what to do, at least one. examples: the positive ones, {input, output, explanation}."""

    def __init__(self, definitions: Sequence[str], examples: Sequence[Mapping[str, str]]):
        self.definitions, self.examples = tuple(definitions), tuple(examples)


def read_prompts(path: str) -> Prompts:
    """A task's definition and positive examples; read again when the file has changed."""
    stat = os.stat(path)
    return _prompts(path, stat.st_mtime_ns, stat.st_size)


# Small, and asked for with every row: a SeqIO mixture goes through all of its tasks at once.
@functools.lru_cache(maxsize=4096)
def _prompts(path: str, mtime_ns: int, size: int) -> Prompts:
    data = _whole(path)
    require(data, "Definition", path)
    definitions = _texts(data["Definition"], Path(path), "Definition")
    if not definitions:
        raise UserError(f"{path}: 'Definition' is empty")
    examples = []
    for number, example in enumerate(_objects(data, "Positive Examples", path)):
        where = f"{path}: Positive Examples[{number}]"
        texts = {key: field_text(example, key, where) for key in ("input", "output")}
        examples.append(texts | {"explanation": field_text(example, "explanation", where, optional=True)})
    return Prompts(definitions, examples)


def _objects(data: Mapping[str, Any], key: str, path: str) -> list[dict[str, Any]]:
    require(data, key, path)
    if not isinstance(data[key], list):
        raise UserError(f"{path}: {key!r} is a {type(data[key]).__name__}, must be a list")
    for number, entry in enumerate(data[key]):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: {key}[{number}] is a {type(entry).__name__}, must be an object")
    return list(data[key])


def niv2_rows(
    split: str,
    *,
    path: str,
    identity: str,
    first: int | None,
    at_most: int | None,
    validation_fraction: float | None,
) -> Iterator[dict[str, str]]:
    """The rows of a `RowSource`: {"id", "input", "references": JSON list of outputs}, in the file's order.

    Instances without input or output are left out, exact duplicates kept once, and a log line says how many.

    Args:
      first: only so many of the file's first instances. at_most: of those for `split`, so many by keyed hash.
      validation_fraction: the share whose split is "validation", by the hash of the input; None: all are in `split`.
    """
    rows: dict[str, dict[str, str]] = {}
    instances = _objects(_whole(path), "Instances", path)
    blank = twice = 0
    for number, instance in enumerate(instances[:first]):
        row = _row(instance, f"{path}: Instances[{number}]")
        if row is None:
            blank += 1
        elif row["id"] in rows:
            if rows[row["id"]] != row:
                raise UserError(f"{path}: Instances[{number}]: id {row['id']!r} was used before, for other text")
            twice += 1
        else:
            rows[row["id"]] = row
    if blank or twice:
        log.warning("%s: of %d instances %d left out as blank, %d as duplicates", path, number + 1, blank, twice)
    chosen = [row for row in rows.values() if _side(row, identity, validation_fraction) in (split, None)]
    if at_most is not None and len(chosen) > at_most:
        kept = {r["id"] for r in sorted(chosen, key=lambda r: key64("niv2", identity, r["id"]))[:at_most]}
        chosen = [row for row in chosen if row["id"] in kept]
    yield from chosen


def _row(instance: Mapping[str, Any], where: str) -> dict[str, str] | None:
    """None for an instance that has nothing to ask or to answer."""
    text = field_text(instance, "input", where)
    require(instance, "output", where)
    outputs = [instance["output"]] if isinstance(instance["output"], str) else instance["output"]
    if not isinstance(outputs, list) or not all(isinstance(output, str) and encodable(output) for output in outputs):
        raise UserError(f"{where}: 'output' must be a list of text")
    outputs = list(dict.fromkeys(output for output in outputs if output.strip()))
    if not text.strip() or not outputs:
        return None
    # The first releases have no ids.
    row_id = field_text(instance, "id", where, optional=True) or splits_lib.text_key(text, *outputs)
    return {"id": row_id, "input": text, "references": json.dumps(outputs, ensure_ascii=False)}


def _side(row: Mapping[str, str], identity: str, validation_fraction: float | None) -> str | None:
    if validation_fraction is None:
        return None
    key = splits_lib.normalise(row["input"]) or row["input"]
    return splits_lib.split_of(key, identity=identity, validation_fraction=validation_fraction)
