"""Rows of a declared data set: where its files are found, and what of a record prompts are made of. No SeqIO.

A row is text throughout: the fields that prompts may use, and three for the engine. GOLD is the index of the right
option ("" for free text), REFERENCES a JSON list of right answers ("" for the one), OPTIONS and HISTORY JSON lists.
"""

from __future__ import annotations

import importlib
import itertools
import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

from itune.data.library.declaration import ANSWER, HISTORY, LAST, OPTIONS, RATIONALE, Declaration, by_path
from itune.data.readers import find_files, read_records
from itune.data.splits import normalise, text_key
from itune.errors import UserError, nearest

log = logging.getLogger(__name__)
Record = Mapping[str, Any]
Derive = Callable[[dict[str, Any]], dict[str, Any] | None]

GOLD, REFERENCES = "gold_index", "reference_texts"
FOLDER_VARIABLE, DATA_VARIABLE, FROM_VARIABLE = "ITUNE_LIBRARY_DIR", "ITUNE_DATA_DIR", "ITUNE_LIBRARY_FROM"
TFDS_VARIABLE = "TFDS_DATA_DIR"
FROM = ("files", "hf", "tfds")
_SUFFIXES = (".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv")


# Where the records are


def library_folder() -> Path | None:
    """Where a user's own copies lie, a folder for each data set: $ITUNE_LIBRARY_DIR, or $ITUNE_DATA_DIR/library."""
    if folder := os.environ.get(FOLDER_VARIABLE):
        return Path(folder).expanduser()
    data = os.environ.get(DATA_VARIABLE)
    return Path(data).expanduser() / "library" if data else None


def locate(d: Declaration, split: str) -> str | Path:
    """The files of a split: those that the declaration names, a path or pattern in the library's folder, "hf:..." or
    "tfds:...".

    $ITUNE_LIBRARY_FROM ("files", "hf", "tfds") asks for one of them.
    Raises: UserError where there is none, naming what would be taken.
    """
    asked = os.environ.get(FROM_VARIABLE, "")
    if asked and asked not in FROM:
        raise UserError(f"{FROM_VARIABLE}={asked}: must be one of {', '.join(FROM)}.{nearest(asked, FROM)}")
    theirs = dict(d.splits).get(split)
    if theirs is None:
        raise UserError(f"{d.name}: has no split {split!r}, only {', '.join(name for name, _ in d.splits)}")
    if d.files:
        return dict(d.files)[split]
    folder = library_folder()
    if asked in ("", "files") and folder is not None and (found := _in_folder(folder / d.name, theirs)):
        return found
    if asked == "files":
        where = folder / d.name if folder else f"${FOLDER_VARIABLE} (which is not set)"
        raise UserError(f"{d.name}: no files of its split {theirs!r} in {where}: expected {theirs}.jsonl or the like")
    if asked == "tfds" or not d.hub:
        if not d.tfds:
            raise UserError(f"{d.name}: has no name in TFDS; unset {FROM_VARIABLE}")
        return f"tfds:{d.tfds}?split={theirs}"
    config = f"config={d.hub_config}&" if d.hub_config else ""
    return f"hf:{d.hub}?{config}split={theirs}"


def _in_folder(folder: Path, split: str) -> str | Path | None:
    """ "train.jsonl", packed or not, or the hub's "train-00000-of-00002.parquet" (a pattern)."""
    for suffix in _SUFFIXES:
        for name in (f"{split}{suffix}", f"{split}{suffix}.gz", f"{split}{suffix}.zst"):
            if (folder / name).is_file():
                return folder / name
        if any(folder.glob(f"**/{split}-*{suffix}")):
            return str(folder / "**" / f"{split}-*{suffix}")
    return None


def files_of(d: Declaration) -> tuple[Path | str, ...]:
    """All files that the rows come from; prepare digests them."""
    found: list[Path | str] = []
    for split, _ in d.splits:
        where = locate(d, split)
        found += _tfds_files(where) if str(where).startswith("tfds:") else find_files(where)
    return tuple(dict.fromkeys(found))


def _tfds_files(where: str | Path) -> list[Path]:
    builder, split = _tfds_builder(where)
    return [Path(path) for path in builder.info.splits[split].filepaths]


def _tfds_builder(where: str | Path) -> tuple[Any, str]:
    """A prepared data set and the name of its split. TFDS itself reads $TFDS_DATA_DIR once, when it is imported."""
    name, _, split = str(where).removeprefix("tfds:").partition("?split=")
    try:
        builder = importlib.import_module("tensorflow_datasets").builder(
            name, data_dir=os.environ.get(TFDS_VARIABLE) or None
        )
        builder.download_and_prepare()
    except Exception as error:  # of TFDS, of the network, of the data set's own builder
        said = " ".join(str(error).partition("Available datasets")[0].split())[:200]
        raise UserError(f"{where}: cannot be loaded: {type(error).__name__}: {said}") from None
    if split not in builder.info.splits:
        raise UserError(f"{where}: has no split {split!r}, only {', '.join(sorted(builder.info.splits))}")
    return builder, split


