"""Where the time of a run goes, over all the processes that worked on it: its goodput."""

from __future__ import annotations

import contextlib
import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any

PARTS = ("compile", "input", "evaluation", "checkpoint")
WRITE_EVERY = 1.0  # seconds


class RunClock:
    """Seconds by part, in `<model_dir>/time.json`; the time of processes that were killed counts up to their last line.

    compile: of the step, at its first call.  input: waiting for batches.  evaluation, checkpoint: between steps.
    Goodput is the share of steps that count (those that a kill undid do not) in all seconds that processes have run.
    """

    def __init__(self, model_dir: Path, *, writes: bool = True):
        self._path, self._writes = model_dir / "time.json", writes
        self._earlier: dict[str, float] = _read(self._path)
        self._start = self._written = time.perf_counter()
        self._parts = dict.fromkeys(PARTS, 0.0)
        self._steps = 0.0

    def keep(self, lines: Iterable[Mapping[str, Any]], interval: Mapping[str, Any] | None) -> None:
        """Steps of earlier processes that count: lines of metrics.jsonl that stayed, and the one begun since."""
        self._steps = sum(line.get("seconds", 0.0) for line in lines) + (interval or {}).get("seconds", 0.0)

    @contextlib.contextmanager
    def part(self, name: str) -> Iterator[None]:
        start = time.perf_counter()
        try:
            yield
        finally:
            self._parts[name] += time.perf_counter() - start

    def add_steps(self, seconds: float) -> None:
        self._steps += seconds

    @property
    def running(self) -> float:
        """Seconds, of this process and of those before it."""
        return self._earlier.get("running", 0.0) + time.perf_counter() - self._start

    @property
    def goodput(self) -> float:
        return self._steps / max(self.running, self._steps, 1e-9)

    def seconds(self) -> dict[str, float]:
        """{"running", "steps", each of PARTS, "goodput"}."""
        parts = {name: round(self._earlier.get(name, 0.0) + spent, 3) for name, spent in self._parts.items()}
        sums = {"running": round(self.running, 3), "steps": round(self._steps, 3)}
        return sums | parts | {"goodput": round(self.goodput, 4)}

    def tick(self) -> None:
        """Writes it down, once a second at most."""
        if time.perf_counter() - self._written > WRITE_EVERY:
            self.save()

    def save(self) -> None:
        if not self._writes:  # another process does
            return
        temporary = self._path.with_suffix(".tmp")
        temporary.write_text(json.dumps(self.seconds()) + "\n")
        os.replace(temporary, self._path)
        self._written = time.perf_counter()

    def sentence(self) -> str:
        """ "Goodput 81 %: 95 s of steps in 117 s (compile 9 s, evaluation 11 s)"."""
        s = self.seconds()
        rest = ", ".join(f"{name} {s[name]:.0f} s" for name in PARTS if s[name] >= 0.5)
        tail = f" ({rest})" if rest else ""
        return f"Goodput {s['goodput']:.0%}: {s['steps']:.0f} s of steps in {s['running']:.0f} s{tail}"


def _read(path: Path) -> dict[str, float]:
    try:
        found = json.loads(path.read_text())
        return {str(k): float(v) for k, v in found.items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}  # the first process of the run, or one killed before it had anything to write down
