"""The report's table of asked against got: of the steps made, else of the plan; large mixtures folded."""

from __future__ import annotations

import copy
import json
from pathlib import Path

from itune.evaluation.mixture import mixture_panel
from itune.evaluation.results import load_run
from tests.evaluation.conftest import HELD_IN
from tests.evaluation.test_report import page

URGENCY = "clinic/classify/urgency"


def write_proportions(folder: Path, steps: int) -> dict:
    """As a run that made `steps` steps leaves it: the plan's form, other numbers."""
    record = copy.deepcopy(json.loads((folder / "plan.json").read_text()))
    record |= {"steps": steps, "planned_steps": record["steps"]}
    totals = {"examples": 0, "tokens": 0, "supervised_tokens": 0}
    for row in record["summary"]["tasks"].values():
        for name in totals:
            row[name] //= 2
            totals[name] += row[name]
        row["dropped"], row["skipped_in_prepare"] = 0, 0
    for row in record["summary"]["tasks"].values():
        row |= {f"share_of_{name}": row[name] / total for name, total in totals.items()}
    urgency = {"dropped": 17, "dropped_because": {"targets_too_long": 3, "inputs_too_long": 1}, "skipped_in_prepare": 4}
    record["summary"]["tasks"][URGENCY] |= urgency
    (folder / "proportions.json").write_text(json.dumps(record))
    return record


def cells(folder: Path, task: str) -> list[tuple[str, str]]:
    panel = mixture_panel(load_run(folder), {})
    assert panel is not None
    (row,) = (row for row in panel["rows"] + panel["folded"] if row["task"] == task)
    return row["cells"]


def test_without_proportions_the_plan_speaks(run_folder: Path):
    assert "all 60 planned steps" in page(run_folder).text
    planned = json.loads((run_folder / "plan.json").read_text())["summary"]["tasks"][URGENCY]
    assert cells(run_folder, URGENCY)[1] == (f"{planned['examples']:,}", "")


def test_what_was_made_is_shown_with_its_shares_and_reasons(run_folder: Path):
    row = write_proportions(run_folder, 24)["summary"]["tasks"][URGENCY]
    shown = page(run_folder).text
    assert "the 24 steps that were made of 60 planned" in shown
    assert "targets too long, inputs too long" in shown and "4 bad ones skipped" in shown
    found = cells(run_folder, URGENCY)
    assert found[1] == (f"{row['examples']:,}", f"{100 * row['share_of_examples']:.1f} %")
    assert found[4] == (f"{row['tokens']:,}", f"{100 * row['share_of_tokens']:.1f} %")
    assert found[5] == (f"{row['supervised_tokens']:,}", f"{100 * row['share_of_supervised_tokens']:.1f} %")
    assert found[8] == ("17", "targets too long, inputs too long")
    write_proportions(run_folder, 60)
    assert "the 60 steps that were made." in page(run_folder).text


def test_the_loss_is_one_sum_over_one_sum_of_the_last_tenth(run_folder: Path):
    lines = [{"step": s, "loss": 9.0, "task_loss": {URGENCY: 9.0}, "task_tokens": {URGENCY: 9}} for s in range(1, 19)]
    for step, loss, tokens in ((19, 1.0, 30), (20, 4.0, 10)):
        lines.append({"step": step, "loss": 1.0, "task_loss": {URGENCY: loss}, "task_tokens": {URGENCY: tokens}})
    lines[-1] |= {"task_tokens_total": {URGENCY: 1234}, "task_epochs": {URGENCY: 0.756}}
    (run_folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    assert cells(run_folder, URGENCY)[6] == ("1.750", "")  # not 2.5, the mean of two means
    assert cells(run_folder, "clinic/summarise/soap_note")[6][0] == "\u2013"
    assert "1,234 supervised tokens, 0.76 epochs" in page(run_folder).text


def test_a_large_mixture_is_folded_the_largest_first(run_folder: Path):
    record = write_proportions(run_folder, 60)
    some = record["summary"]["tasks"][URGENCY]
    tasks = {f"task/{n}": some | {"share_got": n / 5000} for n in range(60)}
    record["summary"]["tasks"] = tasks
    (run_folder / "proportions.json").write_text(json.dumps(record))
    panel = mixture_panel(load_run(run_folder), {})
    assert panel is not None
    assert [row["task"] for row in panel["rows"]] == [f"task/{n}" for n in range(59, 39, -1)]
    assert len(panel["folded"]) == 40
    shown = page(run_folder).text
    assert "The other 40 tasks" in shown and "task/0" in shown


def test_a_small_mixture_keeps_its_own_order(run_folder: Path):
    panel = mixture_panel(load_run(run_folder), {})
    assert panel is not None and [row["task"] for row in panel["rows"]] == list(HELD_IN) and not panel["folded"]
