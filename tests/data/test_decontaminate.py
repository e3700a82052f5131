"""What a run does about evaluation text that is trained on: said, dropped or refused; looked for once."""

from __future__ import annotations

import dataclasses
import json
import stat

import numpy as np
import pytest

from itune.data import contamination, decontaminate
from itune.data.config import DataConfig
from itune.data.schedule import Plan
from itune.errors import UserError

LEAKING = """
    from itune.data import RowSource, Template, add_mixture, add_task

    LONG = " ".join(f"word{i}" for i in range(20))

    def rows(split):
        for i in range(6):
            text = f"{LONG} {i}" if i % 3 == 0 or split == "validation" else f"something else, number {i}, altogether"
            yield {"id": f"{split}-{i}", "question": text, "answer": str(i)}

    def task(name, **fields):
        source = RowSource(rows, fields=("question", "answer"))
        template = Template("ask", "{question}", "{answer}")
        add_task(name, source=source, templates=(template,), cluster=name, identity=name, licence="CC0-1.0", **fields)

    task("leaky")
    task("secret", sensitive=True)
    add_mixture("both", ["leaky", "secret"])
"""


@pytest.fixture
def manifest(toy):
    toy.write(LEAKING)
    return toy.prepare(mixture="both", held_in=("leaky",))


def plan(manifest, excluded, **fields):
    lengths = {"inputs": 200, "targets": 8}
    data = DataConfig(mixture="both", row_length=256, feature_lengths=lengths, max_epochs=1, window=4, **fields)
    return Plan.from_manifest(manifest, data, seed=0, excluded=excluded)


def test_dropped_examples_are_never_drawn(manifest, tmp_path):
    report = decontaminate.find(manifest, tmp_path)
    assert report.found == {"leaky": (0, 3), "secret": (0, 3)}
    dropping = plan(manifest, decontaminate.excluded(report, manifest))
    drawn = {(s.task, s.record) for i in range(dropping.num_rows) for s in dropping.row(i).segments}
    assert drawn == {(task, record) for task in (0, 1) for record in (1, 2, 4, 5)}
    assert dropping.summary(0, dropping.num_rows)["tasks"]["leaky"]["dropped"] == 2
    assert dropping.digest != plan(manifest, None).digest
    fewer = plan(manifest, decontaminate.excluded(report, manifest), max_examples=3)
    assert {(s.task, s.record) for i in range(fewer.num_rows) for s in fewer.row(i).segments} < drawn
    assert sum(len(fewer.row(i).segments) for i in range(fewer.num_rows)) == 6, "three of each of the two tasks"
    alone = plan(manifest, None, rate_factors={"secret": 0.0})
    assert {s.task for i in range(alone.num_rows) for s in alone.row(i).segments} == {0}
    said = list(decontaminate.lines(report, "drop"))
    assert said[-1].startswith("contamination: 4 training examples") and len(said) == 3
    assert len(list(decontaminate.lines(report, "report"))) == 2


def test_a_cap_makes_rates_of_numbers_of_examples(toy):
    """T5's way: min(examples, cap), in place of the mixture's own rates; factors hold on top."""
    toy.write("""
        from itune.data import RowSource, Template, add_mixture, add_task

        def rows(number):
            return lambda split: ({"id": f"{split}-{i}", "q": f"{i}?", "a": str(i)} for i in range(number))

        for name, number in (("small", 5), ("large", 40)):
            source = RowSource(rows(number), fields=("q", "a"))
            templates = (Template("t", "{q}", "{a}"),)
            add_task(name, source=source, templates=templates, cluster=name, identity=name, licence="CC0-1.0")
        add_mixture("capped", [("small", 100.0), ("large", 1.0)])
    """)
    manifest = toy.prepare(mixture="capped", held_in=("small",))
    rates = lambda **fields: {task.name: float(task.rate) for task in plan(manifest, None, **fields).tasks}  # noqa: E731
    assert rates() == {"small": 100.0, "large": 1.0}
    assert rates(rate_cap=16) == {"small": 5.0, "large": 16.0}
    assert rates(rate_cap=100) == {"small": 5.0, "large": 40.0}
    assert rates(rate_cap=16, rate_factors={"small": 0.5}) == {"small": 2.5, "large": 16.0}


def test_stop_names_what_is_shared(manifest, tmp_path):
    report = decontaminate.find(manifest, tmp_path)
    with pytest.raises(UserError, match=r"'stop': 2 of 6 training examples of '\w+' share text with the evaluation of"):
        decontaminate.stop(report)
    decontaminate.stop(dataclasses.replace(report, pairs={}))


def test_it_is_looked_for_once(manifest, tmp_path, monkeypatch):
    first = decontaminate.find(manifest, tmp_path)
    monkeypatch.setattr(decontaminate, "inspect", lambda manifest: pytest.fail("looked again"))
    assert decontaminate.find(manifest, tmp_path) == first
    (file,) = (tmp_path / "contamination").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    file.write_text(file.read_text()[:-5])
    with pytest.raises(pytest.fail.Exception, match="looked again"):
        decontaminate.find(manifest, tmp_path)


@pytest.mark.parametrize("change", ["fingerprint", "sensitive", "rule"])
def test_what_a_report_depends_on_makes_it_anew(manifest, tmp_path, monkeypatch, change):
    decontaminate.find(manifest, tmp_path)
    task = manifest.train[0]
    if change == "rule":
        monkeypatch.setattr(contamination, "GRAM", 12)
    elif change == "sensitive":
        manifest.train[0] = dataclasses.replace(task, sensitive=not task.sensitive)
    else:
        split = dataclasses.replace(task.splits["train"], fingerprint="other")
        manifest.train[0] = dataclasses.replace(task, splits=task.splits | {"train": split})
    monkeypatch.setattr(decontaminate, "inspect", lambda manifest: pytest.fail("looked again"))
    with pytest.raises(pytest.fail.Exception, match="looked again"):
        decontaminate.find(manifest, tmp_path)


def test_hits_are_written_with_both_texts_but_for_sensitive_tasks(manifest, tmp_path):
    report = decontaminate.find(manifest, tmp_path)
    decontaminate.write(report, tmp_path, private=manifest.sensitive)
    path = tmp_path / "contamination.jsonl"
    hits = [json.loads(line) for line in path.read_text().splitlines()]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600 and len(hits) == len(report.hits) == 24
    by_task = {hit["train_task"]: hit for hit in hits}
    assert by_task["leaky"]["train_text"].startswith("word0 word1") and by_task["leaky"]["eval_text"]
    assert by_task["leaky"]["shared"] == " ".join(f"word{i}" for i in range(13))
    assert {by_task["secret"][name] for name in ("train_text", "eval_text", "shared")} == {None}
    assert "word" not in " ".join(line for line in decontaminate.lines(report, "report") if "secret" in line)


def test_a_task_without_hits_has_no_mask(manifest):
    report = contamination.Report(hits=(), pairs={}, examples={"leaky": 6}, found={"leaky": (5,)})
    masks = decontaminate.excluded(report, manifest)
    assert list(masks) == ["leaky"] and np.flatnonzero(masks["leaky"]).tolist() == [5]
