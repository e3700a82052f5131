"""The report's curves: loss over all tasks and by task, throughput, learning rate, and where the time went."""

from __future__ import annotations

import math
import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from itune.evaluation.charts import Series, bar, line_chart, smooth
from itune.evaluation.results import GROUPS, RunFiles, number

MAX_PANELS = 36
EVAL_STYLES = {"held_in": "chat", "held_out": "held-out"}


def eval_curves(run: RunFiles) -> dict[str, dict[str, list[tuple[float, float]]]]:
    """{group: {task: [(step, loss)]}} from metrics.jsonl; evaluation.json adds step 0 and the last step."""
    by_step: dict[str, dict[str, dict[float, float]]] = {group: {} for group in GROUPS}

    def add(step: float, group: str, task: str, loss: float | None) -> None:
        if loss is not None:
            by_step[group].setdefault(task, {})[step] = loss

    for line in run.evals:
        for group in GROUPS:
            for task, result in (line["eval"].get(group) or {}).items():
                add(line["step"], group, task, number(result.get("loss")))
    last = run.steps[-1]["step"] if run.steps else number(run.plan.get("steps"))
    for step, state in ((0, run.evaluation.before), (last, run.evaluation.after)):
        if state is not None and step is not None:
            for group in GROUPS:
                for task, measured in state.group(group).items():
                    add(step, group, task, measured.loss)
    return {g: {t: sorted(points.items()) for t, points in tasks.items()} for g, tasks in by_step.items()}


def overall_panel(run: RunFiles) -> dict[str, Any] | None:
    """Training loss over all tasks with the evaluation's mean over tasks, in a wide and a narrow drawing."""
    tokens = dict(curve(run.steps, "supervised_tokens"))
    raw = [(step, loss, tokens.get(step) or 1.0) for step, loss in curve(run.steps, "loss")]
    series = training_series(raw)
    for group, tasks in eval_curves(run).items():
        if tasks:
            series.append(eval_series(group, mean_over_tasks(tasks)))
    wide, narrow = (
        line_chart(series, label="Loss over all tasks by step", width=w, height=h, x_range=x_range(run))
        for w, h in ((720, 260), (340, 220))
    )
    if not wide:
        return None
    skipped = len(run.steps) - len(raw)
    caption = "Nats per target token. Evaluation: mean over tasks."
    if skipped:
        caption += f" {skipped} step(s) without a finite loss are left out."
    return {"wide": Markup(wide), "narrow": Markup(narrow), "caption": caption}


def task_panels(run: RunFiles) -> tuple[list[dict[str, Any]], str]:
    """One panel a task, training tasks first, and a note if some are not shown."""
    curves = eval_curves(run)
    trained = list(dict.fromkeys(task for s in run.steps for task in (s.get("task_loss") or {})))
    names = list(dict.fromkeys([*trained, *curves["held_in"], *curves["held_out"]]))
    panels = []
    for name in names[:MAX_PANELS]:
        raw = task_losses(run.steps, name)
        series = training_series(raw)
        for group in GROUPS:
            if name in curves[group]:
                series.append(eval_series(group, curves[group][name]))
        svg = line_chart(series, label=f"Loss of {name} by step", x_range=x_range(run))
        if svg:
            caption = _panel_caption(name, raw, curves) + _given(run, name)
            panels.append({"title": name, "caption": caption, "svg": Markup(svg)})
    note = f"The first {MAX_PANELS} of {len(names)} tasks are drawn." if len(names) > MAX_PANELS else ""
    return panels, note


def _given(run: RunFiles, task: str) -> str:
    """What the task has given by the last line that saw it: " · 12,345 supervised tokens, 0.31 epochs"."""
    for step in reversed(run.steps):
        tokens = number((step.get("task_tokens_total") or {}).get(task))
        epochs = number((step.get("task_epochs") or {}).get(task))
        if tokens is not None and epochs is not None:
            return f" \u00b7 {tokens:,.0f} supervised tokens, {epochs:.2f} epochs"
    return ""


def task_losses(steps: Sequence[Mapping[str, Any]], task: str) -> list[tuple[float, float, float]]:
    """[(step, loss, supervised tokens)] of the steps in which the task had any."""
    found = []
    for step in steps:
        loss = number((step.get("task_loss") or {}).get(task))
        tokens = number((step.get("task_tokens") or {}).get(task, 1.0))
        if loss is not None and tokens:
            found.append((step["step"], loss, tokens))
    return found


def training_series(raw: Sequence[tuple[float, float, float]]) -> list[Series]:
    """Each step's loss, faint, and its token-weighted moving average over about a tenth of the run."""
    if not raw:
        return []
    points = [(x, y) for x, y, _ in raw]
    averaged = smooth([y for _, y, _ in raw], [w for _, _, w in raw], span=max(5.0, len(raw) / 10))
    return [
        Series(name="training, each step", points=points, style="after", kind="faint"),
        Series(
            name="training, smoothed", points=list(zip((x for x, _ in points), averaged, strict=True)), style="after"
        ),
    ]


