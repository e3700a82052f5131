"""The synthetic clinic's rows, and readers of notes that know nothing of the code that wrote them."""

from __future__ import annotations

import functools
import re
from pathlib import Path

from tasks.synthetic_clinic.drugs import ALLERGENS, DRUGS
from tasks.synthetic_clinic.items import MAKERS, rows

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "tasks" / "templates"
GOLDEN = ROOT / "tests" / "golden" / "clinic_prompts.json"
SPLITS = ("train", "validation")
TASKS = tuple(MAKERS)
EXTRACT = tuple(task for task in TASKS if task.startswith("clinic/extract/"))
RELATIVES = r"\b(mother|father|sister|brother)\b"
# How notes of either pool write vital signs.
_VITAL_FORMS = {
    "temp": r"(?:\bT|[Tt]emperature) (\d\d\.\d)",
    "hr": r"(?:\bHR|[Pp]ulse) (\d+)",
    "rr": r"(?:\bRR|[Bb]reaths) (\d+)",
    "spo2": r"(?:SpO2|[Oo]xygen) (\d+)%",
    "pressure": r"(?:\bBP|[Bb]lood pressure) (\d+)/(\d+)",
}
KEYS = {
    "clinic/extract/medications": {"name", "dose", "frequency"},
    "clinic/extract/procedures": {"name", "status"},
    "clinic/extract/allergies": {"substance", "reaction"},
    "clinic/extract/diagnoses": None,
}


@functools.cache
def all_rows(task: str, split: str) -> tuple[dict[str, str], ...]:
    return tuple(rows(task, split))


def each_row(task: str):
    return [row for split in SPLITS for row in all_rows(task, split)]


def number_of(row: dict[str, str]) -> int:
    return int(row["encounter"].removeprefix("enc-"))


def allergies_in(text: str) -> list:
    """Allergens that the note records as the patient's own, read from its text."""
    marked = (
        r"(?:Allerg(?:ies:|y:|ic to)|ALLERGY|ALLERGIES:|intolerance:|Reacts badly to|To be avoided:)\n?(?: ALLERGY)?"
    )
    parts = re.findall(rf"(?:{marked}) ?([^.]*)\.", text) + re.findall(
        r"Allerg(?:ies|y)\n([^.]*)\.", text, re.IGNORECASE
    )
    own = " ".join(part for part in parts if not re.search(rf"known|denies|\bno\b|{RELATIVES}", part, re.IGNORECASE))
    return [allergen for allergen in ALLERGENS if allergen.name in own.lower()]


def medicines_in(text: str) -> list:
    """Medicines prescribed or taken: those that a dose stands beside. Relatives' do not count."""
    own = " ".join(s for s in re.split(r"(?<=\.)\s", text) if not re.search(RELATIVES, s, re.IGNORECASE))
    amount = r"\d[\d./]* (?:mg|mcg|g|units|puffs|tablet)"
    return [
        drug
        for drug in DRUGS.values()
        if re.search(rf"\b{drug.name},? \(?{amount}|{amount} of {drug.name}\b", own, re.IGNORECASE)
    ]
