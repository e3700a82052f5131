"""What a reader of the results is told besides numbers."""

import types

from itune.evaluation.evaluate import Snapshot
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


def test_a_metric_process_that_died_is_told(tmp_path):
    scored = {"tasks": {}, "errors": {"every task": ["task metrics: signal 9"]}}
    notes = reader_notes(tmp_path, manifest(["a"], []), measured("a"), scored)
    assert "Metrics of every task are missing: task metrics: signal 9" in notes
