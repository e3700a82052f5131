"""Worst examples: the right ones, in a file, a table and a few lines; no text and no id where it must stay hidden."""

from __future__ import annotations

import io
import json
import math
import stat
from pathlib import Path

from rich.console import Console

from itune.evaluation.console import print_worst
from itune.evaluation.report import write_report
from itune.evaluation.results import ExampleLoss
from itune.evaluation.worst import WorstExample, choose, highest, worst_records, write_worst
from tests.evaluation.conftest import HELD_IN, HELD_OUT, write_run
from tests.evaluation.test_report import page


def loss(id: str, per_token: float, tokens: float = 2, task: str = "a", group: str = "held_in") -> ExampleLoss:
    return ExampleLoss(group=group, task=task, id=id, nll=per_token * tokens, tokens=tokens)


def worst(id: str, loss: float | None, task: str = "a", group: str = "held_in") -> WorstExample:
    texts = {"prompt": f"prompt of {id}: JANE DOE", "target": f"target of {id}"}
    return WorstExample(group=group, task=task, id=id, template="t1", tokens=12, loss=loss, loss_before=2.0, **texts)


def test_the_highest_losses_per_token_of_each_task_and_group():
    losses = [loss("short", 3.0, 1), loss("long", 2.0, 100), loss("low", 0.5), loss("none", 9.0, 0)]
    losses += [loss("x", 0.1, task="b"), loss("y", 5.0, group="held_out"), loss("nan", math.nan), loss("tie", 3.0)]
    assert [e.id for e in choose(losses, 3)] == ["nan", "short", "tie", "x", "y"]
    assert choose(losses, 0) == []


def test_no_task_fills_the_list_alone():
    records = [{"group": "held_in", "task": "hard", "loss": 9.0 - n, "id": n} for n in range(5)]
    records += [{"group": "held_in", "task": "easy", "loss": 0.1, "id": "e"}]
    records += [{"group": "held_out", "task": "hard", "loss": None, "id": "nan"}]
    assert [r["id"] for r in highest(records, 4, 2)] == ["nan", 0, 1, "e"]
    assert [r["id"] for r in highest(records, 2, 2)] == ["nan", 0]


def test_text_of_sensitive_tasks_is_written_only_when_asked_for(tmp_path: Path):
    path = tmp_path / "worst.jsonl"
    both = [worst("1", 3.0, "secret"), worst("2", math.inf, "open")]
    write_worst(path, both, sensitive={"secret"}, show_text=False)
    first, second = (json.loads(line) for line in path.read_text().splitlines())
    assert first["id"] == "1" and first["prompt"] is None is first["target"] and first["sensitive"]
    assert second["prompt"] == "prompt of 2: JANE DOE" and second["loss"] is None and not second["sensitive"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    write_worst(path, both, sensitive={"secret"}, show_text=True)
    assert path.read_text().count("JANE DOE") == 2


def run_with_worst(folder: Path, *, sensitive: tuple[str, ...] = ()) -> Path:
    write_run(folder, sensitive=sensitive)
    found = []
    for group, tasks in (("held_in", HELD_IN), ("held_out", HELD_OUT)):
        for k, name in enumerate(tasks):
            found += [worst(f"w-{k}-{n}", 1.0 + 0.3 * k - 0.1 * n, name, group) for n in range(5)]
    found.append(worst("w-nan", None, "general/riddles", "held_out"))
    write_worst(folder / "worst.jsonl", found, sensitive=set(sensitive), show_text=False)
    return folder


def test_the_report_shows_them_with_ids_losses_and_text(tmp_path: Path):
    shown = page(run_with_worst(tmp_path / "run"))
    assert "Worst examples" in shown.text and "not finite" in shown.text and "prompt of w-nan" in shown.text
    assert "w-9-0" in shown.text and "3.700" in shown.text and "2.000" in shown.text
    assert (
        "w-9-2" in shown.text and "w-9-3" not in shown.text
    )  # three of a task, though the fourth is worse than others
    assert f"{61 - 15} more are in worst.jsonl" in shown.text
    assert shown.text.count("prompt of ") == 15


def test_a_run_without_them_has_no_such_part_and_misses_nothing(run_folder: Path):
    text = page(run_folder).text
    assert "Worst examples" not in text and "Not in the run directory" not in text


def test_the_report_hides_sensitive_ids_and_texts(tmp_path: Path):
    folder = run_with_worst(tmp_path / "run", sensitive=tuple(HELD_IN))
    text = page(folder).text
    written = (folder / "report.html").read_text()
    assert "(withheld)" in text and "worst.jsonl has the ids" in text
    assert "w-9-0" not in written and "w-nan" in text  # the held-out tasks are not sensitive
    (folder / "manifest.json").unlink()
    lines = [json.loads(line) for line in (folder / "worst.jsonl").read_text().splitlines()]
    for line in lines:
        del line["sensitive"]
    (folder / "worst.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    write_report(folder)
    assert "w-nan" not in (folder / "report.html").read_text(), "nobody says that it is harmless"
    assert "w-nan" in page(folder, show_text=True).text


def test_a_broken_file_breaks_no_report(tmp_path: Path):
    folder = run_with_worst(tmp_path / "run")
    odd = [{"task": "a"}, {"group": "held_in", "task": "a", "id": "<b>odd</b>", "loss": "high", "tokens": None}]
    (folder / "worst.jsonl").write_text("".join(json.dumps(line) + "\n" for line in odd) + '{"torn')
    shown = page(folder, show_text=True)
    assert "<b>odd</b>" in shown.text and "b" not in {tag for tag, _ in shown.tags}


def test_a_few_ids_are_printed_and_no_text():
    records = worst_records(
        [worst(f"{n}", 9.0 - n, "hard") for n in range(5)] + [worst("z", None, "easy")], sensitive=(), show_text=True
    )
    out = io.StringIO()
    print_worst(records, Console(file=out, width=80))
    lines = out.getvalue().splitlines()
    assert lines[0] == "Highest losses:"
    assert [line.split()[0] for line in lines[1:]] == ["easy:z", "hard:0", "hard:1", "hard:2"]
    assert lines[1].endswith("loss not finite, 12 tokens, template t1") and "JANE" not in out.getvalue()
    print_worst([], Console(file=out, width=80))
    assert out.getvalue().splitlines() == lines
