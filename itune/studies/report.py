"""report.html: one static file, without scripts or anything fetched, made from a study's runs."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from itune.evaluation.charts import tick_label, ticks
from itune.evaluation.results import write_text
from itune.studies import panels
from itune.studies.amounts import may_stop, unequal
from itune.studies.arms import Study, difference
from itune.studies.measures import Measure
from itune.studies.outcomes import DONE, Answer, Outcome, summary, undone
from itune.studies.statistics import FEWEST_SEEDS, Verdict

NAME = "report.html"
LONGEST_NAME = 28  # characters of an arm's name in the plot


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plot:
    """Sizes of a forest plot. left: where the axis begins.  row: an arm's height.  above: its name's, over the line."""

    width: int
    left: int
    row: int
    above: int = 0


WIDE, NARROW = Plot(width=720, left=190, row=26), Plot(width=360, left=8, row=44, above=18)


def write_report(study: Study, found: Mapping[str, Outcome], answered: Mapping[str, Answer]) -> Path:
    """Builds report.html in the study's folder and returns its path."""
    from jinja2 import Environment, StrictUndefined

    package = resources.files("itune")
    css = (package / "evaluation" / "report.css").read_text("utf-8")
    template = (package / "studies" / "report.html").read_text("utf-8")
    html = Environment(autoescape=True, undefined=StrictUndefined).from_string(template)
    path = study.folder / NAME
    write_text(path, html.render(css=Markup(css), **page(study, found, answered)))
    return path


def page(study: Study, found: Mapping[str, Outcome], answered: Mapping[str, Answer]) -> dict[str, Any]:
    """What the template shows."""
    trained, measure = panels.read_runs(study, found), Measure.of(study.config.measure)
    told = {name: a.verdict for name, a in answered.items() if a.verdict is not None}
    seeds, runs = len(study.config.seeds), sum(len(o.state) for o in found.values())
    done = sum(state == DONE for o in found.values() for state in o.state.values())
    gaps = [f"{name}: {'; '.join(why)}" for name, o in found.items() if (why := undone(o))]
    return {
        "title": f"itune study: {study.folder.name}",
        "subtitle": f"{len(found)} arms, {seeds} seeds, {done} of {runs} runs done",
        "warnings": [f"Not in these figures: {'. '.join(gaps)}."] if gaps else [],
        "findings": summary(study, answered),
        "notes": _notes(study, answered, trained),
        "group": study.config.endpoint.replace("_", "-"),
        "measure": measure,
        "comparisons": len(told),
        "forest": [Markup(forest(told, plot, _untold(answered))) for plot in (WIDE, NARROW)] if answered else [],
        "heat": _heat(answered, measure),
        "curves": panels.curves(trained, study.config.endpoint),
        "key": panels.key(trained),
        "undrawn": [name for name in found if name not in {item["name"] for item in panels.key(trained)}],
        "training": panels.training_losses(trained),
        "mixture": panels.mixture(trained, study.base.name),
        "cost": panels.cost(trained, _amounts(study)),
        "arms": [_arm(study, outcome, answered.get(name)) for name, outcome in found.items()],
    }


def _notes(study: Study, answered: Mapping[str, Answer], trained: panels.Runs) -> list[str]:
    over = "tasks like these" if study.config.tasks_sampled else "these tasks, other seeds and other examples of them"
    notes = [f"Intervals are for {over}."]
    if len(study.config.seeds) < FEWEST_SEEDS:
        notes.append(f"With fewer than {FEWEST_SEEDS} seeds nothing is called significant.")
    notes.append(f"Held equal between arms: {study.config.held_equal.replace('_', ' ')}.")
    if different := unequal(_amounts(study), study.base.name):
        notes.append(f"Not equal to the base: {'; '.join(different)}.")
    notes += [f"{line[0].upper()}{line[1:]}." for line in (*may_stop(study), *panels.stopped_early(trained))]
    return notes + [f"{a.arm.name}: {note}." for a in answered.values() for note in a.notes]


def _amounts(study: Study) -> dict[str, dict[str, int]]:
    """What study.json says that each arm trains on."""
    arms = json.loads((study.folder / "study.json").read_text("utf-8"))["arms"]
    return {name: facts["amounts"] for name, facts in arms.items()}


def _arm(study: Study, outcome: Outcome, answer: Answer | None) -> dict[str, Any]:
    verdict = answer.verdict if answer is not None else None
    differs = difference(study.base.config, outcome.arm.config)
    return {
        "name": outcome.arm.name,
        "digest": outcome.arm.digest,
        "differs": [f"{key}: {a!r} → {b!r}" for key, (a, b) in differs.items()] or ["nothing: this is the base"],
        "done": f"{sum(state == DONE for state in outcome.state.values())} of {len(outcome.state)}",
        "p": _p(verdict.effect.p) if verdict else "",
        "corrected": _p(verdict.p_corrected) if verdict else "",
    }


