"""The synthetic clinic's targets: each says what its note says, and no more."""

from __future__ import annotations

import json
import re

import pytest

from tasks.synthetic_clinic.drugs import DRUGS
from tasks.synthetic_clinic.encounter import (
    FOUND,
    make_encounter,
)
from tasks.synthetic_clinic.patterns import PATTERNS
from tests.tasks.clinic_rows import (
    EXTRACT,
    KEYS,
    TASKS,
    each_row,
    medicines_in,
    number_of,
)


@pytest.mark.parametrize("task", EXTRACT)
def test_json_has_the_promised_keys_and_only_words_of_the_note(task):
    key = task.rsplit("/", 1)[1]
    for row in each_row(task):
        answer = json.loads(row["answer"])
        assert set(answer) == ({"status", key} if key == "allergies" else {key}), row["id"]
        assert bool(answer[key]) == (row["kind"] == FOUND), row["id"]
        for entry in answer[key]:
            values = {"": entry} if KEYS[task] is None else entry
            assert KEYS[task] is None or set(entry) == KEYS[task], row["id"]
            for name, value in values.items():
                assert name == "status" or value.lower() in row["note"].lower(), (row["id"], value)


def test_status_of_allergies_tells_none_from_not_documented():
    expected = {FOUND: "present", "nothing": "none known", "negated": "none known"}
    for row in each_row("clinic/extract/allergies"):
        assert json.loads(row["answer"])["status"] == expected.get(row["kind"], "not documented"), row["id"]


def test_no_denied_or_familial_illness_among_the_diagnoses():
    checked = 0
    for row in each_row("clinic/extract/diagnoses"):
        encounter = make_encounter(number_of(row))
        diagnoses = {name.lower() for name in json.loads(row["answer"])["diagnoses"]}
        others = [c.names for c in encounter.excluded] + [encounter.relative.illness]
        for name in (name.lower() for names in others for name in names.split("|")):
            checked += name in row["note"].lower()
            assert name not in diagnoses, row["id"]
    assert checked > 500


def test_an_open_complaint_is_not_put_as_a_diagnosis():
    for row in each_row("clinic/extract/diagnoses"):
        complaint = make_encounter(number_of(row)).condition.complaint
        if complaint:
            for key, side in ((key, side) for key in ("diagnosis", "review") for side in (0, 1)):
                for pattern in PATTERNS[key][side]:
                    said = pattern.format(name=complaint, name_cap=complaint.capitalize())
                    assert said.lower() not in row["note"].lower(), row["id"]


def test_stopped_and_relatives_medicines_are_no_medications():
    checked = 0
    for row in each_row("clinic/extract/medications"):
        names = {entry["name"] for entry in json.loads(row["answer"])["medications"]}
        assert names == {drug.name for drug in medicines_in(row["note"])}, row["id"]
        checked += sum(name in row["note"].lower() and name not in names for name in DRUGS)
    assert checked > 200  # distractors there are


def test_declined_and_relatives_tests_are_no_procedures():
    for row in each_row("clinic/extract/procedures"):
        names = {entry["name"].lower() for entry in json.loads(row["answer"])["procedures"]}
        for sentence in re.split(r"(?<=\.)\s", row["note"].lower()):
            if re.search(r"declined|refuses|did not agree|turned down|mother|father|sister|brother", sentence):
                assert not any(re.search(rf"\b{re.escape(name)}\b", sentence) for name in names), row["id"]


def test_answers_to_questions_stand_in_the_note():
    said = {"Yes.", "No.", "Done.", "Planned.", "No, the patient declined it.", "No conflict is recorded."}
    said |= {"No, never.", "Not any more.", "Not documented in the note."}
    for row in each_row("clinic/qa/answer"):
        answer = row["answer"]
        assert (answer == "Not documented in the note.") == (row["kind"] == "not_documented"), row["id"]
        relative = re.search(r"patient's (mother|father|sister|brother)\.$", answer)
        plain = relative[1] if relative else re.sub(r"^In (.*)\.$", r"\1", answer)
        assert answer in said or row["conflict"] == "yes" or plain.lower() in row["note"].lower(), row["id"]


def test_evidence_is_quoted_word_for_word():
    for row in each_row("clinic/qa/evidence"):
        answer, evidence = re.fullmatch(r"Answer: (.*)\nEvidence: (.*)", row["answer"]).groups()
        if row["kind"] == "not_documented":
            assert (answer, evidence) == ("Not documented in the note.", "none"), row["id"]
        else:
            assert evidence[1:-1] in row["note"] and evidence[0] == evidence[-1] == '"', row["id"]


# Words that belong to the form of a summary.
FRAME = """
s o a p t hr bp rr spo2 admitted diagnosis tests procedures medicines at discharge allergies next complaint history
family exam assessment plan year old man woman none known no not documented illness found cause unknown ruled out
review in hospital now vital signs with for and
"""


@pytest.mark.parametrize("task", [task for task in TASKS if task.startswith("clinic/summary/")])
def test_summaries_state_only_facts_of_the_note(task):
    frame = set(FRAME.split())
    for row in each_row(task):
        note = set(re.findall(r"[\w./]+", row["note"].lower().replace("/min", " ")))
        note |= {word.strip("./") for word in note}
        words = {word.strip("./") for word in re.findall(r"[\w./]+", row["answer"].lower())}
        assert words - note - frame - {""} == set(), row["id"]
        assert len(row["answer"].split()) <= 90
        if row["kind"] != FOUND:
            status = "none known" if row["kind"] in ("nothing", "negated") else "not documented"
            assert f"Allergies: {status}" in row["answer"].replace("None", "none").replace("Not", "not"), row["id"]


def test_explanations_name_each_medicine_with_its_dose_and_use_no_jargon():
    jargon = re.compile(r"\b(PRN|BID|TID|QID|qd|PO|RTC|Rx|PMH|NKDA|HTN|NSTEMI|COPD|CAP|UTI|infarction|pulmonary)\b")
    for row in each_row("clinic/explain/plain"):
        assert not jargon.search(row["answer"]), row["id"]
        assert {d.name for d in medicines_in(row["note"])} == {
            d.name for d in DRUGS.values() if d.name in row["answer"]
        }
        for amount in re.findall(r"[\d./]+ (?:mg|mcg|g|units|puffs)\b", row["answer"]):
            assert amount in row["note"], row["id"]


def test_notes_say_that_they_are_synthetic_and_are_of_reading_length():
    for task in TASKS:
        for row in each_row(task):
            assert "SYNTHETIC" in row["note"].split("\n")[0], row["id"]
            assert len(row["note"].split()) <= 180, row["id"]


# Templates
