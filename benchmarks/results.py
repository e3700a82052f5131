"""Writes benchmarks/RESULTS.md from the JSON objects in benchmarks/records: python benchmarks/results.py [--check].

No figure in it is typed by hand; with --check nothing is written, and the exit status says whether it is up to date.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
RECORDS, RESULTS = HERE / "records", HERE / "RESULTS.md"
BEGIN = """# Results

Made by `python benchmarks/results.py` from [records/](records), one JSON object a benchmark. What each
measures, and how: [README.md](README.md). `ratio` is ours over the peer's, larger is better for us; a dash stands
where a record says nothing. A record with a load before its run above 0.5 was taken while the machine did other work.

"""
HEADLINE = ("benchmark", "ours", "peer", "ratio", "unit", "machine", "load before")
# What a side of a benchmark is described by, where its record has it.
COLUMNS = {
    "useful_tokens_per_s": "useful tokens/s",
    "supervised_tokens_per_s": "supervised tokens/s",
    "step_seconds": "step, s",
    "first_step_seconds": "first step, s",
    "ready_seconds": "import and load, s",
    "peak_memory_gb": "peak memory, GB",
    "gflops": "GFLOP/s",
    "matrix_gflops": "best product, GFLOP/s",
    "share_of_matrix_rate": "share of it",
    "loss": "first loss",
}


def cell(value: Any) -> str:
    """ "—", "2.574", "1: 1.049, 2: 1.099": numbers to four digits, as they stand in the record."""
    if value is None or value == "":
        return "—"
    if isinstance(value, dict):
        return ", ".join(f"{key}: {cell(one)}" for key, one in value.items())
    if isinstance(value, list):
        return ", ".join(cell(one) for one in value)
    return f"{value:.4g}" if isinstance(value, float) and abs(value) < 10_000 else str(value)


def table(head: tuple[str, ...], rows: list[list[str]]) -> str:
    lines = [list(head), ["---", *["---:"] * (len(head) - 1)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def section(name: str, record: dict[str, Any]) -> str:
    """A benchmark by itself: how it was run, then its sides, then what else it says in plain numbers."""
    sides = record.get("variants") or record.get("sides") or {}
    skipped = {"name", "ours", "peer", "unit", "machine", "variants", "sides", "versions", "load_before"}
    plain = {k: v for k, v in record.items() if k not in skipped and _plain(v)}
    text = f"## {name}\n\n[records/{name}.json](records/{name}.json)"
    if record.get("versions"):
        text += f"; {', '.join(f'{key} {value}' for key, value in record['versions'].items())}"
    text += ".\n\n"
    if all(isinstance(side, dict) for side in sides.values()) and sides:
        known = [key for key in COLUMNS if any(key in side for side in sides.values())]
        if known:
            rows = [[side, *(cell(row.get(key)) for key in known)] for side, row in sides.items()]
            text += table(("", *(COLUMNS[key] for key in known)), rows) + "\n"
    return text + "".join(f"- {key.replace('_', ' ')}: {cell(value)}\n" for key, value in plain.items()) + "\n"


def _plain(value: Any) -> bool:
    """Whether it fits a line: a number, a word, or a handful of them."""
    if isinstance(value, dict):
        return len(value) <= 12 and all(not isinstance(one, dict | list) for one in value.values())
    if isinstance(value, list):
        return len(value) <= 12 and all(not isinstance(one, dict | list) for one in value)
    return True


def text() -> str:
    records = {path.stem: json.loads(path.read_text("utf-8")) for path in sorted(RECORDS.glob("*.json"))}
    keys = ("ours", "peer", "ratio", "unit", "machine", "load_before")
    rows = [[f"[{name}](#{name})", *(cell(record.get(key)) for key in keys)] for name, record in records.items()]
    return BEGIN + table(HEADLINE, rows) + "\n" + "".join(section(*item) for item in records.items()).rstrip() + "\n"


def main() -> None:
    made = text()
    if "--check" in sys.argv[1:]:
        if RESULTS.read_text("utf-8") != made:
            sys.exit("benchmarks/RESULTS.md is not what the records say: `python benchmarks/results.py` writes it anew")
        return
    RESULTS.write_text(made, "utf-8")
    print(f"wrote {RESULTS.relative_to(HERE.parent)}")


if __name__ == "__main__":
    main()
