"""The end of a run: metrics from the tasks' own functions, predictions, evaluation.json, the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from itune.config.run import RunConfig
from itune.data.manifest import Manifest
from itune.evaluation.averages import averages, clusters
from itune.evaluation.console import print_summary
from itune.evaluation.evaluate import Snapshot
from itune.evaluation.losses import write_losses
from itune.evaluation.rank import write_ranked
from itune.evaluation.report import write_report
from itune.evaluation.results import Evaluation, pool, write_predictions
from itune.evaluation.scoring import facts, predictions, reader_notes, score, state_eval
from itune.evaluation.worst import WorstExample, write_worst


def finish_run(
    config: RunConfig,
    manifest: Manifest,
    folder: Path,
    before: Snapshot,
    after: Snapshot,
    worst: Sequence[WorstExample],
    timings: Mapping[str, float],
    model_dir: Path,
    *,
    told: Mapping[str, str],
    show_text: bool,
    console: Console,
) -> Path:
    """Writes predictions.jsonl, losses.jsonl, ranked.jsonl, worst.jsonl, evaluation.json and report.html; prints the
    summary; returns the report's path.

    told: more for the results' `facts`.
    """
    states = {"before": before, "before_chat": before.chat, "after": after}
    scored = score(config, states, model_dir, console)
    evals = {name: state_eval(name, snapshot, scored) for name, snapshot in states.items() if snapshot is not None}
    sensitive = {task.name for task in manifest.tasks() if task.sensitive}
    write_predictions(
        model_dir / "predictions.jsonl", predictions(states, scored), sensitive=sensitive, show_text=show_text
    )
    write_losses(model_dir / "losses.jsonl", before.losses, after.losses)
    if after.ranked:
        write_ranked(model_dir / "ranked.jsonl", after.ranked, sensitive=sensitive, show_text=show_text)
    write_worst(model_dir / "worst.jsonl", worst, sensitive=sensitive, show_text=show_text)
    evaluation = Evaluation(
        before=evals.get("before"),
        before_chat=evals.get("before_chat"),
        after=evals.get("after"),
        pooled=pool(before.losses, after.losses),
        notes=reader_notes(folder, manifest, after, scored),
        facts=facts("itune.train") | dict(told),
        timings=timings,
        averages=averages(evals["after"], clusters(manifest), config.evaluation.is_unseen),
    )
    evaluation.save(model_dir / "evaluation.json")
    print_summary(evaluation, console)
    return write_report(model_dir, show_text=show_text)
