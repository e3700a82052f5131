"""What metrics look for in clinical text: numbers, doses, frequencies, negated findings, sections, reading ease.

Plain patterns, no model: quick, the same everywhere, and blind to what they do not list.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

# Numbers and doses

_ONES = "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen"
_ONES += " seventeen eighteen nineteen"
_WORDS = {word: value for value, word in enumerate(_ONES.split())}
_TENS_WORDS = "twenty thirty forty fifty sixty seventy eighty ninety"
_TENS = {word: 10 * value for value, word in enumerate(_TENS_WORDS.split(), 2)}
_ORDINALS = "first second third fourth fifth sixth seventh eighth ninth tenth eleventh twelfth thirteenth fourteenth"
_ORDINALS += " fifteenth sixteenth seventeenth eighteenth nineteenth twentieth"
_WORDS |= {word: value for value, word in enumerate(_ORDINALS.split(), 1)}
_ONE_TO_NINE = "|".join(word for word, value in _WORDS.items() if 0 < value < 10)
_SPELT = re.compile(rf"\b(?:({'|'.join(_TENS)})(?:[ -]({_ONE_TO_NINE}))?|({'|'.join(_WORDS)}))\b", re.IGNORECASE)
_ROUND = re.compile(r"\b(\d) (hundred|thousand)(?:(?: and)? (\d{1,2}))?\b", re.IGNORECASE)
_IN_PARTS = re.compile(r"\b(\d{1,2}) (\d\d)\b")  # nineteen sixty one, one twenty two
_LETTERS_OF_A_UNIT = re.compile(r"\b(m) (?:(c) )?(g|l)\b", re.IGNORECASE)
_NUMBER = re.compile(r"(?<![A-Za-z\d.])(?:\d+(?:,\d{3})*(?:\.\d+)?|\.\d+)")
_LIST_MARK = re.compile(r"(?:^[ \t]*|(?<=[.:;!?])\s+)\d{1,2}[.)]\s+", re.MULTILINE)

_UNITS = {
    "mcg": ("mcg", "ug", "µg", "μg", "microgram", "micrograms"),
    "mg": ("mg", "milligram", "milligrams"),
    "g": ("g", "gm", "gram", "grams"),
    "ml": ("ml", "cc", "milliliter", "milliliters", "millilitre", "millilitres"),
    "unit": ("unit", "units", "iu", "u"),
    "meq": ("meq",),
    "puff": ("puff", "puffs"),
    "tablet": ("tablet", "tablets", "tab", "tabs", "pill", "pills"),
    "capsule": ("capsule", "capsules"),
    "drop": ("drop", "drops"),
}
_UNIT_OF = {name: unit for unit, names in _UNITS.items() for name in names}
# Not a concentration in blood ("9.8 g/dL"): a dose has no such denominator.
_DOSE = re.compile(
    r"(?<![A-Za-z\d.])((?:\d[\d,]*)?\.?\d+(?:/\d+)?)[ -]?"
    rf"({'|'.join(sorted(_UNIT_OF, key=len, reverse=True))})\b(?!/(?:d|m)?L)",
    re.IGNORECASE,
)

_FREQUENCIES = {
    "daily": r"(once )?(daily|a day|every day|each day|per day)|qd|q24h|every (24 hours|morning)",
    "twice daily": r"(twice|two times|2 times) (daily|a day|per day)|bid|q12h|every 12 hours",
    "3 times daily": r"(three|3) times (daily|a day|per day)|tid|q8h|every 8 hours",
    "4 times daily": r"(four|4) times (daily|a day|per day)|qid|q6h|every 6 hours",
    "at bedtime": r"(at )?bedtime|nightly|every (night|evening)|each (night|evening)|qhs",
    "weekly": r"(once )?(weekly|a week|every week)|every (seven|7) days",
    "as needed": r"(only )?(as|when|if) needed|prn",
    "once": r"once|x1|(as )?(a|one) single dose|one time( only)?",
}
_FREQUENCY = {name: re.compile(pattern) for name, pattern in _FREQUENCIES.items()}


def in_digits(text: str) -> str:
    """ "twenty-two, one hundred and five, the tenth" -> "22, 105, the 10"."""

    def digits(match: re.Match[str]) -> str:
        tens, one, alone = (part and part.lower() for part in match.groups())
        return str(_TENS[tens] + (_WORDS[one] if one else 0) if tens else _WORDS[alone])

    with_digits = _SPELT.sub(digits, text)
    size = {"hundred": 100, "thousand": 1000}
    return _ROUND.sub(lambda m: str(int(m[1]) * size[m[2].lower()] + int(m[3] or 0)), with_digits)


def readings(text: str) -> str:
    """The text, and once more for each other way to read its numbers: generous, for what a text is to support.

    "four m g, one twenty two" -> "four m g, one twenty two", "4 mg, 1 22", "4 mg, 122", a line each.
    """
    digits = _LETTERS_OF_A_UNIT.sub(lambda m: "".join(part or "" for part in m.groups()), in_digits(text))
    return "\n".join((text, digits, _IN_PARTS.sub(r"\1\2", digits)))


def _plain(number: str) -> str:
    """ "1,250.0" -> "1250"; ".5" -> "0.5"."""
    whole, _, part = number.replace(",", "").partition(".")
    part = part.rstrip("0")
    return f"{whole.lstrip('0') or '0'}{'.' + part if part else ''}"


def numbers(text: str) -> list[str]:
    """ "1. BP 130/82, T 38.50" -> ["130", "82", "38.5"]: those in digits, but for the marks of numbered lists
    (at the start of a line or after a sentence).

    Digits within a word ("B12") are no number.
    """
    return [_plain(found) for found in _NUMBER.findall(_LIST_MARK.sub("", text))]


def doses(text: str) -> list[tuple[str, str]]:
    """ "lasix 20 milligrams, 0.5 mcg" -> [("20", "mg"), ("0.5", "mcg")]."""
    found = _DOSE.findall(_LIST_MARK.sub("", text))
    return [("/".join(map(_plain, number.split("/"))), _UNIT_OF[unit.lower()]) for number, unit in found]


def dose(text: str) -> str:
    """One dose as text, units by one name: "20 Milligrams" -> "20 mg"; other text as it is, tidied."""
    found = doses(text)
    return " ".join(found[0]) if len(found) == 1 else tidy(text)


def frequency(text: str) -> str:
    """ "B.I.D." and "two times a day" -> "twice daily"; other text as it is, tidied."""
    said = tidy(text).replace("b.i.d.", "bid").replace("t.i.d.", "tid").replace("p.r.n.", "prn").strip(".")
    return next((name for name, pattern in _FREQUENCY.items() if pattern.fullmatch(said)), said)


def tidy(text: str) -> str:
    return " ".join(text.split()).casefold()


# Negated findings

_FINDINGS = """
abdominal pain|allergies|anemia|anxiety|appetite|arrhythmia|asthma|back pain|bleeding|blood in the stool|blurry vision|
bruising|cancer|chest pain|chills|clubbing|confusion|congestion|constipation|cough|cyanosis|dehydration|depression|
diabetes|diarrhea|discharge|dizziness|double vision|dyspnea|dysuria|ear pain|edema|embolism|erythema|fatigue|fever|
fevers|fracture|headache|headaches|heart attack|heart disease|heartburn|hematuria|hemoptysis|high blood pressure|
hypertension|infection|insomnia|itching|jaundice|joint pain|lightheadedness|lymphadenopathy|mass|murmur|murmurs|nausea|
neck pain|numbness|palpitations|pneumonia|rales|rash|rashes|redness|rhonchi|seizure|seizures|shortness of breath|
sore throat|stroke|suicidal ideation|sweating|swelling|syncope|tenderness|tingling|vomiting|weakness|weight gain|
weight loss|wheezing|wheezes
"""
_FINDING = re.compile(rf"\b(?:{''.join(_FINDINGS.split(chr(10)))})\b", re.IGNORECASE)
_CLAUSE = re.compile(
    r"[.;!?\n]+|\b(?=(?:but|however|except|although|though|reports|endorses|complains|admits|positive for)\b)",
    re.IGNORECASE,
)
_BEFORE = re.compile(
    r"\b(?:no|not|denies|denied|deny|denying|without|negative for|never|absence of|free of)\b", re.IGNORECASE
)
_AFTER = re.compile(r"\b(?:ruled out|absent|(?:is|are|was|were) negative|not (?:present|seen|found))\b", re.IGNORECASE)


def negations(text: str) -> dict[str, bool]:
    """ "Denies fever or cough, but reports nausea." -> {"fever": True, "cough": True, "nausea": False}.

    A listed finding is negated if its clause has a cue before it ("no", "denies") or after it ("ruled out"), as NegEx
    has it (Chapman et al. 2001) in short. One that the text has both ways is left out.
    """
    found: dict[str, set[bool]] = {}
    for clause in _CLAUSE.split(text):
        for match in _FINDING.finditer(clause):
            negated = bool(_BEFORE.search(clause, 0, match.start()) or _AFTER.search(clause, match.end()))
            found.setdefault(tidy(match[0]), set()).add(negated)
    return {finding: min(ways) for finding, ways in found.items() if len(ways) == 1}


# Sections

_CAPITALS = re.compile(r"^[ \t#*]*([A-Z][A-Z /&]+)[*]*:?[ \t*]*$", re.MULTILINE)
_LABEL = re.compile(r"^[ \t#*]*([A-Z][A-Za-z /&]{0,30})[*]*:", re.MULTILINE)


def headers(text: str) -> list[str]:
    """Of the lines in capitals ("CHIEF COMPLAINT"); if there are none, of "Label:" at the start of lines. Tidied."""
    found = _CAPITALS.findall(text) or _LABEL.findall(text)
    return list(dict.fromkeys(tidy(header) for header in found))


def sections(text: str, names: list[str]) -> dict[str, str]:
    """{header: text up to the next of `names`} for those that start a line; case and markdown marks aside."""
    if not names:
        return {}
    any_of = "|".join(re.escape(name).replace(r"\ ", r"\s+") for name in sorted(names, key=len, reverse=True))
    heading = re.compile(rf"^[ \t#*]*({any_of})[ \t*]*(?::[ \t*]*|$)", re.MULTILINE | re.IGNORECASE)
    places = list(heading.finditer(text))
    ends = [place.start() for place in places] + [len(text)]
    found: dict[str, str] = {}
    for place, end in zip(places, ends[1:], strict=True):
        found.setdefault(tidy(place[1]), text[place.end() : end].strip())
    return found


# Reading ease

_LETTERS = re.compile(r"[A-Za-z]+(?:['’][A-Za-z]+)*")
_SENTENCE_END = re.compile(r"[.!?]+(?=\s|$)|\n+")


def syllables(word: str) -> int:
    """Groups of vowels, less a silent final e or ed: "table" 2, "take" 1, "wanted" 2, "asked" 1; at least 1."""
    word = re.sub(r"[^a-z]", "", word.lower())
    count = len(re.findall(r"[aeiouy]+", word))
    silent_e = re.search(r"[^aeiouy]e$", word) and not re.search(r"[^aeiouy]le$", word)
    if silent_e or re.search(r"[^aeiouytd]ed$", word):
        count -= 1
    return max(1, count)


def _sentences(text: str) -> Iterator[list[str]]:
    for sentence in _SENTENCE_END.split(text):
        if words := _LETTERS.findall(sentence):
            yield words


def grade(text: str) -> float | None:
    """Flesch-Kincaid grade: 0.39 words a sentence + 11.8 syllables a word - 15.59 (Kincaid et al. 1975); None if empty.

    Words have letters ("20" is none); a sentence ends with . ! ? before a blank, or with the line.
    """
    sentences_ = list(_sentences(text))
    words = [word for sentence in sentences_ for word in sentence]
    if not words:
        return None
    return 0.39 * len(words) / len(sentences_) + 11.8 * sum(map(syllables, words)) / len(words) - 15.59
