"""SeqIO's get_dataset on the mixture of data.py: python benchmarks/peers/seqio_mixture.py JOB.json. Prints JSON.

Packed decoder rows, shuffled, as T5X trains on them. The tasks are as light as SeqIO's can be: token ids from a
generator, no preprocessors.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import functools  # noqa: E402
import importlib.metadata  # noqa: E402
import json  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
import seqio  # noqa: E402
import tensorflow as tf  # noqa: E402

from benchmarks.measure import peak_memory_gb  # noqa: E402
from benchmarks.mixture import draw_lengths  # noqa: E402


def dataset(split, shuffle_files=False, seed=None, *, number, examples, length):
    def rows():
        for n in draw_lengths(number, examples, length):
            yield {"targets": np.full(n, 7, np.int32)}

    return tf.data.Dataset.from_generator(rows, output_signature={"targets": tf.TensorSpec([None], tf.int32)})


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    feature = seqio.Feature(seqio.PassThroughVocabulary(32000), add_eos=False, dtype=tf.int32)
    names = []
    for number, examples in enumerate(job["sizes"]):
        names.append(f"t{number:05d}")
        function = functools.partial(dataset, number=number, examples=examples, length=job["length"])
        source = seqio.FunctionDataSource(function, splits=["train"], num_input_examples={"train": examples})
        seqio.TaskRegistry.add(
            names[-1], source=source, preprocessors=[], output_features={"targets": feature}, metric_fns=[]
        )
    rate = functools.partial(seqio.mixing_rate_num_examples, maximum=job["cap"])
    seqio.MixtureRegistry.add("mix", [(name, rate) for name in names])
    rows = seqio.get_dataset(
        "mix",
        task_feature_lengths={"targets": job["length"]},
        dataset_split="train",
        shuffle=True,
        seed=0,
        num_epochs=None,
        feature_converter=seqio.DecoderFeatureConverter(pack=True),
    ).as_numpy_iterator()
    segments = [next(rows)["decoder_segment_ids"] for _ in range(job["batch"])]
    first_batch = time.perf_counter() - STARTED
    begin, examples, used, slots = time.perf_counter(), 0, 0, 0
    while examples < job["examples"]:
        segments = next(rows)["decoder_segment_ids"]
        examples += int(segments.max())
        used, slots = used + int((segments > 0).sum()), slots + segments.size
    seconds = time.perf_counter() - begin
    found = {
        "first_batch_seconds": round(first_batch, 2),
        "further_seconds": round(seconds, 4),
        "tokens_per_s": round(used / seconds),
        "fill": round(used / slots, 4),
        "peak_memory_gb": round(peak_memory_gb(), 3),
        "versions": {"seqio": importlib.metadata.version("seqio"), "tensorflow": tf.__version__},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
