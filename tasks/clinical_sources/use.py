"""What tasks/clinic_public.py says of a task, and how that is registered."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path

from itune.data import CLINICAL_METRICS, RowSource, add_task, load_templates, source_reference

# Raised when a release yields other rows from the same files.
VERSION = "1"

_TEMPLATES = Path(__file__).parent.parent / "templates"
Rows = Callable[..., Iterable[Mapping[str, str]]]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Use:
    """One task: where its rows come from, what it is, and how it is measured.

    files: keyword of `rows` -> path below `CLINICAL`; settings: its other keywords. source: the fields that an output
    is held against. optional: registered only where its files are.
    """

    rows: Rows
    fields: tuple[str, ...]
    source: tuple[str, ...]
    files: Mapping[str, str | tuple[str, ...]] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, str] = dataclasses.field(default_factory=dict)
    cluster: str
    licence: str
    metrics: tuple[str, ...]
    splits: tuple[str, ...] = ("train", "validation")
    optional: bool = False
    text: str


def add(name: str, identity: str, use: Use, rows: Rows, files: Sequence[str | Path]) -> None:
    """Registers one task. rows: of a split, all else given; files: those that it reads."""
    add_task(
        name,
        source=RowSource(rows, splits=use.splits, fields=use.fields, version=VERSION, files=files),
        templates=load_templates(_TEMPLATES / f"{name.replace('/', '_')}.yaml"),
        cluster=use.cluster,
        licence=use.licence,
        identity=identity,
        metrics=[CLINICAL_METRICS.get(metric, metric) for metric in use.metrics],
        postprocess_fn=source_reference(*use.source),
        overlong="drop",  # from a note that is cut, an answer is invented; and the cut may take the question
        version=VERSION,
        description=use.text,
    )
