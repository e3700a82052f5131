"""Where a task's rows come from: Python, files of the formats that users bring, and conversations in them.

What can be read: itune/data/readers.py. How conversations become rows: itune/data/conversations.py.
"""

from __future__ import annotations

import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import seqio
import tensorflow as tf

from itune.data import splits as splits_lib
from itune.data.conversations import (
    PATHS,
    PLACE,
    TURNS,
    Drop,
    Reader,
    conversation_rows,
    oasst_conversations,
    openai_conversations,
    sharegpt_conversations,
)
from itune.data.hf_datasets import is_hub_name
from itune.data.readers import Table, encodable, field_text, find_files, read_records
from itune.data.registry import add_task
from itune.data.remote import is_remote
from itune.data.templates import Template
from itune.data.turns import TURNS_FEATURE
from itune.errors import UserError, nearest

log = logging.getLogger(__name__)
Row = Mapping[str, str]
# One path or pattern, whose rows are divided by key; or {"train": path, "validation": path, ...}, the owner's splits.
Paths = str | Path | Mapping[str, str | Path]

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
      files: data files that `rows` reads, patterns, URLs, or data sets of the hub; prepare digests them. Looked up
        when asked for, not when registered.
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
        self._files = tuple(str(f) if is_remote(f) or is_hub_name(f) else Path(f) for f in files)

    @property
    def files(self) -> tuple[Path | str, ...]:
        """The files that are there, packed or not, and all that a pattern fits; UserError for one that is not.

        A Path on this machine, text for a URL.
        """
        return tuple(found for named in self._files for found in find_files(named))

    @property
    def named_files(self) -> tuple[Path | str, ...]:
        """What `files` was given: patterns and folders may come to stand for other files."""
        return self._files

    @property
    def supports_arbitrary_sharding(self) -> bool:
        return False

    def list_shards(self, split: str) -> Sequence[str]:
        return [split]

    def checked_rows(self, split: str) -> list[dict[str, str]]:
        """All rows of `split`. UserError naming the row for a missing or non-text field, or an id that comes twice."""
        self._check_split(split)
        return _remembered(self, split)

    def each_row(self, split: str) -> Iterable[dict[str, str]]:
        """The same, one after the other; all that prepare asks for."""
        return self.checked_rows(split)

    def num_input_examples(self, split: str) -> int | None:
        return _count(self, split)

    def _check_split(self, split: str) -> None:
        if split not in self.splits:
            raise UserError(
                f"no split {split!r} here.{nearest(split, self.splits)} There are {', '.join(self.splits)}."
            )

    def place(self, split: str, row_id: str) -> str | None:
        """ "file:line" of a row, if `rows` tells it under the name `PLACE`. Reads the rows again: for errors."""
        return next((row.get(PLACE) for row in self.rows(split) if row["id"] == row_id), None)

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
    return list(_check_rows(source, split))


@functools.lru_cache(maxsize=4096)
def _count(source: RowSource, split: str) -> int:
    return len(source.checked_rows(split))


def _check_rows(source: RowSource, split: str) -> Iterator[dict[str, str]]:
    seen: set[str] = set()
    names = ("id", *source.fields)
    for number, row in enumerate(source.rows(split), 1):
        for name in names:
            if not isinstance(row.get(name), str):
                found = f"is {type(row[name]).__name__}" if name in row else "is missing"
                hint = "" if name in row else nearest(name, row)
                raise UserError(f"row {number} ({row.get('id')!r}) of {split!r}: {name!r} {found}, must be text.{hint}")
            if not encodable(row[name]):
                raise UserError(f"row {number} ({row['id']!r}) of {split!r}: {name!r} holds half of a surrogate pair")
        if row["id"] in seen:
            raise UserError(f"row {number} of {split!r}: id {row['id']!r} comes twice; ids key the order of the data")
        seen.add(row["id"])
        yield {name: row[name] for name in names}


class StreamedSource(RowSource):
    """A `RowSource` whose rows are read anew each time and never held: for files of many gigabytes.

    Held are the ids, which must be unique; `rows` has to leave out duplicates by itself. How many rows there are is not
    known before they are read. Plain SeqIO pipelines stream them, too.
    """

    def each_row(self, split: str) -> Iterable[dict[str, str]]:
        self._check_split(split)
        return _check_rows(self, split)

    def num_input_examples(self, split: str) -> int | None:
        return None

    def get_dataset(  # type: ignore[override]
        self,
        split: str = "train",
        shuffle: bool = True,
        seed: int | None = None,
        shard_info: seqio.ShardInfo | None = None,
        **unused: Any,
    ) -> tf.data.Dataset:
        signature = {name: tf.TensorSpec([], tf.string) for name in ("id", *self.fields)}
        dataset = tf.data.Dataset.from_generator(lambda: self.each_row(split), output_signature=signature)
        return dataset.shard(shard_info.num_shards, shard_info.index) if shard_info else dataset


