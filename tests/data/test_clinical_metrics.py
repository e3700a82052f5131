"""The clinical metrics against cases counted by hand: (hits, of how many) of one example, then over a data set."""

from __future__ import annotations

import json
from typing import Any

import pytest

from itune.data.clinical_metrics import _COUNTS, CLINICAL_METRICS
from itune.data.clinical_reference import source_reference
from itune.errors import UserError

METRICS = CLINICAL_METRICS


def reference(target: str, source: str) -> Any:
    example = {"field/note": source.encode(), "field/other": b"unused"}
    return source_reference("note")(target, example=example, is_target=True)


def counts(name: str, target: Any, prediction: str) -> dict[str, tuple[float, float]]:
    found = _COUNTS[name][0](target, prediction)
    return {key: (float(hits), float(of)) for key, (hits, of) in found.items() if of}


MEDICINES = {
    "medications": [
        {"name": "metformin", "dose": "500 mg", "frequency": "twice daily"},
        {"name": "lisinopril", "dose": "10 mg", "frequency": "daily"},
    ]
}


def medicines(*changes: tuple[int, str, str]) -> str:
    entries = [dict(entry) for entry in MEDICINES["medications"]]
    for index, key, value in changes:
        entries[index][key] = value
    return json.dumps({"medications": entries})


class TestEntityF1:
    def test_by_type(self) -> None:
        # Two names and frequencies right; one of two doses: 2 * 1 / (2 + 2).
        assert counts("entity_f1", medicines(), medicines((0, "dose", "850 mg"))) == {
            "f1/medications.name": (4, 4),
            "f1/medications.dose": (2, 4),
            "f1/medications.frequency": (4, 4),
            "valid_json": (1, 1),
        }

    def test_one_too_many_and_a_key_of_its_own(self) -> None:
        found = counts("entity_f1", '{"diseases": ["gout"]}', '{"diseases": ["Gout", "flu"], "note": "x"}')
        assert found == {"f1/diseases": (2, 3), "f1/other": (0, 1), "valid_json": (1, 1)}

    @pytest.mark.parametrize("broken", ["", "{", '{"diseases": ["gout"', "gout", "[" * 5000])
    def test_broken_output_has_no_values(self, broken: str) -> None:
        assert counts("entity_f1", '{"diseases": ["gout"]}', broken) == {"f1/diseases": (0, 1), "valid_json": (0, 1)}

    def test_nothing_is_a_value(self) -> None:
        nothing = '{"relations": []}'
        assert counts("entity_f1", nothing, nothing)["f1/relations"] == (2, 2)
        invented = '{"relations": [{"drug": "a"}]}'
        assert counts("entity_f1", nothing, invented) == {
            "f1/relations": (0, 1),
            "f1/other": (0, 1),
            "valid_json": (1, 1),
        }


class TestRegimens:
    @pytest.mark.parametrize(
        ("change", "right"),
        [
            ((0, "frequency", "BID"), 2),
            ((0, "dose", "500 milligrams"), 2),
            ((0, "dose", "500.0mg"), 2),
            ((0, "dose", "500 mcg"), 1),  # the unit
            ((0, "dose", "50 mg"), 1),
            ((0, "dose", "500"), 1),
            ((0, "frequency", "daily"), 1),
            ((0, "name", "glipizide"), 1),
        ],
    )
    def test_all_of_it_or_none(self, change: tuple[int, str, str], right: int) -> None:
        assert counts("regimens", medicines(), medicines(change)) == {
            "regimen/recall": (right, 2),
            "regimen/precision": (right, 2),
        }

    @pytest.mark.parametrize(
        "broken", ["", "{", "[]", '{"medications": "metformin"}', '{"medications": ["metformin"]}']
    )
    def test_broken(self, broken: str) -> None:
        assert counts("regimens", medicines(), broken) == {"regimen/recall": (0, 2)}

    def test_none_to_find(self) -> None:
        assert counts("regimens", '{"medications": []}', '{"medications": []}') == {}
        assert counts("regimens", '{"medications": []}', medicines()) == {"regimen/precision": (0, 2)}


class TestMissedAllergies:
    JSON = '{"status": "present", "allergies": [{"substance": "penicillin"}, {"substance": "latex"}]}'

    @pytest.mark.parametrize(
        ("output", "missed"),
        [
            (JSON, 0),
            ('{"allergies": [{"substance": "Penicillin V"}]}', 1),
            ('{"status": "none known", "allergies": []}', 2),
            ("", 2),
            ('{"allergies": [{"substance": "penicillin"', 2),
        ],
    )
    def test_json(self, output: str, missed: int) -> None:
        assert counts("missed_allergies", self.JSON, output) == {"missed_allergies": (missed, 2)}

    @pytest.mark.parametrize(
        ("output", "missed"),
        [
            ("S: cough. Allergies: sulfa drugs, ibuprofen (hives).\nO: well.", 0),
            ("ALLERGIES\nIbuprofen and sulfa drugs.", 0),
            ("Allergies: ibuprofen.", 1),
            ("Allergies: none known.", 2),
            ("Takes ibuprofen and sulfa drugs.", 2),
        ],
    )
    def test_text(self, output: str, missed: int) -> None:
        target = "S: pain. Allergies: sulfa drugs, ibuprofen.\nO: calm."
        assert counts("missed_allergies", target, output) == {"missed_allergies": (missed, 2)}

    @pytest.mark.parametrize("none", ["Allergies: none known.", "Allergies: NKDA", "Allergies: not documented.", "x"])
    def test_none_to_miss(self, none: str) -> None:
        assert counts("missed_allergies", none, "Allergies: latex.") == {}


