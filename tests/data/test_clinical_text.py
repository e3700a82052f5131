"""Numbers, doses, frequencies, negation, sections and the Flesch-Kincaid grade, on texts worked by hand."""

from __future__ import annotations

import pytest

from itune.data.clinical_text import (
    doses,
    frequency,
    grade,
    headers,
    in_digits,
    negations,
    numbers,
    readings,
    sections,
    syllables,
)
from itune.data.drug_names import drugs
from itune.data.intervals import interval, summarise


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1. BP 130/82, T 38.50", ["130", "82", "38.5"]),
        ("a 22-year-old, 1,250 steps, .5 mL", ["22", "1250", "0.5"]),
        ("B12 and COVID", []),
        ("2) three", []),
        ("1.  Anxiety. 2.  Anemia: 3. Pain, BP was 40. The rest", ["40"]),
    ],
)
def test_numbers(text: str, found: list[str]) -> None:
    assert numbers(text) == found


@pytest.mark.parametrize(
    ("text", "digits"),
    [
        ("twenty-two", "22"),
        ("Twenty two years, forty", "22 years, 40"),
        ("one hundred and five mg", "105 mg"),
        ("two hundred", "200"),
        ("two thousand nine, the fifteenth", "2009, the 15"),
        ("sixteen or six", "16 or 6"),
        ("someone often", "someone often"),
    ],
)
def test_in_digits(text: str, digits: str) -> None:
    assert in_digits(text) == digits


def test_readings() -> None:
    assert readings("four M G, one twenty two") == "four M G, one twenty two\n4 MG, 1 22\n4 MG, 122"
    assert "1961" in numbers(readings("in nineteen sixty one"))


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("lasix 20 milligrams, 0.50 mcg", [("20", "mg"), ("0.5", "mcg")]),
        ("160/800 mg and 2 puffs", [("160/800", "mg"), ("2", "puff")]),
        ("hemoglobin 9.8 g/dL, sodium 140", []),
        ("1,000 units; 5mg", [("1000", "unit"), ("5", "mg")]),
        ("5 mgs of it, 3 grapes", []),
    ],
)
def test_doses(text: str, found: list[tuple[str, str]]) -> None:
    assert doses(text) == found


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("B.I.D.", "twice daily"),
        ("two times a day", "twice daily"),
        ("Once a day", "daily"),
        ("every 8 hours", "3 times daily"),
        ("only if needed", "as needed"),
        ("at bedtime", "at bedtime"),
        ("one time only", "once"),
        ("on Mondays", "on mondays"),
    ],
)
def test_frequency(text: str, name: str) -> None:
    assert frequency(text) == name


def test_drugs() -> None:
    assert drugs("Tylenol, LASIX 20, z pak; paracetamol") == {"acetaminophen", "furosemide", "azithromycin"}
    assert drugs("amoxicillin-clavulanate") == {"amoxicillin-clavulanate"}
    assert drugs("a nasal spray, casa") == set()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("Denies fever or cough, but reports nausea.", {"fever": True, "cough": True, "nausea": False}),
        ("Denies fever, reports nausea", {"fever": True, "nausea": False}),
        ("Fever. No rash", {"fever": False, "rash": True}),
        ("Pneumonia was ruled out; edema", {"pneumonia": True, "edema": False}),
        ("Nausea and no nausea", {}),
        ("no fever; fever later", {}),
        ("feverish", {}),
    ],
)
def test_negations(text: str, found: dict[str, bool]) -> None:
    assert negations(text) == found


def test_headers_and_sections() -> None:
    note = "CHIEF COMPLAINT\n\nCough.\n\nASSESSMENT AND PLAN:\nRest. BP: fine"
    assert headers(note) == ["chief complaint", "assessment and plan"]
    assert sections(note, headers(note)) == {"chief complaint": "Cough.", "assessment and plan": "Rest. BP: fine"}
    assert headers("S: a\nO: b") == ["s", "o"]
    assert sections("S: a\nmore\nO:", ["s", "o"]) == {"s": "a\nmore", "o": ""}
    assert sections("Subjective: a", ["s"]) == {} == sections("x", [])


@pytest.mark.parametrize(
    ("word", "count"),
    [
        ("cat", 1),
        ("take", 1),
        ("table", 2),
        ("whole", 1),
        ("asked", 1),
        ("wanted", 2),
        ("medicine", 3),
        ("the", 1),
        ("hypertension", 4),
        ("patient's", 2),
        ("rhythm", 1),
    ],
)
def test_syllables(word: str, count: int) -> None:
    assert syllables(word) == count


@pytest.mark.parametrize(
    ("text", "words", "sentences", "syllables_"),
    [
        ("The cat sat on the mat.", 6, 1, 6),
        # take (1) this (1) medicine (3) once (1) daily (2) | it (1) lowers (2) blood (1) pressure (2)
        ("Take this medicine once daily. It lowers blood pressure.", 9, 2, 14),
        (
            "Temperature 38.5 C\nwas high",
            4,
            2,
            7,
        ),  # tem-per-a-ture, C, was, high; a line ends a sentence; 38.5 does not
    ],
)
def test_grade_is_the_published_formula(text: str, words: int, sentences: int, syllables_: int) -> None:
    assert grade(text) == pytest.approx(0.39 * words / sentences + 11.8 * syllables_ / words - 15.59)


def test_grade_of_nothing() -> None:
    assert grade("") is grade(" 12. ") is None


def test_intervals() -> None:
    # Two-sided 95 %: 0 of 10 has the exact upper end 1 - 0.025^(1/10).
    assert interval([(0, 1)] * 10) == (0.0, pytest.approx(0.30850, abs=1e-5))
    assert interval([(1, 1)] * 10) == (pytest.approx(0.69150, abs=1e-5), 1.0)
    low, high = interval([(1, 1)] * 30 + [(0, 1)] * 70)
    # The normal approximation gives 0.21 to 0.39.
    assert 0.20 <= low <= 0.23 and 0.37 <= high <= 0.40
    assert interval([(1, 1)] * 30 + [(0, 1)] * 70) == (low, high)
    assert interval([(8.0, 1), (8.0, 1)], shares=False) == (8.0, 8.0)


def test_an_interval_is_over_examples_not_over_what_is_counted() -> None:
    """Ten numbers in one example are one piece of evidence."""
    assert interval([(0, 100)]) == (0.0, pytest.approx(0.975))
    low, high = interval([(10, 10), (0, 10)])
    assert (low, high) == (0.0, 1.0)


def test_summaries() -> None:
    found = summarise([{"x": (1, 2), "y": (0, 0)}, {"x": (2, 2)}])
    assert found["x"] == 75.0 and found["x/of"] == 4.0 and found["x/low"] == 50.0 and found["x/high"] == 100.0
    assert "y" not in found
    assert summarise([{"g": (8.5, 1)}], scale=1.0)["g"] == 8.5
