"""Lines for people, on stderr."""

from __future__ import annotations

from rich.console import Console


def say(console: Console, line: str, style: str | None = None) -> None:
    """Prints `line` as it is: no markup, and not broken at 80 columns where a log or a pipe takes it."""
    console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)
