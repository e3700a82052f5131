"""Our side of generate.py: python benchmarks/generate_side.py JOB.json, then "f32 16" a line. Prints a pass as JSON."""

from __future__ import annotations

import dataclasses
import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from itune.inference import session
from itune.inference.generate import Generator

COMPUTE_DTYPE = {"f32": "float32", "bf16": "bfloat16"}


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    model = session.load(job["folder"])
    generators: dict[str, Generator] = {}
    for line in sys.stdin:
        if line not in generators:
            dtype, batch = line.split()
            compute = dataclasses.replace(model.compute, dtype=COMPUTE_DTYPE[dtype])
            generators[line] = Generator(model.spec, model.params, compute, batch_size=int(batch))
        begin = time.perf_counter()
        found = generators[line].generate(job["prompts"], job["new"], job["stops"])
        print(json.dumps({"seconds": time.perf_counter() - begin, "completions": found}), flush=True)


if __name__ == "__main__":
    main()