class JsonSource(RowSource):
    """Rows of files of any format that `read_records` reads, each on the side that its text's key says.

    Rows with the same `split_by` text (white space, case and punctuation aside) are on one side, and exact duplicates
    are kept once. Rows where a `required` field is blank are left out, and a log line says how many.

    Args:
      path: plain, .gz or .zst, a pattern of files, a URL, ...; read when rows are asked for, not before. Where the
        data's owner has divided it, {split: path}: these are then the source's splits, whatever `split_by` says.
      fields: field name -> key in the record; or just the keys.
      optional: fields that a record may lack ("" then).
      required: fields that must not be blank.
      split_by: fields whose text decides the side: the ones that make the question, not the answer.
      identity: the source data set; keys the split.
      id_key: key of a stable id in the record; by default the id is a hash of the fields' text.
      derive: fields computed from a row: {"name": function(row) -> str}.
      table: how to read a table that is not plain CSV or TSV: delimiter, quotes, names of columns.
    """

    def __init__(
        self,
        path: Paths,
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
        table: Table | None = None,
        version: str = "1",
    ) -> None:
        keys = dict(fields) if isinstance(fields, Mapping) else {name: name for name in fields}
        for name in (*split_by, *optional, *required):
            if name not in keys:
                raise UserError(f"{path}: no field {name!r} among {', '.join(keys)}.{nearest(name, keys)}")
        rows, splits, files = rows_of_splits(
            _json_rows,
            path,
            keys=keys,
            split_by=tuple(split_by),
            identity=identity,
            optional=tuple(optional),
            required=tuple(required),
            id_key=id_key,
            derive=dict(derive or {}),
            validation_fraction=validation_fraction,
            encoding=encoding,
            table=table,
        )
        super().__init__(rows, splits, (*keys, *(derive or {})), version, files)


def rows_of_splits(
    rows: Callable[..., Iterable[Row]], path: Paths, *, validation_fraction: float, **settings: Any
) -> tuple[Callable[[str], Iterable[Row]], tuple[str, ...], tuple[str | Path, ...]]:
    """(rows by split, the splits' names, the files) for `RowSource`, from a path to divide or the owner's splits.

    Args:
      rows: rows(split, path=str, validation_fraction=..., **settings) -> rows; with a fraction of 0, all are "train".
    """
    if not 0.0 <= validation_fraction < 1.0:
        raise UserError(f"{path}: validation_fraction={validation_fraction} must be in [0, 1)")
    if not isinstance(path, Mapping):
        divided = functools.partial(rows, path=str(path), validation_fraction=validation_fraction, **settings)
        return divided, ("train", "validation"), (path,)
    if not path:
        raise UserError("no splits: expected {split: path}, such as {'train': 'train.jsonl'}")
    paths = {split: str(file) for split, file in path.items()}
    whole = functools.partial(rows, validation_fraction=0.0, **settings)
    return functools.partial(_own_rows, paths=paths, rows=whole), tuple(paths), tuple(path.values())


def _own_rows(split: str, *, paths: Mapping[str, str], rows: Callable[..., Iterable[Row]]) -> Iterable[Row]:
    return rows("train", path=paths[split])


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
    table: Table | None,
) -> Iterator[dict[str, str]]:
    seen: dict[str, str] = {}
    blank = 0
    for where, record in read_records(path, encoding, table):
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
            yield {"id": row_id, **row, **{name: function(row) for name, function in derive.items()}, PLACE: where}
    if blank:
        log.warning("%s: %d records left out, blank in one of: %s", path, blank, ", ".join(required))


# Ready tasks over conversations; those over other formats: itune/data/ready_tasks.py

CONVERSATION_TEMPLATES = (Template("as_given", "{inputs}", "{targets}"),)


