"""report.html: one static file, without scripts or anything fetched, made from what lies in a run directory."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Iterable, Mapping
from html import escape
from importlib import resources
from pathlib import Path
from typing import Any

from markupsafe import Markup

from itune.data.clinical_metrics import LESS_IS_BETTER
from itune.evaluation import panels, worst
from itune.evaluation.charts import bar
from itune.evaluation.findings import findings, format_p
from itune.evaluation.mixture import fill_rows, integer, mixture_panel
from itune.evaluation.results import (
    GROUPS,
    INTERVAL,
    KNOWN_METRICS,
    STATES,
    Evaluation,
    Prediction,
    RunFiles,
    TaskResult,
    load_run,
    number,
    write_text,
)

NUM_SAMPLES = 5
MAX_TEXT = 4_000  # characters of one text in a sample
STYLES = {"before": "before", "before_chat": "chat", "after": "after"}
GROUP_TITLES = {"held_in": "Held-in tasks", "held_out": "Held-out tasks (not in the training mixture)"}
SAMPLES_NOTE = "From different clusters of tasks, chosen by a hash of the example\u2019s id, not by its result."
HIDDEN_NOTE = "Text of sensitive tasks is left out of this report, which can be made again with it: --show_text."
LOSS = "loss"


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskFacts:
    """What the manifest says of a task. sensitive: None where it says nothing."""

    cluster: str = ""
    sensitive: bool | None = None


def write_report(model_dir: Path, *, show_text: bool = False) -> Path:
    """Builds model_dir/report.html from the run's files, whichever there are, and returns its path.

    Text of sensitive tasks, and of tasks not known to be harmless, is left out unless `show_text`. With sensitive tasks
    the file is its owner's alone (0600).
    """
    from jinja2 import Environment, StrictUndefined

    run = load_run(model_dir)
    environment = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True)
    environment.filters["breakable"] = breakable
    package = resources.files("itune.evaluation")
    template = environment.from_string(package.joinpath("report.html").read_text(encoding="utf-8"))
    css = package.joinpath("report.css").read_text(encoding="utf-8")
    page = template.render(css=Markup(css), **context(run, model_dir, show_text=show_text))
    path = model_dir / "report.html"
    private = any(t.sensitive for t in task_facts(run).values()) or any(p.sensitive for p in run.predictions)
    private = private or any(r.get("sensitive") for r in run.worst)
    write_text(path, page, private=private)
    return path


def context(run: RunFiles, model_dir: Path, *, show_text: bool) -> dict[str, Any]:
    """Everything the template shows."""
    tasks = task_facts(run)
    samples = choose_samples(run.predictions, tasks)
    views = [sample_view(p, tasks, show_text=show_text) for p in samples]
    task_panels, panels_note = panels.task_panels(run)
    return {
        "title": f"itune run: {model_dir.resolve().name}",
        "subtitle": subtitle(run),
        "warnings": warnings(run),
        "findings": findings(run.evaluation),
        "cards": cards(run.evaluation),
        "notes": notes(run.evaluation),
        "tables": [t for group in GROUPS if (t := result_table(run.evaluation, group, tasks))],
        "has_chat": run.evaluation.before_chat is not None,
        "samples": views,
        "samples_note": SAMPLES_NOTE,
        "hidden_note": HIDDEN_NOTE if any(v["hidden"] for v in views) else "",
        "overall": panels.overall_panel(run),
        "panels": task_panels,
        "panels_note": panels_note,
        "worst": worst.panel(run.worst, lambda task, said: is_hidden(tasks, task, said), show_text=show_text),
        "mixture": mixture_panel(run, {name: task.cluster for name, task in tasks.items()}),
        "fill": fill_rows(run),
        "speed": panels.speed(run),
        "facts": run_facts(run, model_dir),
        "config_text": json.dumps(run.config, indent=1, ensure_ascii=False) if run.config else "",
    }


def breakable(text: str) -> Markup:
    """A task's name that may break after a slash or an underscore: clinic/<wbr>classify/<wbr>document_<wbr>type."""
    return Markup(re.sub(r"([/_])", r"\1<wbr>", escape(text)))


