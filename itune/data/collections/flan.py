"""The FLAN 2022 Collection (Longpre et al. 2023, arXiv 2301.13688) as tasks, from the files that the hub has."""

from __future__ import annotations

import collections
import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from itune.data import identities
from itune.data.collections.flan_files import (
    FIELDS,
    KINDS,
    KINDS_OF,
    SUBMIXES,
    Choice,
    FlanFile,
    flan_files,
    flan_rows,
    means,
    source_of,
)
from itune.data.collections.flan_index import FlanTask, flan_index
from itune.data.held_out import NO_CLUSTER
from itune.data.registry import add_mixture, add_task
from itune.data.sources import StreamedSource
from itune.data.templates import Template
from itune.errors import UserError, nearest

# FLAN's own: shares of the submixes (run_example.py), and the most rows that count for a task's share in its submix.
WEIGHTS = {"flan2021": 0.4, "t0": 0.32, "niv2": 0.2, "cot": 0.05, "dialog": 0.03}
CAPS = {"flan2021": 30_000, "t0": 20_000, "niv2": 5_000, "cot": 100_000, "dialog": 200_000}
LICENCE = "unknown: each source data set has its own"
# What the name of a task may not have.
_UNFIT = re.compile(r"[^\w.:#/]")
TEMPLATES = (Template("as_given", "{inputs}", "{targets}"),)


class _Plan(NamedTuple):
    """A task to register. rate: in the mixture."""

    name: str
    submix: str
    kind: str
    files: tuple[FlanFile, ...]
    task: str | None
    cluster: str
    identity: str
    rate: float


def flan_collection(
    folder: str | Path,
    *,
    submixes: Sequence[str] | None = None,
    kinds: Sequence[str] = KINDS,
    tasks: Sequence[str] = (),
    leave_out: Sequence[str] = (),
    per_task: bool = False,
    index: str | Path | None = None,
    prefix: str = "flan2022_published",
    clusters: Mapping[str, str] | None = None,
    licence: str = LICENCE,
    metrics: Sequence[str | Callable[..., Any]] = ("rouge_l", "exact_match"),
    validation_fraction: float = 0.01,
    **options: Any,
) -> dict[str, list[str]]:
    """Registers a copy of the FLAN 2022 Collection, and the mixture `<prefix>` of it at FLAN's own rates.

    A task is called `<prefix>/<submix>/<kind>`: "flan2022_published/cot/fs_opt", zero- or few-shot prompts with or
    without the options in them. With per_task=True there is one for each task name in the data,
    `<prefix>/<submix>/<kind>/<name>`, whose identity is that name, so that what is held out is found by its source
    data set; a submix's task has the submix as its identity, and what it holds of held-out data sets must be named
    in `leave_out`. Each example keeps "task_name" and "task_source" in prepared data and reports. Registering reads
    the names of files only; per_task=True counts the rows of each task first, see `index`.

    Rows are streamed: what is held are their ids. A few-shot prompt is as the collection has it, its exemplars in it.

    Args:
      folder: holds the files, at any depth; see itune/data/collections/flan_files.py for the layouts.
      submixes: of "flan2021", "t0", "niv2", "cot", "dialog"; all that are there by default.
      kinds: of "zs_opt", "zs_noopt", "fs_opt", "fs_noopt". FLAN has no "noopt" of niv2, cot and dialog.
      tasks, leave_out: task names that are taken, and that are not: names, patterns ("*winogrande*") or data sets by
        any of their names ("rte").
      index: a JSON file for the counts of per_task=True: read where it is there, else written. Without it they are
        made anew each time. It also checks `tasks` and `leave_out`.
      clusters: pattern of task names -> cluster, for per_task=True; "other" otherwise.
      validation_fraction: share of the prompts that are the split "validation", by the hash of their text. Other
        prompts made from the same row may be in training: hold out tasks to measure more than fit.
      options: to `add_task`.

    Returns: names of tasks by submix.

    Raises:
      UserError: no such files; a submix, kind or task name that is not there, with the nearest.
    """
    folder = Path(folder).expanduser()
    if not 0.0 <= validation_fraction < 1.0:
        raise UserError(f"{folder}: validation_fraction={validation_fraction} must be in [0, 1)")
    there = flan_files(folder)
    _check(kinds, KINDS, f"{folder}: no kind of prompt is called")
    held = [submix for submix in SUBMIXES if any(file.submix == submix for file in there)]
    _check(submixes or (), held, f"{folder}: holds no submix")
    wanted = [submix for submix in held if submixes is None or submix in submixes]
    choice = Choice(tuple(tasks), tuple(leave_out), identities.state() if tasks or leave_out else "")
    if per_task or index is not None:
        indexed = [
            t
            for t in flan_index(folder, index)
            if t.submix in wanted and t.kind in kinds and t.kind in KINDS_OF[t.submix]
        ]
        names = {task.name for task in indexed}
        for pattern in (*tasks, *leave_out):
            if not any(means(pattern, name) for name in names):
                raise UserError(f"{folder}: no task is called {pattern!r}.{nearest(pattern, names)}")
    if per_task:
        plans = _by_task([task for task in indexed if choice.takes(task.name)], prefix, clusters or {}, folder)
    else:
        plans = _by_kind(there, wanted, kinds, prefix)
    if not plans:
        raise UserError(f"{folder}: nothing in it is of kinds={tuple(kinds)}, or named in tasks= and not in leave_out=")
    splits = ("train", "validation") if validation_fraction else ("train",)
    registered: dict[str, list[str]] = collections.defaultdict(list)
    for plan in plans:
        rows = functools.partial(
            flan_rows,
            files=plan.files,
            kind=plan.kind,
            choice=choice,
            task=plan.task,
            identity=f"flan2022/{plan.submix}",  # a prompt that is there in two kinds is on one side
            validation_fraction=validation_fraction,
        )
        add_task(
            plan.name,
            source=StreamedSource(rows, splits, FIELDS, "1", files=[file.path for file in plan.files]),
            templates=TEMPLATES,
            cluster=plan.cluster,
            licence=licence,
            identity=plan.identity,
            metrics=metrics,
            # Exemplars stand before the question: cut on the right, it is the question that would go.
            **({"truncate_side": "left"} if plan.kind.startswith("fs") else {}) | options,
        )
        registered[plan.submix].append(plan.name)
    add_mixture(prefix, [(plan.name, plan.rate) for plan in plans])
    return dict(registered)