def records(d: Declaration, split: str) -> Iterator[tuple[str, Record]]:
    """("train.jsonl:3", record) in the owner's layout. Raises: UserError."""
    where = locate(d, split)
    found = _tfds_records(d, where) if str(where).startswith("tfds:") else read_records(where)
    yield from itertools.islice(found, d.read_at_most if split == "train" else None)


def _tfds_records(d: Declaration, where: str | Path) -> Iterator[tuple[str, Record]]:
    builder, split = _tfds_builder(where)
    found = importlib.import_module("tensorflow_datasets").as_numpy(builder.as_dataset(split=split))
    for number, record in enumerate(found, 1):
        plain = {key: _plain(value) for key, value in record.items()}
        for theirs, ours in d.tfds_columns:
            _rename(plain, ours, theirs)
        yield f"{where}: record {number}", plain


def _rename(record: dict[str, Any], old: str, new: str) -> None:
    """{"fr": "oui"}, "fr", "translation.fr" -> {"translation": {"fr": "oui"}}."""
    if old in record:
        *parents, leaf = new.split(".")
        place, value = record, record.pop(old)
        for parent in parents:
            place = place.setdefault(parent, {})
        place[leaf] = value


def _plain(value: Any) -> Any:
    """TFDS's arrays and bytes as Python has them; a sequence of features is a mapping of lists already."""
    if isinstance(value, bytes):
        return value.decode("utf-8")
    if isinstance(value, Mapping):
        return {key: _plain(item) for key, item in value.items()}
    if hasattr(value, "to_list"):  # a ragged tensor: lists of several lengths
        return _plain(value.to_list())
    if getattr(value, "dtype", None) == "float32":  # 3.8 as it was written, not 3.799999952316284
        return value.astype(str).astype("float64").tolist()
    if hasattr(value, "tolist"):
        return _plain(value.tolist())
    return [_plain(item) for item in value] if isinstance(value, list) else value


# What of a record is a row


def declared_rows(split: str, *, declaration: Declaration, derive: Derive | None = None) -> Iterator[dict[str, str]]:
    """The rows of "train" or "validation"; of rows that ask the same, train has none that validation has.

    Exact duplicates are kept once. Left out, and counted in a log line: unlabelled rows, those that `skip` names and
    those that `derive` wants out.
    """
    d = declaration
    held = {question(d, row) for row in _rows(d, "validation", derive)} if _guarded(d, split) else set()
    shared = 0
    for row in _rows(d, split, derive):
        if held and question(d, row) in held:
            shared += 1
            continue
        yield row
    if shared:
        log.warning("%s: %d training rows left out that ask what a validation row asks", d.name, shared)


def _guarded(d: Declaration, split: str) -> bool:
    return split == "train" and "validation" in dict(d.splits)


def question(d: Declaration, row: Mapping[str, str]) -> str:
    """What the row asks, white space, case and punctuation aside."""
    text = "\n".join(row[name] for name in d.question_fields)
    return normalise(text) or text


def _rows(d: Declaration, split: str, derive: Derive | None) -> Iterator[dict[str, str]]:
    seen: set[str] = set()
    left_out = 0
    for where, record in records(d, split):
        made = make_rows(d, record, where, derive)
        left_out += not made
        for row in made:
            if row["id"] not in seen:
                seen.add(row["id"])
                yield row
    if left_out:
        log.info("%s, %s: %d rows left out, unlabelled or not to be used", d.name, split, left_out)


def make_rows(d: Declaration, record: Record, where: str, derive: Derive | None = None) -> list[dict[str, str]]:
    """The row of a record: none where it is to be left out, several for a conversation (a reply each).

    Raises: UserError naming `where` for a record that is not as the declaration says.
    """
    for column, _ in d.columns:
        if column not in record:
            raise UserError(f"{where}: no column {column!r}, which {d.path} declares.{nearest(column, record)}")
    values = dict(record)
    if derive is not None:
        try:
            more = derive(values)
        except (KeyError, TypeError, ValueError, IndexError, AttributeError) as error:
            raise UserError(f"{where}: {d.derive} fails on this record: {type(error).__name__}: {error}") from None
        if more is None:
            return []
        values |= more
    for column, names in d.labels:
        values[column] = _label(values[column], names, f"{where}: {column}")
    if any(_at(record, path, where) in skipped or _at(values, path, where) in skipped for path, skipped in d.skip):
        return []
    texts = {name: as_text(values[name]) for name, _ in d.columns if name != "id"}
    texts |= {name: as_text(_at(values, path, where)) for name, path in d.fields}
    if d.rationale:
        texts[RATIONALE] = as_text(_at(values, d.rationale, where)).strip()
    if d.turns:
        made = _turns(_at(values, d.turns, where), where)
    else:
        answer = _answer(d, values, where)
        made = [] if answer is None else [answer]
    content = text_key(*(part for name in sorted(texts) for part in (name, texts[name])))
    own = as_text(_at(values, d.id, where)) if d.id else content
    return [
        {"id": own if len(made) == 1 else f"{own}#{n}", GOLD: "", REFERENCES: "", **texts, **more}
        for n, more in enumerate(made, 1)
    ]


