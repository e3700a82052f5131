"""Metrics with intervals: one line each in tables, the interval beside the value; and their values an example."""

from __future__ import annotations

import math

from itune.data.clinical_metrics import CLINICAL_METRICS, LESS_IS_BETTER
from itune.data.clinical_reference import source_reference
from itune.evaluation.metric_worker import counted_per_example
from itune.evaluation.report import change, interval_text, measure_row, sample_view
from itune.evaluation.results import Eval, Evaluation, Prediction, TaskResult

METRICS = {"rouge_l": 40.0, "triage/of": 3.0} | CLINICAL_METRICS["triage"](["2", "2"], ["3", "2"])


def evaluation() -> Evaluation:
    result = TaskResult(loss=1.0, examples=2, metrics=METRICS, generated=2)
    return Evaluation(after=Eval(held_in={"t": result}))


def test_tables_have_a_line_a_metric() -> None:
    names = evaluation().metric_names("held_in", "t")
    # "triage/of" is no part of an interval here: there is no "triage".
    assert names == ["rouge_l", "triage/of", "under_triage", "over_triage", "triage_exact", "triage_unreadable"]


def test_the_interval_stands_beside_the_value() -> None:
    cells = measure_row(evaluation(), "held_in", "t", "under_triage", 1.0)["cells"]
    assert cells[-1]["text"] == "50 (0 to 100, of 2)"
    assert interval_text(evaluation().result("after", "held_in", "t"), "rouge_l") == ""
    assert interval_text(None, "under_triage") == ""
    one = TaskResult(loss=1.0, examples=1, metrics={"f1": 80.0, "f1/low": 80.0, "f1/high": 80.0, "f1/of": 5.0})
    assert interval_text(one, "f1") == " (of 5)", "one example has no interval"


def test_more_harm_is_worse() -> None:
    assert change(10.0, 20.0, "unsupported/doses")["style"] == "worse"
    assert change(20.0, 10.0, "under_triage")["text"] == "\u221210 better"
    assert change(10.0, 20.0, "readability/grade") == {"text": "+10", "style": ""}


def test_the_harms_are_names_that_metrics_give() -> None:
    """A typo in LESS_IS_BETTER would go unseen otherwise."""
    reference = source_reference("note")
    example = {"field/note": "Nothing."}
    targets = ["Denies fever. Allergies: latex.", "2", 'Answer: x\nEvidence: "Nothing."']
    outputs = ["Fever. Aspirin 5 mg.", "3", 'Answer: x\nEvidence: "Something."']
    references = [reference(t, example=example, is_target=True) for t in targets]
    given = {name for function in CLINICAL_METRICS.values() for name in function(references, outputs)}
    assert given >= LESS_IS_BETTER


def test_values_an_example() -> None:
    found = counted_per_example([CLINICAL_METRICS["triage"], len], ["2", "not documented"], ["3", ""])
    assert set(found) == {"under_triage", "over_triage", "triage_exact", "triage_unreadable"}
    assert found["under_triage"][0] == 100.0 and math.isnan(found["under_triage"][1])


def test_a_sample_does_not_show_what_was_not_counted_as_nought() -> None:
    scores = {"before": {"under_triage": 100.0}, "after": {"under_triage": None}}
    sample = Prediction(
        task="t", group="held_in", id="1", template="", prompt="p", target="2", scores=scores, sensitive=False
    )
    assert "under_triage" not in sample_view(sample, {}, show_text=True)["facts"]
