"""Rows of each task: `rows("clinic/extract/medications", "train")`. The one entry point of this package.

A row holds the fields of FIELDS[task], all text, and "id" = "<encounter>/<task>". `kind` is "found", or says why an
item has nothing positive to report: "nothing", "negated", "family", "not_documented" (a fifth of each task). For
summaries it is that of the allergies, for explanations that of the diagnosis; among types of document "nothing" is no
clinical document at all.
"""

from __future__ import annotations

import dataclasses
import functools
import random
from collections.abc import Callable, Iterator

from tasks.synthetic_clinic import answers, questions
from tasks.synthetic_clinic.conditions import RED_FLAGS
from tasks.synthetic_clinic.encounter import (
    FOUND,
    NO_VITALS,
    NUM_ENCOUNTERS,
    Encounter,
    make_encounter,
    numbers,
    stratum,
)
from tasks.synthetic_clinic.notes import ALL_PARTS, Note, NoteWriter
from tasks.synthetic_clinic.wording import URGENCY_RULES, Speaker

_COMMON = ("note", "answer", "kind", "encounter")
DOCUMENT_TYPES = ("SOAP note", "history and physical", "discharge summary", "procedure note", "other")

Row = dict[str, str]
Maker = Callable[["Item"], Row | None]


@dataclasses.dataclass(frozen=True)
class Item:
    """What a maker of rows gets: the encounter, its number, and the words for this item."""

    number: int
    encounter: Encounter
    speaker: Speaker

    def writer(self, *parts: str, chance: float = 1.0) -> NoteWriter:
        """A writer of `parts` surely, of each other part with probability `chance`."""
        rest = [part for part in sorted(ALL_PARTS) if part not in parts and self.speaker.rng.random() < chance]
        return NoteWriter(self.encounter, self.speaker, (*parts, *rest))

    def any_note(self, writer: NoteWriter) -> Note:
        """One of the forms of a visit."""
        return self.speaker.rng.choice((writer.soap, writer.history_and_physical, writer.story))()


def _row(note: Note, answer: str, kind: str, **more: str) -> Row:
    return {"note": note.text, "answer": answer, "kind": kind, **more}


def _soap(item: Item) -> Row:
    writer = item.writer(
        "medicines", "allergies", "exam", "procedures", "flags", "excluded", "follow_up", "disposition", chance=0.5
    )
    note = writer.story()
    return _row(note, answers.soap_summary(writer, note), item.encounter.allergy_status)


def _hp(item: Item) -> Row:
    writer = item.writer(
        "known",
        "medicines",
        "allergies",
        "family",
        "exam",
        "procedures",
        "excluded",
        "follow_up",
        "disposition",
        chance=0.4,
    )
    note = writer.story()
    return _row(note, answers.hp_summary(writer, note), item.encounter.allergy_status)


def _discharge(item: Item) -> Row | None:
    if not item.encounter.condition.admit:
        return None
    writer = item.writer("medicines", "allergies", "procedures", "excluded", "follow_up", chance=0.5)
    note = writer.hospital_story()
    return _row(note, answers.discharge_summary(writer, note), item.encounter.allergy_status)


def _medications(item: Item) -> Row:
    writer = item.writer("medicines", chance=0.55)
    return _row(item.any_note(writer), answers.medications_json(writer), item.encounter.medicine_status)


def _diagnoses(item: Item) -> Row:
    writer = item.writer("known", chance=0.55)
    return _row(item.any_note(writer), answers.diagnoses_json(writer), item.encounter.diagnosis_status)


def _procedures(item: Item) -> Row:
    writer = item.writer("procedures", chance=0.55)
    return _row(item.any_note(writer), answers.procedures_json(writer), item.encounter.procedure_status)


def _allergies(item: Item) -> Row:
    writer = item.writer("allergies", chance=0.55)
    return _row(item.any_note(writer), answers.allergies_json(writer), item.encounter.allergy_status)


# Most encounters cannot give a plausible conflict and ask for a fact instead: conflicts come out few, about as many as
# notes without one that are asked about.
_ANSWER_KINDS = (
    *(FOUND,) * 10,
    *("conflict",) * 5,
    *("no_conflict", "negated", "family", "not_documented", "not_documented"),
)
_EVIDENCE_KINDS = (*(FOUND,) * 16, "negated", "family", "not_documented", "not_documented")


def _ask(item: Item, wanted: str) -> tuple[Note, questions.Question, str]:
    """(note, question, kind) of the wanted sort; an ordinary question where this encounter cannot give it."""
    encounter = item.encounter
    if wanted == "conflict" and (changed := questions.with_conflict(encounter)):
        item = dataclasses.replace(item, encounter=changed[0])
        writer = item.writer("medicines", "allergies", chance=0.5)
        question = dataclasses.replace(changed[1], text=item.speaker.say("q_conflict"))
        return item.any_note(writer), question, "conflict"
    if wanted == "no_conflict" and encounter.medicine_status == FOUND and encounter.allergy_status == FOUND:
        writer = item.writer("medicines", "allergies", chance=0.5)
        fact = f"allergy:{encounter.allergens[0][0].name}"
        question = questions.Question(item.speaker.say("q_conflict"), "No conflict is recorded.", fact)
        return item.any_note(writer), question, "no_conflict"
    if wanted == "negated":
        item = dataclasses.replace(item, encounter=questions.with_negation(encounter))
    if wanted == "family":
        item = dataclasses.replace(item, encounter=dataclasses.replace(encounter, show_relative=True))
    writer = item.writer("flags" if wanted == "negated" else "family", "exam", chance=0.7)
    note = item.any_note(writer)
    makers = {
        "negated": questions.negated_questions,
        "family": questions.family_questions,
        "not_documented": questions.open_questions,
    }
    options = makers.get(wanted, questions.fact_questions)(writer, note)
    return note, item.speaker.rng.choice(options), wanted if wanted in makers else FOUND


