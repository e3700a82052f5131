"""Rows for promptsource's templates: records with their types, less those that no template renders. No SeqIO."""

from __future__ import annotations

import collections
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

from itune.data import splits as splits_lib
from itune.data.jinja_templates import OPTIONS, JinjaTemplate, encode_row
from itune.data.readers import Table, read_records, require
from itune.errors import UserError, nearest

log = logging.getLogger(__name__)
Records = Callable[[str], Iterable[Mapping[str, Any]]]


def promptsource_rows(
    split: str,
    *,
    templates: Sequence[JinjaTemplate],
    with_options: bool,
    rows: str | Mapping[str, str] | Records,
    fields: Sequence[str],
    identity: str,
    id_key: str | None,
    split_by: Sequence[str],
    validation_fraction: float,
    optional: Sequence[str],
    json_columns: Sequence[str],
    encoding: str,
    table: Table | None,
    sensitive: bool,
) -> Iterator[dict[str, str]]:
    """The rows of a `RowSource` for `templates`: arguments as in `promptsource_tasks`, `fields` those that rows have.

    rows: a file or pattern to split, a file for each split, or a function of the split.
    """
    seen: set[str] = set()
    unused: collections.Counter[str] = collections.Counter()
    left_out = 0
    for where, raw in _records(rows, split, encoding, table):
        record = _record(raw, where, fields, optional, json_columns, templates)
        content = _content(record, where)
        if content in seen:
            continue
        seen.add(content)
        row = _encode(record, fields, where)
        if isinstance(rows, str):
            text = "\n".join(row[f] for f in split_by or fields if split_by or isinstance(record[f], str))
            key = splits_lib.normalise(text) or content
            if splits_lib.split_of(key, identity=identity, validation_fraction=validation_fraction) != split:
                continue
        row["id"] = splits_lib.text_key(content) if id_key is None else _id(record, id_key, where)
        empty = [t.id for t in templates if not _renders(t, row, where, sensitive)]
        unused.update(empty)
        if len(empty) == len(templates):
            left_out += 1
            continue
        yield row | ({OPTIONS: json.dumps(templates[0].options(row), ensure_ascii=False)} if with_options else {})
    if unused:
        counts = ", ".join(f"{name!r} {count}" for name, count in sorted(unused.items()))
        log.warning(
            "%s, split %r: templates that render nothing for a row are not used for it: %s; %d rows left out, which no "
            "template renders",
            identity,
            split,
            counts,
            left_out,
        )


def _records(
    rows: str | Mapping[str, str] | Records, split: str, encoding: str, table: Table | None
) -> Iterator[tuple[str, Mapping[str, Any]]]:
    if callable(rows):
        yield from ((f"row {number} of {split!r}", record) for number, record in enumerate(rows(split), 1))
    else:
        yield from read_records(rows if isinstance(rows, str) else rows[split], encoding, table)


def _record(
    raw: Mapping[str, Any],
    where: str,
    fields: Sequence[str],
    optional: Sequence[str],
    json_columns: Sequence[str],
    templates: Sequence[JinjaTemplate],
) -> dict[str, Any]:
    """The record under the names that templates use, with its values' types. UserError for a field that it lacks."""
    record = {key.replace("-", "_"): value for key, value in raw.items()}
    if OPTIONS in record:
        raise UserError(f"{where}: {OPTIONS!r} is promptsource's own name for a template's choices; rename the column")
    for field in fields:
        if field not in record:
            if field in optional:
                record[field] = None
                continue
            users = [template.id for template in templates if field in template.fields]
            used = f", which template {users[0]!r} uses" if users else ""
            hint = nearest(field, record) or f" It has {', '.join(list(record)[:12]) or 'nothing'}."
            raise UserError(f"{where}: no {field!r} in this record{used}.{hint}")
    for column in json_columns:
        require(record, column, where)
        try:
            record[column] = json.loads(record[column])
        except (TypeError, ValueError, RecursionError):
            raise UserError(f"{where}: {column!r}, one of json_columns, does not hold JSON") from None
    return record


def _content(record: Mapping[str, Any], where: str) -> str:
    """All of the record, the same for equal records in any process."""

    def spelt(value: Any) -> str:
        if type(value).__module__ not in ("builtins", "datetime", "decimal", "uuid"):
            raise TypeError(type(value).__name__)  # its repr may hold an address
        return repr(value)

    try:
        return json.dumps(record, sort_keys=True, default=spelt)
    except (TypeError, ValueError, RecursionError) as error:
        raise UserError(f"{where}: this record has a value that is no data: {error}") from None


def _encode(record: Mapping[str, Any], fields: Sequence[str], where: str) -> dict[str, str]:
    try:
        return encode_row(record, fields)
    except (TypeError, ValueError, RecursionError):
        kinds = ", ".join(f"{field!r} is {type(record[field]).__name__}" for field in fields)
        raise UserError(
            f"{where}: fields must be text, numbers, true, false, null, lists or objects: {kinds}"
        ) from None


def _id(record: Mapping[str, Any], key: str, where: str) -> str:
    require(record, key, where)
    return record[key] if isinstance(record[key], str) else json.dumps(record[key])


def _renders(template: JinjaTemplate, row: Mapping[str, str], where: str, sensitive: bool) -> bool:
    try:
        return template.render(row) is not None
    except UserError as error:
        withheld = f"template {template.id!r} cannot be rendered (the reason is withheld, the task is sensitive)"
        raise UserError(f"{where}: {withheld if sensitive else error}") from None
