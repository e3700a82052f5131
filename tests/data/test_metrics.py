"""Metric values against cases worked by hand, and ROUGE-L against the rouge-score package."""

from __future__ import annotations

import json
import re

import pytest
import seqio
from rouge_score import rouge_scorer

from itune.data import intervals
from itune.data.metrics import COUNTS, METRICS, PER_EXAMPLE, metric_fn
from itune.errors import UserError


@pytest.mark.parametrize(
    ("name", "target", "prediction", "score"),
    [
        ("exact_match", "Type 2  Diabetes", "type 2 diabetes\n", 100),
        ("exact_match", "yes", "yes.", 0),
        ("accuracy", "yes", ' "Yes."', 100),
        ("accuracy", "not equivalent", "equivalent", 0),
        ("accuracy", "yes", "yes, because", 0),
        ("token_f1", "the cat sat", "A cat sat down!", 80),  # cat, sat of (2, 3): 2*2/5
        ("token_f1", "a b b", "b", 100 * 2 / 3),  # "a" is an article: b of (b b, b)
        ("token_f1", "b b c", "b b", 80),  # each b counts: 2*2/5
        ("token_f1", "fever", "cough", 0),
        ("token_f1", "", "", 100),
        ("token_f1", "", "x", 0),
        ("final_number", "6*7 = 42\nThe answer is 42.", "So it is 42", 100),
        ("final_number", "The answer is 1,250.", "1250.00 dollars", 100),
        ("final_number", "The answer is 3.", "10-3", 100),
        ("final_number", "The answer is -3.", "it is 3", 0),
        ("final_number", "The answer is 3.", "three", 0),
        ("final_number", "2+3=<<2+3=5>>5\n#### 5", "It is 5.\n#### 5\n\nQuestion: 6 apples and 7?", 100),
        ("final_number", "#### 5", "5 and 6\n#### none", 0),
        ("final_number", "#### -1,250", "#### \u22121250.0", 100),
        ("final_number", "#### 0.5", "so .5", 100),
        ("json_field_f1", '{"drug": "Aspirin", "mg": 81}', '{"mg": 81.0, "drug": " aspirin"}', 100),
        ("json_field_f1", '{"drug": "aspirin", "mg": 81}', '{"drug": "aspirin", "mg": 325}', 50),
        ("json_field_f1", '{"meds": ["a", "b", "c"]}', '{"meds": ["c", "a"]}', 80),
        ("json_field_f1", '{"meds": [{"name": "a"}, {"name": "a"}]}', '{"meds": [{"name": "a"}]}', 100 * 2 / 3),
        ("json_field_f1", '{"allergies": []}', '{"allergies": null}', 100),
        ("json_field_f1", '{"allergies": []}', '{"allergies": ["latex"]}', 0),
        ("json_field_f1", '{"a": {"b": true}}', '{"a": {"b": "true"}}', 100),
        ("json_field_f1", '{"a": 1}', '{"a": 1', 0),
        ("json_field_f1", '{"a": 1}', '{"a": ' + "[" * 5000, 0),
        ("json_field_f1", '{"a": 1}', '{"a": 1e999}', 0),
    ],
)
def test_scores_by_hand(name: str, target: str, prediction: str, score: float) -> None:
    assert PER_EXAMPLE[name](target, prediction) == pytest.approx(score)
    assert METRICS[name]([target], [prediction]) == {name: pytest.approx(score)}


def test_means_and_micro_average_differ_where_they_should() -> None:
    assert METRICS["exact_match"](["a", "b", "c", "d"], ["a", "x", "c", "d"]) == {"exact_match": 75.0}
    # 1 of 1 pair, and 0 of 3 wanted with 1 given: micro 2*1/(4+2), while the mean of the two would be 50.
    targets, predictions = ['{"a": 1}', '{"a": 1, "b": 2, "c": 3}'], ['{"a": 1}', '{"a": 9}']
    assert METRICS["json_field_f1"](targets, predictions)["json_field_f1"] == pytest.approx(100 / 3)


@pytest.mark.parametrize("name", METRICS)
def test_the_best_of_several_references_counts(name: str) -> None:
    references = ['{"a": 1}', '{"a": 2}']
    assert METRICS[name]([references], ['{"a": 2}']) == {name: 100.0}


