"""Where a task's rows come from: Python, and Alpaca-style or prompt/completion JSON and JSONL files, plain or .gz."""

from __future__ import annotations

import functools
import gzip
import json
import logging
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from itune.data import splits as splits_lib
from itune.data.registry import add_task
from itune.data.templates import Template
from itune.errors import UserError, nearest

log = logging.getLogger(__name__)
Row = Mapping[str, str]

# Rows of the sources read last: V variants and both splits of a task are rendered one after another from one reading.
_RECENT_SOURCES = 4


class RowSource(seqio.DataSource):
    """A SeqIO source over rows made in Python.

    `rows(split)` yields {"id": ..., field: ...}, all str; "id" is stable (never a position) and unique within a split.
    Rows are checked and held while a split is prepared, so this is for data that fits in memory (millions of short
    rows); beyond that, use a SeqIO file source.

    Attributes:
      fields: names of the fields beside "id", in the order that templates and reports show them.
      version: changes whenever `rows` would yield something else for a reason that its code and `files` do not show.
      files: data files that `rows` reads; prepare digests them. Looked up when asked for, not when registered.
    """

    def __init__(
        self,
        rows: Callable[[str], Iterable[Row]],
        splits: Sequence[str] = ("train", "validation"),
        fields: Sequence[str] = (),
        version: str = "",
        files: Sequence[str | Path] = (),
    ) -> None:
        super().__init__(splits=splits)
        if not fields or "id" in fields:
            raise UserError(f"RowSource needs the names of its fields beside 'id', got fields={tuple(fields)}")
        self.rows = rows
        self.fields = tuple(fields)
        self.version = version
        self._files = tuple(Path(f) for f in files)

    @property
    def files(self) -> tuple[Path, ...]:
        """The files that are there, as plain or .gz; UserError for one that is not."""
        return tuple(find_file(f) for f in self._files)

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        return [split]

    def checked_rows(self, split: str) -> list[dict[str, str]]:
        """All rows of `split`. UserError naming the row for a missing or non-text field, or an id that comes twice."""
        if split not in self.splits:
            raise UserError(
                f"no split {split!r} here.{nearest(split, self.splits)} There are {', '.join(self.splits)}."
            )
        return _remembered(self, split)

    def num_input_examples(self, split: str) -> int:
        return _count(self, split)

    def get_dataset(  # type: ignore[override]
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        """{"id": string [], field: string []} in the order of `rows`; shuffling is left to SeqIO's buffer."""
        rows = self.checked_rows(split)
        columns = {
            name: tf.constant([row[name].encode("utf-8") for row in rows], tf.string, [len(rows)])
            for name in ("id", *self.fields)
        }
        dataset = tf.data.Dataset.from_tensor_slices(columns)
        return dataset.shard(shard_info.num_shards, shard_info.index) if shard_info else dataset


# Caches are functions, not attributes: a source's attributes enter its fingerprint.
@functools.lru_cache(maxsize=_RECENT_SOURCES)
def _remembered(source: RowSource, split: str) -> list[dict[str, str]]:
    return _check_rows(source, split)


@functools.lru_cache(maxsize=4096)
def _count(source: RowSource, split: str) -> int:
    return len(source.checked_rows(split))


def _check_rows(source: RowSource, split: str) -> list[dict[str, str]]:
    checked: list[dict[str, str]] = []
    seen: set[str] = set()
    names = ("id", *source.fields)
    for number, row in enumerate(source.rows(split), 1):
        for name in names:
            if not isinstance(row.get(name), str):
                found = f"is {type(row[name]).__name__}" if name in row else "is missing"
                hint = "" if name in row else nearest(name, row)
                raise UserError(f"row {number} ({row.get('id')!r}) of {split!r}: {name!r} {found}, must be text.{hint}")
            if not _encodable(row[name]):
                raise UserError(f"row {number} ({row['id']!r}) of {split!r}: {name!r} holds half of a surrogate pair")
        if row["id"] in seen:
            raise UserError(f"row {number} of {split!r}: id {row['id']!r} comes twice; ids key the order of the data")
        seen.add(row["id"])
        checked.append({name: row[name] for name in names})
    return checked


def _encodable(text: str) -> bool:
    """JSON can spell half of a surrogate pair ("\\ud83d"), which no encoding can write and no tokenizer reads."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


# Files


def find_file(path: str | Path) -> Path:
    """`path`, or the same with .gz put on or taken off. UserError naming it where there is neither."""
    path = Path(path).expanduser()
    other = path.with_suffix("") if path.suffix == ".gz" else path.with_name(path.name + ".gz")
    for candidate in (path, other):
        if candidate.is_file():
            return candidate
    siblings = [p.name for p in path.parent.iterdir()] if path.parent.is_dir() else []
    raise UserError(f"{path}: no such file.{nearest(path.name, siblings)}")


def read_text(path: str | Path, encoding: str = "utf-8-sig") -> str:
    """The whole text of a plain or .gz file. UserError naming file and line for bytes that are not `encoding`.

    The default is UTF-8 with or without a byte-order mark.
    """
    path = find_file(path)
    try:
        data = path.read_bytes()
        if path.suffix == ".gz":
            data = gzip.decompress(data)
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UserError(
            f"{path}:{line}: not {encoding} (byte 0x{data[error.start]:02x}); declare its encoding="
        ) from None
    except (OSError, EOFError, zlib.error) as error:
        raise UserError(f"{path}: cannot be read: {error}") from None
    except LookupError:
        raise UserError(f"{path}: unknown encoding {encoding!r}") from None


def read_json(path: str | Path, encoding: str = "utf-8-sig") -> Any:
    """The one JSON value in a file. UserError naming file and line where it is not JSON."""
    return _parse_json(path, read_text(path, encoding))


def _parse_json(path: str | Path, text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        line = getattr(error, "lineno", 1)
        raise UserError(f"{path}:{line}: not JSON: {getattr(error, 'msg', error)}") from None


def read_records(path: str | Path, encoding: str = "utf-8-sig") -> Iterator[tuple[str, dict[str, Any]]]:
    """Yields (where, record) from a JSON list of objects, or from JSONL: the first character tells which.

    `where` is "file:7" (its line) in JSONL and "file[7]" (its index from 0) in a list. Blank lines are skipped.
    """
    text = read_text(path, encoding)
    records: Iterable[tuple[str, Any]]
    if text.lstrip()[:1] == "[":
        records = ((f"{path}[{index}]", record) for index, record in enumerate(_parse_json(path, text)))
    else:
        records = _json_lines(path, text)
    for where, record in records:
        if not isinstance(record, dict):
            raise UserError(f"{where}: expected a JSON object, found {type(record).__name__}")
        yield where, record


def _json_lines(path: str | Path, text: str) -> Iterator[tuple[str, Any]]:
    # Not splitlines(): JSON strings may hold U+2028 and other characters that it breaks at.
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            try:
                yield f"{path}:{number}", json.loads(line)
            except ValueError as error:
                raise UserError(f"{path}:{number}: not JSON: {getattr(error, 'msg', error)}") from None


def field_text(record: Mapping[str, Any], key: str, where: str, optional: bool = False) -> str:
    """record[key] as text; numbers are spelt out, null (and a missing key, if optional) is "". UserError otherwise."""
    if key not in record and not optional:
        raise UserError(f"{where}: no {key!r} in this record.{nearest(key, record)}")
    value = record.get(key)
    if value is None:
        return ""
    if isinstance(value, (dict, list)):
        raise UserError(f"{where}: {key!r} is a {type(value).__name__}, must be text")
    text = value if isinstance(value, str) else json.dumps(value)
    if not _encodable(text):
        raise UserError(f"{where}: {key!r} holds half of a surrogate pair; mend the file's escapes")
    return text


class JsonSource(RowSource):
    """Rows of a JSON list or JSONL file, each on the side that its text's key says.

    Rows with the same `split_by` text (white space, case and punctuation aside) are on one side, and exact duplicates
    are kept once. Rows where a `required` field is blank are left out, and a log line says how many.

    Args:
      path: plain or .gz; read when rows are asked for, not before.
      fields: field name -> key in the record; or just the keys.
      optional: fields that a record may lack ("" then).
      required: fields that must not be blank.
      split_by: fields whose text decides the side: the ones that make the question, not the answer.
      identity: the source data set; keys the split.
      id_key: key of a stable id in the record; by default the id is a hash of the fields' text.
      derive: fields computed from a row: {"name": function(row) -> str}.
    """

    def __init__(
        self,
        path: str | Path,
        *,
        fields: Mapping[str, str] | Sequence[str],
        split_by: Sequence[str],
        identity: str,
        optional: Sequence[str] = (),
        required: Sequence[str] = (),
        id_key: str | None = None,
        derive: Mapping[str, Callable[[Row], str]] | None = None,
        validation_fraction: float = 0.1,
        encoding: str = "utf-8-sig",
        version: str = "1",
    ) -> None:
        keys = dict(fields) if isinstance(fields, Mapping) else {name: name for name in fields}
        for name in (*split_by, *optional, *required):
            if name not in keys:
                raise UserError(f"{path}: no field {name!r} among {', '.join(keys)}.{nearest(name, keys)}")
        if not 0.0 <= validation_fraction < 1.0:
            raise UserError(f"{path}: validation_fraction={validation_fraction} must be in [0, 1)")
        rows = functools.partial(
            _json_rows,
            path=str(path),
            keys=keys,
            split_by=tuple(split_by),
            identity=identity,
            optional=tuple(optional),
            required=tuple(required),
            id_key=id_key,
            derive=dict(derive or {}),
            validation_fraction=validation_fraction,
            encoding=encoding,
        )
        super().__init__(rows, ("train", "validation"), (*keys, *(derive or {})), version, files=(path,))


def _json_rows(
    split: str,
    *,
    path: str,
    keys: Mapping[str, str],
    split_by: Sequence[str],
    identity: str,
    optional: Sequence[str],
    required: Sequence[str],
    id_key: str | None,
    derive: Mapping[str, Callable[[Row], str]],
    validation_fraction: float,
    encoding: str,
) -> Iterator[dict[str, str]]:
    seen: dict[str, str] = {}
    blank = 0
    for where, record in read_records(path, encoding):
        row = {name: field_text(record, key, where, name in optional) for name, key in keys.items()}
        if any(not row[name].strip() for name in required):
            blank += 1
            continue
        content = splits_lib.text_key(*row.values())
        row_id = content if id_key is None else field_text(record, id_key, where)
        if row_id in seen:
            if seen[row_id] != content:
                raise UserError(f"{where}: id {row_id!r} was used before, for other text")
            continue
        seen[row_id] = content
        key = splits_lib.normalise("\n".join(row[name] for name in split_by))
        if splits_lib.split_of(key, identity=identity, validation_fraction=validation_fraction) == split:
            yield {"id": row_id, **row, **{name: function(row) for name, function in derive.items()}}
    if blank:
        log.warning("%s: %d records left out, blank in one of: %s", path, blank, ", ".join(required))


# Ready tasks over the two formats that most users bring

ALPACA_TEMPLATES = (
    Template("plain", "{request}", "{output}"),
    Template("labelled", "Instruction: {instruction}\n{labelled_input}Response:", "{output}"),
    Template("request_last", "{input_first}Carry out this instruction: {instruction}", "{output}"),
)
PROMPT_COMPLETION_TEMPLATES = (Template("as_given", "{prompt}", "{completion}"),)


def _request(row: Row) -> str:
    return row["instruction"] + ("\n\n" + row["input"] if row["input"].strip() else "")


def _labelled_input(row: Row) -> str:
    return f"Input: {row['input']}\n" if row["input"].strip() else ""


def _input_first(row: Row) -> str:
    return f"{row['input']}\n\n" if row["input"].strip() else ""


def alpaca_task(
    name: str,
    path: str | Path,
    *,
    licence: str,
    cluster: str = "instructions",
    identity: str | None = None,
    templates: Sequence[Template] = ALPACA_TEMPLATES,
    metrics: Sequence[str | Callable[..., Any]] = ("rouge_l",),
    validation_fraction: float = 0.1,
    encoding: str = "utf-8-sig",
    **options: Any,
) -> seqio.Task:
    """Registers {instruction, input, output} rows (JSON list or JSONL, plain or .gz) as a task.

    Templates may use {instruction}, {input}, {output}, and {request} (instruction and input, a blank line between),
    {labelled_input} ("Input: ...", a line or nothing), {input_first} (the input and a blank line, or nothing). The
    split is by the text of instruction and input. `options` go to `add_task`.
    """
    source = JsonSource(
        path,
        fields=("instruction", "input", "output"),
        optional=("input",),
        required=("instruction", "output"),
        split_by=("instruction", "input"),
        identity=identity or name,
        derive={"request": _request, "labelled_input": _labelled_input, "input_first": _input_first},
        validation_fraction=validation_fraction,
        encoding=encoding,
    )
    return add_task(
        name,
        source=source,
        templates=templates,
        cluster=cluster,
        licence=licence,
        identity=identity or name,
        metrics=metrics,
        **options,
    )


def prompt_completion_task(
    name: str,
    path: str | Path,
    *,
    licence: str,
    cluster: str = "instructions",
    identity: str | None = None,
    prompt_key: str = "prompt",
    completion_key: str = "completion",
    templates: Sequence[Template] = PROMPT_COMPLETION_TEMPLATES,
    metrics: Sequence[str | Callable[..., Any]] = ("rouge_l",),
    validation_fraction: float = 0.1,
    encoding: str = "utf-8-sig",
    **options: Any,
) -> seqio.Task:
    """Registers rows of a prompt and its completion (JSONL or JSON list, plain or .gz), prompts as they stand.

    The split is by the prompt's text. `options` go to `add_task`.
    """
    source = JsonSource(
        path,
        fields={"prompt": prompt_key, "completion": completion_key},
        required=("prompt", "completion"),
        split_by=("prompt",),
        identity=identity or name,
        validation_fraction=validation_fraction,
        encoding=encoding,
    )
    return add_task(
        name,
        source=source,
        templates=templates,
        cluster=cluster,
        licence=licence,
        identity=identity or name,
        metrics=metrics,
        **options,
    )
