"""How facts are put into words: two pools that share no pattern, one for train, one for validation.

What is shared is vocabulary, not wording: names of medicines, the canonical names of illnesses and tests, and the fixed
form of an answer. Everything else that a note is made of (sentence patterns, synonyms, abbreviations, headings, ways
to write vital signs and frequencies) belongs to one pool alone. tests/tasks/test_clinic.py holds the line.
"""

from __future__ import annotations

import random

from tasks.synthetic_clinic.patterns import PATTERNS

POOLS = ("train", "validation")

# section: (headings of train, headings of validation)
HEADINGS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "subjective": (("Subjective", "S"), ("Patient reports", "What was told")),
    "objective": (("Objective", "O"), ("We observed", "What was found")),
    "assessment": (("Assessment", "A"), ("Our view", "What we think")),
    "plan": (("Plan", "P"), ("Next steps", "What comes next")),
    "complaint": (("Chief complaint", "HPI", "CC/HPI"), ("Reason for visit", "Present problem")),
    "past": (("Past medical history", "PMHx"), ("Earlier illnesses", "Background")),
    "medicines": (("Medications", "Meds"), ("Medicines in use", "Drug list")),
    "allergies": (("Allergies", "Allergy"), ("Reactions", "Hypersensitivity")),
    "family": (("Family/social history", "FHx/SHx", "FH/SH"), ("Relatives and habits", "Family and tobacco")),
    "exam": (("Physical exam", "PE", "Examination"), ("Bodily findings", "At the bedside")),
    "results": (("Results", "Workup", "Data"), ("Investigations", "Tests and interventions")),
    "admission": (("Reason for admission", "Admission"), ("Why admitted", "Entry to hospital")),
    "course": (("Hospital course", "Course"), ("During the stay", "On the ward")),
    "discharge": (("Discharge diagnosis", "Dx at discharge"), ("Final diagnosis", "Conclusion at leaving")),
    "discharge_plan": (("Discharge plan", "Disposition"), ("After leaving", "For home")),
    "procedure": (("Procedure", "Operation"), ("What was carried out", "Intervention")),
    "details": (("Description", "Details"), ("Account", "Report")),
    "message": (("Message", "Notice"), ("From the office", "To all")),
}

# How a section heading and its text are set, one list per pool.
HEADING_STYLES = (
    ("{heading}: {text}", "{HEADING}: {text}", "{heading}\n{text}"),
    ("[{heading}] {text}", "# {heading}\n{text}"),
)

FREQUENCIES: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "qd": (("once daily", "daily", "qd"), ("every day", "once a day")),
    "bid": (("twice daily", "BID"), ("two times a day", "every 12 hours")),
    "tid": (("three times daily", "TID"), ("three times a day", "every 8 hours")),
    "qid": (("four times daily", "QID"), ("four times a day", "every 6 hours")),
    "qhs": (("at bedtime", "nightly"), ("every night", "each evening")),
    "weekly": (("once weekly", "weekly"), ("once a week", "every seven days")),
    "prn": (("as needed", "PRN"), ("when needed", "only if needed")),
    "once": (("once", "x1"), ("as a single dose", "one time only")),
}
LAY_FREQUENCIES = {
    "qd": "once a day",
    "bid": "twice a day",
    "tid": "three times a day",
    "qid": "four times a day",
    "qhs": "at bedtime",
    "weekly": "once a week",
    "prn": "when needed",
    "once": "as one single dose",
}

NOUNS = {"F": (("woman", "female"), ("lady",)), "M": (("man", "male"), ("gentleman",))}
LETTERS = {"F": "F", "M": "M"}
WORDS = {"F": "female", "M": "male"}

