"""The same tasks and predictions through seqio's own Evaluator and through the metric process's functions."""

from __future__ import annotations

import json

import pytest
import seqio

from itune.data import RowSource, Template, add_task, registry
from itune.data.metrics import METRICS
from itune.evaluation.metric_worker import run_task

ANSWERS = ("The cat sat.\nIt purred.", "yes", "no", "yes", "1,250")
PREDICTIONS = ("A cat sat down.\nIt purred", "Yes.", "yes", "yes", "so 3 + 1247 is 1250")
OBJECTS = ('{"drug": "aspirin", "mg": 81}', '{"drug": "none"}', "{}", '{"a": [1, 2]}', '{"a": 1}')
SAID = ('{"mg": 81, "drug": "ibuprofen"}', "nothing", "{}", '{"a": [2]}', '{"a": 1}')


def rows(split: str, answers: tuple[str, ...]):
    for n, answer in enumerate(answers):
        # The owners have a second right answer to every question.
        yield {"id": str(n), "question": f"question {n}", "answer": answer, "all": json.dumps([answer, f"or {answer}"])}


def every_answer(text: str, *, example=None, is_target: bool = False, **_):
    return json.loads(example["field/all"]) if is_target else text


def exact_of_foreign(targets, predictions):
    return {"foreign": seqio.metrics.Scalar(sum(p in t for t, p in zip(targets, predictions, strict=True)))}


@pytest.mark.parametrize(
    ("name", "answers", "predictions", "metrics", "postprocess_fn"),
    [
        ("texts", ANSWERS, PREDICTIONS, sorted(set(METRICS) - {"json_field_f1"}), None),
        ("references", ANSWERS, PREDICTIONS, ["rouge_l", "token_f1", "bleu", exact_of_foreign], every_answer),
        ("objects", OBJECTS, SAID, ["json_field_f1"], None),
    ],
)
def test_metrics_are_seqios_evaluators(name, answers, predictions, metrics, postprocess_fn):
    add_task(
        f"evaluator_{name}",
        source=RowSource(lambda split: rows(split, answers), ("validation",), ("question", "answer", "all"), "1"),
        templates=(Template("t", "{question}", "{answer}"),),
        cluster="texts",
        licence="CC0-1.0",
        identity=f"evaluator_{name}",
        metrics=metrics,
        postprocess_fn=postprocess_fn,
    )
    task = registry.get(f"evaluator_{name}")
    evaluator = seqio.Evaluator(
        task.name, seqio.EncDecFeatureConverter(pack=False), eval_split="validation", async_compute_metrics=False
    )
    order = [int(e["id"].decode()) for e in evaluator.cached_task_datasets[task.name].as_numpy_iterator()]
    vocabulary = task.output_features["targets"].vocabulary
    ids = [[*vocabulary.encode(text), vocabulary.eos_id] for text in predictions]
    longest = max(map(len, ids))  # a predict_fn gives arrays, padded
    said = [(n, ids[i] + [vocabulary.pad_id] * (longest - len(ids[i]))) for n, i in enumerate(order)]
    found, _ = evaluator.evaluate(compute_metrics=True, predict_fn=lambda ds: said)
    theirs = {k: v.value if isinstance(v, seqio.metrics.Scalar) else v for k, v in found.result()[task.name].items()}
    request = {
        "targets": [answers[i] for i in order],
        "predictions": {"after": [predictions[i] for i in order]},
        "examples": [{"all": json.dumps([answers[i], f"or {answers[i]}"])} for i in order],
    }
    answer = run_task(task, request, sensitive=False)
    ours = answer["metrics"]["after"]
    assert len(theirs) == len(metrics) and {k: ours[k] for k in theirs} == pytest.approx(theirs)
    assert answer["errors"] == []
    if postprocess_fn:
        assert answer["references"][0] == [answers[order[0]], f"or {answers[order[0]]}"]
    if name == "texts":
        assert ours["bleu/low"] <= ours["bleu"] <= ours["bleu/high"] and ours["macro_f1/of"] == len(answers)


def weighed(targets, scores):
    """Tells which score came to which target."""
    return {"weighed": seqio.metrics.Scalar(sum(len(t) * s for t, s in zip(targets, scores, strict=True)))}


def test_metrics_of_scores_are_seqios_evaluators():
    add_task(
        "evaluator_scores",
        source=RowSource(lambda split: rows(split, ANSWERS), ("validation",), ("question", "answer", "all"), "1"),
        templates=(Template("t", "{question}", "{answer}"),),
        cluster="texts",
        licence="CC0-1.0",
        identity="evaluator_scores",
        metrics=[weighed],
    )
    task = registry.get("evaluator_scores")
    evaluator = seqio.Evaluator(
        task.name, seqio.EncDecFeatureConverter(pack=False), eval_split="validation", async_compute_metrics=False
    )
    order = [int(e["id"].decode()) for e in evaluator.cached_task_datasets[task.name].as_numpy_iterator()]
    scores = [-0.5 * (i + 1) for i in order]
    found, _ = evaluator.evaluate(
        compute_metrics=True, predict_fn=lambda ds: [], score_fn=lambda ds: list(enumerate(scores))
    )
    theirs = found.result()[task.name]["weighed"]
    request = {
        "targets": [ANSWERS[i] for i in order],
        "predictions": {"after": ["" for _ in order]},
        "scores": {"after": scores},
    }
    ours = run_task(task, request, sensitive=False)["metrics"]["after"]
    assert (
        ours["weighed"]
        == pytest.approx(getattr(theirs, "value", theirs))
        == pytest.approx(sum(-0.5 * (i + 1) * len(answer) for i, answer in enumerate(ANSWERS)))
    )
