"""losses.jsonl: the loss of every evaluated example before and after training, by id. No text, no JAX."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from itune.evaluation.results import ExampleLoss, finite, read_lines, write_text


def write_losses(path: Path, before: Iterable[ExampleLoss], after: Iterable[ExampleLoss]) -> None:
    """A line an example: {"group", "task", "id", "template", "tokens", "before", "after"}; nats per target token."""
    earlier = {(e.group, e.task, e.id): e.loss for e in before}
    records = [
        {
            "group": e.group,
            "task": e.task,
            "id": e.id,
            "template": e.template,
            "tokens": e.tokens,
            "before": earlier.get((e.group, e.task, e.id)),
            "after": e.loss,
        }
        for e in after
    ]
    write_text(path, "".join(json.dumps(finite(record), ensure_ascii=False) + "\n" for record in records))


def read_losses(path: Path) -> list[dict[str, Any]]:
    """The lines of losses.jsonl that are whole. Raises OSError."""
    return [record for record in read_lines(path) if {"group", "task", "id", "after"} <= record.keys()]
