"""The declaration of a data set: one YAML file that names its source, its schema and its prompts.

`load_declaration` checks all of it against itself; rows are checked against it as they are read (rows.py). What makes
tasks of it: tasks.py. The keys are described in docs/tasks.md.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from itune.data.templates import Template, check_unique
from itune.errors import UserError, nearest

_Loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)

ONLY = ("", "opt", "noopt")
# What the engine gives beside the row's own fields.
ANSWER, OPTIONS, RATIONALE, HISTORY, LAST = "answer", "options", "rationale", "history", "last"
SPLITS = ("train", "validation")
_NEEDED = ("name", "cluster", "licence", "identity", "columns", "templates")
_TEXTS = ("name", "cluster", "description", "citation", "licence", "tfds", "identity", "derive", "overlong", "id")
_PATHS = ("answer", "references", "rationale", "turns")
_OTHERS = (
    "hf",
    "splits",
    "rows",
    "read_at_most",
    "columns",
    "tfds_columns",
    "fields",
    "keys",
    "options",
    "skip",
    "metrics",
    "inverted_metrics",
    "templates",
    "inversions",
)
_KEYS = (*_TEXTS, *_PATHS, *_OTHERS)
_WORDING_KEYS = ("id", "inputs", "targets", "options", "only")

Pairs = tuple[tuple[str, str], ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wording:
    """A prompt of the declaration. options: other words for the labels, by label; only: "", "opt" or "noopt"."""

    id: str
    inputs: str
    targets: str = "{answer}"
    options: Pairs = ()
    only: str = ""

    @property
    def template(self) -> Template:
        return Template(self.id, self.inputs, self.targets)

    @property
    def words(self) -> dict[str, str]:
        return dict(self.options)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Declaration:
    """A data set as its file declares it; see docs/tasks.md for each key.

    Attributes:
      path: the file's name.  hub, hub_config: Hugging Face's repository and configuration, "" for none.
      columns: the owner's columns with their types, as the file has them.
      labels: column -> the names of its classes.
      options: label -> words; or () where `option_paths` (columns, or one list) say where a row has its own.
      keys: what the answer is a key of: texts, or a path to them; () where it is an index or the text itself.
    """

    path: str
    name: str
    cluster: str
    licence: str
    identity: str
    description: str = ""
    citation: str = ""
    hub: str = ""
    hub_config: str = ""
    tfds: str = ""
    splits: Pairs = (("train", "train"), ("validation", "validation"))
    published_rows: tuple[tuple[str, int], ...] = ()
    columns: tuple[tuple[str, str], ...]
    labels: tuple[tuple[str, tuple[str, ...]], ...] = ()
    tfds_columns: Pairs = ()
    derive: str = ""
    id: str = ""
    fields: Pairs = ()
    answer: str = ""
    keys: tuple[str, ...] | str = ()
    read_at_most: int | None = None
    references: str = ""
    rationale: str = ""
    turns: str = ""
    options: Pairs = ()
    option_paths: tuple[str, ...] = ()
    skip: tuple[tuple[str, tuple[Any, ...]], ...] = ()
    metrics: tuple[str, ...] = ("exact_match",)
    inverted_metrics: tuple[str, ...] = ("rouge_l",)
    overlong: str = "truncate_inputs"
    templates: tuple[Wording, ...]
    inversions: tuple[Wording, ...] = ()

    @property
    def has_options(self) -> bool:
        return bool(self.options or self.option_paths)

    @functools.cached_property
    def variants(self) -> dict[str, tuple[Wording, ...]]:
        """The variants that it gives tasks for (see prompts.py), with the wordings of each."""
        shown = tuple(w for w in self.templates if w.only != "noopt")
        hidden = tuple(w for w in self.templates if w.only != "opt")
        reasoned = (shown if self.option_paths else hidden) if self.rationale else ()
        listed = shown if self.has_options else ()
        found = {"zs": hidden, "zs_opt": listed, "fs": hidden, "fs_opt": listed}
        found |= {"inv": self.inversions, "fs_inv": self.inversions, "zs_cot": reasoned, "fs_cot": reasoned}
        return {name: wordings for name, wordings in found.items() if wordings}

    @functools.cached_property
    def question_fields(self) -> tuple[str, ...]:
        """The row's fields that prompts show: rows that agree in all of them ask the same."""
        shown = {field for wording in self.templates for field in Template("inputs", wording.inputs, "").fields}
        return tuple(sorted(shown | ({OPTIONS} if self.option_paths else set())))

    @functools.cached_property
    def row_fields(self) -> tuple[str, ...]:
        """What templates may use of a row: columns, `fields`, and what the engine adds, sorted."""
        names = {name for name, _ in (*self.columns, *self.fields) if name != "id"} | {ANSWER}
        added = {OPTIONS: self.has_options, RATIONALE: self.rationale, HISTORY: self.turns, LAST: self.turns}
        return tuple(sorted(names | {name for name, there in added.items() if there}))


