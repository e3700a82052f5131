"""The functions of tasks/library/derived.py: a row of an owner's, odd ones too, and what comes of it."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any

import pytest

from tasks.library import derived

Fields = dict[str, Any] | None
FIVE = ["A)5", "B)6", "C) 7"]


def aqua(rationale: str, correct: str = "A", options: list[str] = FIVE) -> dict[str, Any]:
    return {"options": options, "rationale": rationale, "correct": correct}


def spans(*found: str, types: str = "span") -> dict[str, Any]:
    return {"answers_spans": {"spans": list(found), "types": [types] * len(found)}}


def story(questions: list[str], answers: list[str]) -> dict[str, Any]:
    return {"questions": questions, "answers": {"input_text": answers}}


def pair(one: str, other: str = "Yes.") -> dict[str, str]:
    return {"sentence1": one, "sentence2": other}


def pronoun(text: str, word: str, index: int) -> dict[str, Any]:
    return {"text": text, "span2_text": word, "span2_index": index}


def choices(reasoning: str) -> Fields:
    return {"choices": ["5", "6", "7"], "reasoning": reasoning}


CASES: list[tuple[str, dict[str, Any], Fields]] = [
    (
        "cnn_dailymail",
        {"highlights": "A man ran .\nHe won !\n\n It rained."},
        {"points": "A man ran.\nHe won !\nIt rained."},
    ),
    ("cnn_dailymail", {"highlights": " \n"}, None),
    (
        "gsm8k",
        {"answer": "He has 2*3=<<2*3=6>>6 apples.\n#### 1,200"},
        {"rationale": "He has 2*3=6 apples.", "final": "1200"},
    ),
    ("gsm8k", {"answer": "Less.\n#### -3"}, {"rationale": "Less.", "final": "-3"}),
    ("gsm8k", {"answer": "no mark"}, None),
    ("gsm8k", {"answer": "#### 6"}, None),
    ("gsm8k", {"answer": "It is 6.\n#### "}, None),
    ("gsm8k", {"answer": "<<1=1>>\n#### 1"}, None),
    ("aqua_rat", aqua("2+3=5. So the answer is A."), choices("2+3=5.")),
    ("aqua_rat", aqua("2+3=5\nAnswer:A"), choices("2+3=5")),
    ("aqua_rat", aqua("2+3=5. Option A is correct."), choices("2+3=5.")),
    ("aqua_rat", aqua("The answer is 5"), choices("The answer is 5")),
    ("aqua_rat", aqua("A + B = 5"), choices("A + B = 5")),
    ("aqua_rat", aqua("Hence, the correct option is (A)."), None),
    ("aqua_rat", aqua(" "), None),
    ("aqua_rat", aqua("So.", correct="D"), None),
    ("aqua_rat", aqua("So.", options=["A)5", "B) "]), None),
    (
        "aqua_rat",
        aqua("So.", options=["A)E. coli", "B)a: c", "C)7"]),
        {"choices": ["E. coli", "a: c", "7"], "reasoning": "So."},
    ),
    (
        "coqa",
        story(["Who?", "Where  is\nit?"], ["Bob", " at home"]),
        {"numbered_questions": "1. Who?\n2. Where is it?", "numbered_answers": "1. Bob\n2. at home"},
    ),
    ("coqa", story([], []), None),
    ("coqa", story(["Who?"], []), None),
    ("coqa", story(["Who?", "Why?"], ["Bob", " "]), None),
    (
        "qrecc",
        {"Context": ["Hi?", "Ho."], "Question": "Why?", "Answer": "So."},
        {"exchange": ["Hi?", "Ho.", "Why?", "So."]},
    ),
    ("qrecc", {"Context": [], "Question": "Why?", "Answer": "So."}, {"exchange": ["Why?", "So."]}),
    ("qrecc", {"Context": [], "Question": "Why?", "Answer": " "}, None),
    ("qrecc", {"Context": ["", "Ho."], "Question": "Why?", "Answer": "So."}, None),
    (
        "daily_dialog",
        {"dialog": ["Say , Jim , how about 5 : 30 ? ", " ", "I don ’ t  know . It ' s late . I ' ll see !"]},
        {"utterances": ["Say, Jim, how about 5:30?", "I don’t know. It's late. I'll see!"]},
    ),
    ("daily_dialog", {"dialog": ["They said ' toys ' .", "50 % ."]}, {"utterances": ["They said ' toys '.", "50%."]}),
    ("daily_dialog", {"dialog": ["Hi .", " "]}, None),
    ("squad_v2", {"answers": {"text": ["Rome", "in Rome", " "]}}, {"replies": ["Rome", "in Rome"]}),
    ("squad_v2", {"answers": {"text": []}}, {"replies": ["unanswerable"]}),
    ("drop", spans("7", types="number"), {"replies": ["7"]}),
    ("drop", spans("3", "4", types="number"), {"replies": ["3", "4"]}),
    ("drop", spans("Bob", "Al", "al ", " "), {"replies": ["Al", "al", "Bob"]}),
    ("drop", spans("Bob", "Al"), None),
    ("drop", spans("Bob", "Al", "Bob", "Al"), None),
    ("drop", spans(), None),
    ("sst2", {"sentence": "a joy "}, {"words": "a joy"}),
    ("sst2", {"sentence": " "}, None),
    ("imdb", {"text": "Good.<br /><br />Bad. <BR>x < br"}, {"review": "Good.\nBad.\nx < br"}),
    ("imdb", {"text": "<br />"}, None),
    (
        "yelp_polarity",
        {"text": r'\""Great\"" he said\n\nOK ""fine"" \"so\"'},
        {"review": '"Great" he said\n\nOK "fine" "so"'},
    ),
    ("yelp_polarity", {"text": r"\n"}, None),
    ("sentiment140", {"text": "@a &quot;b&quot; &lt;3\n  &amp; c "}, {"tweet": '@a "b" <3 & c'}),
    ("sentiment140", {"text": " "}, None),
    ("mrpc", pair('He said , " It is n\'t " .'), pair('He said, "It isn\'t".')),
    ("mrpc", pair("The U.S. , at 5 : 30 p.m. ."), pair("The U.S., at 5:30 p.m.")),
    ("mrpc", pair("James ' s 3 dogs ( # 1 ) ate $ 5 ; 5 % ."), pair("James's 3 dogs (#1) ate $5; 5%.")),
    ("mrpc", pair("the players ' union waits . . . ."), pair("the players ' union waits...")),
    ("mrpc", pair('" Half a quote , 3 .5 of .NET'), pair('" Half a quote, 3 .5 of .NET')),
    ("mrpc", pair(" "), None),
    ("paws", pair("`` I do n't know , '' he said ."), pair('"I don\'t know," he said.')),
    ("paws", pair("A.", ""), None),
    ("stsb", {"label": 0.49}, {"score": "0"}),
    ("stsb", {"label": 2.5}, {"score": "3"}),
    ("stsb", {"label": 5.0}, {"score": "5"}),
    ("stsb", {"label": -1.0}, None),
    (
        "dpr",
        {"sentence": "Bees like them, for they hum. they do.", "pronoun": "they "},
        {"marked": "Bees like them, for *they* hum. they do."},
    ),
    ("dpr", {"sentence": "They ran.", "pronoun": "they"}, {"marked": "*They* ran."}),
    ("dpr", {"sentence": "He saw the theatre.", "pronoun": "her"}, None),
    ("dpr", {"sentence": "He saw, he won.", "pronoun": " "}, None),
    ("wsc", pronoun("He said he knew he won.", "he", 4), {"marked": "He said he knew *he* won."}),
    ("wsc", pronoun('Al told Bo, he lied, "he" ran', "he", 5), {"marked": 'Al told Bo, he lied, "*he*" ran'}),
    ("wsc", pronoun("She was his.", "His", 2), {"marked": "She was *his*."}),
    ("wsc", pronoun("He said.", "she", 0), None),
    (
        "web_nlg_en",
        {"input": ['Aarhus_Airport | cityServed | "Aarhus, Denmark"', 'A | b_c | 5"']},
        {"triples": 'Aarhus Airport | cityServed | Aarhus, Denmark\nA | b_c | 5"'},
    ),
    ("web_nlg_en", {"input": []}, None),
    ("web_nlg_en", {"input": ["A | b"]}, None),
    ("web_nlg_en", {"input": ['A | b | ""']}, None),
]


@pytest.mark.parametrize(("name", "row", "expected"), CASES, ids=[f"{case[0]}-{n}" for n, case in enumerate(CASES)])
def test_what_is_derived(name: str, row: dict[str, Any], expected: Fields) -> None:
    function: Callable[[dict[str, Any]], Fields] = getattr(derived, name)
    before = repr(row)
    assert function(row) == expected
    assert repr(row) == before


def test_every_function_has_a_case_with_fields_and_is_in_the_table() -> None:
    functions = {name for name, _ in inspect.getmembers(derived, inspect.isfunction) if not name.startswith("_")}
    assert {name for name, _, expected in CASES if expected} == functions