@pytest.mark.parametrize(
    ("target", "output", "found"),
    [
        ("Not documented.", "It is not stated.", {"precision": (1, 1), "recall": (1, 1)}),
        ("Not documented.", "Aspirin.", {"recall": (0, 1)}),
        ("Aspirin.", "Not mentioned.", {"precision": (0, 1)}),
        ("Aspirin.", "", {}),
    ],
)
def test_not_documented(target: str, output: str, found: dict) -> None:
    assert counts("not_documented", target, output) == {f"not_documented/{k}": v for k, v in found.items()}


class TestUnsupported:
    SOURCE = "Doctor: forty milligrams of Lasix? Patient: yes, and tylenol 500 mg. I am twenty-two, temp 38.50."

    @pytest.mark.parametrize(
        ("output", "found"),
        [
            ("22-year-old on furosemide 40 mg.", {"drugs": (0, 1), "doses": (0, 1), "numbers": (0, 2)}),
            ("Acetaminophen 500 mcg.", {"drugs": (0, 1), "doses": (1, 1), "numbers": (0, 1)}),
            ("Warfarin and Tylenol.", {"drugs": (1, 2)}),
            ("T 38.5, HR 80.", {"numbers": (1, 2)}),
            ("1. Rest\n2. Fluids", {}),  # marks of a list
            ("", {}),
        ],
    )
    def test_by_hand(self, output: str, found: dict) -> None:
        assert counts("unsupported", reference("x", self.SOURCE), output) == {
            f"unsupported/{k}": v for k, v in found.items()
        }

    def test_it_asks_for_a_source(self) -> None:
        with pytest.raises(UserError, match="unsupported needs the source text"):
            counts("unsupported", "x", "y")


@pytest.mark.parametrize(
    ("target", "output", "errors"),
    [
        ("Denies fever or cough.", "Reports fever and a cough.", (2, 2)),
        ("Denies fever or cough.", "No fever. Cough present.", (1, 2)),
        ("Reports chest pain but no nausea.", "Chest pain; nausea ruled out.", (0, 2)),
        ("Denies fever.", "Denies chills.", None),  # nothing in common
        ("Denies fever.", "No fever at night, but fever at noon.", None),  # both ways
        ("Denies fever.", "", None),
    ],
)
def test_negation_errors(target: str, output: str, errors: tuple | None) -> None:
    assert counts("negation_errors", target, output) == ({"negation_errors": errors} if errors else {})


def test_grounding() -> None:
    # pain, knee are there, swelling is not; "the", "of" do not count, and pain counts twice.
    found = counts("grounding", reference("x", "Knee pain for 2 days."), "Pain of the knee, pain, swelling")
    assert found == {"words_in_source": (3, 4)}
    assert counts("grounding", reference("x", "Knee pain."), "") == {}


class TestEvidence:
    NOTE = "BP 130/82 today.\nTakes aspirin 81 mg every day. No allergies."
    TARGET = 'Answer: 81 mg\nEvidence: "Takes aspirin 81 mg every day."'

    @pytest.mark.parametrize(
        ("output", "cited", "invented", "words"),
        [
            (TARGET, (1, 1), (0, 1), (2, 2)),
            ('Answer: 75 mg\nEvidence: "takes  aspirin 81 mg every day."', (1, 1), (0, 1), (1, 2)),
            ('Answer: 81 mg\nEvidence: "Takes aspirin 81 mg twice."', (0, 1), (1, 1), (2, 2)),
            ("Answer: 81 mg\nEvidence: none", (0, 1), None, None),
            ("81 mg", (0, 1), None, None),
            ("", (0, 1), None, None),
        ],
    )
    def test_by_hand(self, output: str, cited: tuple, invented: tuple | None, words: tuple | None) -> None:
        want = {"evidence/cited": cited, "evidence/invented": invented, "evidence/answer_words": words}
        found = counts("evidence", reference(self.TARGET, self.NOTE), output)
        assert found == {k: v for k, v in want.items() if v}

    def test_a_target_without_evidence(self) -> None:
        target = reference("Answer: Not documented.\nEvidence: none", self.NOTE)
        assert counts("evidence", target, "Answer: Not documented.\nEvidence: none") == {}
        assert counts("evidence", target, 'Answer: yes\nEvidence: "He said so."') == {
            "evidence/invented": (1, 1),
            "evidence/answer_words": (0, 1),
        }


