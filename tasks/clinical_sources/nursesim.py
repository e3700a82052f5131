"""NurseSim: triage scenarios by urgency, 1 (now) to 5 (can wait). A language model wrote them and their levels.

The file names the same fact differently from level to level ("relevant PMH", "relevant_pmh"), which would give the
answer away; here it has one name. What is measured on it is form and agreement with its author, not triage.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from itune.data import field_text, normalise, read_json, text_key
from itune.errors import UserError
from tasks.clinical_sources.sides import Row, divided

FIELDS = ("complaint", "patient", "vitals", "history", "onset", "urgency")
LEVELS = ("1", "2", "3", "4", "5")

_VITALS = {"hr": "HR {}", "bp_sys": "systolic BP {}", "bp_dia": "diastolic BP {}", "spo2": "SpO2 {}%", "rr": "RR {}"}
_VITALS |= {"temp": "T {} C", "avpu": "AVPU {}"}
_HISTORY = ("relevant_PMH", "relevant_pmh", "relevant PMH", "relevant_PMhistory")
_ONSET = ("time_course", "time course")


def rows(split: str, *, path: str, identity: str) -> Iterator[Row]:
    """complaint, patient, vitals, history, onset -> urgency, "1" to "5"."""
    scenarios = read_json(path)
    if not isinstance(scenarios, dict) or not set(scenarios) <= set(LEVELS):
        raise UserError(f"{path}: expected an object with the levels {', '.join(LEVELS)}")
    found = []
    for level, entries in scenarios.items():
        for number, entry in enumerate(entries):
            row = _row(entry, f"{path}: {level}[{number}]")
            found.append({"id": text_key(*row.values()), **row, "urgency": level})
    # The same complaint at two levels would be told apart by its vital signs; it is on one side all the same.
    yield from divided(split, found, [{normalise(row["complaint"])} for row in found], identity=identity)


def _row(entry: Mapping[str, Any], where: str) -> Row:
    vitals, history = entry.get("vitals"), entry.get("history")
    if not isinstance(vitals, dict) or not isinstance(history, dict):
        raise UserError(f"{where}: 'vitals' and 'history' must be objects")
    signs = [
        form.format(field_text(vitals, key, where)) for key, form in _VITALS.items() if vitals.get(key) is not None
    ]
    return {
        "complaint": field_text(entry, "chief_complaint", where),
        "patient": f"{field_text(history, 'age', where)}-year-old, {field_text(history, 'gender', where)}",
        "vitals": ", ".join(signs) or "not documented",
        "history": _first(history, _HISTORY, where),
        "onset": _first(history, _ONSET, where),
    }


def _first(record: Mapping[str, Any], keys: tuple[str, ...], where: str) -> str:
    texts = [field_text(record, key, where, True) for key in keys]
    return next((text for text in texts if text), "not documented")
