"""What the runs of a study came to, from files alone."""

from __future__ import annotations

import csv
import dataclasses
import json
import math
import re
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from itune.errors import UserError
from itune.evaluation.losses import write_losses
from itune.evaluation.results import ExampleLoss
from itune.studies.arms import Study, load_study
from itune.studies.measures import Measure
from itune.studies.outcomes import DONE, FAILED_MARK, MISSING, answers, outcomes, rows, summary, write_tables
from itune.studies.report import write_report

TASKS = {"a": 6, "b": 10}


@pytest.fixture
def study(tmp_path: Path) -> Study:
    path = tmp_path / "study.gin"
    path.write_text(
        "include 'gin_configs/recipes/quickstart.gin'\n"
        "StudyConfig.axes = {'LoRAConfig.rank': ('2', '4')}\nStudyConfig.seeds = (0, 1, 2, 3, 4)\n"
    )
    return load_study([path], workdir=str(tmp_path / "out"))


def write(study: Study, arm: int, seed: int, shift: float = 0.0, *, without: str = "", bad: str = "") -> Path:
    folder = Path(study.arms[arm].run(study.folder, seed).model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for task, count in TASKS.items():
        for n in range(count):
            noise = np.random.default_rng([seed, n, arm]).normal(0, 0.05)
            loss = math.nan if f"{task}{n}" == bad else 2.0 + 0.1 * n + 0.2 * seed + shift + noise
            if f"{task}{n}" != without:
                tokens = 0.0 if math.isnan(loss) else 4.0
                found.append(
                    ExampleLoss(
                        group="held_out", task=task, id=f"{n}", nll=4.0 * loss if tokens else 0.0, tokens=tokens
                    )
                )
    found.append(ExampleLoss(group="held_in", task="c", id="0", nll=100.0, tokens=1.0))
    write_losses(folder / "losses.jsonl", [], found)
    (folder / "evaluation.json").write_text("{}")
    return folder


def test_arms_are_compared_by_seed_and_example(study: Study) -> None:
    for seed in study.config.seeds:
        write(study, 0, seed)
        write(study, 1, seed, 0.3)
        write(study, 2, seed)
    answered = answers(study, outcomes(study))
    worse, same = answered["rank=2"].verdict, answered["rank=4"].verdict
    assert worse.effect.estimate == pytest.approx(0.3, abs=0.05) and worse.significant
    assert (worse.effect.seeds, worse.effect.tasks, worse.effect.examples) == (5, 2, 16)
    assert not same.significant and set(answered["rank=2"].by_task) == {"a", "b"}
    lines = summary(study, answered)
    assert lines[0] == "Beyond noise, 1 of 2 arms is worse than the base. No arm is better beyond noise."
    assert lines[1].startswith("rank=2: raises the loss on the held-out tasks by 0.") and lines[1].endswith(
        "beyond noise."
    )
    assert "the most on " in lines[1] and lines[2].endswith(", within noise.") and "probability of 80 %" in lines[-1]
    write_tables(study.folder, rows(outcomes(study), answered))
    with open(study.folder / "results.csv") as file:
        found = list(csv.DictReader(file))
    assert [row["arm"] for row in found if row["kind"] == "arm"] == ["rank=2", "rank=4"]
    assert sum(row["kind"] == "run" for row in found) == 3 * 5 * 2
    read = pq.read_table(study.folder / "results.parquet").to_pylist()
    assert len(read) == len(found) and read[0]["value"] == pytest.approx(float(found[0]["value"]))
    assert read[0]["seed"] == 0 and read[0]["p"] is None


def test_nothing_is_significant_under_five_seeds(study: Study) -> None:
    for seed in (0, 1, 2, 3):
        write(study, 0, seed)
        write(study, 1, seed, 5.0)
    found = outcomes(study)
    assert found["base"].state[4] == MISSING and found["base"].state[0] == DONE
    answered = answers(study, found)
    assert not answered["rank=2"].verdict.significant and answered["rank=2"].notes == ["seed 4 not run"]
    lines = summary(study, answered)
    assert (
        lines[0]
        == "No arm differs from the base beyond noise. Under 5 seeds nothing is called significant; there are 4."
    )
    assert lines[-2] == "rank=4: cannot be compared with the base: seeds 0, 1, 2, 3, 4 not run."


@pytest.mark.parametrize(
    ("seeds", "sampled", "said"),
    [
        (1, False, "with one seed"),
        (2, False, "where every difference is the same"),
        (2, True, "with one task, for Stud"),
    ],
)
def test_why_there_is_no_interval(study: Study, seeds: int, sampled: bool, said: str) -> None:
    study = dataclasses.replace(study, config=dataclasses.replace(study.config, tasks_sampled=sampled))
    for seed in range(seeds):
        for arm in (0, 1):
            folder = write(study, arm, seed)
            write_losses(
                folder / "losses.jsonl", [], [ExampleLoss(group="held_out", task="a", id="0", nll=1, tokens=1)]
            )
    (line,) = [line for line in summary(study, answers(study, outcomes(study))) if line.startswith("rank=2: ")]
    changes = "changes the loss on the held-out tasks by 0.000 nats per target token"
    assert line.startswith(f"rank=2: {changes} (no interval {said}")


def test_gaps_are_told(study: Study) -> None:
    for seed in study.config.seeds:
        write(study, 0, seed)
        write(study, 1, seed, 0.1, without="a3", bad="b2" if seed == 2 else "")
    folder = write(study, 2, 0)
    (folder / "evaluation.json").unlink()
    (folder / FAILED_MARK).write_text("diverged")
    found = outcomes(study)
    assert found["rank=4"].state == {0: "diverged"} | dict.fromkeys((1, 2, 3, 4), MISSING)
    answered = answers(study, found)
    assert answered["rank=2"].notes == ["2 examples have no finite value in every run"]
    assert answered["rank=2"].verdict.effect.examples == 14
    assert answered["rank=4"].verdict is None
    assert answered["rank=4"].notes == ["seed 0 diverged", "seeds 1, 2, 3, 4 not run"]
    marked = [(r["arm"], r["seed"], r["state"]) for r in rows(found, answered) if r["kind"] == "gap"]
    assert marked == [("rank=4", 0, "diverged"), *(("rank=4", seed, "not run") for seed in (1, 2, 3, 4))]


def test_a_report_has_a_row_of_every_arm_whatever_became_of_it(study: Study) -> None:
    amounts = dict.fromkeys(("steps", "examples", "tokens", "supervised_tokens"), 9)
    study.folder.mkdir()
    record = {"arms": {arm.name: {"amounts": amounts} for arm in study.arms}}
    (study.folder / "study.json").write_text(json.dumps(record))

    def page() -> str:
        found = outcomes(study)
        return write_report(study, found, answers(study, found)).read_text()

    empty = page()
    assert "No arm can be compared with the base." in empty and empty.count("seeds 0, 1, 2, 3, 4 not run") >= 3
    for seed in study.config.seeds:
        write(study, 1, seed)
    assert "rank=2: cannot be compared with the base: seeds 0, 1, 2, 3, 4 not run in the base." in page()
    for seed in study.config.seeds:
        write(study, 0, seed)
    (lost,) = (Path(study.arms[2].run(study.folder, 3).model_dir),)
    lost.mkdir(parents=True)
    (lost / FAILED_MARK).write_text("diverged")
    full = page()
    plot, tasks = full.partition("<svg")[2].partition("</svg>")[0], full.partition("<h2>Task by task</h2>")[2]
    assert "rank=4" in plot and "seeds 0, 1, 2, 4 not run; seed 3 diverged" in plot
    assert tasks.count('<td class="heat" style="">–</td>') == len(TASKS), "its column stands, empty"
    assert "<script" not in full and "http" not in full.replace("http-equiv", "")


@pytest.mark.parametrize(
    ("measure", "field", "said"),
    [
        ("rank_accuracy", "rank_per_task", r"raises the rank accuracy on the held-out tasks by \d\d\.\d points"),
        ("exact_match", "generate_per_task", r"raises the exact match on the held-out tasks by \d\d\.\d points"),
        ("exact_mtach", "generate_per_task", "cannot be compared with the base: no example was measured so"),
    ],
)
def test_other_measures_than_the_loss(study: Study, measure: str, field: str, said: str) -> None:
    """Right by rank: one of eight in the base, about, and four in the arm; by text none, and four."""
    asked = dataclasses.replace(study, config=dataclasses.replace(study.config, measure=measure))
    for arm, right in ((0, 1), (1, 4)):
        for seed in study.config.seeds:
            folder = write(study, arm, seed)
            ranked, texts = [], []
            for n in range(80):
                known = {"group": "held_out", "task": "a", "id": str(n)}
                hit = np.random.default_rng([seed, n, arm]).random() < right / 8
                ranked.append(known | {"target": 1, "logprob": [-2.0, -1.0 if hit else -3.0], "tokens": [1, 9]})
                texts.append(known | {"scores": {"after": {"exact_match": 100.0 * (hit and arm)}}})
            for name, lines in (("ranked", ranked), ("predictions", texts)):
                (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    answered = answers(asked, outcomes(asked))
    lines = summary(asked, answered)
    assert any(re.search(said, line) for line in lines), lines
    if verdict := answered["rank=2"].verdict:
        assert verdict.effect.estimate == pytest.approx({"rank_accuracy": 37.5, "exact_match": 50.0}[measure], abs=8)
        assert lines[0] == "Beyond noise, 1 of 1 arms is better than the base. No arm is worse beyond noise."
    with pytest.raises(UserError, match=f"StudyConfig.measure='{measure}': needs EvalConfig.{field} of 1 or more"):
        blind = dataclasses.replace(asked.base.config.evaluation, generate_per_task=0, rank_per_task=0)
        Measure.of(measure).check(dataclasses.replace(asked.base.config, evaluation=blind))
