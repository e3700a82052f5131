"""The effective proportions for people: a table of asked against got."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.table import Table

from itune.data.proportions import by_share
from itune.terminal import say

MOST_TASKS = 20
SHARES = {
    "asked": "share_asked",
    "got": "share_got",
    "tokens": "share_of_tokens",
    "supervised": "share_of_supervised_tokens",
}


def print_proportions(record: Mapping[str, Any], console: Console, *, rest: str, most: int = MOST_TASKS) -> None:
    """The tasks with the largest shares, then the sums and how full the rows are. rest: where the other tasks are."""
    summary = record["summary"]
    rows = by_share(record) if len(summary["tasks"]) > most else list(summary["tasks"].items())
    table = Table(box=None, pad_edge=False, padding=(0, 1))
    table.add_column("task", overflow="fold")
    for heading in (*SHARES, "examples", "epochs", "cut", "dropped"):
        table.add_column(heading, justify="right", no_wrap=True)
    for name, row in rows[:most]:
        shares = [percent(row[key]) for key in SHARES.values()]
        counts = [f"{row['examples']:,}", f"{row['epochs']:.2f}", f"{row['truncated']:,}", f"{row['dropped']:,}"]
        table.add_row(name, *shares, *counts)
    unit = summary["rate_unit"].replace("_", " ")
    say(console, f"Shares of {unit}, asked and got; shares of tokens and of supervised tokens", "dim")
    # A log is not a terminal of 80 columns: names stay whole there, as in `say`.
    wide = console if console.is_terminal else Console(file=console.file, width=max(console.width, 140))
    wide.print(table)
    if len(rows) > most:
        say(console, f"and {len(rows) - most:,} more {rest}")
    for name, row in rows[:most]:
        if row["dropped"]:
            say(console, f"{name}: drops {_reasons(row['dropped_because'])}")
    totals = summary["totals"]
    supervised = f"{totals['supervised_tokens']:,} of {totals['tokens']:,} tokens supervised"
    say(console, f"{totals['examples']:,} examples, {supervised}, {totals['dropped']:,} dropped")
    shape = f"{record['steps']:,} steps of {record['batch_size']} rows, L={record['L']} T={record['T']} S={record['S']}"
    full = ", ".join(f"{name} {share:.1%}" for name, share in summary["fill"].items())
    say(console, f"{shape}; full: {full}")


def percent(share: float) -> str:
    """ "12.50 %"; small shares keep two digits: "0.0054 %" """
    value = 100 * share
    return f"{value:.2f} %" if value >= 0.1 or not value else f"{value:.2g} %"


def _reasons(reasons: Mapping[str, int]) -> str:
    words = ", ".join(f"{name.replace('_', ' ')} ({count:,})" for name, count in reasons.items())
    return f"records of its split: {words}"
