"""What the head costs by the share of tokens that carry loss: our step against our own over all positions.

    .venv/bin/python benchmarks/head.py [--rounds 2] [--steps 3] [--mode lora|full]

SmolLM2-135M, rows of random tokens in four examples each; the last positions of every example are supervised. A step
whose every position is supervised is what a trainer without a choice of positions computes at any share: its labels are
ignored only once the logits are there. Shares take turns, each in a fresh process a round. Prints a table, and as its
last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks import train_step  # noqa: E402
from benchmarks.publish import publish, stamp  # noqa: E402
from itune.batch import FIELDS  # noqa: E402
from itune.models.families import read_config  # noqa: E402
from itune.weights import resolve  # noqa: E402

SHARES = (100, 50, 25, 10)  # % of an example's predictions
EXAMPLES = 4  # a row


def batches(job: dict[str, Any], share: int) -> dict[str, np.ndarray]:
    """The fields of itune.batch.Batch, each [steps, rows, ...]; the tokens are the same at every share."""
    steps, rows, length = job["warmup"] + job["steps"], job["batch"], job["length"]
    size = length // EXAMPLES
    vocabulary = read_config(Path(job["folder"])).vocab_size
    tokens = np.random.default_rng(0).integers(1, vocabulary, (steps, rows, length), dtype=np.int32)
    positions, segments = np.arange(length) % size, np.arange(length) // size + 1
    predicts = np.flatnonzero((positions < size - 1) & (positions >= size - 1 - round(share / 100 * (size - 1))))
    width = -(-len(predicts) // 16) * 16
    index = np.pad(predicts, (0, width - len(predicts)))
    weights = np.pad(np.ones(len(predicts), np.float32), (0, width - len(predicts)))
    every = lambda row, dtype=np.int32: np.broadcast_to(row.astype(dtype), (steps, rows, len(row)))  # noqa: E731
    fields = {
        "tokens": tokens,
        "segment_ids": every(segments),
        "positions": every(positions),
        "loss_index": every(index),
        "loss_targets": np.take_along_axis(tokens, every(index + (weights > 0)), axis=2),
        "loss_weights": every(weights, np.float32),
        "loss_task": every(np.zeros(width)),
        "row_ids": np.stack(np.broadcast_arrays(0, np.arange(steps * rows).reshape(steps, rows)), -1).astype(np.int32),
    }
    return {name: fields[name] for name in FIELDS if name in fields}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a process, after its first")
    parser.add_argument("--mode", choices=("lora", "full"), default="lora")
    parser.add_argument("--json_out", help="write the JSON object to this file too")
    flags = parser.parse_args()
    load_before = os.getloadavg()[0]
    runs: dict[int, list[dict[str, Any]]] = {share: [] for share in SHARES}
    with tempfile.TemporaryDirectory(prefix="itune-bench-") as name:
        base = train_step.parse_flags(["--steps", str(flags.steps), "--mode", flags.mode, "--no_peer"])
        job = train_step.make_job(base, resolve(base.model), Path(name)) | {"segments_per_row": EXAMPLES}
        for _ in range(flags.rounds):
            for share in SHARES:
                job_path, file = Path(name) / f"{share}.json", Path(name) / f"{share}.npz"
                np.savez(file, allow_pickle=False, **batches(job, share))
                job_path.write_text(json.dumps(job | {"batches": str(file)}), "utf-8")
                runs[share].append(json.loads(train_step.child(sys.executable, HERE / "ours.py", job_path, "f32")))
    found = {}
    for share, made in runs.items():
        seconds = [s for run in made for s in run["step_seconds"][1:]]
        found[f"{share} %"] = {
            "step_seconds": round(statistics.median(seconds), 3),
            "step_seconds_range": [min(seconds), max(seconds)],
            "peak_memory_gb": max(run["peak_memory_gb"] for run in made),
        }
    full = found["100 %"]["step_seconds"]
    ratios = {share: round(full / side["step_seconds"], 3) for share, side in found.items()}
    print("\n| supervised | step, s | all positions over it | peak memory, GB |\n| --- | ---: | ---: | ---: |")
    for share, side in found.items():
        print(f"| {share} | {side['step_seconds']:.2f} | {ratios[share]:.2f} | {side['peak_memory_gb']:.2f} |")
    answer = {
        "name": "head",
        "ours": found["25 %"]["step_seconds"],
        "peer": full,
        "ratio": ratios["25 %"],
        "unit": "s, a step at 25 % supervised, against one over all positions",
        **stamp(),
        "mode": flags.mode,
        "ratio_by_share": ratios,
        "variants": found,
        "versions": next(iter(runs.values()))[0]["versions"],
        "load_before": round(load_before, 2),
    }
    publish(answer, flags.json_out)


if __name__ == "__main__":
    main()