def _qa_answer(item: Item) -> Row:
    note, question, sort = _ask(item, stratum(item.number, "qa/answer", _ANSWER_KINDS))
    kind = FOUND if sort in ("conflict", "no_conflict") else sort
    return _row(note, question.answer, kind, question=question.text, conflict="yes" if sort == "conflict" else "no")


def _qa_evidence(item: Item) -> Row:
    note, question, kind = _ask(item, stratum(item.number, "qa/evidence", _EVIDENCE_KINDS))
    quoted = note.evidence(question.fact) if question.fact else None
    evidence = f'"{quoted}"' if quoted else "none"
    return _row(note, f"Answer: {question.answer}\nEvidence: {evidence}", kind, question=question.text)


def _plain(item: Item) -> Row:
    writer = item.writer("medicines", "procedures", "excluded", "follow_up", "disposition", chance=0.0)
    note = writer.verdict()
    return _row(note, answers.plain_explanation(writer, note), item.encounter.diagnosis_status)


@functools.lru_cache(maxsize=4)
def _document_types(split: str, count: int) -> dict[int, str]:
    """Type of document per encounter: even in number, and only who was in hospital is discharged."""
    dealt = dict.fromkeys(DOCUMENT_TYPES, 0)
    types = {}
    for number in numbers(split, count):
        admitted = make_encounter(number).condition.admit
        options = [t for t in DOCUMENT_TYPES if admitted or t != "discharge summary"]
        fewest = min(dealt[t] for t in options)
        chosen = random.Random(f"type/{number}").choice([t for t in options if dealt[t] == fewest])
        dealt[chosen] += 1
        types[number] = chosen
    return types


def _document_type(item: Item) -> Row:
    label = _document_types(item.encounter.split, max(NUM_ENCOUNTERS, item.number + 1))[item.number]
    writer = item.writer("exam", chance=0.5)
    forms = {
        "SOAP note": (writer.soap,),
        "history and physical": (writer.history_and_physical,),
        "discharge summary": (writer.discharge, writer.hospital_story),
        "procedure note": (writer.procedure_note,),
        "other": (writer.office_message,),
    }
    note = item.speaker.rng.choice(forms[label])()
    return _row(note, label, "nothing" if label == "other" else FOUND)


def _urgency(item: Item) -> Row:
    parts = item.writer("flags", chance=0.4).parts - {"disposition"}
    writer = NoteWriter(item.encounter, item.speaker, parts)
    flags = ", ".join(names.split("|")[0] for names in RED_FLAGS.values())
    rule = item.speaker.choose("rule", URGENCY_RULES).format(flags=flags)
    label = item.encounter.urgency
    return _row(item.any_note(writer), label, "not_documented" if label == NO_VITALS else FOUND, rule=rule)


MAKERS: dict[str, Maker] = {
    "clinic/summary/soap": _soap,
    "clinic/summary/hp": _hp,
    "clinic/summary/discharge": _discharge,
    "clinic/extract/medications": _medications,
    "clinic/extract/diagnoses": _diagnoses,
    "clinic/extract/procedures": _procedures,
    "clinic/extract/allergies": _allergies,
    "clinic/qa/answer": _qa_answer,
    "clinic/qa/evidence": _qa_evidence,
    "clinic/explain/plain": _plain,
    "clinic/classify/document_type": _document_type,
    "clinic/classify/urgency": _urgency,
}
_MORE = {
    "clinic/qa/answer": ("question", "conflict"),
    "clinic/qa/evidence": ("question",),
    "clinic/classify/urgency": ("rule",),
}
FIELDS: dict[str, tuple[str, ...]] = {task: (*_COMMON, *_MORE.get(task, ())) for task in MAKERS}


def make_row(task: str, number: int) -> tuple[Row | None, Speaker]:
    """Row of one encounter (None where the task has none for it) and the words that were used."""
    encounter = make_encounter(number)
    speaker = Speaker(encounter.split, random.Random(f"{encounter.id}/{task}"))
    row = MAKERS[task](Item(number, encounter, speaker))
    if row is not None:
        row |= {"id": f"{encounter.id}/{task.removeprefix('clinic/')}", "encounter": encounter.id}
    return row, speaker


def rows(task: str, split: str, count: int = NUM_ENCOUNTERS) -> Iterator[Row]:
    """Rows of `task` over the encounters of `split` among the first `count`; the same on every machine."""
    for number in numbers(split, count):
        row, _ = make_row(task, number)
        if row is not None:
            yield row
