"""What a good answer to each task is: summaries, JSON, plain words. The note states all of it."""

from __future__ import annotations

import json

from tasks.synthetic_clinic.conditions import CONDITIONS, FAMILY_ILLNESSES, RED_FLAGS
from tasks.synthetic_clinic.encounter import FOUND, Medication
from tasks.synthetic_clinic.notes import Note, NoteWriter
from tasks.synthetic_clinic.wording import LAY_FREQUENCIES, capitalise, listed

NOT_DOCUMENTED = "not documented"
NONE_KNOWN = "none known"

_LAY_COMPLAINTS = {
    "chest pain": "chest pain",
    "loss of consciousness": "fainting",
    "abdominal pain": "belly pain",
    "fever": "fever",
    "fatigue": "tiredness",
}
_LAY_FAMILY = {
    names: next((c.lay for c in CONDITIONS.values() if c.names == names), names.split("|")[0])
    for _, names in FAMILY_ILLNESSES
} | {
    "colon cancer|cancer of the colon|bowel cancer": "cancer of the bowel",
    "breast cancer|cancer of the breast|breast carcinoma": "cancer of the breast",
    "Alzheimer disease|Alzheimer dementia|dementia of Alzheimer type": "Alzheimer disease, which harms the memory",
}


# Pieces


def medicine_text(writer: NoteWriter, medication: Medication) -> str:
    return f"{medication.drug.name} {medication.amount} {writer.speaker.frequency(medication.frequency)}"


def medicines_text(writer: NoteWriter, medications: tuple[Medication, ...]) -> str:
    if medications:
        return ", ".join(medicine_text(writer, m) for m in medications)
    return "none" if writer.encounter.medicine_status in ("nothing", "negated", FOUND) else NOT_DOCUMENTED


def allergies_text(writer: NoteWriter, *, reactions: bool = True) -> str:
    encounter = writer.encounter
    if encounter.allergy_status == FOUND and not reactions:
        return ", ".join(allergen.name for allergen, _ in encounter.allergens)
    if encounter.allergy_status == FOUND:
        return ", ".join(f"{allergen.name} ({reaction})" for allergen, reaction in encounter.allergens)
    return NONE_KNOWN if encounter.allergy_status in ("nothing", "negated") else NOT_DOCUMENTED


def history_text(writer: NoteWriter, note: Note) -> str:
    if writer.encounter.known and note.evidence("known"):
        return listed(writer.known_names())
    return "none" if writer.encounter.diagnosis_status == "nothing" else NOT_DOCUMENTED


def assessment_text(writer: NoteWriter, note: Note, *, brief: bool = False) -> str:
    """The diagnosis and what was ruled out; `brief` leaves the latter to notes without a diagnosis."""
    encounter = writer.encounter
    if encounter.diagnosis_status == "not_documented":
        return NOT_DOCUMENTED
    if encounter.diagnosis_status == FOUND:
        text = writer.diagnosis()
        if brief:
            return text
    else:
        text = (
            f"{encounter.condition.complaint}, cause unknown" if encounter.condition.complaint else "no illness found"
        )
    excluded = [writer.speaker.name(c.names) for c in encounter.excluded if note.evidence(f"excluded:{c.key}")]
    return f"{text}; {listed(excluded)} ruled out" if excluded else text


def symptoms_text(writer: NoteWriter) -> str:
    """The two main symptoms, and the red flag."""
    flag = writer.encounter.red_flag
    symptoms = listed(writer.symptoms()[:2])
    return f"{symptoms}, with {writer.speaker.flag(RED_FLAGS[flag])}" if flag else symptoms


def complaint_text(writer: NoteWriter) -> str:
    encounter = writer.encounter
    symptoms = symptoms_text(writer)
    return symptoms if encounter.condition.well else f"{symptoms} for {writer.speaker.duration(encounter.days)}"


def next_text(writer: NoteWriter, note: Note) -> str:
    if note.evidence("disposition"):
        return "hospital now"
    if note.evidence("follow_up"):
        return f"review in {writer.speaker.duration(writer.encounter.follow_up_days)}"
    return NOT_DOCUMENTED


def plan_text(writer: NoteWriter, note: Note) -> str:
    parts = []
    if writer.encounter.started:
        parts.append(medicines_text(writer, writer.encounter.started))
    if writer.procedures_planned():
        parts.append(listed(writer.procedure_names(writer.procedures_planned())))
    parts.append(next_text(writer, note))
    return "; ".join(parts)


def done_text(writer: NoteWriter) -> str:
    names = writer.procedure_names(writer.procedures_done())
    if names:
        return listed(names)
    return "none" if writer.encounter.procedure_status == "nothing" else NOT_DOCUMENTED


def vitals_text(writer: NoteWriter) -> str:
    v = writer.encounter.vitals
    if v is None:
        return f"vital signs {NOT_DOCUMENTED}"
    # Breaths a minute only where they matter: a summary is short.
    breaths = f"RR {v.rr}, " if v.rr > 22 else ""
    return f"T {v.temp}, HR {v.hr}, BP {v.sbp}/{v.dbp}, {breaths}SpO2 {v.spo2}%"


def _lines(**parts: str) -> str:
    """S="x", O="y" -> "S: X.\\nO: Y."; underscores of names become spaces."""
    return "\n".join(f"{name.replace('_', ' ')}: {capitalise(text)}." for name, text in parts.items())


