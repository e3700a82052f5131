"""The metric process: one real spawn (importing SeqIO takes seconds), and what happens when it fails."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from itune.errors import UserError
from itune.evaluation import metrics_client
from itune.evaluation.scoring import metric_notes

TASKS = """
import seqio
from itune.data import RowSource, Template, add_task, source_reference

FEATURES = {"targets": seqio.Feature(seqio.ByteVocabulary())}

def shout(text, example=None, is_target=False):
    assert isinstance(example["answers"], bytes), example
    return text.upper() + ("!" if is_target else example["answers"].decode())

def upper_match(targets, predictions):
    return {"upper_match": 100.0 * sum(t == p for t, p in zip(targets, predictions)) / len(targets)}

def broken(targets, predictions):
    raise ValueError(f"cannot score {predictions[0]}")

def ranked(targets, scores):
    return {"ranked": sum(scores) / len(targets)}

def beside(targets, predictions, aux_values):
    return {"beside": 1.0}

def plain(name, fns, postprocess=None):
    source = seqio.FunctionDataSource(lambda split, shuffle_files, seed=None: None, splits=["validation"])
    seqio.TaskRegistry.add(name, source=source, output_features=FEATURES, metric_fns=fns, postprocess_fn=postprocess)

plain("foreign_plain", [upper_match, ranked, beside], shout)
plain("foreign_scored", [ranked])
plain("foreign_broken", [broken, upper_match])

def rows(split):
    yield {"id": "1", "question": "q", "answer": "a"}

for name, sensitive in (("ours/open", False), ("ours/secret", True)):
    add_task(
        name,
        source=RowSource(rows=rows, splits=("validation",), fields=("question", "answer"), version="1"),
        templates=(Template(id="t", inputs="{question}", targets="{answer}"),),
        cluster="c", licence="Apache-2.0", identity="fixture", sensitive=sensitive,
        metrics=("exact_match", "token_f1", broken),
    )

def sourced(targets, predictions):
    return {"sourced": 100.0 * all(target.source == "q" for target in targets)}

add_task(
    "ours/sourced",
    source=RowSource(rows=rows, splits=("validation",), fields=("question", "answer"), version="1"),
    templates=(Template(id="t", inputs="{question}", targets="{answer}"),),
    cluster="c", licence="Apache-2.0", identity="fixture",
    metrics=(sourced,), postprocess_fn=source_reference("question"),
)
"""


def test_tasks_of_ours_and_of_plain_seqio_are_scored_in_one_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "fixture_tasks.py").write_text(TASKS)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    good = {"before": ["yes", "no idea"], "before_chat": None, "after": ["YES", "a blue car"]}
    asked = {"targets": ["yes", "the blue car"], "predictions": good}
    foreign = {"targets": ["a", "b"], "predictions": {"after": ["a", "x"]}, "examples": [{"answers": "!"}] * 2}
    payload = {
        "ours/open": asked,
        "ours/secret": asked,
        "ours/sourced": asked | {"examples": [{"question": "q", "answer": "a"}] * 2},  # as records keep them
        "foreign_plain": foreign,
        "foreign_scored": foreign | {"scores": {"after": [-1.0, -2.5], "before_chat": None}},
        "foreign_broken": {"targets": ["A"], "predictions": {"before": ["A"], "after": ["B"]}},
        "ours/opne": asked,
    }
    handle = metrics_client.start(["fixture_tasks"], payload, tmp_path / "run")
    assert not handle.done() and (handle.folder.stat().st_mode & 0o777) == 0o700
    answer = handle.finish(timeout=120)

    ours = answer["tasks"]["ours/open"]
    plain = {state: {k: v for k, v in found.items() if "/" not in k} for state, found in ours["metrics"].items()}
    assert plain["after"] == {"exact_match": 50.0, "token_f1": 100.0}
    assert plain["before"] == {"exact_match": 50.0, "token_f1": 50.0}
    after = ours["metrics"]["after"]
    assert (after["exact_match/low"], after["exact_match/high"], after["exact_match/of"]) == (0.0, 100.0, 2.0)
    assert set(ours["metrics"]) == {"before", "after"}
    assert ours["per_example"]["after"] == {"exact_match": [100.0, 0.0], "token_f1": [100.0, 100.0]}
    assert answer["tasks"]["ours/sourced"]["metrics"]["after"] == {"sourced": 100.0}
    assert answer["tasks"]["foreign_plain"]["metrics"] == {"after": {"upper_match": 50.0}}
    assert answer["notes"]["foreign_plain"][0].endswith(": ranked, beside")
    assert answer["tasks"]["foreign_scored"]["metrics"] == {"after": {"ranked": -1.75}}
    assert "foreign_scored" not in answer["notes"]
    assert answer["tasks"]["foreign_broken"]["metrics"]["after"] == {"upper_match": 0.0}
    assert answer["errors"]["foreign_broken"][0] == "broken: ValueError: cannot score A"
    assert answer["errors"]["ours/secret"] == ["broken: ValueError"]  # a message could quote protected text
    assert "ours/open" in answer["errors"]["ours/opne"][0]
    sentences = metric_notes(answer)
    assert "Metrics of foreign_broken are missing: broken: ValueError: cannot score A" in sentences
    assert "Metrics of ours/secret are missing: broken: ValueError" in sentences
    assert any(line.startswith("Metrics of foreign_plain: not computed") for line in sentences)
    assert list((tmp_path / "run").iterdir()) == []  # request and answer are gone: they may hold sensitive text


def stand_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, source: str) -> None:
    """Puts a small module in the worker's place, so that failures cost no import of SeqIO."""
    (tmp_path / "stand_in_worker.py").write_text(source)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setattr(metrics_client, "WORKER", "stand_in_worker")


def test_the_last_line_of_a_failed_worker_is_the_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, tmp_path, "import sys; print('noise'); sys.exit('no module named \\'tsks\\'')")
    with pytest.raises(UserError, match="task metrics: no module named 'tsks'"):
        metrics_client.compute_metrics(["tsks"], {}, tmp_path / "run")
    assert list((tmp_path / "run").iterdir()) == []


def test_a_killed_worker_is_named_as_killed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, tmp_path, "import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    with pytest.raises(UserError, match="signal 9"):
        metrics_client.compute_metrics([], {}, tmp_path / "run")


def test_a_worker_that_hangs_is_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in(monkeypatch, tmp_path, "import time; time.sleep(60)")
    handle = metrics_client.start([], {}, tmp_path / "run")
    began = time.monotonic()
    with pytest.raises(UserError, match="no answer in 0.2 s"):
        handle.finish(timeout=0.2)
    assert time.monotonic() - began < 20 and handle.done()


def test_the_client_and_the_report_import_neither_seqio_nor_jax() -> None:
    code = (
        "import sys, itune.evaluation.metrics_client, itune.evaluation.report, itune.evaluation.console;"
        "print(*{'seqio', 'tensorflow', 'jax'} & set(sys.modules))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=dict(os.environ))
    assert out.stdout.strip() == ""