def _at(values: Record, path: str, where: str) -> Any:
    try:
        return by_path(values, path)
    except KeyError:
        raise UserError(f"{where}: no column {path.split('.')[0]!r}.{nearest(path.split('.')[0], values)}") from None


def _label(value: Any, names: tuple[str, ...], where: str) -> str | None:
    """A class's name from its number, in text too (a table has nothing else), or name; None for an unlabelled row."""
    if value is None or value in (-1, "", "-1"):
        return None
    if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < len(names):
        return names[value]
    if str(value) in names:
        return str(value)
    if isinstance(value, str) and value.isdecimal() and int(value) < len(names):
        return names[int(value)]
    raise UserError(f"{where}: {value!r} is none of the classes {', '.join(names)}")


def _answer(d: Declaration, values: Record, where: str) -> dict[str, str] | None:
    """The engine's fields; None for a row without an answer."""
    found = _at(values, d.answer, where)
    if found is None or found == "" or found == []:
        return None
    if not d.has_options:
        text = as_text(found).strip()
        listed = _at(values, d.references, where) if d.references else None
        references = list(dict.fromkeys(as_text(r).strip() for r in listed or () if as_text(r).strip()))
        coded = json.dumps(references, ensure_ascii=False) if len(references) > 1 else ""
        return {ANSWER: text, REFERENCES: coded} if text else None
    if d.options:
        labels = [label for label, _ in d.options]
        gold = as_text(found)
        if gold not in labels:
            raise UserError(f"{where}: {d.answer} is {gold!r}, none of {', '.join(labels)}")
        words, index = [text for _, text in d.options], labels.index(gold)
    else:
        words = _row_options(d, values, where)
        index = _index(d, values, found, words, where)
    return {ANSWER: words[index], GOLD: str(index), OPTIONS: json.dumps(words, ensure_ascii=False)}


def _row_options(d: Declaration, values: Record, where: str) -> list[str]:
    if len(d.option_paths) == 1:
        found = _at(values, d.option_paths[0], where)
    else:
        found = [_at(values, path, where) for path in d.option_paths]
    if not isinstance(found, list | tuple) or not found:
        raise UserError(f"{where}: options: no list of texts at {', '.join(d.option_paths)}")
    return [as_text(option).strip() for option in found]


def _index(d: Declaration, values: Record, answer: Any, options: list[str], where: str) -> int:
    """Of the right option: by its key, by its number from 0, or by its own text."""
    if d.keys:
        found = _at(values, d.keys, where) if isinstance(d.keys, str) else d.keys
        keys = [as_text(key) for key in found or ()]
    elif isinstance(answer, int) and not isinstance(answer, bool):
        keys, answer = [str(n) for n in range(len(options))], str(answer)
    else:
        keys = options
    answer = as_text(answer).strip()
    if answer not in keys or keys.index(answer) >= len(options):
        raise UserError(f"{where}: the answer {answer[:40]!r} is none of {', '.join(keys)[:120]}")
    return keys.index(answer)


def _turns(turns: Any, where: str) -> list[dict[str, str]]:
    """A row for each reply: what was said before it, and it."""
    if not isinstance(turns, list | tuple) or not all(isinstance(turn, str) for turn in turns):
        raise UserError(f"{where}: the turns must be a list of texts")
    said = [turn.strip() for turn in turns if turn.strip()]
    return [
        {HISTORY: json.dumps(said[:n], ensure_ascii=False), LAST: said[n - 1], ANSWER: said[n]}
        for n in range(1, len(said))
    ]


def as_text(value: Any) -> str:
    """As prompts show it: lists joined by ", ", lists of lists one a line, parts joined by " | "; None is ""."""
    if value is None:
        return ""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str | int | float):
        return str(value)
    if isinstance(value, Mapping):
        return json.dumps(value, ensure_ascii=False, sort_keys=True)  # files, the hub and TFDS differ in the order
    if isinstance(value, Iterable):
        items = list(value)
        if any(isinstance(item, list | tuple) for item in items):
            return "\n".join(" | ".join(map(as_text, item)) if not isinstance(item, str) else item for item in items)
        return ", ".join(map(as_text, items))
    return str(value)