# Summaries


def soap_summary(writer: NoteWriter, note: Note) -> str:
    encounter = writer.encounter
    allergies = allergies_text(writer, reactions=False)
    return _lines(
        S=f"{encounter.age}-year-old {writer.noun()}: {complaint_text(writer)}. Allergies: {allergies}",
        O=f"{vitals_text(writer)}. {capitalise(writer.findings()[0])}",
        A=assessment_text(writer, note),
        P=plan_text(writer, note),
    )


def hp_summary(writer: NoteWriter, note: Note) -> str:
    relative = writer.encounter.relative
    family = f"{relative.who}, {writer.speaker.name(relative.illness)}" if note.evidence("family") else NOT_DOCUMENTED
    return _lines(
        Complaint=complaint_text(writer),
        History=history_text(writer, note),
        Medicines=medicines_text(writer, writer.encounter.home),
        Allergies=allergies_text(writer),
        Family=family,
        Exam=writer.findings()[0],
        Assessment=assessment_text(writer, note, brief=True),
        Plan=plan_text(writer, note),
    )


def discharge_summary(writer: NoteWriter, note: Note) -> str:
    next_steps = [*writer.procedure_names(writer.procedures_planned()), next_text(writer, note)]
    return _lines(
        Admitted_for=symptoms_text(writer),
        Diagnosis=assessment_text(writer, note),
        Tests_and_procedures=done_text(writer),
        Medicines_at_discharge=medicines_text(writer, writer.taken_home()),
        Allergies=allergies_text(writer),
        Next="; ".join(next_steps),
    )


# Extraction


def medications_json(writer: NoteWriter) -> str:
    encounter = writer.encounter
    entries = [
        {"name": m.drug.name, "dose": m.amount, "frequency": writer.speaker.frequency(m.frequency)}
        for m in (*encounter.home, *encounter.started)
    ]
    return json.dumps({"medications": entries})


def diagnoses_json(writer: NoteWriter) -> str:
    return json.dumps({"diagnoses": writer.diagnoses()})


def procedures_json(writer: NoteWriter) -> str:
    done = [{"name": name, "status": "done"} for name in writer.procedure_names(writer.procedures_done())]
    planned = [{"name": name, "status": "planned"} for name in writer.procedure_names(writer.procedures_planned())]
    return json.dumps({"procedures": done + planned})


def allergies_json(writer: NoteWriter) -> str:
    """ "status" tells "asked and none" from "nobody wrote anything down": not the same thing in a clinic."""
    encounter = writer.encounter
    entries = [{"substance": allergen.name, "reaction": reaction} for allergen, reaction in encounter.allergens]
    found = {FOUND: "present", "nothing": NONE_KNOWN, "negated": NONE_KNOWN}
    return json.dumps({"status": found.get(encounter.allergy_status, NOT_DOCUMENTED), "allergies": entries})


# Plain words


def plain_explanation(writer: NoteWriter, note: Note) -> str:
    encounter = writer.encounter
    sentences = [_plain_diagnosis(writer)]
    excluded = [c for c in encounter.excluded if note.evidence(f"excluded:{c.key}")]
    if excluded:
        sentences.append(f"You do not have {' or '.join(c.lay for c in excluded)}.")
    sentences += [
        _plain_medicine(m) for m in (*encounter.home, *encounter.started) if note.evidence(f"medicine:{m.drug.name}")
    ]
    if encounter.medicine_status == "nothing":
        sentences.append("No medicine is listed for you.")
    planned = writer.procedures_planned()
    if planned:
        sentences.append(f"You will also have {listed([p.lay for p in planned])}.")
    if note.evidence("disposition"):
        sentences.append("You need care in hospital now.")
    elif note.evidence("follow_up"):
        sentences.append(f"Please come back in {_plain_duration(encounter.follow_up_days)}.")
    return " ".join(sentences)


def _plain_diagnosis(writer: NoteWriter) -> str:
    encounter = writer.encounter
    condition = encounter.condition
    if encounter.diagnosis_status == FOUND:
        verb = "had" if condition.key in ("nstemi", "stroke", "anaphylaxis") else "have"
        return f"You {verb} {condition.lay}: {condition.about}."
    if encounter.diagnosis_status == "not_documented":
        return "The note does not name an illness."
    complaint = _LAY_COMPLAINTS.get(condition.complaint, "")
    opening = (
        f"We do not yet know the cause of your {complaint}." if complaint else "You are well; we found no illness."
    )
    if encounter.diagnosis_status == "family":
        relative = encounter.relative
        return f"{opening} Your {relative.who} has {_LAY_FAMILY[relative.illness]}; that is no finding about you."
    return opening


def _plain_medicine(medication: Medication) -> str:
    drug, how_often = medication.drug, LAY_FREQUENCIES[medication.frequency]
    if medication.frequency == "once":
        return f"You were given {drug.name} ({medication.amount}); it {drug.lay}."
    verb = "Use" if any(word in drug.name for word in ("inhaler", "insulin")) else "Take"
    if drug.name == "ceftriaxone":
        verb = "You get"
    if drug.as_needed:
        return f"{verb} {drug.name} {medication.amount} {how_often} {drug.as_needed}."
    return f"{verb} {drug.name} {medication.amount} {how_often}; it {drug.lay}."


def _plain_duration(days: int) -> str:
    return f"{days // 7} weeks" if days >= 14 else f"{days} days"