class TestSections:
    def test_soap(self) -> None:
        target = "S: Knee pain for 3 days.\nO: Knee warm.\nA: Gout.\nP: Rest."
        output = "S: Knee pain for 3 days.\nA: gout\nP: Go home now."
        # S and A in full; P shares no word; O is missing.
        assert counts("section_scores", target, output) == {
            "sections/coverage": (3, 4),
            "sections/rouge_l": (pytest.approx(2), 4),
        }

    def test_capitals(self) -> None:
        target = "CHIEF COMPLAINT\n\nCough.\n\nVITALS\nBP: 120/80\n\nPLAN\nRest."
        # "BP:" is no header where lines in capitals are; markdown marks and colons do not matter.
        output = "**Chief complaint:**\nCough.\n## Plan\nRest. The plan is rest."
        found = counts("section_scores", target, output)
        assert found["sections/coverage"] == (2, 3)
        assert found["sections/rouge_l"] == (pytest.approx(1 + 2 * 1 / (1 + 5)), 3)

    @pytest.mark.parametrize("output", ["", "Knee pain. S is fine."])
    def test_none_found(self, output: str) -> None:
        assert counts("section_scores", "S: Pain.\nO: Warm.", output) == {
            "sections/coverage": (0, 2),
            "sections/rouge_l": (0, 2),
        }

    def test_no_headers_to_find(self) -> None:
        assert counts("section_scores", "No known allergies.", "x") == {}


def test_readability() -> None:
    # 6 words, 1 sentence, 6 syllables: 0.39 * 6 + 11.8 - 15.59; "Sit." 0.39 + 11.8 - 15.59.
    found = counts("readability", reference("Sit.", "Sit. Sit."), "The cat sat on the mat.")
    assert found == {
        "readability/grade": (pytest.approx(-1.45), 1),
        "readability/target": (pytest.approx(-3.4), 1),
        "readability/source": (pytest.approx(-3.4), 1),
    }
    assert counts("readability", "Sit.", "") == counts("readability", "Sit.", "20 30.") == {}
    assert METRICS["readability"](["Sit."], ["Sit."])["readability/grade"] == pytest.approx(-3.4)  # a mean, no share


@pytest.mark.parametrize(
    ("target", "output", "which"),
    [
        ("2", "2", "triage_exact"),
        ("2", "Level 3.", "under_triage"),
        ("2", "1", "over_triage"),
        ("2", "2 or 3", "triage_unreadable"),
        ("2", "22", "triage_unreadable"),
        ("2", "2.5", "triage_unreadable"),
        ("2", "", "triage_unreadable"),
        ("emergent", "Routine", "under_triage"),
        ("urgent", "Emergent.", "over_triage"),
        ("urgent", "non-urgent", "triage_unreadable"),
    ],
)
def test_triage(target: str, output: str, which: str) -> None:
    names = ("under_triage", "over_triage", "triage_exact", "triage_unreadable")
    assert counts("triage", target, output) == {name: (float(name == which), 1) for name in names}


def test_triage_of_what_is_no_level() -> None:
    assert counts("triage", "not documented", "urgent") == {}


def test_named() -> None:
    assert counts("named", "Heart Failure", "1. Asthma 2. heart failure, acute") == {"named": (1, 1)}
    assert counts("named", "Heart Failure", "failure of the heart") == counts("named", "Gout", "") == {"named": (0, 1)}
    assert counts("named", "Gout", "gouty") == {"named": (0, 1)}


def test_a_data_set_divides_once_and_has_an_interval() -> None:
    targets = [reference("x", "5 mg"), reference("x", ""), reference("x", "")]
    found = METRICS["unsupported"](targets, ["5 mg", "1 2 3", ""])
    # 0 of 1 and 3 of 3 numbers; the mean of the two examples would be 50.
    assert found["unsupported/numbers"] == 75.0 and found["unsupported/numbers/of"] == 4
    assert found["unsupported/numbers/low"] == 0.0 and found["unsupported/numbers/high"] == 100.0
    assert not any(name.startswith("unsupported/drugs") for name in found)


@pytest.mark.parametrize("name", METRICS)
def test_edges(name: str) -> None:
    assert METRICS[name]([], []) == {}
    with pytest.raises(ValueError, match="zip"):
        METRICS[name](["{}"], [])
    assert METRICS[name].__name__ == name and METRICS[name].__doc__ == _COUNTS[name][0].__doc__
    assert METRICS[name].per_example(reference("{}", ""), "") is not None


def test_postprocess_leaves_predictions_alone() -> None:
    post = source_reference("note")
    assert post("text", example={}, is_target=False) == "text"
    target = post("text", example={"field/note": "n"}, is_target=True)
    assert (target, target.source, isinstance(target, str)) == ("text", "n", True)
    with pytest.raises(KeyError):
        post("text", example={}, is_target=True)
