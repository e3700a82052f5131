"""Times `python -m itune.tasks list`, as a process, with a made folder of natural-instructions' layout in place.

python -m benchmarks.listing --tasks=1600

The made tasks are no data set: this is a measurement of scale.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.train_step import machine
from tests.tasks.test_commands import made_niv2

INSTANCES = 100_000  # characters a file: listings must not depend on them


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tasks", type=int, default=1600)
    parser.add_argument("--rounds", type=int, default=3)
    flags = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        niv2 = Path(folder) / "collections" / "natural-instructions"
        made_niv2(niv2, flags.tasks)
        for path in (niv2 / "tasks").iterdir():
            path.write_text(path.read_text().replace('"i', '"' + "i" * INSTANCES, 1))
        seconds = [listing(folder) for _ in range(flags.rounds)]
    figures = {"name": "listing", "first": seconds[0], "best": min(seconds), "unit": "s", "tasks": flags.tasks}
    print(json.dumps(figures | {"machine": machine()}))


def listing(folder: str) -> float:
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "itune.tasks", "list"],
        env=os.environ | {"ITUNE_DATA_DIR": folder},
        capture_output=True,
        text=True,
    )
    seconds = time.perf_counter() - started
    if done.returncode:
        raise SystemExit(done.stderr)
    print(f"{seconds:.2f} s; " + " ".join(done.stdout.splitlines()[-3:-1]))
    return seconds


if __name__ == "__main__":
    main()
