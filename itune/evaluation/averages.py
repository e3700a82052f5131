"""Means over tasks, each task counting alike: over all of a group, and by cluster. No JAX."""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from itune.data.manifest import Manifest
from itune.evaluation.results import GROUPS, KNOWN_METRICS, Eval, TaskResult

# A metric and its baseline -> the normalised score: 0 is what the baseline gets, 100 is all right.
RANKED = "rank_accuracy"
NORMALISED = {
    (RANKED, "rank_chance"): "rank_accuracy_over_chance",
    (RANKED, "rank_majority"): "rank_accuracy_over_majority",
    ("accuracy", "majority"): "accuracy_over_majority",
    ("exact_match", "majority"): "exact_match_over_majority",
}
ALL, DEV, UNSEEN = "all tasks", "dev tasks", "unseen tasks"

# {group: {ALL or cluster: {measure: {"mean": value, "tasks": how many have it}}}}
Averages = dict[str, dict[str, dict[str, dict[str, float]]]]


def clusters(manifest: Manifest) -> dict[str, str]:
    return {task.name: task.cluster for task in manifest.tasks()}


def averages(measured: Eval, cluster: Mapping[str, str], unseen: Callable[[str], bool] = lambda _: False) -> Averages:
    """Of the loss, of itune's own metrics, and of what they are beyond guessing and beyond always the same answer
    (Srivastava et al. 2022's normalised score).

    unseen: the held-out tasks that are; with any, "dev" and "unseen" stand beside the clusters.
    """
    out: Averages = {}
    for group in GROUPS:
        tasks = measured.group(group)
        sets = {ALL: list(tasks)}
        if group == "held_out" and any(map(unseen, tasks)):
            sets |= {DEV: [t for t in tasks if not unseen(t)], UNSEEN: [t for t in tasks if unseen(t)]}
        for task in tasks:
            sets.setdefault(cluster.get(task) or "no cluster", []).append(task)
        if tasks:
            out[group] = {name: _mean(tasks[task] for task in members) for name, members in sets.items()}
    return out


def _mean(results: Iterable[TaskResult]) -> dict[str, dict[str, float]]:
    values: dict[str, list[float]] = {}
    for result in results:
        for name, value in measures(result).items():
            values.setdefault(name, []).append(value)
    return {name: {"mean": statistics.fmean(found), "tasks": len(found)} for name, found in values.items()}


def measures(result: TaskResult) -> dict[str, float]:
    found = {} if result.loss is None else {"loss": result.loss}
    found |= {name: value for name, value in result.metrics.items() if name in KNOWN_METRICS}
    for (metric, baseline), name in NORMALISED.items():
        if metric in result.metrics and result.metrics.get(baseline, 100.0) < 100.0:
            lowest = result.metrics[baseline]
            found[name] = 100.0 * (result.metrics[metric] - lowest) / (100.0 - lowest)
    return found


def lines(found: Mapping[str, Any]) -> list[str]:
    """For people: a line for each set of tasks; a cluster of one task says nothing new and is left out."""
    out = []
    for group, sets in found.items():
        for name, by_measure in sets.items():
            most = max((m["tasks"] for m in by_measure.values()), default=0)
            if most < 2:
                continue
            told = [
                f"{measure} {m['mean']:.3f}" if measure == "loss" else f"{measure} {m['mean']:.1f}"
                for measure, m in by_measure.items()
            ]
            out.append(f"mean {group.replace('_', ' ')}, {name} ({most:.0f}): {', '.join(told)}")
    return out
