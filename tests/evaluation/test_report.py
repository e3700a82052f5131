"""The report from whole and broken run directories. All runs here are made up (see conftest.py)."""

from __future__ import annotations

import html.parser
import io
import json
import re
import stat
from pathlib import Path

import pytest
from rich.console import Console

from itune.evaluation.charts import Series, line_chart, smooth, thin, ticks
from itune.evaluation.console import print_summary
from itune.evaluation.report import choose_samples, task_facts, write_report
from itune.evaluation.results import Evaluation, load_run
from tests.evaluation.conftest import HELD_IN, HELD_OUT, write_run

VOID = {"meta", "br", "wbr", "link", "img", "input", "hr"}


class Page(html.parser.HTMLParser):
    """Checks that tags nest, and keeps every tag's attributes and the text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(text)
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        if not self.open or self.open[-1] != "style":
            self.text += data


def page(folder: Path, **options: bool) -> Page:
    return Page(write_report(folder, **options).read_text(encoding="utf-8"))


def test_a_whole_run_shows_every_part(run_folder: Path) -> None:
    shown = page(run_folder).text
    assert "fell from 1.867 to 0.934 nats per target token (320 examples, 301 improved, 19 got worse" in shown
    assert all(task in shown for task in HELD_IN | HELD_OUT)
    for part in (
        "chat template",
        "Sample completions",
        "The effective mixture",
        "all 60 planned steps",
        "Packing",
        "97.3 %",
        "Where the time went",
    ):
        assert part in shown
    assert "9be1c4d2" in shown and "python -m itune.train" in shown and "smollm2-135m-instruct" in shown
    assert "not of the model\u2019s pretraining" in shown
    assert "60 of 60 steps" in shown and "not finished" not in shown
    assert shown.count("Prompt (") == 5


def test_nothing_is_fetched_and_nothing_runs(run_folder: Path) -> None:
    parsed = page(run_folder)
    assert not {"script", "link", "img", "iframe", "object"} & {tag for tag, _ in parsed.tags}
    for tag, attributes in parsed.tags:
        assert not {"src", "href", "srcset", "onload", "onclick", "onerror"} & set(attributes), (tag, attributes)
    text = (run_folder / "report.html").read_text()
    assert "default-src 'none'" in text
    assert not re.search(r"https?://|@import|url\(|//[a-z]+\.", text)


def test_completions_cannot_become_markup(tmp_path: Path) -> None:
    evil = '<script>alert(1)</script><img src=x onerror=alert(2)> </pre>&amp; "quoted" {{ 7 * 7 }}'
    parsed = page(write_run(tmp_path / "run", text=evil))
    assert not {"script", "img"} & {tag for tag, _ in parsed.tags}
    assert evil in parsed.text  # shown as it was, to the letter


def test_a_task_name_cannot_become_markup(run_folder: Path) -> None:
    for name in ("metrics.jsonl", "plan.json", "evaluation.json"):
        path = run_folder / name
        path.write_text(path.read_text().replace("clinic/classify/urgency", "<b onclick=x>\\\"'"))
    parsed = page(run_folder)
    assert "b" not in {tag for tag, _ in parsed.tags} and "<b onclick=x>\"'" in parsed.text
    assert not any("onclick" in attributes for _, attributes in parsed.tags)


@pytest.mark.parametrize("marked_in", ["manifest", "predictions", "nowhere"])
def test_sensitive_text_is_never_there_without_show_text(tmp_path: Path, marked_in: str) -> None:
    everything = tuple(HELD_IN | HELD_OUT)
    folder = write_run(tmp_path / "run", sensitive=everything if marked_in == "manifest" else (), text="JANE DOE")
    if marked_in == "predictions":
        lines = [
            json.loads(line) | {"sensitive": True} for line in (folder / "predictions.jsonl").read_text().splitlines()
        ]
        (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    if marked_in == "nowhere":
        (folder / "manifest.json").unlink()  # cut short: nobody says that the text is harmless
    page(folder)
    written = (folder / "report.html").read_text()
    assert "JANE DOE" not in written and "enc-1" not in written and "enc-0" not in written
    assert "--show_text" in written
    if marked_in != "nowhere":
        assert stat.S_IMODE((folder / "report.html").stat().st_mode) == 0o600
    assert "JANE DOE" in page(folder, show_text=True).text


def test_one_sensitive_task_hides_its_own_text_only(tmp_path: Path) -> None:
    secret = "general/riddles"
    folder = write_run(tmp_path / "run", sensitive=(secret,))
    lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
    for line in lines:
        if line["task"] == secret:
            line |= {"after": "JANE DOE", "prompt": "JANE DOE"}
    kept = [line for line in lines if line["task"] in (secret, "clinic/classify/urgency")]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in kept))
    shown = page(folder).text
    assert "JANE DOE" not in shown and "Take one tablet" in shown


@pytest.mark.parametrize(
    "missing", ["config.json", "manifest.json", "plan.json", "metrics.jsonl", "evaluation.json", "predictions.jsonl"]
)
def test_any_one_file_may_be_missing(run_folder: Path, missing: str) -> None:
    (run_folder / missing).unlink()
    assert "The run" in page(run_folder).text


def test_an_interrupted_run_says_so_and_claims_nothing(run_folder: Path) -> None:
    lines = (run_folder / "metrics.jsonl").read_text().splitlines()[:25]
    (run_folder / "metrics.jsonl").write_text("\n".join(lines) + '\n{"step": 25, "loss": 1.')
    evaluation = json.loads((run_folder / "evaluation.json").read_text())
    (run_folder / "evaluation.json").write_text(json.dumps({"before": evaluation["before"], "after": None}))
    (run_folder / "predictions.jsonl").unlink()
    shown = page(run_folder).text
    assert "not finished: 24 of 60 steps" in shown
    assert "no evaluation after training" in shown and "improved" not in shown
    assert "clinic/classify/urgency" in shown


def test_an_empty_directory_gives_a_page(tmp_path: Path) -> None:
    shown = page(tmp_path).text
    assert "No training step has been logged" in shown and "improved" not in shown


def test_nan_losses_are_left_out_and_counted(run_folder: Path) -> None:
    path = run_folder / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 61, "loss": NaN, "task_loss": {"clinic/classify/urgency": NaN}}\n')
    shown = page(run_folder)
    assert "1 step(s) without a finite loss" in shown.text
    assert not any("nan" in (a.get("d") or "").lower() for _, a in shown.tags)


def test_samples_are_of_different_clusters_and_the_same_every_time(run_folder: Path) -> None:
    run = load_run(run_folder)
    tasks = task_facts(run)
    chosen = choose_samples(run.predictions, tasks)
    assert len(chosen) == 5 and len({tasks[p.task].cluster for p in chosen}) == 5
    assert [p.group for p in chosen] == ["held_in"] * 4 + ["held_out"]
    assert choose_samples(tuple(reversed(run.predictions)), tasks) == chosen
    one = [p for p in run.predictions if p.task == "clinic/classify/urgency"]
    assert len(choose_samples(one, tasks)) == 3


def test_the_console_summary_fits_80_columns(run_folder: Path) -> None:
    out = io.StringIO()
    evaluation = Evaluation.load(run_folder / "evaluation.json")
    print_summary(evaluation, Console(file=out, width=80, color_system=None))
    lines = out.getvalue().splitlines()
    assert max(map(len, lines)) <= 80
    assert "\u2026" not in out.getvalue()  # no number or name is cut
    row = next(line for line in lines if line.startswith("clinic/classify/urgency"))
    assert row.split()[1:] == ["loss", "2.460", "2.214", "1.230", "\u22121.230", "better"]
    print_summary(Evaluation(), Console(file=out, width=80))  # nothing measured: nothing to fail on


def test_smoothing_is_weighted_and_unbiased_at_the_start() -> None:
    assert smooth([2.0, 2.0, 2.0], [1.0, 5.0, 0.0], span=3) == pytest.approx([2.0, 2.0, 2.0])
    assert smooth([1.0, 4.0], [1.0, 2.0], span=1e9)[1] == pytest.approx(3.0)


def test_ticks_are_round_and_inside() -> None:
    assert ticks(0, 60, 3) == [0, 20, 40, 60]
    assert ticks(0.43, 1.31, 4) == pytest.approx([0.6, 0.8, 1.0, 1.2])
    assert ticks(2.0, 2.0, 4) == [2.0]


def test_long_runs_are_thinned_to_means() -> None:
    points = thin([(float(i), float(i % 2)) for i in range(10_000)])
    assert len(points) <= 240 and all(y == pytest.approx(0.5, abs=0.02) for _, y in points)


def test_a_chart_without_points_is_nothing_and_one_point_is_a_dot() -> None:
    assert line_chart([Series(name="a", points=[(1, float("nan"))], style="after")], label="x") == ""
    assert "<circle" in line_chart([Series(name="a", points=[(1, 2.0)], style="after")], label="x")


def test_a_chart_escapes_its_names() -> None:
    series = Series(name="</title><b>", points=[(1, 2.0), (2, 3.0)], style="after")
    dots = Series(name="</title><b>", points=[(1, 2.0)], style="after", kind="dots")
    parsed = Page(line_chart([series, dots], label='x" onclick="y', x_label="<b>"))
    assert "b" not in {tag for tag, _ in parsed.tags}
    assert not any("onclick" in attributes for _, attributes in parsed.tags)
