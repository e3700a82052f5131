"""Acute or chronic, from the synthetic clinic: an encounter's note and one problem of the patient's.

No open set that we know of has the two labels over notes. The label is the generator's: its table of acute illnesses
and those of its chronic ones that it gives people as long known.
"""

from __future__ import annotations

import random
from collections.abc import Iterator

from tasks.clinical_sources.sides import Row
from tasks.synthetic_clinic.acute import ACUTE
from tasks.synthetic_clinic.condition import Condition
from tasks.synthetic_clinic.encounter import FOUND, NUM_ENCOUNTERS, Encounter, make_encounter, numbers
from tasks.synthetic_clinic.items import Item
from tasks.synthetic_clinic.wording import Speaker

FIELDS = ("note", "problem", "answer", "encounter")
LABELS = ("acute", "chronic")
_ACUTE_KEYS = frozenset(condition.key for condition in ACUTE)


def label(condition: Condition) -> str:
    """ "acute", "chronic", or "" where the table does not say (pregnancy is no illness)."""
    if condition.key == "pregnancy" or not condition.names:
        return ""
    return "acute" if condition.key in _ACUTE_KEYS else "chronic" if condition.chronic else ""


def rows(split: str, count: int = NUM_ENCOUNTERS) -> Iterator[Row]:
    """note, problem (as the note names it) -> answer, one of LABELS. One problem an encounter; those without: none."""
    for number in numbers(split, count):
        encounter = make_encounter(number)
        speaker = Speaker(encounter.split, random.Random(f"{encounter.id}/acuity"))
        item = Item(number, encounter, speaker)
        note = item.any_note(item.writer("known", chance=0.5))
        for condition in _problems(encounter, speaker.rng):
            if label(condition):
                row_id = f"{encounter.id}/classify/acuity"
                problem = speaker.name(condition.names)  # as the note has it: the speaker keeps to a name
                yield {
                    "id": row_id,
                    "note": note.text,
                    "problem": problem,
                    "answer": label(condition),
                    "encounter": encounter.id,
                }
                break


def _problems(encounter: Encounter, rng: random.Random) -> list[Condition]:
    """The patient's conditions, in the order in which they are tried."""
    if encounter.diagnosis_status != FOUND:
        return []
    problems = [encounter.condition, *encounter.known]
    return rng.sample(problems, len(problems))