def _untold(answered: Mapping[str, Answer]) -> dict[str, str]:
    """Arms that can't be compared, and why, in short."""
    return {name: "; ".join(a.notes) for name, a in answered.items() if a.verdict is None}


def _p(value: float) -> str:
    if math.isnan(value):
        return "–"
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _heat(answered: Mapping[str, Answer], measure: Measure) -> dict[str, Any]:
    arms = list(answered)
    tasks = list(dict.fromkeys(task for name in arms for task in answered[name].by_task))
    values = {(t, n): answered[n].by_task[t].estimate for n in arms for t in answered[n].by_task}
    largest = max((abs(v) for v in values.values()), default=0.0) or 1.0
    rows = []
    for task in tasks:
        cells = [_cell(values.get((task, name)), largest, measure) for name in arms]
        rows.append({"task": task, "cells": cells})
    return {"arms": arms, "rows": rows}


def _cell(value: float | None, largest: float, measure: Measure) -> dict[str, str]:
    if value is None:
        return {"text": "–", "style": ""}
    colour = "var(--worse)" if value * measure.better < 0 else "var(--better)"
    share = round(45 * abs(value) / largest)
    return {"text": f"{value:+.3f}", "style": f"background: color-mix(in srgb, {colour} {share}%, transparent)"}


def forest(verdicts: Mapping[str, Verdict], plot: Plot = WIDE, untold: Mapping[str, str] | None = None) -> str:
    """Estimates with their intervals, an arm a line, as SVG; all text is escaped. untold: arms without, and why."""
    untold = untold or {}
    ends = [end for v in verdicts.values() for end in _ends(v)]
    low, high = min([0.0, *ends]), max([0.0, *ends])
    margin = 0.08 * (high - low or 1.0)
    low, high = low - margin, high + margin
    right = plot.width - (90 if not plot.above else 8)
    x = lambda value: plot.left + (right - plot.left) * (value - low) / (high - low)  # noqa: E731
    lines = len(verdicts) + len(untold)
    height = plot.row * lines + 40
    told = [f"{name} {v.effect.estimate:+.3f}" for name, v in verdicts.items()]
    said = "; ".join([*told, *(f"{name}: {why}" for name, why in untold.items())])
    parts = [f'<svg class="forest" viewBox="0 0 {plot.width} {height}" role="img" aria-label="{escape(said)}">']
    bottom = plot.row * lines + 8
    marks = ticks(low, high, 5)
    for mark in marks:
        parts.append(f'<line class="axis" x1="{x(mark):.1f}" x2="{x(mark):.1f}" y1="4" y2="{bottom}"/>')
        label = tick_label(mark, marks[1] - marks[0] if len(marks) > 1 else 1.0)
        parts.append(f'<text class="quiet" text-anchor="middle" x="{x(mark):.1f}" y="{bottom + 16}">{label}</text>')
    parts.append(f'<line class="zero" x1="{x(0):.1f}" x2="{x(0):.1f}" y1="4" y2="{bottom}"/>')
    for number, (name, verdict) in enumerate(verdicts.items()):
        parts += _line(name, verdict, plot, plot.row * number + plot.row / 2 + 4, x)
    for number, (name, why) in enumerate(untold.items(), len(verdicts)):
        y = plot.row * number + plot.row / 2 + 4
        parts += _name(name, y + 4 - plot.above / 2)
        parts.append(
            f'<text class="quiet" x="{plot.left + 4}" y="{y + 4 + plot.above / 2:.1f}">{escape(_short(why, 44))}</text>'
        )
    return "".join([*parts, "</svg>"])


def _ends(verdict: Verdict) -> Sequence[float]:
    return [end for end in (*verdict.effect.interval, verdict.effect.estimate) if math.isfinite(end)]


def _line(name: str, verdict: Verdict, plot: Plot, y: float, x: Any) -> list[str]:
    style = "sure" if verdict.significant else "arm"
    low, high = verdict.effect.interval
    text, y = y + 4 - plot.above / 2, y + plot.above / 2
    parts = _name(name, text)
    if math.isfinite(low):
        parts.append(f'<line class="arm {style}" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{y:.1f}" y2="{y:.1f}"/>')
    parts.append(f'<circle class="arm {style}" cx="{x(verdict.effect.estimate):.1f}" cy="{y:.1f}" r="4"/>')
    value, at = f"{verdict.effect.estimate:+.3f}", plot.width - 4
    parts.append(f'<text text-anchor="end" x="{at}" y="{text:.1f}">{value}</text>')
    return parts


def _name(name: str, y: float) -> list[str]:
    return [f'<text x="0" y="{y:.1f}"><title>{escape(name)}</title>{escape(_short(name, LONGEST_NAME))}</text>']


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else f"{text[: longest - 1]}…"
