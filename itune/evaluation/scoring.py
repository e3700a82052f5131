"""From snapshots to results: metrics by the tasks' own functions, an Eval a state, predictions side by side."""

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
from itune.evaluation.evaluate import Completion, Snapshot
from itune.evaluation.rank import rank_metrics
from itune.evaluation.results import Eval, Prediction, notes_from_source, summarise
from itune.terminal import say


def score(
    config: RunConfig, states: Mapping[str, Snapshot | None], model_dir: Path, console: Console
) -> dict[str, Any]:
    """{"tasks": ..., "errors": ..., "notes": ...} from the metric process; without it, losses still stand."""
    tasks: dict[str, Any] = {}
    reference = states["after"]
    for task in dict.fromkeys(c.task for c in (reference.completions if reference else ())):
        chosen = {name: _of(snapshot, task) for name, snapshot in states.items() if snapshot is not None}
        tasks[task] = {
            "targets": [c.target for c in chosen["after"]],
            "predictions": {name: [c.text for c in cs] or None for name, cs in chosen.items()},
            "examples": [c.extras for c in chosen["after"]],
            "scores": {name: _scores(states[name], cs) for name, cs in chosen.items()},
            "aux": {name: _aux(cs) for name, cs in chosen.items()},
        }
    if not tasks:
        return {"tasks": {}}
    try:
        answer = metrics_client.compute_metrics(config.data.modules, tasks, model_dir)
    except UserError as error:
        say(console, f"itune: warning: {error}; the report has losses only", "yellow")
        return {"tasks": {}, "errors": {"every task": [str(error)]}}
    for task, lines in answer.get("errors", {}).items():
        say(console, f"itune: warning: metrics of {task}: {lines[0]}", "yellow")
    return answer


def _of(snapshot: Snapshot, task: str) -> list[Completion]:
    return sorted((c for c in snapshot.completions if c.task == task), key=lambda c: c.id)


def _scores(snapshot: Snapshot | None, chosen: list[Completion]) -> list[float] | None:
    """Log-likelihood of each one's target, its end included, in nats; None where that was not measured of all."""
    losses = snapshot.losses if snapshot is not None else ()
    nll = {(e.group, e.task, e.id): e.nll for e in losses}
    found = [nll.get((c.group, c.task, c.id)) for c in chosen]
    return [-value for value in found if value is not None] if found and None not in found else None


def _aux(chosen: list[Completion]) -> dict[str, list[float]] | None:
    """Log-likelihood of each completion, in nats, as T5X names it; None where it is not known of all."""
    found = [c.logprob for c in chosen if c.logprob is not None]
    return {"scores": found} if found and len(found) == len(chosen) else None


def reader_notes(folder: Path, manifest: Manifest, after: Snapshot, scored: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences that a reader of the results needs: on the weights, on held out, and on what is not there and why."""
    source = notes_from_source(read_source(folder), held_out=bool(manifest.held_out))
    return (*source, *_unmeasured(manifest, after), *_cut(after), *metric_notes(scored))


def _unmeasured(manifest: Manifest, after: Snapshot) -> list[str]:
    """Tasks that were asked for and of which nothing could be measured."""
    asked = dict.fromkeys(t.name for t in (*manifest.held_in, *manifest.held_out))
    missing = [name for name in asked if name not in {e.task for e in after.losses}]
    if not missing:
        return []
    return [f"Not evaluated, for none of their evaluation examples fits the lengths: {', '.join(missing)}"]


def _cut(after: Snapshot) -> list[str]:
    """Tasks whose examples were not measured whole: exemplars may be what a prompt has lost."""
    cut = ", ".join(f"{task} ({n} of {of})" for task, n, of in after.cut)
    return [f"Examples longer than TASK_FEATURE_LENGTHS or a row, and cut: {cut}"] if cut else []


def metric_notes(scored: Mapping[str, Any]) -> tuple[str, ...]:
    """Sentences for the reader: which metrics are missing and why, and what the metric process remarked."""
    failed = [f"Metrics of {t} are missing: {line}" for t, ls in scored.get("errors", {}).items() for line in ls]
    remarks = [f"Metrics of {t}: {line}" for t, ls in scored.get("notes", {}).items() for line in ls]
    return (*failed, *remarks)


def state_eval(name: str, snapshot: Snapshot, scored: dict[str, Any]) -> Eval:
    """The state called `name`: losses and ranked options from its snapshot, metrics from what `score` answered."""
    metrics = {task: dict(values["metrics"].get(name, {})) for task, values in scored["tasks"].items()}
    for task in dict.fromkeys(r.task for r in snapshot.ranked):
        metrics.setdefault(task, {}).update(rank_metrics([r for r in snapshot.ranked if r.task == task]))
    generated = {task: len(_of(snapshot, task)) for task in scored["tasks"]}
    return summarise(snapshot.losses, metrics, generated)


def predictions(states: Mapping[str, Snapshot | None], scored: dict[str, Any]) -> list[Prediction]:
    """One a completion of the state "after", with what the other states made of the same example."""
    reference = states["after"]
    if reference is None:
        return []
    losses = {name: {(e.group, e.task, e.id): e.loss for e in s.losses} for name, s in states.items() if s is not None}
    texts = {
        name: {(c.group, c.task, c.id): c.text for c in s.completions} for name, s in states.items() if s is not None
    }
    out = []
    for task in dict.fromkeys(c.task for c in reference.completions):
        answer = scored["tasks"].get(task, {})
        per_example, references = answer.get("per_example", {}), answer.get("references") or []
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
                    references=references[n] if n < len(references) else [c.target],
                    before=texts["before"].get(key),
                    before_chat=texts["before_chat"].get(key) if "before_chat" in texts else None,
                    after=texts["after"].get(key),
                    scores=scores,
                    loss_before=losses["before"].get(key),
                    loss_after=losses["after"].get(key),
                )
            )
    return out


def read_source(folder: Path) -> dict[str, Any]:
    """The model folder's SOURCE.json; {} where it isn't one that we made."""
    path = folder / "SOURCE.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}


def facts(module: str) -> dict[str, str]:
    """{label: text} about this process. module: the command's, such as "itune.train"."""
    devices = jax.devices()
    return {
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "command": " ".join([f"python -m {module}", *sys.argv[1:]]),
        "versions": f"Python {platform.python_version()}, JAX {jax.__version__}",
    }
