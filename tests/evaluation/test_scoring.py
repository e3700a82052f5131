"""What a reader of the results is told besides numbers."""

import types
from pathlib import Path

from rich.console import Console

from itune.evaluation import metrics_client, scoring
from itune.evaluation.evaluate import Completion, Snapshot
from itune.evaluation.results import ExampleLoss
from itune.evaluation.scoring import reader_notes


def manifest(held_in, held_out):
    named = lambda names: [types.SimpleNamespace(name=name) for name in names]  # noqa: E731
    return types.SimpleNamespace(held_in=named(held_in), held_out=named(held_out))


def measured(*tasks):
    return Snapshot(losses=tuple(types.SimpleNamespace(task=task) for task in tasks))


def test_a_task_of_which_nothing_fits_is_named(tmp_path):
    notes = reader_notes(tmp_path, manifest(["a", "b"], ["c"]), measured("a"), {"tasks": {}})
    assert [n for n in notes if n.startswith("Not evaluated")] == [
        "Not evaluated, for none of their evaluation examples fits the lengths: b, c"
    ]


def test_nothing_is_said_where_nothing_is_missing(tmp_path):
    notes = reader_notes(tmp_path, manifest(["a"], []), measured("a"), {"tasks": {}})
    assert not [n for n in notes if "Not evaluated" in n or "Metrics of" in n]


def test_examples_that_were_cut_are_counted(tmp_path):
    after = Snapshot(losses=measured("a", "b").losses, cut=(("a", 2, 9),))
    notes = reader_notes(tmp_path, manifest(["a", "b"], []), after, {"tasks": {}})
    assert "Examples longer than TASK_FEATURE_LENGTHS or a row, and cut: a (2 of 9)" in notes


def test_a_metric_process_that_died_is_told(tmp_path):
    scored = {"tasks": {}, "errors": {"every task": ["task metrics: signal 9"]}}
    notes = reader_notes(tmp_path, manifest(["a"], []), measured("a"), scored)
    assert "Metrics of every task are missing: task metrics: signal 9" in notes


def test_metric_functions_get_the_log_likelihoods_of_targets_and_of_completions(monkeypatch):
    """In the order of the completions; none where one is not known, as of a beam."""

    def completion(task: str, number: int, logprob: float | None) -> Completion:
        texts = {"template": "t", "prompt": "p", "target": "t", "text": f"{number}", "extras": {}}
        return Completion(group="held_in", task=task, id=str(number), logprob=logprob, **texts)

    losses = tuple(
        ExampleLoss(group="held_in", task="a", id=str(n), nll=n / 2, tokens=2.0, template="t", record=n) for n in (2, 1)
    )
    said = (completion("a", 2, -2.0), completion("a", 1, -1.0), completion("b", 1, -3.0), completion("b", 2, None))
    asked = {}
    monkeypatch.setattr(metrics_client, "compute_metrics", lambda modules, tasks, folder: asked.update(tasks) or {})
    config = types.SimpleNamespace(data=types.SimpleNamespace(modules=()))
    scoring.score(config, {"after": Snapshot(losses=losses, completions=said)}, Path(), Console())
    assert asked["a"]["predictions"] == {"after": ["1", "2"]}
    assert asked["a"]["aux"] == {"after": {"scores": [-1.0, -2.0]}} and asked["a"]["scores"] == {"after": [-0.5, -1.0]}
    assert asked["b"]["aux"] == {"after": None} and asked["b"]["scores"] == {"after": None}