def eval_series(group: str, points: Sequence[tuple[float, float]]) -> Series:
    words = "held-in" if group == "held_in" else "held-out"
    return Series(name=f"{words} evaluation", points=points, style=EVAL_STYLES[group], kind="dots")


def mean_over_tasks(tasks: Mapping[str, Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """The mean of the tasks' losses at each step at which all were measured (else it jumps as they come and go)."""
    at: dict[float, list[float]] = {}
    for points in tasks.values():
        for step, loss in points:
            at.setdefault(step, []).append(loss)
    return [(step, sum(v) / len(v)) for step, v in sorted(at.items()) if len(v) == len(tasks)]


def x_range(run: RunFiles) -> tuple[float, float]:
    """From step 0 to the last one planned, so that a run cut short looks it."""
    reached = run.steps[-1]["step"] if run.steps else 0
    return 0.0, float(max(number(run.plan.get("steps")) or 0, reached, 1))


def speed(run: RunFiles) -> dict[str, Any] | None:
    """Throughput, learning rate and gradient norm by step, a sentence, the time by part. None with nothing to say."""
    panels = []
    rates = [("tokens_per_s", "all tokens", "before"), ("supervised_tokens_per_s", "supervised tokens", "after")]
    medians = {}
    series = []
    for key, name, style in rates:
        points = curve(run.steps, key)
        if points:
            series.append(Series(name=name, points=points, style=style))
            medians[key] = statistics.median(y for _, y in points[1:] or points)
    charts = [("Tokens a second", "Grey: all tokens. Blue: supervised tokens.", series, True)]
    for key, title in (("learning_rate", "Learning rate"), ("grad_norm", "Gradient norm, before clipping")):
        charts.append((title, "By step.", [Series(name=title, points=curve(run.steps, key), style="after")], True))
    for title, caption, lines, from_zero in charts:
        svg = line_chart(lines, label=f"{title} by step", x_range=x_range(run), from_zero=from_zero)
        if svg:
            panels.append({"title": title, "caption": caption, "svg": Markup(svg)})
    parts = time_parts(run)
    if not panels and not parts:
        return None
    return {"panels": panels, "parts": parts, "sentence": _speed_sentence(run, medians)}


def curve(steps: Sequence[Mapping[str, Any]], key: str) -> list[tuple[float, float]]:
    """[(step, value)] where there is one."""
    return [(s["step"], value) for s in steps if (value := number(s.get(key))) is not None]


def time_parts(run: RunFiles) -> list[dict[str, Any]]:
    """Rows of the time table: evaluation.json's timings, or else the steps' seconds."""
    timings = dict(run.evaluation.timings) or step_seconds(run)
    total = sum(timings.values())
    return [
        {"label": name, "time": duration(s), "share": f"{100 * s / total:.0f} %", "bar": Markup(bar(s, total, "after"))}
        for name, s in timings.items()
        if total > 0
    ]


def step_seconds(run: RunFiles) -> dict[str, float]:
    """{"steps": seconds}"""
    seconds = [y for _, y in curve(run.steps, "seconds")]
    return {"steps": sum(seconds)} if seconds else {}


def duration(seconds: float) -> str:
    """ "12.3 s", "4 min 05 s", "2 h 07 min" """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _speed_sentence(run: RunFiles, medians: Mapping[str, float]) -> str:
    if not medians:
        return ""
    words = {"tokens_per_s": "tokens", "supervised_tokens_per_s": "supervised tokens"}
    rates = " and ".join(f"{value:,.0f} {words[key]}" for key, value in medians.items())
    tokens = sum(y for _, y in curve(run.steps, "tokens"))
    steps = sum(number(line.get("steps")) or 1 for line in run.steps)
    seen = f" {tokens:,.0f} tokens were trained on in {steps:,.0f} steps." if tokens else ""
    return f"The median step, the first left out, went through {rates} a second.{seen}"


def _panel_caption(name: str, raw: Sequence[tuple[float, float, float]], curves: Mapping[str, Any]) -> str:
    """Where the curve starts and ends, in numbers: evaluation if there is one, else training."""
    for group, words in (("held_in", "Evaluation"), ("held_out", "Held out")):
        points = curves[group].get(name) or []
        if len(points) > 1:
            return f"{words}: {points[0][1]:.3f} → {points[-1][1]:.3f}"
    values = [y for _, y, _ in raw]
    if not values:
        return "Held out, measured once" if name in curves["held_out"] else "Measured once"
    part = max(1, math.ceil(len(values) / 10))
    first, last = statistics.fmean(values[:part]), statistics.fmean(values[-part:])
    return f"Training: {first:.3f} → {last:.3f} (first and last tenth)"


def final_step(run: RunFiles) -> int | None:
    """The last step that was logged."""
    return int(run.steps[-1]["step"]) if run.steps else None
