"""Rank classification: which options, which scores, what they come to."""

from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest

from itune.data.prompt import render_spans
from itune.data.records import Record
from itune.data.schedule import Segment
from itune.data.tokenizer import Tokenizer
from itune.evaluation.averages import averages, lines
from itune.evaluation.evaluate import MemoryReader
from itune.evaluation.rank import Question, Ranked, classes_of, options_of, rank, rank_metrics
from itune.evaluation.results import Eval, TaskResult
from itune.inference.loglikelihood import Scored
from tests.world import write_model

OVER_CHANCE = "rank_accuracy_over_chance"


def record(number: int, target: str, template: str = "t", **extras: str) -> Record:
    fields = {"task": "a", "split": "validation", "example": number, "variant": 0, "spans": ()}
    return Record(id=str(number), template=template, inputs_text="q", targets_text=target, extras=extras, **fields)


def ranked(target: int, logprob: list[float], **kw) -> Ranked:
    n = len(logprob)
    fields = {"tokens": (1,) * n, "unconditional": (0.0,) * n, "classes": True, "template": "t"} | kw
    options = fields.pop("options", tuple("abcdefg"[:n]))
    return Ranked(group="held_in", task="a", id="0", options=options, target=target, logprob=tuple(logprob), **fields)


class Counting:
    """A scorer whose n-th pair has the log-probability -n. asked: the pairs."""

    def __init__(self):
        self.asked = []

    def score(self, pairs, *, check):
        self.asked.extend(pairs)
        return [Scored(-float(n), False) for n in range(len(pairs))]


def test_options_are_the_rows_own_or_the_classes_of_the_template():
    found = classes_of([record(0, "yes"), record(1, "no"), record(2, "yes"), record(3, "alone", template="u")])
    assert found == {"t": ("no", "yes")}
    assert options_of(record(0, "yes"), found) == (("no", "yes"), True)
    own = json.dumps(["left", "right", "left"])
    assert options_of(record(0, "right", options=own), found) == (("left", "right"), False)
    assert options_of(record(0, "(B)", options=own), found) == ((), False), "what (A) would be is not known"
    assert options_of(record(0, "yes", options=""), found) == (("no", "yes"), True)
    assert options_of(record(0, "free text"), found) == ((), False)
    assert classes_of(record(n, f"text {n}") for n in range(50)) == {}


def test_what_is_scored_and_in_which_order(tmp_path):
    tokenizer = Tokenizer.from_folder(write_model(tmp_path / "model"))
    scorer = Counting()
    rows = []
    for number, (target, template) in enumerate((("yes", "t"), ("no", "t"), ("nonsense", "u"))):
        texts = {"inputs_text": "q", "targets_text": target}
        ids = {"inputs": [5, 9 + number], "targets": tokenizer.encode(target)}
        spans = render_spans(tokenizer, "plain", **ids, **texts)
        rows.append(dataclasses.replace(record(number, target, template), spans=spans))
    segments = [
        Segment(task=0, record=n, epoch=0, num_inputs=len(r.spans[0].ids), num_targets=len(r.spans[1].ids))
        for n, r in enumerate(rows)
    ]
    questions = [Question(group="held_out", task="a", segment=s, truncate_side="right") for s in segments]
    found = rank(questions, {0: 3}, MemoryReader([rows]), tokenizer, "plain", scorer, lambda: None)
    newline = tokenizer.encode("\n")
    no, yes = ([*tokenizer.encode(text), tokenizer.eos_id] for text in ("no", "yes"))
    assert scorer.asked == [
        (context, reply) for number in (0, 1) for context in ([5, 9 + number, *newline], newline) for reply in (no, yes)
    ]
    assert [(r.id, r.target, r.logprob, r.unconditional, r.tokens) for r in found] == [
        ("0", 1, (-0.0, -1.0), (-2.0, -3.0), (3, 4)),
        ("1", 0, (-4.0, -5.0), (-6.0, -7.0), (3, 4)),
    ]


def test_an_option_that_goes_on_is_ranked_without_an_end(tmp_path):
    """As MMLU's owners do: " A" behind "Answer:"; nothing stands before it where there is no question."""
    tokenizer = Tokenizer.from_folder(write_model(tmp_path / "model"))
    scorer = Counting()
    texts = {"inputs_text": "q Answer:", "targets_text": "B"}
    ids = {"inputs": tokenizer.encode("q Answer:"), "targets": tokenizer.encode("B")}
    spans = render_spans(tokenizer, "continued", **ids, **texts)
    options = {"options": json.dumps(list("ABCD"))}
    row = dataclasses.replace(record(0, "B", **options), spans=spans)
    segment = Segment(task=0, record=0, epoch=0, num_inputs=len(spans[0].ids), num_targets=len(spans[1].ids))
    question = Question(group="held_out", task="a", segment=segment, truncate_side="right")
    (found,) = rank([question], {0: 1}, MemoryReader([[row]]), tokenizer, "continued", scorer, lambda: None)
    letters = [tokenizer.encode(f"Answer: {letter}")[len(tokenizer.encode("Answer:")) :] for letter in "ABCD"]
    assert scorer.asked[:4] == [(ids["inputs"], letter) for letter in letters]
    assert [reply for _, reply in scorer.asked[4:]] == letters and all(context for context, _ in scorer.asked[4:])
    assert found.options == tuple("ABCD") and found.target == 1 and found.tokens == tuple(map(len, letters))


