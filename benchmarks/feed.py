"""Our side of data.py: python benchmarks/feed.py JOB.json. Plans and feeds as a run does. Prints JSON."""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import itertools  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks.measure import peak_memory_gb  # noqa: E402
from itune.data.config import DataConfig  # noqa: E402
from itune.data.feed import feed  # noqa: E402
from itune.data.manifest import Manifest  # noqa: E402
from itune.data.reader import Reader  # noqa: E402
from itune.data.schedule import Plan  # noqa: E402


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    manifest = Manifest.load(Path(job["manifest"]))
    length = job["length"]
    lengths = {"inputs": length * 4 // 5, "targets": length - length * 4 // 5}
    plan = Plan.from_manifest(manifest, DataConfig(mixture="mix", row_length=length, feature_lengths=lengths), seed=0)
    batches = feed(plan, Reader(plan.tasks), batch_size=job["batch"])
    next(batches)
    first_batch = time.perf_counter() - STARTED
    begin, examples = time.perf_counter(), 0
    while examples < job["examples"]:
        examples += int(next(batches).segment_ids.max(axis=1).sum())
    further = time.perf_counter() - begin
    begin, used, slots = time.perf_counter(), 0, 0
    for batch in itertools.takewhile(lambda _: time.perf_counter() - begin < job["seconds"], batches):
        used, slots = used + int((batch.segment_ids > 0).sum()), slots + batch.segment_ids.size
    seconds = time.perf_counter() - begin
    found = {
        "first_batch_seconds": round(first_batch, 2),
        "further_seconds": round(further, 4),
        "tokens_per_s": round(used / seconds),
        "fill": round(used / slots, 4),
        "peak_memory_gb": round(peak_memory_gb(), 3),
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
