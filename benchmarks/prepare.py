"""Prepare against SeqIO's own pipeline: the same task, the same tokenizer, one core each.

    .venv/bin/python benchmarks/prepare.py [--examples 20000] [--rounds 3] [--model smollm2-135m-instruct] ...

SeqIO's side iterates get_dataset to its end and keeps nothing; ours writes shards, index and digests, too. Each side
runs in fresh processes that are bound to one core, in turns. Imports are left out. Two tasks: one of plain SeqIO (the
figure), and one of `add_task`. Prints a table and, as its last line, one JSON object. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks.train_step import child, machine  # noqa: E402
from itune.weights import resolve  # noqa: E402

TASKS = ("seqio", "add_task")
SIDES = ("itune", "SeqIO")


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=20_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="smollm2-135m-instruct", help="whose tokenizer: a known model or a folder")
    parser.add_argument("--json_out", help="write the JSON object to this file too")
    return parser.parse_args()


def main() -> None:
    flags = parse_flags()
    found: dict[str, list[dict[str, Any]]] = {f"{task} {side}": [] for task in TASKS for side in SIDES}
    with tempfile.TemporaryDirectory(prefix="itune-bench-") as folder:
        job = {"examples": flags.examples, "model": str(resolve(flags.model))}
        for _ in range(flags.rounds):
            for name in found:
                task, side = name.split()
                path = Path(folder) / "job.json"
                path.write_text(json.dumps(job | {"task": task, "side": side}), "utf-8")
                found[name].append(json.loads(child(sys.executable, HERE / "prepare_side.py", path)))
    rates = {
        name: flags.examples / statistics.median(run["cpu_seconds"] for run in runs) for name, runs in found.items()
    }
    ratios = {task: round(rates[f"{task} itune"] / rates[f"{task} SeqIO"], 2) for task in TASKS}
    tokens = {task: {run["tokens"] for side in SIDES for run in found[f"{task} {side}"]} for task in TASKS}
    if any(len(counts) > 1 for counts in tokens.values()):
        raise SystemExit(f"the sides made different tokens: {tokens}")
    print("| examples a second and core | itune | SeqIO | ratio |\n| --- | ---: | ---: | ---: |")
    for task in TASKS:
        print(f"| {task} | {rates[f'{task} itune']:,.0f} | {rates[f'{task} SeqIO']:,.0f} | {ratios[task]} |")
    answer = {
        "name": "prepare",
        "ours": round(rates["seqio itune"]),
        "peer": round(rates["seqio SeqIO"]),
        "ratio": ratios["seqio"],
        "unit": "examples a CPU second",
        "machine": machine(),
        "ratios": ratios,
        "examples": flags.examples,
        "rounds": flags.rounds,
        "tokens": {task: counts.pop() for task, counts in tokens.items()},
        "runs": found,
    }
    if flags.json_out:
        Path(flags.json_out).write_text(json.dumps(answer) + "\n", "utf-8")
    print(json.dumps(answer))


if __name__ == "__main__":
    main()