def task_facts(run: RunFiles) -> dict[str, TaskFacts]:
    """{task: TaskFacts} from the manifest, the cluster also from the plan."""
    found: dict[str, TaskFacts] = {}
    for name, row in (run.plan.get("summary") or {}).get("tasks", {}).items():
        found[name] = TaskFacts(cluster=str(row.get("cluster") or ""))
    for part in ("train", *GROUPS):
        for task in run.manifest.get(part) or ():
            sensitive = task.get("sensitive")
            if sensitive is not None:  # sensitive anywhere is sensitive
                earlier = found.get(task["name"], TaskFacts())
                sensitive = bool(sensitive) or bool(earlier.sensitive)
            found[task["name"]] = TaskFacts(cluster=str(task.get("cluster") or ""), sensitive=sensitive)
    return found


def hidden(prediction: Prediction, tasks: Mapping[str, TaskFacts]) -> bool:
    """Whether its text must not be shown."""
    return is_hidden(tasks, prediction.task, prediction.sensitive)


def is_hidden(tasks: Mapping[str, TaskFacts], task: str, said: bool | None) -> bool:
    """Whether a task is sensitive by any account (`said` is the line's own), or by none said not to be."""
    accounts = (said, tasks.get(task, TaskFacts()).sensitive)
    return any(accounts) or all(a is None for a in accounts)


def subtitle(run: RunFiles) -> str:
    parts = [str(v) for path in (("weights", "source"), ("data", "mixture")) if (v := setting(run.config, *path))]
    step, planned = panels.final_step(run), planned_steps(run)
    if step is not None:
        parts.append(f"{step:,} of {planned:,} steps" if planned else f"{step:,} steps")
    return " \u00b7 ".join(parts)


def warnings(run: RunFiles) -> list[str]:
    """What is not there, in plain words."""
    lines = []
    step, planned = panels.final_step(run), planned_steps(run)
    if step is None:
        lines.append("No training step has been logged yet.")
    elif planned and step < planned:
        lines.append(f"The run has not finished: {step:,} of {planned:,} steps are logged.")
    if run.evaluation.after is None:
        lines.append("There is no evaluation after training, so nothing is said about improvement.")
    absent = [name for name in run.missing if name not in ("evaluation.json", "metrics.jsonl")]
    if absent:
        lines.append(f"Not in the run directory, so not in this report: {', '.join(absent)}.")
    return lines + [f"{problem}." for problem in run.problems]


def notes(evaluation: Evaluation) -> list[str]:
    """The run's own notes; that held out says nothing of pretraining, if they don't say so."""
    lines = list(evaluation.notes)
    if evaluation.tasks("held_out") and not any("pretraining" in line for line in lines):
        lines.append("Held out means held out of this training mixture, not of the model\u2019s pretraining.")
    return lines


def cards(evaluation: Evaluation) -> list[dict[str, Any]]:
    """The pooled losses, large."""
    found = []
    for group in GROUPS:
        pooled = evaluation.pooled.get(group)
        if pooled is None or pooled.loss_before is None or pooled.loss_after is None:
            continue
        ties = f", {pooled.ties:,} unchanged" if pooled.ties else ""
        found.append(
            {
                "label": GROUP_TITLES[group].split(" (")[0],
                "before": f"{pooled.loss_before:.3f}",
                "after": f"{pooled.loss_after:.3f}",
                "parts": [(name, getattr(pooled, name)) for name in ("improved", "ties", "worsened")],
                "caption": f"{pooled.improved:,} of {pooled.n:,} examples improved, "
                f"{pooled.worsened:,} got worse{ties}; {format_p(pooled.sign_test_p)}",
            }
        )
    return found


def result_table(evaluation: Evaluation, group: str, tasks: Mapping[str, TaskFacts]) -> dict[str, Any] | None:
    """Rows of one group: for each task its loss, then its metrics."""
    names = evaluation.tasks(group)
    if not names:
        return None
    losses = [measured(evaluation, state, group, task, LOSS) for task in names for state in STATES]
    scale = max((v for v in losses if v is not None), default=0.0)
    rows = []
    for task in names:
        measures = (LOSS, *evaluation.metric_names(group, task))
        for measure in measures:
            first = {"task": task, "cluster": tasks.get(task, TaskFacts()).cluster, "span": len(measures)}
            rows.append(measure_row(evaluation, group, task, measure, scale) | first | {"first": measure == LOSS})
    return {"title": GROUP_TITLES[group], "rows": rows}