# One rule, worded once per pool; tests parse its numbers and compare them with `encounter.urgency_by_rule`.
URGENCY_RULES = (
    (
        "emergent = any red flag, or systolic BP < 90, HR > 130, RR >= 30 or SpO2 < 90%. "
        "urgent = otherwise T >= 38.5 C, HR > 110, RR > 22, SpO2 < 94% or systolic BP >= 180. routine = otherwise. "
        "not documented = no vital signs and no red flag. Red flags: {flags}. Denied flags do not count.",
    ),
    (
        "Any red flag, or systolic BP < 90, HR > 130, RR >= 30, SpO2 < 90%: emergent. "
        "Else T >= 38.5 C, HR > 110, RR > 22, SpO2 < 94%, systolic BP >= 180: urgent. Else: routine. "
        "Without vital signs and red flags: not documented. What is denied is no flag. Red flags are {flags}.",
    ),
)

_DURATIONS = ((("{n} days", "{n} d"), ("{word} days",)), (("{n} weeks", "{n} wks"), ("{word} weeks",)))
_NUMBER_WORDS = {2: "two", 3: "three", 4: "four", 5: "five", 6: "six", 7: "seven", 12: "twelve"}
_ONE_DAY = (("1 day", "24 hours"), ("one day", "a day"))


class Speaker:
    """Chooses words for one item from one pool, always the same for the same thing.

    Attributes: `used` collects (key, pattern) of every choice made, for the tests of disjoint wordings.
    """

    def __init__(self, pool: str, rng: random.Random) -> None:
        self.pool = pool
        self.rng = rng
        self.used: set[tuple[str, str]] = set()
        self._side = POOLS.index(pool)
        self._chosen: dict[str, str] = {}

    def choose(self, key: str, options: tuple[tuple[str, ...], tuple[str, ...]]) -> str:
        pattern = self.rng.choice(options[self._side])
        self.used.add((key, pattern))
        return pattern

    def say(self, key: str, **fields: object) -> str:
        """`say("started", list="x")` -> "Start x." Sentences begin with a capital whatever fills them."""
        text = self.choose(key, PATTERNS[key]).format(**fields)
        return capitalise(text) if text.endswith((".", "?")) else text

    def pair(self, text: str) -> str:
        """ "wheeze|whistling breath" -> the wording of this pool."""
        wording = text.split("|")[self._side]
        self.used.add(("pair", wording))
        return wording

    def flag(self, text: str) -> str:
        """ "canonical|train|validation" of a red flag -> this pool's wording."""
        wording = text.split("|")[1 + self._side]
        self.used.add(("flag", wording))
        return wording

    def name(self, names: str) -> str:
        """ "canonical|train|validation" -> the canonical name in three of five notes, else this pool's own."""
        if names not in self._chosen:
            canonical, *own = names.split("|")
            self._chosen[names] = canonical if self.rng.random() < 0.6 else own[self._side]
            if self._chosen[names] != canonical:
                self.used.add(("name", self._chosen[names]))
        return self._chosen[names]

    def frequency(self, code: str) -> str:
        key = f"frequency/{code}"
        if key not in self._chosen:
            self._chosen[key] = self.choose(key, FREQUENCIES[code])
        return self._chosen[key]

    def duration(self, days: int) -> str:
        """14 -> "2 weeks" or so; below two weeks in days."""
        key = f"duration/{days}"
        if key not in self._chosen:
            if days == 1:
                self._chosen[key] = self.choose("one day", _ONE_DAY)
            else:
                weeks, rest = divmod(days, 7)
                in_weeks = rest == 0 and days >= 14
                pattern = self.choose("duration", _DURATIONS[1 if in_weeks else 0])
                n = weeks if in_weeks else days
                self._chosen[key] = pattern.format(n=n, word=_NUMBER_WORDS[n])
        return self._chosen[key]

    def heading_style(self) -> str:
        return self.choose("heading_style", HEADING_STYLES)

    def heading(self, section: str) -> str:
        return self.choose(f"heading/{section}", HEADINGS[section])


def capitalise(text: str) -> str:
    """First letter up, the rest untouched."""
    return text[:1].upper() + text[1:]


def listed(items: list[str]) -> str:
    """["a", "b", "c"] -> "a, b and c"; with "; " where an item has parts itself."""
    if any(mark in item for item in items for mark in (",", ":", " - ", " on contact")):
        return "; ".join(items)
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} and {items[-1]}"
