"""Avey's vignettes, as in symptomcheck-bench: a patient in words, and the one diagnosis that doctors agreed on.

A benchmark, and too small to divide: all of it is validation, and there is no train split.
"""

from __future__ import annotations

from collections.abc import Iterator

from itune.data import field_text, read_records, text_key
from tasks.clinical_sources.sides import Row

FIELDS = ("patient", "complaint", "presentation", "absent", "history", "family", "diagnosis")

_KEYS = {
    "patient": "demographics",
    "complaint": "chief_complaints",
    "presentation": "presentation",
    "absent": "absent_findings",
    "history": "physical_history",
    "family": "family_history",
    "diagnosis": "correct_diagnosis",
}
_NOTHING = {"", "-", "none", "none.", "n/a"}


def rows(split: str, *, path: str) -> Iterator[Row]:
    """patient, complaint, presentation, absent (findings), history, family -> diagnosis. Only "validation" has rows."""
    seen = set()
    for where, record in read_records(path) if split == "validation" else ():
        row = {name: " ".join(field_text(record, key, where, True).split()) for name, key in _KEYS.items()}
        row = {name: "none given" if text.casefold() in _NOTHING else text for name, text in row.items()}
        row_id = text_key(*row.values())
        if row_id not in seen:
            seen.add(row_id)
            yield {"id": row_id, **row}
