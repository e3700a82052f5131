"""The end of a run: metrics from the tasks' own functions, predictions, evaluation.json, the report."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from itune.config.run import RunConfig
from itune.data.manifest import Manifest
from itune.errors import UserError
from itune.evaluation import metrics_client
from itune.evaluation.console import print_summary
from itune.evaluation.evaluate import Completion, Snapshot
from itune.evaluation.report import write_report
from itune.evaluation.results import Eval, Evaluation, Prediction, notes_from_source, pool, summarise, write_predictions


def finish_run(
    config: RunConfig,
    manifest: Manifest,
    folder: Path,
    before: Snapshot,
    after: Snapshot,
    timings: Mapping[str, float],
    model_dir: Path,
    *,
    show_text: bool,
    console: Console,
) -> Path:
    """Writes predictions.jsonl, evaluation.json and report.html; prints the summary; returns the report's path."""
    states = {"before": before, "before_chat": before.chat, "after": after}
    scored = _metrics(config, states, model_dir, console)
    evals = {name: _eval(name, snapshot, scored) for name, snapshot in states.items() if snapshot is not None}
    sensitive = {task.name for task in manifest.tasks() if task.sensitive}
    write_predictions(
        model_dir / "predictions.jsonl", _predictions(states, scored), sensitive=sensitive, show_text=show_text
    )
    evaluation = Evaluation(
        before=evals.get("before"),
        before_chat=evals.get("before_chat"),
        after=evals.get("after"),
        pooled=pool(before.losses, after.losses),
        notes=notes_from_source(_source(folder), held_out=bool(manifest.held_out)),
        facts=_facts(),
        timings=timings,
    )
    evaluation.save(model_dir / "evaluation.json")
    print_summary(evaluation, console)
    return write_report(model_dir, show_text=show_text)


def _metrics(
    config: RunConfig, states: Mapping[str, Snapshot | None], model_dir: Path, console: Console
) -> dict[str, Any]:
    """{"tasks": ...} from the metric process; without it, losses still stand."""
    tasks: dict[str, Any] = {}
    reference = states["after"]
    for task in dict.fromkeys(c.task for c in (reference.completions if reference else ())):
        chosen = {name: _of(snapshot, task) for name, snapshot in states.items() if snapshot is not None}
        tasks[task] = {
            "targets": [c.target for c in chosen["after"]],
            "predictions": {name: [c.text for c in cs] or None for name, cs in chosen.items()},
            "examples": [c.extras for c in chosen["after"]],
        }
    if not tasks:
        return {"tasks": {}}
    try:
        answer = metrics_client.compute_metrics(config.data.modules, tasks, model_dir)
    except UserError as error:
        console.print(f"itune: warning: {error}; the report has losses only", style="yellow", markup=False)
        return {"tasks": {}}
    for task, lines in answer.get("errors", {}).items():
        console.print(f"itune: warning: metrics of {task}: {lines[0]}", style="yellow", markup=False)
    return answer


def _of(snapshot: Snapshot, task: str) -> list[Completion]:
    return sorted((c for c in snapshot.completions if c.task == task), key=lambda c: c.id)


def _eval(name: str, snapshot: Snapshot, scored: dict[str, Any]) -> Eval:
    metrics = {task: values["metrics"].get(name, {}) for task, values in scored["tasks"].items()}
    generated = {task: len(_of(snapshot, task)) for task in scored["tasks"]}
    return summarise(snapshot.losses, metrics, generated)


def _predictions(states: Mapping[str, Snapshot | None], scored: dict[str, Any]) -> list[Prediction]:
    reference = states["after"]
    if reference is None:
        return []
    losses = {name: {(e.group, e.task, e.id): e.loss for e in s.losses} for name, s in states.items() if s is not None}
    texts = {
        name: {(c.group, c.task, c.id): c.text for c in s.completions} for name, s in states.items() if s is not None
    }
    out = []
    for task in dict.fromkeys(c.task for c in reference.completions):
        per_example = scored["tasks"].get(task, {}).get("per_example", {})
        for n, c in enumerate(_of(reference, task)):
            key = (c.group, c.task, c.id)
            scores = {state: {m: values[n] for m, values in ms.items()} for state, ms in per_example.items()}
            out.append(
                Prediction(
                    task=c.task,
                    group=c.group,
                    id=c.id,
                    template=c.template,
                    prompt=c.prompt,
                    target=c.target,
                    before=texts["before"].get(key),
                    before_chat=texts["before_chat"].get(key) if "before_chat" in texts else None,
                    after=texts["after"].get(key),
                    scores=scores,
                    loss_before=losses["before"].get(key),
                    loss_after=losses["after"].get(key),
                )
            )
    return out


def _source(folder: Path) -> dict[str, Any]:
    path = folder / "SOURCE.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def _facts() -> dict[str, str]:
    devices = jax.devices()
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "command": " ".join(["python -m itune.train", *sys.argv[1:]]),
        "versions": f"Python {platform.python_version()}, JAX {jax.__version__}",
    }


def print_plan(record: Mapping[str, Any], console: Console) -> None:
    """plan.json as a table: what each task contributes, and how full the rows are."""
    from rich.table import Table

    table = Table(box=None, pad_edge=False)
    table.add_column("task", overflow="fold")
    for heading in ("asked", "got", "examples", "epochs", "tokens", "supervised", "cut", "dropped"):
        table.add_column(heading, justify="right")
    for name, t in record["summary"]["tasks"].items():
        shares = [f"{100 * t[k]:.2f} %" for k in ("share_asked", "share_got")]
        counts = [f"{t[k]:,}" for k in ("tokens", "supervised_tokens", "truncated", "dropped")]
        table.add_row(name, *shares, f"{t['examples']:,}", f"{t['epochs']:.2f}", *counts)
    console.print(table)
    fill = record["summary"]["fill"]
    shape = f"{record['steps']} steps of {record['batch_size']} rows, L={record['L']} T={record['T']} S={record['S']}"
    full = ", ".join(f"{name} {share:.1%}" for name, share in fill.items())
    console.print(f"{shape}; full: {full}")
