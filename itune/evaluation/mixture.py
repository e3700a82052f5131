"""The report's table of what each task gave: of the steps that were made where that is known, else of the plan."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup

from itune.evaluation.charts import bar, share_bar
from itune.evaluation.panels import task_losses
from itune.evaluation.results import RunFiles, number

MOST_UNFOLDED = 40  # a mixture of more tasks shows the largest UNFOLDED, and the others on request
UNFOLDED = 20


def mixture_panel(run: RunFiles, clusters: Mapping[str, str]) -> dict[str, Any] | None:
    """Rows of asked against got. clusters: {task: cluster}. None where nothing says what tasks give."""
    record = run.proportions or run.plan
    summary: Mapping[str, Mapping[str, Any]] = (record.get("summary") or {}).get("tasks") or {}
    if not summary:
        return None
    shares = [number(row.get(k)) or 0.0 for row in summary.values() for k in ("share_got", "share_asked")]
    last_tenth = [s for s in run.steps if s["step"] > 0.9 * run.steps[-1]["step"]]
    names = list(summary)
    if len(names) > MOST_UNFOLDED:
        names.sort(key=lambda name: -(number(summary[name].get("share_got")) or 0.0))
    rows = [_row(name, summary[name], clusters.get(name, ""), last_tenth, max(shares)) for name in names]
    first = UNFOLDED if len(rows) > MOST_UNFOLDED else len(rows)
    return {"rows": rows[:first], "folded": rows[first:], "span": _span(run)}


def _row(
    name: str, row: Mapping[str, Any], cluster: str, steps: Sequence[Mapping[str, Any]], largest: float
) -> dict[str, Any]:
    asked, got = number(row.get("share_asked")), number(row.get("share_got")) or 0.0
    epochs, loss = number(row.get("epochs")), mean(task_losses(steps, name))
    cells = [
        ("\u2013" if asked is None else percent(asked), ""),
        _with_share(row, "examples"),
        (integer(row.get("examples_available")), _skipped(row)),
        ("\u2013" if epochs is None else f"{epochs:.2f}", ""),
        _with_share(row, "tokens"),
        _with_share(row, "supervised_tokens"),
        ("\u2013" if loss is None else f"{loss:.3f}", ""),
        (integer(row.get("truncated")), ""),
        (integer(row.get("dropped")), ", ".join(r.replace("_", " ") for r in row.get("dropped_because") or ())),
    ]
    drawn = Markup(share_bar(got, asked, largest))
    return {"task": name, "cluster": cluster, "got": percent(got), "bar": drawn, "cells": cells}


def mean(losses: list[tuple[float, float, float]]) -> float | None:
    """Of [(step, loss, tokens)]: one sum over one sum."""
    tokens = sum(weight for _, _, weight in losses)
    return sum(loss * weight for _, loss, weight in losses) / tokens if tokens else None


def fill_rows(run: RunFiles) -> list[dict[str, Any]]:
    """How full the rows are of each budget."""
    record = run.proportions or run.plan
    fill = (record.get("summary") or {}).get("fill") or {}
    words = {"tokens": ("Tokens", "L"), "supervised": ("Supervised tokens", "T"), "segments": ("Examples", "S")}
    rows = []
    for key, (label, bound) in words.items():
        value = number(fill.get(key))
        if value is not None:
            room, drawn = integer(record.get(bound)), Markup(bar(value, 1.0, "after"))
            rows.append({"label": label, "bound": room, "text": percent(value), "bar": drawn})
    return rows


def percent(share: float) -> str:
    """ "12.5 %"; small shares keep two digits: "0.012 %" """
    value = 100 * share
    return f"{value:.1f} %" if value >= 1 or value == 0 else f"{value:.2g} %"


def integer(value: Any) -> str:
    parsed = number(value)
    return "\u2013" if parsed is None else f"{parsed:,.0f}"


def _span(run: RunFiles) -> str:
    made, planned = number(run.proportions.get("steps")), number(run.plan.get("steps"))
    if made is None:
        return f"all {planned:,.0f} planned steps" if planned else "the whole plan"
    of_planned = f" of {planned:,.0f} planned" if planned and planned > made else ""
    return f"the {made:,.0f} steps that were made{of_planned}"


def _with_share(row: Mapping[str, Any], name: str) -> tuple[str, str]:
    share = number(row.get(f"share_of_{name}"))
    return integer(row.get(name)), "" if share is None else percent(share)


def _skipped(row: Mapping[str, Any]) -> str:
    skipped = number(row.get("skipped_in_prepare"))
    return f"{skipped:,.0f} bad ones skipped" if skipped else ""
