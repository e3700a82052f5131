"""How a benchmark ends: what every record says of its run, and its last line."""

from __future__ import annotations

import datetime
import json
import sys
from pathlib import Path
from typing import Any

from benchmarks.train_step import machine


def stamp() -> dict[str, Any]:
    """{"machine", "date", "command"}, without where the record was written to."""
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]]).partition(" --json_out")[0]
    return {"machine": machine(), "date": datetime.date.today().isoformat(), "command": command}


def publish(answer: dict[str, Any], json_out: str | None) -> None:
    """Prints the JSON object as the last line and, if asked for, writes it to a file."""
    line = json.dumps(answer)
    if json_out:
        Path(json_out).write_text(line + "\n", "utf-8")
    print(f"\n{line}")
