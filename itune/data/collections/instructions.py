"""What the collections of {instruction, input, output} rows share: records of a file, unfolded into rows, as a task."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from itune.data.conversations import PLACE
from itune.data.readers import require
from itune.data.ready_tasks import ALPACA_FORMS, ALPACA_TEMPLATES
from itune.data.record_stream import stream_records
from itune.data.registry import add_task
from itune.data.sources import Paths, StreamedSource, rows_of_splits
from itune.data.splits import normalise, split_of, text_key
from itune.data.templates import Template
from itune.errors import UserError

if TYPE_CHECKING:
    import seqio

log = logging.getLogger(__name__)

FIELDS = ("instruction", "input", "output")

Record = Mapping[str, Any]
# (where, record) -> the rows in it: {"instruction", "input", "output", further fields}.
Unfold = Callable[[str, Record], Iterator[dict[str, str]]]


def instructions_task(
    name: str,
    path: Paths,
    unfold: Unfold,
    *,
    cluster: str,
    licence: str,
    identity: str,
    extra: Sequence[str] = (),
    split_by: Sequence[str] = ("instruction", "input"),
    templates: Sequence[Template] = ALPACA_TEMPLATES,
    metrics: Sequence[str | Callable[..., Any]] = ("rouge_l",),
    validation_fraction: float = 0.1,
    **options: Any,
) -> seqio.Task:
    """Registers the rows that `unfold` makes of a file's records, streamed. Rows blank in instruction or output are
    left out, exact duplicates kept once.

    Args:
      extra: fields beside instruction, input and output. split_by: fields whose text decides the side.
      templates: may use all of these fields, and {request}, {labelled_input}, {input_first}: see `alpaca_task`.
      validation_fraction: where `path` is not {split: path}.
    """
    rows, splits, files = rows_of_splits(
        _rows,
        path,
        unfold=unfold,
        split_by=tuple(split_by),
        identity=identity,
        validation_fraction=validation_fraction,
    )
    if not isinstance(path, Mapping) and not validation_fraction:
        splits = ("train",)
    return add_task(
        name,
        source=StreamedSource(rows, splits, (*FIELDS, *extra, *ALPACA_FORMS), "1", files=files),
        templates=templates,
        cluster=cluster,
        licence=licence,
        identity=identity,
        metrics=metrics,
        **options,
    )


def _rows(
    split: str, *, path: str, unfold: Unfold, split_by: Sequence[str], identity: str, validation_fraction: float
) -> Iterator[dict[str, str]]:
    seen: set[int] = set()
    blank = 0
    for where, record in stream_records(path):
        for row in unfold(where, record):
            if not row["instruction"].strip() or not row["output"].strip():
                blank += 1
                continue
            row_id = text_key(*row.values())
            if (number := int(row_id, 16)) in seen:
                continue
            seen.add(number)
            key = normalise("\n".join(row[name] for name in split_by)) or normalise(row["instruction"])
            if split_of(key, identity=identity, validation_fraction=validation_fraction) == split:
                yield {"id": row_id, **row, **{name: form(row) for name, form in ALPACA_FORMS.items()}, PLACE: where}
    if blank:
        log.warning("%s: %d rows left out, blank in instruction or output", path, blank)


def entries(record: Record, key: str, where: str) -> Iterator[tuple[str, Record]]:
    """(where, entry) of the list of objects record[key]. UserError for anything else."""
    require(record, key, where)
    found = record[key]
    if not isinstance(found, list) or not all(isinstance(entry, dict) for entry in found):
        raise UserError(f"{where}: {key!r} must be a list of objects")
    yield from ((f"{where}: {key}[{index}]", entry) for index, entry in enumerate(found))