def test_the_four_ways_to_compare_can_differ():
    rows = [
        ranked(0, [-3.0, -2.0], tokens=(3, 1), unconditional=(-4.0, -1.0)),  # right by length and by prior
        ranked(1, [-1.0, -2.0], tokens=(1, 2), unconditional=(-1.0, -1.0)),  # a tie by length: the first counts
    ]
    found = rank_metrics(rows)
    assert found["rank_accuracy"] == 0.0 and found["rank_accuracy/of"] == 2.0
    assert found["rank_accuracy_norm"] == 50.0 and found["rank_accuracy_unconditional"] == 50.0
    # Log shares (-1.31, -0.31) and (-0.31, -1.31), less their mean: the order stays.
    assert found["rank_accuracy_calibrated"] == 0.0
    assert found["rank_chance"] == 50.0 and found["rank_majority"] == 50.0
    biased = [ranked(0, [-2.0, -1.0]), ranked(1, [-5.0, -1.0])]  # the second always looks likelier
    assert rank_metrics(biased)["rank_accuracy"] == 50.0
    assert rank_metrics(biased)["rank_accuracy_calibrated"] == 100.0
    free = [ranked(0, [-1.0, -2.0, -3.0], classes=False)]
    found = rank_metrics(free)
    assert "rank_accuracy_calibrated" not in found and "rank_majority" not in found
    assert found["rank_chance"] == pytest.approx(100 / 3) and rank_metrics([]) == {}


def test_the_majoritys_share_is_of_classes_in_whatever_words():
    """Nine of ten are of one class, which two templates call by other words."""
    rows = [
        ranked(n > 8, [-1.0, -2.0], template="ab"[n % 2], options=(("yes", "no"), ("true", "false"))[n % 2])
        for n in range(10)
    ]
    assert rank_metrics(rows)["rank_majority"] == 90.0


def test_macro_f1_is_scikit_learns_by_hand():
    rows = [ranked(t, list(np.log(p))) for t, p in ((0, (0.9, 0.1)), (0, (0.2, 0.8)), (1, (0.3, 0.7)))]
    # label a: precision 1, recall 1/2; label b: precision 1/2, recall 1: F1 2/3 each.
    assert rank_metrics(rows)["rank_macro_f1"] == pytest.approx(200 / 3)


def test_averages_count_each_task_alike_and_chance_is_zero():
    measured = Eval(
        held_out={
            "a": TaskResult(loss=1.0, examples=4, metrics={"rank_accuracy": 75.0, "rank_chance": 50.0, "theirs": 9.0}),
            "b": TaskResult(loss=3.0, examples=400, metrics={"rank_accuracy": 25.0, "rank_chance": 25.0}),
            "c": TaskResult(loss=None, examples=0),
        }
    )
    found = averages(measured, {"a": "nli", "b": "nli"})
    assert set(found["held_out"]) == {"all tasks", "nli", "no cluster"} and "held_in" not in found
    nli = found["held_out"]["nli"]
    assert nli["loss"] == {"mean": 2.0, "tasks": 2} and nli[OVER_CHANCE] == {"mean": 25.0, "tasks": 2}
    assert "theirs" not in nli and math.isclose(nli["rank_accuracy"]["mean"], 50.0)
    assert lines(found)[1] == ("mean held out, nli (2): loss 2.000, rank_accuracy 50.0, rank_accuracy_over_chance 25.0")


def test_dev_and_unseen_are_averaged_apart_and_a_constant_answer_is_zero():
    result = lambda **metrics: TaskResult(loss=1.0, examples=4, metrics=metrics)  # noqa: E731
    measured = Eval(
        held_out={"a": result(rank_accuracy=80.0, rank_majority=60.0), "b": result(accuracy=40.0, majority=60.0)}
    )
    found = averages(measured, {}, lambda task: task == "b")["held_out"]
    assert found["dev tasks"]["rank_accuracy_over_majority"] == {"mean": 50.0, "tasks": 1}
    assert found["unseen tasks"]["accuracy_over_majority"] == {"mean": -50.0, "tasks": 1}
    assert "accuracy" not in found["dev tasks"] and found["all tasks"]["loss"]["tasks"] == 2
    assert "dev tasks" not in averages(measured, {})["held_out"]
