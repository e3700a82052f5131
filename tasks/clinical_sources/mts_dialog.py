"""MTS-Dialog (Ben Abacha et al. 2023): a section of a note, and a doctor-patient dialogue written from it.

The notes are MTSamples', the dialogues were written by annotators: nobody spoke them. Validation is the published
validation set; a training row that shares 13 words in a row with it is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from itune.data import field_text, read_records, text_key
from itune.errors import UserError, nearest
from tasks.clinical_sources.sides import Row, passages, published

FIELDS = ("dialogue", "note", "header", "section", "sections")

SECTIONS = {
    "ALLERGY": "allergies",
    "ASSESSMENT": "assessment",
    "CC": "chief complaint",
    "DIAGNOSIS": "diagnosis",
    "DISPOSITION": "disposition",
    "EDCOURSE": "emergency department course",
    "EXAM": "physical examination",
    "FAM/SOCHX": "family and social history",
    "GENHX": "history of present illness",
    "GYNHX": "gynecologic history",
    "IMAGING": "imaging",
    "IMMUNIZATIONS": "immunizations",
    "LABS": "laboratory results",
    "MEDICATIONS": "medications",
    "OTHER_HISTORY": "other history",
    "PASTMEDICALHX": "past medical history",
    "PASTSURGICAL": "past surgical history",
    "PLAN": "plan",
    "PROCEDURES": "procedures",
    "ROS": "review of systems",
}


def rows(split: str, *, train: str, test: str) -> Iterator[Row]:
    """dialogue -> note (the section's text) and section (which of the `sections` it is); header: the owner's code."""
    sides = [[(row, passages(row["dialogue"], row["note"])) for row in read(path)] for path in (train, test)]
    yield from published(split, *sides)


def read(path: str) -> Iterator[Row]:
    """All rows of a file. UserError for a section that is not in SECTIONS."""
    for where, record in read_records(path):
        texts = {name: field_text(record, name, where) for name in ("dialogue", "section_text", "section_header")}
        dialogue, note, header = (text.replace("\r\n", "\n").strip() for text in texts.values())
        if header not in SECTIONS:
            raise UserError(f"{where}: no section {header!r} is known.{nearest(header, SECTIONS)}")
        if dialogue and note:
            yield {
                "id": text_key(dialogue, note),
                "dialogue": dialogue,
                "note": note,
                "header": header,
                "section": SECTIONS[header],
                "sections": ", ".join(SECTIONS.values()),
            }