def test_rouge_l_is_the_packages() -> None:
    targets = ["The patients were admitted with acute chest pain.", "No cough.\nNo fever."]
    predictions = ["A patient was admitted; chest pains, acute.", "no fever"]
    scorer = rouge_scorer.RougeScorer(["rougeL"], use_stemmer=True)
    want = [100 * scorer.score(t, p)["rougeL"].fmeasure for t, p in zip(targets, predictions, strict=True)]
    assert METRICS["rouge_l"](targets, predictions)["rouge_l"] == pytest.approx(sum(want) / 2)
    # patient admitted chest pain is the longest common subsequence (stemmed): 4 of 8 and of 7 words.
    assert PER_EXAMPLE["rouge_l"](targets[0], predictions[0]) == pytest.approx(100 * 2 * 4 / 15)


@pytest.mark.parametrize("name", METRICS)
def test_edges(name: str) -> None:
    assert METRICS[name]([], []) == {name: 0.0}
    with pytest.raises(ValueError, match="zip"):
        METRICS[name](["{}"], [])


def test_json_targets_must_be_json() -> None:
    with pytest.raises(UserError, match="json_field_f1 needs JSON targets; one of 2 characters"):
        METRICS["json_field_f1"](["no"], ["{}"])


def test_unknown_metric_names_the_nearest() -> None:
    with pytest.raises(UserError, match=r"task 'x': unknown metric 'rouge_L'.*Did you mean 'rouge_l'\?"):
        metric_fn("rouge_L", "task 'x'")


@pytest.mark.parametrize(
    ("name", "kind"), [("rouge_1", "rouge1"), ("rouge_2", "rouge2"), ("rouge_l", "rougeL"), ("rouge_lsum", "rougeLsum")]
)
def test_each_rouge_is_the_packages(name: str, kind: str) -> None:
    targets = ["The cats sat.\nThey were\nhappy there.", "A second one."]
    predictions = ["They were happy.\nThe cat sat there", ""]
    scorer = rouge_scorer.RougeScorer([kind], use_stemmer=True)
    want = [100 * scorer.score(t, p)[kind].fmeasure for t, p in zip(targets, predictions, strict=True)]
    assert want[0] > 0 and METRICS[name](targets, predictions) == {name: pytest.approx(sum(want) / 2)}


def test_seqio_accepts_them() -> None:
    source = seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: None, splits=["train"])
    task = seqio.Task("any", source=source, output_features={}, metric_fns=list(METRICS.values()))
    assert len(task.predict_metric_fns) == len(METRICS)


OWNERS_ANSWER = re.compile(r"#### (\-?[0-9\.\,]+)")  # of GSM8K's own dataset.py: the first in a text


def test_final_number_is_gsm8ks_own_answer(data_dir) -> None:
    lines = (data_dir / "general" / "gsm8k" / "test.jsonl").read_text(encoding="utf-8").splitlines()
    answers = [json.loads(line)["answer"] for line in lines]
    theirs = [OWNERS_ANSWER.search(answer)[1].replace(",", "") for answer in answers]
    assert len(answers) > 1000
    assert METRICS["final_number"](answers, [f"I say {n}, or\n#### {n}\nThen 1 more." for n in theirs]) == {
        "final_number": 100.0
    }
    assert METRICS["final_number"](answers, [f"#### {n}1" for n in theirs]) == {"final_number": 0.0}


@pytest.mark.parametrize("name", COUNTS)
def test_the_sums_behind_an_interval_give_the_metric(name: str) -> None:
    """Of all examples, and of some that are drawn twice: what resampling must come to."""
    targets = ["the cat sat on the mat", ["a dog ran home", "the dog went home now"], "yes", "no", "yes"]
    predictions = ["the cat sat on a mat", "the dog went home again", "yes", "yes", "no"]
    if name == "json_field_f1":
        targets, predictions = (['{"a": 1, "b": [2, 3]}', '{"a": 2}'], ['{"a": 1, "b": [3]}', '{"c": 1}'])
    counts, score = COUNTS[name]
    found = counts(targets, predictions)
    assert score(found.sum(axis=0)) == pytest.approx(METRICS[name](targets, predictions)[name])
    twice = [0, 0, 1]
    again = METRICS[name]([targets[i] for i in twice], [predictions[i] for i in twice])[name]
    assert score(found[twice].sum(axis=0)) == pytest.approx(again)
    low, high = intervals.of_sums(found, score)
    assert low < METRICS[name](targets, predictions)[name] <= high
