"""Packing FLAN-like examples, ours and SeqIO's, side by side: rows against the fewest that there could be.

    .venv/bin/python benchmarks/packing.py [--examples 1000000] [--peer_examples 20000] [--no_peer]

Decoder rows of 2,048 tokens with a budget of supervised tokens that the plan chooses; encoder-decoder rows of
1,024 + 256. The fewest rows are the vector lower bound: the larger of the two budgets' sums over a row's budget. Prints
a table, and as its last line one JSON object. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402

from benchmarks.mixture import draw_pairs  # noqa: E402
from benchmarks.train_step import child, machine  # noqa: E402
from itune.data.keyed import hash64  # noqa: E402
from itune.data.schedule import Plan, PlanTask, TaskIndex  # noqa: E402

TASKS = 100
SHAPES: dict[str, dict[str, Any]] = {
    "decoder, 2,048": {"row_length": 2048, "feature_lengths": {"inputs": 1792, "targets": 256}},
    "encoder-decoder, 1,024 + 256": {
        "row_length": 256,
        "encoder_row_length": 1024,
        "converter": "encoder_decoder",
        "feature_lengths": {"inputs": 1024, "targets": 256},
    },
}


def make_tasks(examples: int, longest: dict[str, int]) -> list[PlanTask]:
    tasks = []
    for number in range(TASKS):
        n = examples // TASKS
        inputs, targets = draw_pairs(number, n, longest["inputs"], longest["targets"])
        zeros = np.zeros(n, np.int32)
        keys = hash64(number, np.arange(n, dtype=np.uint64))
        index = TaskIndex(
            inputs=inputs, targets=targets, example_key=keys, template=zeros.astype(np.int16), shard=zeros, offset=zeros
        )
        tasks.append(PlanTask(name=f"t{number}", identity=f"t{number}", rate=1.0, index=index))
    return tasks


def ours(examples: int, shape: dict[str, Any], window: int) -> dict[str, Any]:
    """One epoch of everything, planned to its end."""
    tasks = make_tasks(examples, shape["feature_lengths"])
    begin = time.perf_counter()
    plan = Plan(tasks, seed=0, max_epochs=1, window=window, **shape)
    rows = plan.num_rows
    assert rows is not None
    seconds = time.perf_counter() - begin
    plan._chunks.clear()  # as after a restart, but for the row counts
    cold, cached = (_milliseconds(lambda i=i: plan.row(i)) for i in (rows // 2, rows // 2 + 1))
    summary = plan.summary(0, rows)
    used = {name: summary["fill"][name] for name in (("encoder", "tokens") if plan.Le else ("tokens", "supervised"))}
    return {
        "rows": rows,
        "bound": max(used.values()),  # the sum over the budget, over rows: what the lower bound is of them
        "seconds": round(seconds, 2),
        "examples_per_s": round(examples / seconds),
        **{f"fill_{name}": round(value, 4) for name, value in used.items()},
        "row_ms": {"cold": cold, "cached": cached},
        "T": plan.T,
        "S": plan.S,
    }


def _milliseconds(call: Callable[[], Any]) -> float:
    begin = time.perf_counter()
    call()
    return round(1e3 * (time.perf_counter() - begin), 3)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--examples", type=int, default=1_000_000, help="planned by ours")
    parser.add_argument("--peer_examples", type=int, default=20_000, help="packed by SeqIO, which is slower")
    parser.add_argument("--window", type=int, default=1024, help="examples that ours packs together")
    parser.add_argument("--no_peer", action="store_true", help="our side alone; no ratio")
    parser.add_argument("--json_out", help="write the JSON object to this file too")
    flags = parser.parse_args()
    found: dict[str, dict[str, Any]] = {}
    for name, shape in SHAPES.items():
        found[name] = {"itune": ours(flags.examples, shape, flags.window)}
        if not flags.no_peer:
            with tempfile.TemporaryDirectory(prefix="itune-bench-") as folder:
                path = Path(folder) / "job.json"
                job = shape | {"tasks": TASKS, "examples": flags.peer_examples}
                path.write_text(json.dumps(job), "utf-8")
                found[name]["SeqIO"] = json.loads(child(sys.executable, HERE / "peers" / "seqio_packing.py", path))
    print("| | | of the lower bound | examples/s |\n| --- | --- | ---: | ---: |")
    for name, sides in found.items():
        for side, at in sides.items():
            print(f"| {name} | {side} | {at['bound']:.2%} | {at['examples_per_s']:,} |")
    first = found["decoder, 2,048"]
    peer = first.get("SeqIO")
    answer = {
        "name": "packing",
        "ours": first["itune"]["bound"],
        "peer": peer["bound"] if peer else None,
        "ratio": round(first["itune"]["bound"] / peer["bound"], 3) if peer else None,
        "unit": "lower bound of rows / rows, decoder",
        "machine": machine(),
        "examples": flags.examples,
        "peer_examples": flags.peer_examples,
        "window": flags.window,
        "shapes": found,
    }
    line = json.dumps(answer)
    if flags.json_out:
        Path(flags.json_out).write_text(line + "\n", "utf-8")
    print(line)


if __name__ == "__main__":
    main()
