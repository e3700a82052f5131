"""MTSamples, as it is passed around: a CSV of transcribed sample reports. Its values of medical_specialty are of two
sorts, specialties and types of document; only the types are used here.

    ,description,medical_specialty,sample_name,transcription,keywords

A report comes several times, under several headings: its type is the one type among them. MTS-Dialog's sections were
cut from these reports, so a report with a section of its validation set is validation, one with a training section
train, and one with both is left out.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from itune.data import field_text, normalise, read_records, split_of, text_key
from tasks.clinical_sources import mts_dialog
from tasks.clinical_sources.sides import VALIDATION_FRACTION, Row, passages

FIELDS = ("report", "document_type", "document_types", "description")

TYPES = {
    "Autopsy": "autopsy report",
    "Consult - History and Phy.": "consultation or history and physical",
    "Discharge Summary": "discharge summary",
    "Emergency Room Reports": "emergency room report",
    "IME-QME-Work Comp etc.": "independent medical examination",
    "Lab Medicine - Pathology": "pathology report",
    "Letters": "letter",
    "Office Notes": "office note",
    "Radiology": "imaging report",
    "SOAP / Chart / Progress Notes": "progress note",
    "Surgery": "operative report",
}


def rows(split: str, *, path: str, identity: str, mts: Sequence[str] = ()) -> Iterator[Row]:
    """report -> document_type, one of `document_types`. mts: MTS-Dialog's files (train, validation), if there."""
    types: dict[str, set[str]] = {}
    texts: dict[str, tuple[str, str]] = {}
    for where, record in read_records(path):
        named = field_text(record, "medical_specialty", where, True).strip()
        report = field_text(record, "transcription", where, True).strip()
        if named in TYPES and report:
            types.setdefault(normalise(report), set()).add(TYPES[named])
            texts.setdefault(normalise(report), (report, field_text(record, "description", where, True).strip()))
    linked = [{key for row in mts_dialog.read(file) for key in passages(row["note"])} for file in mts] or [set(), set()]
    for key, (report, description) in texts.items():
        side = _side(key, passages(report), *linked, identity=identity)
        if len(types[key]) == 1 and side == split:
            yield {
                "id": text_key(report),
                "report": report,
                "document_type": min(types[key]),
                "document_types": ", ".join(TYPES.values()),
                "description": description,
            }


def _side(key: str, mine: set[str], train: set[str], validation: set[str], *, identity: str) -> str:
    # A section of 8 to 12 words is a passage of its own, which a longer text's passages do not hold.
    sides = [
        not shared.isdisjoint(mine) or any(s in key for s in shared if s.count(" ") < 12)
        for shared in (train, validation)
    ]
    if any(sides):
        return "" if all(sides) else ("train", "validation")[sides.index(True)]
    return split_of(key, identity=identity, validation_fraction=VALIDATION_FRACTION)