def load_declaration(path: str | Path) -> Declaration:
    """Reads and checks a declaration.

    Raises: UserError naming the file and the entry: an unknown or missing key, a wrong type, a template's field that
    the rows will lack, an answer given away by a prompt.
    """
    try:
        return _load(str(path), Path(path).read_text("utf-8"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path}: cannot be read ({error})") from None


@functools.lru_cache(maxsize=4096)
def _load(path: str, text: str) -> Declaration:
    try:
        found = yaml.load(text, _Loader)  # a safe loader
    except (ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot be read as YAML: {' '.join(str(error).split())}") from None
    if not isinstance(found, dict):
        raise UserError(f"{path}: expected a mapping of {', '.join(_NEEDED)}, ...")
    for key in found:
        if key not in _KEYS:
            raise UserError(f"{path}: unknown key {key!r}.{nearest(str(key), _KEYS)}")
    for key in _NEEDED:
        if not found.get(key):
            raise UserError(f"{path}: {key!r} is needed")
    declaration = _declaration(_Reader(found, str(path)))
    _check(declaration)
    # Where the file lies is nobody's business: what is prepared from it must not depend on it.
    return dataclasses.replace(declaration, path=Path(path).name)


@dataclasses.dataclass(frozen=True)
class _Reader:
    """The mapping of a file, with checks of types that name file and key."""

    found: Mapping[str, Any]
    path: str

    def fail(self, key: str, what: str) -> UserError:
        return UserError(f"{self.path}: {key}: {what}")

    def text(self, key: str, default: str = "") -> str:
        value = self.found.get(key, default)
        if not isinstance(value, str):
            raise self.fail(key, f"{value!r} must be text{' (quote it)' if isinstance(value, bool | int) else ''}")
        return value.strip()

    def texts(self, key: str, value: Any) -> tuple[str, ...]:
        if not isinstance(value, list) or not value:
            raise self.fail(key, "must be a list")
        for item in value:
            if not isinstance(item, str):
                raise self.fail(key, f"{item!r} must be text (quote it: YAML reads yes, no, 1 as other things)")
        return tuple(value)

    def pairs(self, key: str, value: Any) -> Pairs:
        if not isinstance(value, dict):
            raise self.fail(key, "must be a mapping")
        self.texts(key, [*value.keys(), *value.values()] or [""])
        return tuple(value.items())


def _declaration(read: _Reader) -> Declaration:
    found = read.found
    fields: dict[str, Any] = {key: read.text(key) for key in (*_TEXTS, *_PATHS) if key in found}
    columns, labels = _columns(read)
    fields |= {"path": read.path, "columns": columns, "labels": labels}
    hub = found.get("hf") or {}
    if not isinstance(hub, dict) or not set(hub) <= {"path", "config"}:
        raise read.fail("hf", "must be {path: ORG/NAME, config: NAME}, the config where there is one")
    fields |= {"hub": hub.get("path", ""), "hub_config": hub.get("config", "")}
    if "splits" in found:
        fields["splits"] = read.pairs("splits", found["splits"])
    for key, given in (("rows", found.get("rows") or {}), ("read_at_most", found.get("read_at_most", 1))):
        for number in given.values() if isinstance(given, dict) else (given,):
            if not isinstance(number, int) or number < 1:
                raise read.fail(key, f"{number!r} must be a number of rows")
    fields["published_rows"] = tuple((found.get("rows") or {}).items())
    fields["read_at_most"] = found.get("read_at_most")
    for key in ("tfds_columns", "fields"):
        if found.get(key):
            fields[key] = read.pairs(key, found[key])
    options = found.get("options")
    if isinstance(options, dict):
        fields["options"] = read.pairs("options", options)
    elif options is not None:
        fields.pop("options", None)
        fields["option_paths"] = (options,) if isinstance(options, str) else read.texts("options", options)
    keys = found.get("keys")
    if keys is not None:
        fields["keys"] = keys if isinstance(keys, str) else read.texts("keys", keys)
    if skip := found.get("skip"):
        if not isinstance(skip, dict) or not all(isinstance(values, list) for values in skip.values()):
            raise read.fail("skip", "must be {path: [values]}")
        fields["skip"] = tuple((path, tuple(values)) for path, values in skip.items())
    for key in ("metrics", "inverted_metrics"):
        if key in found:
            fields[key] = read.texts(key, found[key])
    for key in ("templates", "inversions"):
        if found.get(key):
            fields[key] = _wordings(read, key)
    return Declaration(**fields)


def _columns(read: _Reader) -> tuple[tuple[tuple[str, str], ...], tuple[tuple[str, tuple[str, ...]], ...]]:
    """(column, type) pairs, a list of class names being the type "label"; and the names of each such column."""
    found = read.found["columns"]
    if not isinstance(found, dict):
        raise read.fail("columns", "must be a mapping of the owner's columns to their types")
    columns, labels = [], []
    for name, kind in found.items():
        if not isinstance(name, str):
            raise read.fail("columns", f"{name!r} must be text (quote it)")
        if isinstance(kind, list):
            labels.append((name, read.texts(f"columns: {name}", kind)))
            columns.append((name, "label"))
        else:
            columns.append((name, kind if isinstance(kind, str) else "nested"))
    return tuple(columns), tuple(labels)


def _wordings(read: _Reader, key: str) -> tuple[Wording, ...]:
    entries = read.found[key]
    if not isinstance(entries, list):
        raise read.fail(key, "must be a list of {id, inputs, ...}")
    wordings = []
    for number, entry in enumerate(entries, 1):
        where = f"{key}, entry {number}"
        if not isinstance(entry, dict):
            raise read.fail(where, "must be a mapping of id, inputs, ...")
        for name in entry:
            if name not in _WORDING_KEYS:
                raise read.fail(where, f"unknown key {name!r}.{nearest(str(name), _WORDING_KEYS)}")
        for name in ("id", "inputs"):
            if not isinstance(entry.get(name), str):
                raise read.fail(where, f"{name!r} is needed, as text")
        if not isinstance(entry.get("targets", ""), str):
            raise read.fail(where, "'targets' must be text")
        if entry.get("only", "") not in ONLY:
            raise read.fail(where, f"only: {entry['only']!r} must be one of opt, noopt")
        words = read.pairs(f"{where}: options", entry["options"]) if "options" in entry else ()
        wordings.append(Wording(**entry | {"options": words}))
    return tuple(wordings)


def _check(d: Declaration) -> None:
    where = d.path
    if bool(d.answer) == bool(d.turns):
        raise UserError(f"{where}: one of 'answer' and 'turns' is needed")
    if d.overlong not in ("truncate_inputs", "drop"):
        raise UserError(f"{where}: overlong: {d.overlong!r} must be truncate_inputs or drop")
    names = [name for name, _ in d.splits]
    if "train" not in names or not set(names) <= set(SPLITS):
        raise UserError(f"{where}: splits: expected train and validation, found {', '.join(names)}")
    for key, path in _paths(d):
        _check_path(d, key, path)
    labels = dict(d.labels).get(d.answer)
    if labels and d.options and set(labels) != {label for label, _ in d.options}:
        raise UserError(f"{where}: options: {[label for label, _ in d.options]}, but column {d.answer!r} has {labels}")
    for kind, wordings in (("templates", d.templates), ("inversions", d.inversions)):
        check_unique([w.template for w in wordings], f"{where}: {kind}")
        for wording in wordings:
            _check_wording(d, wording, f"{where}: {kind}", inverted=kind == "inversions")


def _paths(d: Declaration) -> list[tuple[str, str]]:
    found = [(key, getattr(d, key)) for key in (*_PATHS, "id") if getattr(d, key)]
    found += [("fields", path) for _, path in d.fields] + [("options", path) for path in d.option_paths]
    found += [("skip", path) for path, _ in d.skip]
    return found + ([("keys", d.keys)] if isinstance(d.keys, str) and d.keys else [])


def _check_path(d: Declaration, key: str, path: str) -> None:
    """Its beginning is a column. What `derive` adds is known only when rows are read."""
    columns = [name for name, _ in d.columns]
    head = path.split(".")[0]
    if head not in columns and not d.derive:
        raise UserError(f"{d.path}: {key}: there is no column {head!r}.{nearest(head, columns)}")


def _check_wording(d: Declaration, wording: Wording, where: str, *, inverted: bool) -> None:
    template = wording.template
    template.check(d.row_fields, where)
    if not inverted and ANSWER in Template("inputs", wording.inputs, "").fields:
        raise UserError(f"{where}: template {wording.id!r} gives the answer away in its inputs")
    if OPTIONS in template.fields and wording.only != "opt":
        raise UserError(f"{where}: template {wording.id!r} shows {{options}}: say only: opt")
    if wording.only == "opt" and not d.has_options:
        raise UserError(f"{where}: template {wording.id!r} is only for options, and the data set has none")
    if wording.options and set(wording.words) != {label for label, _ in d.options}:
        raise UserError(f"{where}: template {wording.id!r} has words for {list(wording.words)}, not for each label")


def by_path(record: Mapping[str, Any], path: str) -> Any:
    """{"answers": {"text": ["a"]}}, "answers.text.0" -> "a"; None where the path ends early. KeyError for no column."""
    head, *rest = path.split(".")
    value: Any = record[head]
    for part in rest:
        if isinstance(value, Mapping):
            value = value.get(part)
        elif isinstance(value, Sequence) and not isinstance(value, str) and part.isdigit():
            value = value[int(part)] if int(part) < len(value) else None
        elif isinstance(value, Sequence) and not isinstance(value, str):
            value = [item.get(part) for item in value if isinstance(item, Mapping)]
        else:
            return None
    return value
