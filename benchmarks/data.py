"""A mixture of 1,836 tasks through SeqIO's get_dataset and through itune's prepared shards, side by side.

    .venv/bin/python benchmarks/data.py [--tasks 1836] [--length 2048] [--no_peer] ...

Each side starts in a fresh process: seconds to the first batch (imports included), seconds for 2,000 further examples,
tokens a second, fill, peak memory. Ours reads shards as `itune.prepare` leaves them; writing them is reported too.
Prints a table, and as its last line one JSON object. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

import numpy as np  # noqa: E402

from benchmarks.mixture import draw_lengths, draw_sizes  # noqa: E402
from benchmarks.train_step import child, machine  # noqa: E402
from itune.data.manifest import Manifest, PreparedSplit, PreparedTask  # noqa: E402
from itune.data.records import Record, Span, SplitWriter  # noqa: E402


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tasks", type=int, default=1836)
    parser.add_argument("--length", type=int, default=2048, help="tokens a packed row")
    parser.add_argument("--batch", type=int, default=8, help="packed rows a batch")
    parser.add_argument("--examples", type=int, default=2000, help="examples timed after the first batch")
    parser.add_argument("--cap", type=int, default=3000, help="most examples of a task, and its highest rate")
    parser.add_argument("--seconds", type=float, default=10.0, help="how long our feed runs for its tokens a second")
    parser.add_argument("--no_peer", action="store_true", help="our side alone; no ratio")
    parser.add_argument("--json_out", help="write the JSON object to this file too")
    return parser.parse_args()


def write_shards(job: dict[str, Any], folder: Path) -> None:
    """Every task as prepare leaves it: four fifths of an example are its prompt, the rest is learnt."""
    tasks = []
    for number, examples in enumerate(job["sizes"]):
        name = f"t{number:05d}"
        writer = SplitWriter(folder / name / "train", identity=name, private=False)
        for example, n in enumerate(draw_lengths(number, examples, job["length"])):
            sizes = (("inputs", False, n - max(1, n // 5)), ("targets", True, max(1, n // 5)))
            spans = tuple(Span(role=r, supervised=s, ids=np.full(k, 7, np.int32)) for r, s, k in sizes)
            writer.add(Record(spans=spans, id=str(example), task=name, split="train", example=example, variant=0))
        writer.finish({"fingerprint": name, "examples": examples, "skipped": 0, "sensitive": False})
        split = PreparedSplit(
            dir=str(folder / name / "train"), fingerprint=name, examples=examples, variants=1, skipped=0
        )
        tasks.append(
            PreparedTask(
                name=name,
                cluster=name,
                licence="",
                identity=name,
                sensitive=False,
                overlong="truncate_inputs",
                truncate_side="right",
                rate=float(min(examples, job["cap"])),
                metrics=[],
                splits={"train": split},
            )
        )
    parts = {"tokenizer": "", "held_in": [], "held_out": [], "inputs": [], "versions": {}, "request": {}}
    Manifest(mixture="mix", train=tasks, **parts).save(folder / "manifest.json")


ROWS = (
    ("first batch, s", "first_batch_seconds"),
    ("further examples, s", "further_seconds"),
    ("tokens/s", "tokens_per_s"),
    ("fill", "fill"),
    ("peak memory, GB", "peak_memory_gb"),
)


def table(found: dict[str, dict[str, Any]]) -> str:
    lines = [f"| | {' | '.join(found)} |", f"| --- |{' ---: |' * len(found)}"]
    for title, key in ROWS:
        lines.append(f"| {title} | {' | '.join(f'{side[key]:,}' for side in found.values())} |")
    return "\n".join(lines)


def result(found: dict[str, dict[str, Any]], job: dict[str, Any], more: dict[str, Any]) -> dict[str, Any]:
    ours, peer = found["itune"], found.get("SeqIO")
    ratios = {}
    if peer:
        ratios = {key: round(peer[key] / ours[key], 2) for key in ("first_batch_seconds", "further_seconds")}
        ratios["peak_memory_gb"] = round(peer["peak_memory_gb"] / ours["peak_memory_gb"], 2)
    return {
        "name": "data",
        "ours": ours["first_batch_seconds"],
        "peer": peer["first_batch_seconds"] if peer else None,
        "ratio": ratios.get("first_batch_seconds"),
        "unit": "seconds to the first batch",
        "machine": machine(),
        "ratios": ratios,
        "examples": sum(job["sizes"]),
        **{key: job[key] for key in ("tasks", "length", "batch", "cap")},
        "further_examples": job["examples"],
        "sides": found,
        **more,
    }


def main() -> None:
    flags = parse_flags()
    job: dict[str, Any] = {k: getattr(flags, k) for k in ("tasks", "length", "batch", "examples", "cap", "seconds")}
    job["sizes"] = draw_sizes(flags.tasks, flags.cap)
    with tempfile.TemporaryDirectory(prefix="itune-bench-") as name:
        folder = Path(name)
        begin = time.perf_counter()
        write_shards(job, folder)
        writing = time.perf_counter() - begin
        print(f"{flags.tasks} tasks, {sum(job['sizes']):,} examples written in {writing:.0f} s", flush=True)
        path = folder / "job.json"
        path.write_text(json.dumps(job | {"manifest": str(folder / "manifest.json")}), "utf-8")
        found = {"itune": json.loads(child(sys.executable, HERE / "feed.py", path))}
        if not flags.no_peer:
            found["SeqIO"] = json.loads(child(sys.executable, HERE / "peers" / "seqio_mixture.py", path))
    answer = result(found, job, {"writing_seconds": round(writing, 1)})
    print(f"\n{table(found)}\n")
    line = json.dumps(answer)
    if flags.json_out:
        Path(flags.json_out).write_text(line + "\n", "utf-8")
    print(line)


if __name__ == "__main__":
    main()
