"""Puts an encounter into sentences that know which facts they state; notes.py sets them in forms."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable

from tasks.synthetic_clinic.conditions import RED_FLAGS
from tasks.synthetic_clinic.drugs import ALLERGENS, Drug
from tasks.synthetic_clinic.encounter import FOUND, Encounter, Medication
from tasks.synthetic_clinic.procedures import Procedure
from tasks.synthetic_clinic.wording import LETTERS, NOUNS, WORDS, Speaker, capitalise, listed

ALL_PARTS = frozenset(
    [
        "known",
        "smoking",
        "medicines",
        "stopped",
        "allergies",
        "family",
        "exam",
        "procedures",
        "declined",
        "flags",
        "excluded",
        "follow_up",
        "disposition",
    ]
)
_NOT_SWALLOWED = ("inhaler", "insulin", "injection", "ceftriaxone", "polyethylene", "nitroglycerin")
_HOSPITAL_ONLY = ("ceftriaxone", "epinephrine injection")
_DONE_IN_HOSPITAL = (
    "appendectomy",
    "cholecystectomy",
    "angiography",
    "endoscopy",
    "echo",
    "ct_abdomen",
    "us_abdomen",
    "us_leg",
)


@dataclasses.dataclass(frozen=True)
class Sentence:
    """`facts` are like "medicine:lisinopril", "allergy:latex", "vitals", "diagnosis", "family", "not_illness:gout"."""

    text: str
    facts: tuple[str, ...] = ()


@dataclasses.dataclass(frozen=True)
class Note:
    """`text` begins with a header that says SYNTHETIC. Every sentence stands in `text` word for word."""

    text: str
    sentences: tuple[Sentence, ...]

    def evidence(self, fact: str) -> str | None:
        """The sentence that states `fact`; None where the note does not."""
        return next((sentence.text for sentence in self.sentences if fact in sentence.facts), None)


class SentenceWriter:
    """Puts one encounter into words. `parts` are the optional parts to write (see ALL_PARTS)."""

    def __init__(self, encounter: Encounter, speaker: Speaker, parts: Iterable[str] = ALL_PARTS) -> None:
        self.encounter = encounter
        self.speaker = speaker
        self.parts = frozenset(parts)
        self.hospital = False  # set by the forms that end a stay in hospital

    # Words for facts; answers use the same ones, so that an answer never needs a word that the note lacks.

    def noun(self) -> str:
        return "woman" if self.encounter.sex == "F" else "man"

    def symptoms(self) -> list[str]:
        return [self.speaker.pair(symptom) for symptom in self.encounter.condition.symptoms]

    def findings(self) -> list[str]:
        return [self.speaker.pair(finding) for finding in self.encounter.condition.findings]

    def diagnosis(self) -> str:
        """The diagnosis, or the open complaint ("" for a check-up)."""
        condition = self.encounter.condition
        return self.speaker.name(condition.names) if condition.names else condition.complaint

    def diagnoses(self) -> list[str]:
        """The patient's own, new first; [] where none was made or none was written down."""
        if self.encounter.diagnosis_status != FOUND:
            return []
        return [self.diagnosis(), *self.known_names()]

    def known_names(self) -> list[str]:
        return [self.speaker.name(c.names) for c in self.encounter.known]

    def procedure_names(self, procedures: Iterable[Procedure]) -> list[str]:
        return [self.speaker.name(p.names) for p in procedures]

    def medicine(self, medication: Medication) -> str:
        key = "medicine_plain" if any(word in medication.drug.name for word in _NOT_SWALLOWED) else "medicine"
        return self.speaker.say(
            key, name=medication.drug.name, amount=medication.amount, freq=self.speaker.frequency(medication.frequency)
        )

    # Sentences

    def _sentence(self, key: str, *facts: str, **fields: object) -> Sentence:
        return Sentence(self.speaker.say(key, **fields), facts)

    def who(self) -> list[Sentence]:
        encounter, speaker = self.encounter, self.speaker
        noun = speaker.choose("noun", NOUNS[encounter.sex])
        symptoms = listed(self.symptoms())
        fields = dict(
            age=encounter.age,
            noun=noun,
            noun_cap=capitalise(noun),
            letter=LETTERS[encounter.sex],
            initials=encounter.initials,
            word=WORDS[encounter.sex],
            symptoms=symptoms,
            article="an" if encounter.age in (18, *range(80, 90)) else "a",
        )
        if encounter.condition.well:
            return [self._sentence("who_well", "age", **fields)]
        return [self._sentence("who", "age", "duration", duration=speaker.duration(encounter.days), **fields)]

    def flags(self) -> list[Sentence]:
        sentences = []
        if self.encounter.red_flag:
            flag = self.speaker.flag(RED_FLAGS[self.encounter.red_flag])
            sentences.append(self._sentence("flag", f"flag:{self.encounter.red_flag}", flag=flag))
        if self.encounter.denied_flag and "flags" in self.parts:
            flag = self.speaker.flag(RED_FLAGS[self.encounter.denied_flag])
            sentences.append(self._sentence("no_flag", f"no_flag:{self.encounter.denied_flag}", flag=flag))
        return sentences

    def known(self, headed: str = "") -> list[Sentence]:
        if self.encounter.known and "known" in self.parts:
            return [self._sentence(f"known{headed}", "known", names=listed(self.known_names()))]
        if self.encounter.diagnosis_status == "nothing":
            return [self._sentence("no_known")]
        return []

    def family(self, headed: str = "") -> list[Sentence]:
        encounter = self.encounter
        if "family" not in self.parts and encounter.diagnosis_status != "family":
            return []
        if not encounter.show_relative and encounter.diagnosis_status != "family":
            return []
        who = encounter.relative.who
        name = self.speaker.name(encounter.relative.illness)
        return [self._sentence(f"family{headed}", "family", who=who, who_cap=capitalise(who), name=name)]

    def smoking(self) -> list[Sentence]:
        if not self.encounter.smoking or "smoking" not in self.parts:
            return []
        return [self._sentence(f"smoking_{self.encounter.smoking}", "smoking")]

    def _medicines(self, key: str, medications: tuple[Medication, ...]) -> list[Sentence]:
        if not medications or "medicines" not in self.parts:
            return []
        facts = tuple(f"medicine:{m.drug.name}" for m in medications)
        return [self._sentence(key, *facts, list=listed([self.medicine(m) for m in medications]))]

    def home(self, headed: str = "") -> list[Sentence]:
        encounter = self.encounter
        if "medicines" not in self.parts:
            return []
        if encounter.medicine_status == "nothing":
            return [self._sentence("home_nothing", "no_medicines")]
        if encounter.medicine_status == "negated" and encounter.stopped:
            return [
                self._sentence(
                    "home_negated", "no_medicines", f"stopped:{encounter.stopped.name}", name=encounter.stopped.name
                )
            ]
        if encounter.medicine_status == "family":
            drug, who = encounter.relative.drug, encounter.relative.who
            amount = f"{drug.regimens[0][0]} {drug.unit}"
            return [
                self._sentence(
                    "home_family",
                    f"relatives:{drug.name}",
                    who=who,
                    who_cap=capitalise(who),
                    name=drug.name,
                    amount=amount,
                )
            ]
        return [*self._medicines(f"home{headed}", encounter.home), *self.stopped()]

    def stopped(self) -> list[Sentence]:
        drug: Drug | None = self.encounter.stopped
        if drug is None or "stopped" not in self.parts:
            return []
        return [self._sentence("stopped", f"stopped:{drug.name}", name=drug.name)]

    def started(self) -> list[Sentence]:
        """What was given on the spot, and what goes on."""
        given = tuple(m for m in self.encounter.started if m.frequency == "once")
        going_on = tuple(m for m in self.encounter.started if m.frequency != "once")
        return [*self._medicines("given", given), *self._medicines("started", going_on)]

    def given_in_hospital(self) -> tuple[Medication, ...]:
        return tuple(m for m in self.encounter.started if m.drug.name in _HOSPITAL_ONLY)

    def taken_home(self) -> tuple[Medication, ...]:
        started = tuple(m for m in self.encounter.started if m.drug.name not in _HOSPITAL_ONLY)
        return started + self.encounter.home

    def hospital_medicines(self) -> list[Sentence]:
        return self._medicines("given", self.given_in_hospital())

    def discharge_medicines(self) -> list[Sentence]:
        if self.encounter.medicine_status != FOUND:
            return self.home()
        return [*self._medicines("discharge_medicines", self.taken_home()), *self.stopped()]

    def allergies(self, headed: str = "") -> list[Sentence]:
        encounter, speaker = self.encounter, self.speaker
        if "allergies" not in self.parts or encounter.allergy_status == "not_documented":
            return []
        if encounter.allergy_status == FOUND:
            names = tuple(f"allergy:{allergen.name}" for allergen, _ in encounter.allergens)
            items = [speaker.say("allergy", name=a.name, reaction=reaction) for a, reaction in encounter.allergens]
            return [self._sentence(f"allergies{headed}", *names, list=listed(items))]
        other = speaker.rng.choice(ALLERGENS[:6]).name
        who = encounter.relative.who
        key = f"allergy_{encounter.allergy_status}"
        fact = "relatives_allergy" if encounter.allergy_status == "family" else "no_allergies"
        return [self._sentence(key, fact, name=other, who=who, who_cap=capitalise(who))]

    def vitals(self) -> list[Sentence]:
        if self.encounter.vitals is None:
            return [self._sentence("no_vitals")] if self.speaker.rng.random() < 0.5 else []
        text = self.speaker.say("vitals", **dataclasses.asdict(self.encounter.vitals))
        return [self._sentence("arrival", "vitals", text=text) if self.hospital else Sentence(text, ("vitals",))]

    def exam(self, headed: str = "") -> list[Sentence]:
        if "exam" not in self.parts:
            return []
        return [self._sentence(f"exam{headed}", "exam", findings=listed(self.findings()))]

    def done(self) -> list[Sentence]:
        encounter = self.encounter
        if "procedures" not in self.parts:
            return []
        if encounter.procedure_status == "nothing":
            return [self._sentence("procedure_nothing", "no_procedures")]
        if encounter.procedure_status == "family":
            who = encounter.relative.who
            name = self.speaker.name(encounter.relative.test.names)
            return [
                self._sentence(
                    "procedure_family",
                    f"relatives_test:{encounter.relative.test.key}",
                    who=who,
                    who_cap=capitalise(who),
                    name=name,
                )
            ]
        return self._procedures("done", self.procedures_done(), "done_stay" if self.hospital else "done")

    def planned(self) -> list[Sentence]:
        return self._procedures("planned", self.procedures_planned()) if "procedures" in self.parts else []

    def procedures_done(self) -> tuple[Procedure, ...]:
        """In a note at the end of a stay, operations and the like have been done by then."""
        encounter = self.encounter
        return encounter.done + tuple(p for p in encounter.planned if self.hospital and p.key in _DONE_IN_HOSPITAL)

    def procedures_planned(self) -> tuple[Procedure, ...]:
        return tuple(p for p in self.encounter.planned if p not in self.procedures_done())

    def _procedures(self, kind: str, procedures: tuple[Procedure, ...], key: str = "") -> list[Sentence]:
        if not procedures:
            return []
        names = self.procedure_names(procedures)
        return [self._sentence(key or kind, *(f"{kind}:{p.key}" for p in procedures), list=listed(names))]

    def declined(self) -> list[Sentence]:
        test = self.encounter.declined
        if test is None or ("declined" not in self.parts and self.encounter.procedure_status != "negated"):
            return []
        return [self._sentence("declined", f"declined:{test.key}", name=self.speaker.name(test.names))]

    def conclusion(self) -> list[Sentence]:
        encounter = self.encounter
        if encounter.diagnosis_status == "not_documented":
            return []
        if encounter.diagnosis_status == FOUND:
            name = self.diagnosis()
            # Somebody treated at home for it has it already.
            key = "review" if encounter.condition.chronic and encounter.home and not self.hospital else "diagnosis"
            return [self._sentence(key, "diagnosis", name=name, name_cap=capitalise(name))]
        if not encounter.condition.complaint:
            return [self._sentence("well", "no_diagnosis")]
        complaint = encounter.condition.complaint
        return [self._sentence("open", "no_diagnosis", complaint=complaint, complaint_cap=capitalise(complaint))]

    def excluded(self) -> list[Sentence]:
        encounter = self.encounter
        if not encounter.excluded or encounter.diagnosis_status == "not_documented":
            return []
        if "excluded" not in self.parts and encounter.diagnosis_status != "negated":
            return []
        names = [self.speaker.name(c.names) for c in encounter.excluded]
        return [self._sentence("excluded", *(f"excluded:{c.key}" for c in encounter.excluded), names=listed(names))]

    def follow_up(self) -> list[Sentence]:
        if self.encounter.to_hospital and not self.hospital:
            return [self._sentence("disposition", "disposition")] if "disposition" in self.parts else []
        if "follow_up" not in self.parts:
            return []
        return self.next_visit()

    def next_visit(self) -> list[Sentence]:
        return [self._sentence("follow_up", "follow_up", duration=self.speaker.duration(self.encounter.follow_up_days))]