def openai_task(
    name: str, path: Paths, *, licence: str, turns: str = "all", key: str = "messages", **options: Any
) -> seqio.Task:
    """Registers OpenAI-style conversations, {"messages": [{"role": "user", "content": "..."}, ...]}, as a task.

    turns:
      "all": a conversation is one example, and each assistant turn in it is learnt, but for those with "weight": 0. In
        the "chat" prompt format the model's own template lays it out.
      "last": the same, but only the last assistant turn is learnt.
      "each": every assistant turn is an example of its own, a prompt and its reply, for whatever knows those only. The
        earlier turns are its inputs, laid out as `itune.data.turns.layout` says, so a long conversation's text is
        repeated. Templates may use {inputs}, {targets} and {turn}, the user turns so far.

    A reply that conversations share, with all that comes before it, is learnt once. Left out and counted in a log line:
    conversations with tool calls or anything but text, and replies that are blank or have "weight": 0. A conversation
    is on the side that its first user turn's text says, unless `path` is {split: path}.

    A conversation that is too long is dropped: cut anywhere, it would lose its beginning, or replies that later turns
    speak of. Its inputs are all that is not learnt, its targets all that is: DataConfig.feature_lengths must have room
    for both. Inputs of "each" that are too long lose their start, not the question.
    `options` go to `add_task`, and cluster, identity, templates, metrics, validation_fraction and encoding are those of
    `prompt_completion_task`.
    """
    return _conversation_task(name, path, functools.partial(openai_conversations, key=key), turns, licence, **options)


def sharegpt_task(
    name: str, path: Paths, *, licence: str, turns: str = "all", key: str = "conversations", **options: Any
) -> seqio.Task:
    """Registers ShareGPT conversations, {"conversations": [{"from": "human", "value": "..."}, ...]}, as a task.

    A "system" text beside them counts as their first turn. All else is as in `openai_task`.
    """
    return _conversation_task(name, path, functools.partial(sharegpt_conversations, key=key), turns, licence, **options)


def oasst_task(
    name: str,
    path: Paths,
    *,
    licence: str,
    paths: str = "best",
    turns: str = "all",
    drop: Drop | None = None,
    **options: Any,
) -> seqio.Task:
    """Registers Open Assistant trees (`..._trees`, nested replies) or messages (one a line, parent_id) as a task.

    paths="best" follows the reply of the best rank at each step, the first in the file where none has a rank;
    paths="all" follows every reply. Deleted messages, and those of which no parent is in the file, are left out with
    all their replies and counted in a log line. An example's id is that of its last learnt message. All else is as in
    `openai_task`: of the paths that share a reply, the first learns it and the others read it only; turns="last" takes
    the last assistant turn of each path. `drop(where, message)` says why a message is left out with all below it, or
    ""; `open_assistant` has filters ready.
    """
    if paths not in PATHS:
        raise UserError(f"task {name!r}: paths={paths!r} must be one of {PATHS}.{nearest(paths, PATHS)}")
    reader = functools.partial(oasst_conversations, paths=paths, drop=drop)
    return _conversation_task(name, path, reader, turns, licence, **options)


def _conversation_task(
    name: str,
    path: Paths,
    conversations: Reader,
    turns: str,
    licence: str,
    *,
    cluster: str = "conversation",
    identity: str | None = None,
    templates: Sequence[Template] = CONVERSATION_TEMPLATES,
    metrics: Sequence[str | Callable[..., Any]] = ("rouge_l",),
    validation_fraction: float = 0.1,
    encoding: str = "utf-8-sig",
    overlong: str | None = None,
    truncate_side: str = "left",
    **options: Any,
) -> seqio.Task:
    if turns not in TURNS:
        raise UserError(f"task {name!r}: turns={turns!r} must be one of {TURNS}.{nearest(turns, TURNS)}")
    if turns != "each" and tuple(templates) != CONVERSATION_TEMPLATES:
        raise UserError(f"task {name!r}: templates are for turns='each'; the turns of a conversation stand as they are")
    overlong = overlong or ("truncate_inputs" if turns == "each" else "drop")
    if turns == "all" and overlong != "drop":
        raise UserError(f"task {name!r}: whole conversations can't be cut, only overlong='drop'")
    fields = ("inputs", "targets", "turn") + (() if turns == "each" else (TURNS_FEATURE,))
    rows, splits, files = rows_of_splits(
        conversation_rows,
        path,
        conversations=conversations,
        turns=turns,
        identity=identity or name,
        validation_fraction=validation_fraction,
        encoding=encoding,
    )
    return add_task(
        name,
        source=RowSource(rows, splits, fields=fields, version="1", files=files),
        templates=templates,
        cluster=cluster,
        licence=licence,
        identity=identity or name,
        metrics=metrics,
        overlong=overlong,
        truncate_side=truncate_side,
        **options,
    )