def _check(given: Sequence[str], known: Sequence[str], what: str) -> None:
    for name in given:
        if name not in known:
            hint = nearest(name, known) or f" There are {', '.join(known)}."
            raise UserError(f"{what} {name!r}.{hint}")


def _by_kind(files: Sequence[FlanFile], submixes: Sequence[str], kinds: Sequence[str], prefix: str) -> list[_Plan]:
    plans = []
    for submix in submixes:
        of = {
            kind: tuple(f for f in files if f.submix == submix and f.kind in (kind, None)) for kind in KINDS_OF[submix]
        }
        of = {kind: found for kind, found in of.items() if found and kind in kinds}
        for kind, found in of.items():
            name = f"{prefix}/{submix}/{kind}"
            identity = f"flan2022_collection_{submix}"
            plans.append(_Plan(name, submix, kind, found, None, submix, identity, WEIGHTS[submix] / len(of)))
    return plans


def _by_task(tasks: Sequence[FlanTask], prefix: str, clusters: Mapping[str, str], folder: Path) -> list[_Plan]:
    for task in tasks:
        if not task.name:
            raise UserError(f"{task.files[0].path}: its rows have no task names; take another copy of the collection")
    for pattern in clusters:
        if not any(means(pattern, task.name) for task in tasks):
            raise UserError(
                f"{folder}: clusters: no task is called {pattern!r}.{nearest(pattern, [t.name for t in tasks])}"
            )
    total: collections.Counter[tuple[str, str]] = collections.Counter()
    for task in tasks:
        total[task.submix, task.kind] += min(CAPS[task.submix], task.rows)
    num_kinds = collections.Counter(submix for submix, _ in total)
    plans = []
    for task in tasks:
        share = min(CAPS[task.submix], task.rows) / total[task.submix, task.kind]
        plans.append(
            _Plan(
                name=f"{prefix}/{task.submix}/{task.kind}/{_UNFIT.sub('_', task.name)}",
                submix=task.submix,
                kind=task.kind,
                files=task.files,
                task=task.name,
                cluster=next((to for pattern, to in clusters.items() if means(pattern, task.name)), NO_CLUSTER),
                identity=source_of(task.name),
                rate=WEIGHTS[task.submix] / num_kinds[task.submix] * share,
            )
        )
    return plans
