"""Targets that know what they were made from: for metrics that hold an output against its source."""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

from itune.data.metrics import Target
from itune.errors import UserError


class Reference(str):
    """A target's text that knows the source text of its example."""

    source: str

    def __new__(cls, text: str, source: str) -> Reference:
        reference = super().__new__(cls, text)
        reference.source = source
        return reference


def source_reference(*fields: str) -> Callable[..., str]:
    """A postprocess_fn: targets become `Reference`s with these fields of the example, a line each, as their source."""
    return functools.partial(_referenced, fields=fields)


def _referenced(
    text: str, example: Mapping[str, Any] | None = None, is_target: bool = False, *, fields: tuple[str, ...]
) -> str:
    if not is_target:
        return text
    values = [(example or {})[f"field/{name}"] for name in fields]
    return Reference(text, "\n".join(v.decode("utf-8") if isinstance(v, bytes) else str(v) for v in values))


def source_of(target: Target, metric: str) -> str:
    if not isinstance(target, Reference):
        raise UserError(f"{metric} needs the source text: give the task postprocess_fn=source_reference(FIELD, ...)")
    return target.source


def text_of(target: Target) -> str:
    return target if isinstance(target, str) else target[0]
