"""Questions about one note, each with an answer that the note gives, or with "Not documented in the note."."""

from __future__ import annotations

import dataclasses

from tasks.synthetic_clinic.conditions import RED_FLAGS
from tasks.synthetic_clinic.drugs import ALLERGENS, DRUGS, Allergen, Drug, allowed, conflicts
from tasks.synthetic_clinic.encounter import FOUND, Encounter, Medication
from tasks.synthetic_clinic.notes import Note, NoteWriter
from tasks.synthetic_clinic.procedures import PROCEDURES

NOT_DOCUMENTED = "Not documented in the note."

_VITALS = {"q_pressure": "{sbp}/{dbp}", "q_heart_rate": "{hr}", "q_temperature": "{temp}", "q_saturation": "{spo2}%"}


@dataclasses.dataclass(frozen=True)
class Question:
    """`fact` names the sentence that answers it ("" where none does)."""

    text: str
    answer: str
    fact: str = ""


def fact_questions(writer: NoteWriter, note: Note) -> list[Question]:
    """Every question whose answer stands in the note."""
    encounter, speaker = writer.encounter, writer.speaker
    questions = []

    def ask(key: str, answer: str, fact: str, **fields: str) -> None:
        if note.evidence(fact) is not None:
            questions.append(Question(speaker.say(key, **fields), answer, fact))

    for medication in (*encounter.home, *encounter.started):
        fact = f"medicine:{medication.drug.name}"
        ask("q_dose", medication.amount, fact, name=medication.drug.name)
        ask("q_frequency", speaker.frequency(medication.frequency), fact, name=medication.drug.name)
    for allergen, reaction in encounter.allergens:
        ask("q_reaction", reaction, f"allergy:{allergen.name}", name=allergen.name)
    if encounter.vitals:
        for key, form in _VITALS.items():
            ask(key, form.format(**dataclasses.asdict(encounter.vitals)), "vitals")
    for procedure in encounter.done:
        ask("q_test", "Done.", f"done:{procedure.key}", name=speaker.name(procedure.names))
    for procedure in encounter.planned:
        ask("q_test", "Planned.", f"planned:{procedure.key}", name=speaker.name(procedure.names))
    if encounter.diagnosis_status == FOUND:
        ask("q_illness", "Yes.", "diagnosis", name=writer.diagnosis())
    for condition in encounter.known:
        ask("q_illness", "Yes.", "known", name=speaker.name(condition.names))
    if encounter.red_flag:
        ask("q_flag", "Yes.", f"flag:{encounter.red_flag}", flag=speaker.flag(RED_FLAGS[encounter.red_flag]))
    ask("q_age", str(encounter.age), "age")
    ask("q_duration", speaker.duration(encounter.days), "duration")
    ask("q_follow_up", f"In {speaker.duration(encounter.follow_up_days)}.", "follow_up")
    smoking = {"never": "No, never.", "former": "Not any more.", "current": "Yes."}
    ask("q_smoking", smoking.get(encounter.smoking, ""), "smoking")
    return questions


def negated_questions(writer: NoteWriter, note: Note) -> list[Question]:
    """What the note says is not so."""
    encounter, speaker = writer.encounter, writer.speaker
    questions = []
    if note.evidence(fact := f"no_flag:{encounter.denied_flag}"):
        flag = speaker.flag(RED_FLAGS[encounter.denied_flag])
        questions.append(Question(speaker.say("q_flag", flag=flag), "No.", fact))
    for condition in encounter.excluded:
        if note.evidence(fact := f"excluded:{condition.key}"):
            questions.append(Question(speaker.say("q_illness", name=speaker.name(condition.names)), "No.", fact))
    if encounter.declined and note.evidence(fact := f"declined:{encounter.declined.key}"):
        name = speaker.name(encounter.declined.names)
        questions.append(Question(speaker.say("q_test", name=name), "No, the patient declined it.", fact))
    return questions


def family_questions(writer: NoteWriter, note: Note) -> list[Question]:
    """What is a relative's, not the patient's."""
    relative, speaker = writer.encounter.relative, writer.speaker
    if note.evidence("family") is None:
        return []
    name = speaker.name(relative.illness)
    return [
        Question(speaker.say("q_illness", name=name), f"No, it is the patient's {relative.who}.", "family"),
        Question(speaker.say("q_who", name=name), f"The patient's {relative.who}.", "family"),
    ]


def open_questions(writer: NoteWriter, note: Note) -> list[Question]:
    """What the note does not say at all."""
    encounter, speaker = writer.encounter, writer.speaker
    text = note.text.lower()
    keys = ["q_work", "q_alcohol", "q_weight"]
    keys += [key for key in _VITALS if note.evidence("vitals") is None]
    keys += ["q_smoking"] if note.evidence("smoking") is None else []
    questions = [Question(speaker.say(key), NOT_DOCUMENTED) for key in keys]
    absent = [name for name in DRUGS if name not in text]
    questions.append(Question(speaker.say("q_dose", name=speaker.rng.choice(absent)), NOT_DOCUMENTED))
    reactions = [a.name for a in ALLERGENS if a.name not in text and a.name.split()[0] not in text]
    questions.append(Question(speaker.say("q_reaction", name=speaker.rng.choice(reactions)), NOT_DOCUMENTED))
    mentioned = {*encounter.done, *encounter.planned, encounter.declined, encounter.relative.test}
    tests = [p for p in PROCEDURES.values() if p not in mentioned]
    name = speaker.name(speaker.rng.choice(tests).names)
    questions.append(Question(speaker.say("q_test", name=name), NOT_DOCUMENTED))
    return questions


def with_conflict(encounter: Encounter) -> tuple[Encounter, Question] | None:
    """The encounter with a medicine that goes against a recorded allergy, and the answer; None if none is plausible.

    The one place where the generator breaks its own rule, because spotting that is the point of the item. Either a
    medicine that the patient has gets an allergy beside it, or one is prescribed that the illness would call for.
    """
    for medication in (*encounter.started, *encounter.home):
        for allergen in ALLERGENS:
            if conflicts(medication.drug, allergen) and medication.drug.name != allergen.name:
                allergens = ((allergen, allergen.reactions[0]),)
                changed = dataclasses.replace(encounter, allergens=allergens, allergy_status=FOUND)
                return changed, _conflict(medication.drug, allergen)
    slots = (*encounter.condition.treat, *encounter.condition.home)
    for option in (option for slot in slots for option in slot.split(",")):
        drug = DRUGS[option.partition("@")[0]]
        for allergen, _ in encounter.allergens:
            others = tuple(a for a, _ in encounter.allergens if a is not allergen)
            sound = allowed(drug, others, encounter.groups)
            if sound and conflicts(drug, allergen) and drug.name != allergen.name:
                dose, frequency = drug.regimens[0]
                started = (Medication(drug=drug, dose=dose, frequency=frequency),)
                home = encounter.home[:2]
                changed = dataclasses.replace(encounter, home=home, started=started, medicine_status=FOUND)
                return changed, _conflict(drug, allergen)
    return None


def _conflict(drug: Drug, allergen: Allergen) -> Question:
    answer = f"Yes: {drug.name} conflicts with the allergy to {allergen.name}."
    return Question("", answer, f"medicine:{drug.name}")


def with_negation(encounter: Encounter) -> Encounter:
    """The encounter with at least one denied red flag."""
    flags = [key for key in RED_FLAGS if key not in (encounter.red_flag, encounter.condition.flag)]
    return (
        encounter
        if encounter.denied_flag
        else dataclasses.replace(encounter, denied_flag=flags[encounter.age % len(flags)])
    )
