"""SeqIO's packer on the examples of packing.py: python benchmarks/peers/seqio_packing.py JOB.json. Prints JSON."""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np
import seqio
import tensorflow as tf

from benchmarks.mixture import draw_pairs


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    longest, per_task = job["feature_lengths"], job["examples"] // job["tasks"]
    pairs = [draw_pairs(k, per_task, longest["inputs"], longest["targets"]) for k in range(job["tasks"])]
    inputs, targets = (np.concatenate([pair[side] for pair in pairs]) for side in (0, 1))
    order = np.random.default_rng(0).permutation(len(inputs))
    spec = tf.TensorSpec([None], tf.int32)
    if "encoder_row_length" in job:
        lengths = {"inputs": job["encoder_row_length"], "targets": job["row_length"]}
        converter, signature = seqio.EncDecFeatureConverter(pack=True), {"inputs": spec, "targets": spec}
        segments = {"encoder_segment_ids": lengths["inputs"], "decoder_segment_ids": lengths["targets"]}
    else:
        lengths = {"targets": job["row_length"]}
        converter, signature = seqio.DecoderFeatureConverter(pack=True), {"targets": spec}
        segments = {"decoder_segment_ids": lengths["targets"]}

    def rows():
        for i in order.tolist():
            n, m = int(inputs[i]), int(targets[i])
            if "inputs" in signature:
                yield {"inputs": np.full(n, 7, np.int32), "targets": np.full(m, 7, np.int32)}
            else:
                yield {"targets": np.full(n + m, 7, np.int32)}

    dataset = tf.data.Dataset.from_generator(rows, output_signature=signature)
    begin, count = time.perf_counter(), 0
    used = dict.fromkeys(segments, 0)
    for row in converter(dataset, lengths).as_numpy_iterator():
        count += 1
        for name in segments:
            used[name] += int((row[name] > 0).sum())
    seconds = time.perf_counter() - begin
    fill = {name: used[name] / (count * length) for name, length in segments.items()}
    found = {
        "rows": count,
        "bound": max(fill.values()),
        "seconds": round(seconds, 2),
        "examples_per_s": round(len(inputs) / seconds),
        **{f"fill_{name.removesuffix('_segment_ids')}": round(value, 4) for name, value in fill.items()},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
