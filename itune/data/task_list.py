"""Listings of tasks and mixtures: a line each, and counts. Loads SeqIO only where a module does not say what it has."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from itune.data import catalogue
from itune.data.lazy import Summary

# Columns of a line: what is longer is cut (a name is not, and pushes the others to the right).
WIDEST = (40, 37, 22, 15)


def list_tasks(modules: Sequence[str], asked: Mapping[str, Any], output_format: str) -> int:
    """Prints what the modules make known and `asked` (see `catalogue.matching`) takes. Raises: UserError."""
    found = catalogue.matching(catalogue.summaries(modules), **asked)
    if output_format == "json":
        print(json.dumps([dataclasses.asdict(summary) for summary in found], ensure_ascii=False))
        return 0
    lines = [_line(summary, variants) for summary, variants in catalogue.by_data_set(found)]
    widths = [min(max((len(line[n]) for line in lines), default=0), widest) for n, widest in enumerate(WIDEST)]
    for line in lines:
        cells = [_fit(cell, width) for cell, width in zip(line, widths, strict=False)]
        print("  ".join([line[0].ljust(widths[0]), *cells[1:], line[-1]]).rstrip())
    for count in _counts(found):
        print(count)
    return 0


def _line(summary: Summary, variants: Sequence[str]) -> tuple[str, ...]:
    rows = f"{summary.examples:,} rows" if summary.examples is not None else ""
    kind = "mixture" if summary.mixture else summary.cluster or "several"
    says = summary.description + (f"  [{' '.join(variants)}]" if variants else "")
    name = summary.name.rpartition("/")[0] if variants else summary.name
    return (name, kind, summary.licence, rows, says)


def _fit(cell: str, width: int) -> str:
    return cell.ljust(width) if len(cell) <= width else cell[: width - 1] + "…"


def _counts(found: Sequence[Summary]) -> Iterator[str]:
    tasks = sum(not summary.mixture for summary in found)
    yield f"\n{tasks:,} tasks, {len(found) - tasks:,} mixtures"
    for field in ("collection", "cluster"):
        counts = catalogue.counts(found, field)
        yield f"  by {field}: " + (", ".join(f"{name or 'several'} {n:,}" for name, n in counts.items()) or "none")
