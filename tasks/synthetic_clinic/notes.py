"""The forms of a note: which sentences stand under which heading, or in free dictation."""

from __future__ import annotations

from tasks.synthetic_clinic.procedures import OPERATIONS
from tasks.synthetic_clinic.sentences import ALL_PARTS, Note, Sentence, SentenceWriter
from tasks.synthetic_clinic.wording import NOUNS, WORDS, capitalise, listed

__all__ = ["ALL_PARTS", "Note", "NoteWriter", "Sentence"]


class NoteWriter(SentenceWriter):
    """One encounter as a SOAP note, history and physical, dictation and so on; each call words it anew."""

    def soap(self) -> Note:
        return self._headed(
            [
                (
                    "subjective",
                    [
                        *self.who(),
                        *self.flags(),
                        *self.known(),
                        *self.home(),
                        *self.allergies(),
                        *self.family(),
                        *self.smoking(),
                    ],
                ),
                ("objective", [*self.vitals(), *self.exam(), *self.done()]),
                ("assessment", [*self.conclusion(), *self.excluded()]),
                ("plan", [*self.started(), *self.planned(), *self.declined(), *self.follow_up()]),
            ]
        )

    def history_and_physical(self) -> Note:
        sections = [
            ("past", self.known("_headed")),
            ("medicines", self.home("_headed")),
            ("allergies", self.allergies("_headed")),
            ("family", [*self.family("_headed"), *self.smoking()]),
        ]
        self.speaker.rng.shuffle(sections)
        return self._headed(
            [
                ("complaint", [*self.who(), *self.flags()]),
                *sections,
                ("exam", [*self.vitals(), *self.exam("_headed")]),
                ("results", [*self.done(), *self.declined()]),
                ("assessment", [*self.conclusion(), *self.excluded()]),
                ("plan", [*self.started(), *self.planned(), *self.follow_up()]),
            ]
        )

    def discharge(self) -> Note:
        self.hospital = True
        return self._headed(
            [
                ("admission", [*self.admitted(), *self.flags(), *self.known()]),
                (
                    "course",
                    [
                        *self.exam(),
                        *self.done(),
                        *self.hospital_medicines(),
                        *self.excluded(),
                        self._sentence("course"),
                    ],
                ),
                ("discharge", self.conclusion()),
                ("medicines", self.discharge_medicines()),
                ("allergies", self.allergies("_headed")),
                ("family", self.family("_headed")),
                ("discharge_plan", [self._sentence("going_home"), *self.planned(), *self.follow_up()]),
            ]
        )

    def admitted(self) -> list[Sentence]:
        encounter = self.encounter
        return [
            self._sentence(
                "admitted",
                "age",
                days=encounter.stay_days,
                age=encounter.age,
                word=WORDS[encounter.sex],
                noun=self.speaker.choose("noun", NOUNS[encounter.sex]),
                symptoms=listed(self.symptoms()),
            )
        ]

    def story(self) -> Note:
        """Dictation without headings: background in any order."""
        middle = [
            self.known(),
            self.home(),
            self.allergies(),
            self.family(),
            self.smoking(),
            self.vitals(),
            self.exam(),
            self.done(),
        ]
        self.speaker.rng.shuffle(middle)
        end = [self.excluded(), self.started(), self.planned(), self.declined(), self.follow_up()]
        sentences = [
            *self.who(),
            *self.flags(),
            *(s for part in middle for s in part),
            *self.conclusion(),
            *(s for part in end for s in part),
        ]
        return self._note(" ".join(s.text for s in sentences), sentences)

    def hospital_story(self) -> Note:
        """What a ward doctor dictates at the end of a stay."""
        self.hospital = True
        middle = [self.known(), self.allergies(), self.family(), self.exam(), self.done(), self.vitals()]
        self.speaker.rng.shuffle(middle)
        end = [
            self.excluded(),
            self.hospital_medicines(),
            [self._sentence("course")],
            self.discharge_medicines(),
            [self._sentence("going_home")],
            self.planned(),
            self.follow_up(),
        ]
        sentences = [
            *self.admitted(),
            *self.flags(),
            *(s for part in middle for s in part),
            *self.conclusion(),
            *(s for part in end for s in part),
        ]
        return self._note(" ".join(s.text for s in sentences), sentences)

    def verdict(self) -> Note:
        """Only what a patient is to be told: conclusion, medicines, next steps."""
        conclusion = [*self.conclusion(), *self.excluded(), *self.family()]
        plan = [*self.home(), *self.started(), *self.planned(), *self.follow_up()]
        if self.speaker.rng.random() < 0.5:
            return self._headed([("assessment", conclusion), ("plan", plan)])
        sentences = [*conclusion, *plan]
        return self._note(" ".join(s.text for s in sentences), sentences)

    def procedure_note(self) -> Note:
        """A small operation on this patient; it has nothing to do with the rest of the encounter."""
        speaker = self.speaker
        operation = speaker.rng.choice(OPERATIONS)
        say = self._sentence
        return self._headed(
            [
                (
                    "procedure",
                    [
                        Sentence(f"{capitalise(speaker.name(operation.names))}."),
                        say("indication", text=speaker.pair(operation.indication)),
                    ],
                ),
                ("details", [say("consent"), say("steps", text=speaker.pair(operation.steps))]),
                ("results", [say("operation_finding", text=speaker.pair(operation.finding)), say("complications")]),
                ("allergies", self.allergies("_headed")),
                ("plan", self.next_visit()),
            ]
        )

    def office_message(self) -> Note:
        """No clinical document at all."""
        rng = self.speaker.rng
        day = rng.choice(("Monday", "Tuesday", "Wednesday", "Thursday", "Friday"))
        hour = rng.randint(8, 17)
        sentences = [self._sentence("office", day=day, hour=hour), self._sentence("office_close")]
        return (
            self._headed([("message", sentences)])
            if rng.random() < 0.5
            else self._note(" ".join(s.text for s in sentences), sentences)
        )

    def _headed(self, sections: list[tuple[str, list[Sentence]]]) -> Note:
        style = self.speaker.heading_style()
        texts, sentences = [], []
        for section, content in sections:
            if content:
                heading = self.speaker.heading(section)
                text = " ".join(sentence.text for sentence in content)
                texts.append(style.format(heading=heading, HEADING=heading.upper(), text=text))
                sentences.extend(content)
        return self._note("\n".join(texts), sentences)

    def _note(self, body: str, sentences: list[Sentence]) -> Note:
        header = self.speaker.say("header", initials=self.encounter.initials)
        return Note(f"{header}\n{body}", tuple(sentences))
