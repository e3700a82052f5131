"""ACI-Bench (Yim et al. 2023): role-played visits, transcribed, and the whole note of each.

Validation is the published validation set. Stock phrases of the examination recur in notes of both sides, so only a
training row with the same dialogue or note as a validation row is left out.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from itune.data import field_text, normalise, read_records
from tasks.clinical_sources.sides import Row, published

FIELDS = ("dialogue", "note", "sections", "recording")

_HEADER = re.compile(r"^([A-Z][A-Z /&]+):?\s*$", re.MULTILINE)


def rows(split: str, *, train: str, test: str) -> Iterator[Row]:
    """dialogue -> note; sections: its headers in order; recording: how the owner made it (aci, virtassist, ...)."""
    sides = [
        [(row, {normalise(row["dialogue"]), normalise(row["note"])}) for row in _read(path)] for path in (train, test)
    ]
    yield from published(split, *sides)


def _read(path: str) -> Iterator[Row]:
    for where, record in read_records(path):
        names = {"id": "encounter_id", "dialogue": "dialogue", "note": "note", "recording": "dataset"}
        row = {name: field_text(record, key, where).replace("\r\n", "\n").strip() for name, key in names.items()}
        if row["dialogue"] and row["note"]:
            yield row | {"sections": ", ".join(dict.fromkeys(h.strip() for h in _HEADER.findall(row["note"])))}
