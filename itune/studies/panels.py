"""The study report's panels of how the arms trained: curves, losses by task, what the mixture became, what it cost."""

from __future__ import annotations

import math
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from itune.evaluation.charts import Series, line_chart, smooth
from itune.evaluation.config import STOPPED_EARLY
from itune.evaluation.mixture import percent
from itune.evaluation.panels import curve, duration, eval_curves, mean_over_tasks, task_losses
from itune.evaluation.results import RunFiles, load_run, number
from itune.studies.arms import Study
from itune.studies.outcomes import DONE, Outcome

COLOURS = 8  # styles "arm0" to "arm7"; more arms are not told apart by colour, and the chart says so
MOST_TASKS = 40

Runs = Mapping[str, Mapping[int, RunFiles]]  # by arm and seed: those that are done


def read_runs(study: Study, found: Mapping[str, Outcome]) -> Runs:
    return {
        name: {
            seed: load_run(Path(outcome.arm.run(study.folder, seed).model_dir))
            for seed, state in outcome.state.items()
            if state == DONE
        }
        for name, outcome in found.items()
    }


def stopped_early(runs: Runs) -> list[str]:
    """ "base: seed 1 stopped at step 40 of 100", a line a run that did."""
    return [
        f"{name}: seed {seed} stopped {said.partition(':')[0]}"
        for name, by_seed in runs.items()
        for seed, run in by_seed.items()
        if (said := run.evaluation.facts.get(STOPPED_EARLY))
    ]


def curves(runs: Runs, group: str) -> list[dict[str, Any]]:
    """The endpoint's loss and the training loss by step, a line an arm: the mean over its seeds."""
    shown = [name for name in runs if runs[name]][:COLOURS]
    words = group.replace("_", "-")
    charts = [
        ("Loss in training", "Smoothed. Each arm's own mixture: levels are not comparable between arms.", _training),
        (f"Loss on the {words} tasks", "Mean over tasks: what is compared.", lambda run: _evaluated(run, group)),
    ]
    made = []
    for title, caption, points in charts:
        lines = []
        for n, name in enumerate(shown):
            mean = _mean_curve([points(run) for run in runs[name].values()])
            lines.append(Series(name=name, points=mean, style=f"arm{n}", kind="line"))
        svg = line_chart(lines, label=f"{title} by step, an arm a line", width=460, height=240)
        if svg:
            made.append({"title": title, "caption": caption, "svg": Markup(svg)})
    return made


def key(runs: Runs) -> list[dict[str, str]]:
    return [{"style": f"arm{n}", "name": name} for n, name in enumerate([n for n in runs if runs[n]][:COLOURS])]


def _training(run: RunFiles) -> list[tuple[float, float]]:
    losses, tokens = curve(run.steps, "loss"), dict(curve(run.steps, "supervised_tokens"))
    weights = [tokens.get(step) or 1.0 for step, _ in losses]
    averaged = smooth([loss for _, loss in losses], weights, span=max(3.0, len(losses) / 10))
    return [(step, value) for (step, _), value in zip(losses, averaged, strict=True)]


def _evaluated(run: RunFiles, group: str) -> list[tuple[float, float]]:
    return mean_over_tasks(eval_curves(run)[group])


def _mean_curve(lines: Sequence[Sequence[tuple[float, float]]]) -> list[tuple[float, float]]:
    """At the steps that every line has: else the mean jumps where one ends."""
    tables = [dict(line) for line in lines if line]
    if not tables:
        return []
    shared = set(tables[0]).intersection(*tables[1:])
    return [(step, statistics.fmean(table[step] for table in tables)) for step in sorted(shared)]


def training_losses(runs: Runs) -> dict[str, Any]:
    """Each training task's loss in the second half of the steps, the mean over seeds, by arm."""
    arms = list(runs)
    cells: dict[str, dict[str, float]] = {}
    for name in arms:
        for task in _tasks(runs[name].values()):
            values = [v for run in runs[name].values() if (v := _late_loss(run, task)) is not None]
            if values:
                cells.setdefault(task, {})[name] = statistics.fmean(values)
    tasks = sorted(cells)[:MOST_TASKS]
    rows = [{"task": t, "cells": [_decimal(cells[t].get(name)) for name in arms]} for t in tasks]
    return {"arms": arms, "rows": rows, "more": len(cells) - len(tasks)}


def _tasks(runs: Iterable[RunFiles]) -> list[str]:
    return list(dict.fromkeys(task for run in runs for step in run.steps for task in step.get("task_loss") or {}))


def _late_loss(run: RunFiles, task: str) -> float | None:
    """One sum over one sum, of the second half."""
    middle = run.steps[-1]["step"] / 2 if run.steps else 0
    late = [(loss, tokens) for step, loss, tokens in task_losses(run.steps, task) if step > middle]
    total = sum(tokens for _, tokens in late)
    return sum(loss * tokens for loss, tokens in late) / total if total else None


def mixture(runs: Runs, base: str) -> dict[str, Any]:
    """What share of the supervised tokens each task gave, in the arms where that differs from the base's."""
    shares = {name: _shares(next(iter(by_seed.values()))) for name, by_seed in runs.items() if by_seed}
    own = shares.get(base, {})
    others = [name for name in shares if name != base and _apart(shares[name], own) > 0.005]
    tasks = sorted({t for name in (base, *others) for t in shares.get(name, {})}, key=lambda t: (-own.get(t, 0.0), t))
    rows = []
    for task in tasks[:MOST_TASKS]:
        rows.append({"task": task, "cells": [percent(shares[name].get(task, 0.0)) for name in (base, *others)]})
    more = len(tasks) - len(rows)
    same = [name for name in shares if name != base and name not in others]
    unknown = [name for name in runs if name not in shares]
    return {"arms": [base, *others], "rows": rows if others else [], "more": more, "same": same, "unknown": unknown}


def _shares(run: RunFiles) -> dict[str, float]:
    tasks = ((run.proportions or run.plan).get("summary") or {}).get("tasks") or {}
    return {t: number(row.get("share_of_supervised_tokens")) or 0.0 for t, row in tasks.items()}


def _apart(a: Mapping[str, float], b: Mapping[str, float]) -> float:
    """The largest difference of a share."""
    return max((abs(a.get(task, 0.0) - b.get(task, 0.0)) for task in {*a, *b}), default=0.0)


def cost(runs: Runs, amounts: Mapping[str, Mapping[str, int]]) -> list[dict[str, Any]]:
    """A row an arm: what one run of it trains on, its operations, and the time that its runs took."""
    rows = []
    for name, amount in amounts.items():
        seconds = [sum(run.evaluation.timings.values()) for run in runs.get(name, {}).values()]
        cells = [f"{amount.get(unit, 0):,}" for unit in ("steps", "examples", "tokens", "supervised_tokens")]
        cells.append(f"{amount['flops']:.3g}" if "flops" in amount else "\u2013")
        cells.append(duration(statistics.fmean(seconds)) if seconds else "\u2013")
        cells.append(duration(math.fsum(seconds)) if seconds else "\u2013")
        rows.append({"arm": name, "cells": cells})
    return rows


def _decimal(value: float | None) -> str:
    return "\u2013" if value is None else f"{value:.3f}"
