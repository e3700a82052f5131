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


def sure(targets, predictions, aux_values):
    """Tells which value came to which prediction, and that they are an array, as in SeqIO."""
    right = [t == p for t, p in zip(targets, predictions, strict=True)]
    return {"sure": seqio.metrics.Scalar(float((aux_values["scores"] * 2.0 * right).sum()))}


def evaluator_of(name: str, metric) -> tuple[seqio.Task, seqio.Evaluator, list[int]]:
    """(the task, SeqIO's evaluator of it, the number of the row that each of its examples is)."""
    add_task(
        name,
        source=RowSource(lambda split: rows(split, ANSWERS), ("validation",), ("question", "answer", "all"), "1"),
        templates=(Template("t", "{question}", "{answer}"),),
        cluster="texts",
        licence="CC0-1.0",
        identity=name,
        metrics=[metric],
    )
    converter = seqio.EncDecFeatureConverter(pack=False)
    evaluator = seqio.Evaluator(name, converter, eval_split="validation", async_compute_metrics=False)
    order = [int(e["id"].decode()) for e in evaluator.cached_task_datasets[name].as_numpy_iterator()]
    return registry.get(name), evaluator, order


def test_metrics_of_scores_are_seqios_evaluators():
    task, evaluator, order = evaluator_of("evaluator_scores", weighed)
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


def test_metrics_of_auxiliary_values_are_seqios_evaluators():
    task, evaluator, order = evaluator_of("evaluator_aux", sure)
    vocabulary = task.output_features["targets"].vocabulary
    answers = [ANSWERS[i] if i % 2 else "else" for i in order]
    ids = [[*vocabulary.encode(text), vocabulary.eos_id] for text in answers]
    longest = max(map(len, ids))
    said = [(n, i + [vocabulary.pad_id] * (longest - len(i))) for n, i in enumerate(ids)]
    scores = [-0.5 * (i + 1) for i in order]
    found, _ = evaluator.evaluate(
        compute_metrics=True,
        predict_fn=lambda ds: said,
        predict_with_aux_fn=lambda ds: (said, {"scores": list(scores)}),
    )
    theirs = found.result()[task.name]["sure"]
    request = {
        "targets": [ANSWERS[i] for i in order],
        "predictions": {"after": answers},
        "aux": {"after": {"scores": scores}},
    }
    answer = run_task(task, request, sensitive=False)
    assert not answer["notes"] and not answer["errors"]
    assert answer["metrics"]["after"]["sure"] == pytest.approx(getattr(theirs, "value", theirs)) == -6.0
