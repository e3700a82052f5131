"""Seconds from the start of a process to the end of its first step, by what is compiled already: imports apart.

    .venv/bin/python benchmarks/startup.py [--json_out FILE]

A LoRA step of SmolLM2-135M, as train_step.py has it, in a fresh process each: without a cache of compiled programs,
with one that is empty, with one that the process before filled. Prints a table, and as its last line one JSON object.
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
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks import train_step  # noqa: E402
from benchmarks.publish import publish, stamp  # noqa: E402
from itune.weights import resolve  # noqa: E402

IMPORTS = ("itune", "jax", "itune.training.loop", "itune.inference.generate")


def import_seconds(module: str) -> float:
    """Of a fresh interpreter, its own start included; the best of three."""
    best = float("inf")
    for _ in range(3):
        begin = time.perf_counter()
        subprocess.run([sys.executable, "-c", f"import {module}"], cwd=HERE.parent, check=True)
        best = min(best, time.perf_counter() - begin)
    return round(best, 2)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json_out", help="write the JSON object to this file too")
    flags = parser.parse_args()
    load_before = os.getloadavg()[0]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="itune-bench-") as name:
        job_path, base = Path(name) / "job.json", train_step.parse_flags(["--steps", "1", "--no_peer"])
        job_path.write_text(json.dumps(train_step.make_job(base, resolve(base.model), Path(name))), "utf-8")
        train_step.child(sys.executable, HERE / "packed_rows.py", job_path)
        for side in ("no cache", "cold cache", "warm cache"):
            where = "" if side == "no cache" else f"{name}/cache"
            os.environ |= {"JAX_COMPILATION_CACHE_DIR": where, "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
            run = json.loads(train_step.child(sys.executable, HERE / "ours.py", job_path, "f32"))
            found[side] = {
                "ready_seconds": run["ready_seconds"],
                "first_step_seconds": run["step_seconds"][0],
                "step_seconds": run["step_seconds"][1],
            }
    print("\n| | import and load, s | first step, s | step, s |\n| --- | ---: | ---: | ---: |")
    for side, row in found.items():
        print(f"| {side} | {' | '.join(f'{seconds:.2f}' for seconds in row.values())} |")
    answer = {
        "name": "startup",
        "ours": found["warm cache"]["first_step_seconds"],
        "peer": None,
        "ratio": None,
        "unit": "s, first step, LoRA f32, warm cache",
        **stamp(),
        "import_seconds": {module: import_seconds(module) for module in IMPORTS},
        "variants": found,
        "load_before": round(load_before, 2),
    }
    publish(answer, flags.json_out)


if __name__ == "__main__":
    main()
