"""The end of a run in the terminal: before and after by task, in 80 columns."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from itune.evaluation.averages import lines
from itune.evaluation.findings import findings
from itune.evaluation.report import LOSS, change, measured, value_text
from itune.evaluation.results import GROUPS, STATES, Evaluation
from itune.evaluation.worst import MOST_OF_A_TASK, highest
from itune.terminal import say

HEADINGS = {"before": "before", "before_chat": "chat*", "after": "after"}
TASK_WIDTH = 26
NUM_WORST = 5
WORDS = {"held_in": "held in", "held_out": "held out"}


def print_summary(evaluation: Evaluation, console: Console) -> None:
    """One row a task and measure, then the findings and notes. Prints nothing but notes if nothing was measured."""
    states = [s for s in STATES if evaluation.state(s) is not None]
    for group in GROUPS:
        names = evaluation.tasks(group)
        if names and states:
            console.print(_table(evaluation, group, names, states))
    if evaluation.before_chat is not None:
        console.print("* before training, prompted with the model's own chat template", style="dim")
    for line in lines(evaluation.averages):
        console.print(Text(line), style="dim")
    for sentence in findings(evaluation):
        console.print(Text(sentence))
    for note in evaluation.notes:
        console.print(Text(note), style="dim")


def print_worst(records: Sequence[Mapping[str, Any]], console: Console) -> None:
    """The examples with the highest loss of all tasks, by id; no text."""
    chosen = highest(records, NUM_WORST, of_a_task=MOST_OF_A_TASK)
    if not chosen:
        return
    console.print(Text("Highest losses:", style="bold"))
    for record in chosen:
        loss = "loss not finite" if record["loss"] is None else f"{record['loss']:.3f} nats a token"
        template = f", template {record['template']}" if record["template"] else ""
        facts = f"{loss}, {record['tokens']:.0f} tokens{template}"
        say(console, f"  {record['task']}:{record['id']}  {facts}")


def _table(evaluation: Evaluation, group: str, names: list[str], states: list[str]) -> Table:
    title = Text(WORDS[group], style="bold")
    table = Table(box=None, pad_edge=False, padding=(0, 1), title=title, title_justify="left")
    table.add_column("task", max_width=TASK_WIDTH, overflow="fold")
    table.add_column("measure", max_width=19, overflow="fold")
    for state in states:
        table.add_column(HEADINGS[state], justify="right", no_wrap=True)
    compared = len(states) > 1
    if compared:
        table.add_column("change", justify="right", no_wrap=True)
    for task in names:
        for measure in (LOSS, *evaluation.metric_names(group, task)):
            values = {s: measured(evaluation, s, group, task, measure) for s in states}
            moved = change(values.get("before"), values.get("after"), measure)
            style = {"better": "green", "worse": "red"}.get(moved["style"], "")
            texts = [Text(value_text(v, measure)) for v in values.values()]
            first = Text(_folded(task) if measure == LOSS else "")
            table.add_row(first, Text(measure), *texts, *([Text(moved["text"], style=style)] if compared else []))
    return table


def _folded(name: str) -> str:
    """A long task name on several lines, broken after a slash or an underscore where there is one."""
    lines = [""]
    for piece in re.findall(r"[^/_]*[/_]?", name):
        if lines[-1] and len(lines[-1]) + len(piece) > TASK_WIDTH:
            lines.append("")
        lines[-1] += piece
    return "\n".join(lines)