def measure_row(evaluation: Evaluation, group: str, task: str, measure: str, loss_scale: float) -> dict[str, Any]:
    """One line of the before/after table."""
    states = [s for s in STATES if evaluation.state(s) is not None or s != "before_chat"]
    values = {s: measured(evaluation, s, group, task, measure) for s in states}
    scale = loss_scale
    if measure != LOSS:
        known = measure in KNOWN_METRICS
        scale = 100.0 if known else max((abs(v) for v in values.values() if v is not None), default=0.0)
    results = [r for s in states if (r := evaluation.result(s, group, task)) is not None]
    n = max((r.examples if measure == LOSS else r.generated for r in results), default=0)
    return {
        "measure": measure,
        "n": f"{n:,}" if n else "",
        "cells": [
            {
                "text": value_text(v, measure) + interval_text(evaluation.result(s, group, task), measure),
                "bar": Markup(bar(v, scale, STYLES[s])),
            }
            for s, v in values.items()
        ],
        "change": change(values["before"], values["after"], measure),
    }


def measured(evaluation: Evaluation, state: str, group: str, task: str, measure: str) -> float | None:
    """The loss or one metric of a task in a state; None where it wasn't measured."""
    result = evaluation.result(state, group, task)
    if result is None:
        return None
    return result.loss if measure == LOSS else result.metrics.get(measure)


def interval_text(result: TaskResult | None, measure: str) -> str:
    """ " (12 to 31, of 16)" for a metric that says so (itune.data.intervals), else ""."""
    low, high, of = (result.metrics.get(f"{measure}{part}") if result else None for part in INTERVAL)
    if low is None or high is None or of is None:
        return ""
    if low == high and 0 < low < 100:  # of one example: no interval, see itune.data.intervals
        return f" (of {of:,.0f})"
    return f" ({low:.3g} to {high:.3g}, of {of:,.0f})"


def value_text(value: float | None, measure: str) -> str:
    if value is None:
        return "\u2013"
    if measure == LOSS:
        return f"{value:.3f}"
    return f"{value:.1f}" if measure in KNOWN_METRICS else f"{value:.4g}"


def change(before: float | None, after: float | None, measure: str) -> dict[str, str]:
    """The difference in words and colour; of a metric of unknown direction, the difference alone."""
    if before is None or after is None:
        return {"text": "\u2013", "style": ""}
    difference = after - before
    text = value_text(abs(difference), measure)
    if not float(text):
        return {"text": "no change", "style": ""}
    text = ("+" if difference > 0 else "\u2212") + text
    falls = measure == LOSS or measure in LESS_IS_BETTER
    if not falls and measure not in KNOWN_METRICS:
        return {"text": text, "style": ""}
    better = (difference < 0) == falls
    return {"text": f"{text} {'better' if better else 'worse'}", "style": "better" if better else "worse"}


def choose_samples(predictions: Iterable[Prediction], tasks: Mapping[str, TaskFacts]) -> list[Prediction]:
    """At most five, one a cluster as far as that goes, a held-out one among them; by hash of the id, not by result."""

    def key(p: Prediction) -> str:
        return hashlib.sha256(f"{p.task}\0{p.id}".encode("utf-8", "replace")).hexdigest()

    clusters: dict[tuple[str, str], list[Prediction]] = {}
    for p in sorted(predictions, key=key):
        clusters.setdefault((p.group, tasks.get(p.task, TaskFacts()).cluster or p.task), []).append(p)
    order = sorted(clusters)  # held_in sorts before held_out
    held_out = [c for c in order if c[0] == "held_out"][:1]
    first = [c for c in order if c[0] == "held_in"]
    order = first[: NUM_SAMPLES - len(held_out)] + held_out + [c for c in order if c[0] == "held_out"][1:]
    chosen: list[Prediction] = []
    for turn in range(NUM_SAMPLES):
        chosen += [clusters[c][turn] for c in order if turn < len(clusters[c])]
    return sorted(chosen[:NUM_SAMPLES], key=lambda p: p.group)


