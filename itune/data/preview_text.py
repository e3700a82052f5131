"""Previews for people: text by role, or one token a line. Without colour the same can be told from the margins."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable

from rich.console import Console
from rich.text import Text

from itune.data.preview import ExampleView, RowView, TokenView, as_json
from itune.terminal import say

MARGIN = {True: "> ", False: "| "}  # learnt, not learnt
STYLES = {True: ("bold green", "bold green underline"), False: ("dim", "dim underline")}
LEGEND = "> learnt: the loss counts it    | read only    underline: every other token"


def print_row(row: RowView, console: Console, *, each_token: bool) -> None:
    used = sum(len(e.tokens) for e in row.examples)
    learnt = sum(e.learnt for e in row.examples)
    place = f"row {row.row} (step {row.step}, window {row.window}, row {row.row_in_window} in it)"
    fill = f"{used} of {row.length} tokens, {learnt} of {row.supervised_budget} supervised"
    say(console, f"{place}: {len(row.examples)} examples, {fill}", "bold")
    for n, example in enumerate(row.examples, 1):
        print_example(example, console, number=n, each_token=each_token)


def print_example(example: ExampleView, console: Console, *, number: int, each_token: bool) -> None:
    facts = [
        f"id {example.id}",
        example.split,
        f"template {example.template}" if example.template else "",
        f"variant {example.variant}" if example.variant else "",
        f"epoch {example.epoch}" if example.epoch is not None else "",
        f"{len(example.tokens)} tokens, {example.learnt} supervised",
        f"{example.cut} cut" if example.cut else "",
        "DROPPED: too long" if example.dropped else "",
    ]
    say(console, "")
    say(console, f"[{number}] {example.task}   " + " · ".join(fact for fact in facts if fact), "bold cyan")
    if example.hidden:
        say(console, "    (text of a sensitive task: --show_text)", "dim")
    elif each_token:
        for n, token in enumerate(example.tokens):
            line = f"  {n:5d}  {token.id:7d}  {token.role:<10} {MARGIN[token.learnt]} {token.text!r}"
            say(console, line, STYLES[token.learnt][0])
    else:
        for learnt, tokens in itertools.groupby(example.tokens, key=lambda token: token.learnt):
            _print_text(list(tokens), learnt, console)


def _print_text(tokens: list[TokenView], learnt: bool, console: Console) -> None:
    line = Text("    " + MARGIN[learnt], style="dim")
    for n, token in enumerate(tokens):
        style = STYLES[learnt][n % 2]
        first, *rest = (token.text or "").split("\n")
        line.append(first, style)
        for more in rest:
            line.append("\u23ce", "dim")  # where a newline is a token's: it counts
            console.print(line, soft_wrap=True)
            line = Text("    " + MARGIN[learnt], style="dim")
            line.append(more, style)
    if len(line.plain) > len("    " + MARGIN[learnt]):
        console.print(line, soft_wrap=True)


def print_views(views: Iterable[RowView | ExampleView], console: Console, *, each_token: bool) -> None:
    say(console, LEGEND, "dim")
    for n, view in enumerate(views):
        if isinstance(view, RowView):
            if n:
                say(console, "")
            print_row(view, console, each_token=each_token)
        else:
            print_example(view, console, number=view.example, each_token=each_token)


def show(views: Iterable[RowView | ExampleView], console: Console, *, each_token: bool, output_format: str) -> None:
    """`print_views`, or with output_format "json" a JSON object a line on stdout."""
    if output_format == "json":
        for view in views:
            print(json.dumps(as_json(view), ensure_ascii=False))
    else:
        print_views(views, console, each_token=each_token)