def sample_view(p: Prediction, tasks: Mapping[str, TaskFacts], *, show_text: bool) -> dict[str, Any]:
    """A sample as the page shows it; without any text, its id or its prompt's size when that must stay hidden."""
    hide = (hidden(p, tasks) and not show_text) or p.prompt is None
    facts = ["held out" if p.group == "held_out" else "held in"]
    if not hide:
        facts += [f"example {p.id}", f"template {p.template}"] if p.template else [f"example {p.id}"]
    if p.loss_before is not None and p.loss_after is not None:
        facts.append(f"loss {p.loss_before:.3f} \u2192 {p.loss_after:.3f}")
    for metric in p.scores.get("after") or {}:
        earlier, later = (number((p.scores.get(state) or {}).get(metric)) for state in ("before", "after"))
        if earlier is not None and later is not None:
            facts.append(f"{metric} {earlier:.0f} \u2192 {later:.0f}")
    view: dict[str, Any] = {"task": p.task, "facts": " \u00b7 ".join(facts), "hidden": hide}
    if hide:
        return view
    labels = {"target": "Target", "before": "Before", "before_chat": "Before, chat template", "after": "After"}
    view["texts"] = [
        {"label": label, "style": STYLES.get(name, ""), "text": _cut(text) if text.strip() else "(nothing)"}
        for name, label in labels.items()
        if (text := getattr(p, name)) is not None
    ]
    return view | {"prompt": _cut(p.prompt or ""), "prompt_size": f"{len(p.prompt or ''):,} characters"}


def run_facts(run: RunFiles, model_dir: Path) -> list[tuple[str, str]]:
    """What was run, with what, on what: from the config, the plan, the manifest and evaluation.json's own facts."""
    config = run.config
    facts: dict[str, str] = {}

    def add(label: str, value: Any) -> None:
        if value not in (None, "", {}, []):
            facts.setdefault(label, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))

    for label, value in run.evaluation.facts.items():
        add(label[:1].upper() + label[1:], value)
    for key in ("command", "devices", "versions"):
        add(key.capitalize(), config.get(key))
    add("Model", setting(config, "weights", "source"))
    tuning = setting(config, "tuning")
    if isinstance(tuning, dict):
        add("Tuning", ", ".join(f"{k} {_plain(v)}" for k, v in tuning.items()))
    add("Mixture", setting(config, "data", "mixture"))
    add("Prompt format", setting(config, "data", "prompt_format"))
    add("Steps \u00d7 rows a step", _times(setting(config, "train", "steps"), setting(config, "train", "batch_size")))
    add("Row", " \u00b7 ".join(f"{k} = {integer(run.plan[k])}" for k in ("L", "T", "S") if k in run.plan))
    add("Seed", setting(config, "seed"))
    if config:
        digest = hashlib.sha256((model_dir / "config.json").read_bytes()).hexdigest()[:16]
        add("Config digest", config.get("digest") or f"{digest} (sha256 of config.json)")
    add("Plan digest", run.plan.get("digest"))
    add("Tokenizer digest", run.manifest.get("tokenizer"))
    versions = run.manifest.get("versions")
    if isinstance(versions, dict):
        add("Versions (prepare)", ", ".join(f"{k} {_plain(v)}" for k, v in versions.items()))
    return list(facts.items())


def setting(config: Mapping[str, Any], *path: str) -> Any:
    """config["a"]["b"], where config.json holds the RunConfig or wraps it as "config"; None if it isn't there."""
    value: Any = config.get("config", config)
    for name in path:
        value = value.get(name) if isinstance(value, dict) else None
    return value


def planned_steps(run: RunFiles) -> int | None:
    planned = number(run.plan.get("steps")) or number(setting(run.config, "train", "steps"))
    return int(planned) if planned else None


def _plain(value: Any) -> str:
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def _times(steps: Any, rows: Any) -> str:
    return f"{steps:,} \u00d7 {rows:,}" if isinstance(steps, int) and isinstance(rows, int) else ""


def _cut(text: str) -> str:
    return text if len(text) <= MAX_TEXT else f"{text[:MAX_TEXT]} \u2026 ({len(text) - MAX_TEXT:,} more characters)"
