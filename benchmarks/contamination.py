"""Times the look for evaluation text in training data against a plain dict of 13-gram tuples, on synthetic examples.

python -m benchmarks.contamination --train=1000000 --evaluated=100000
"""

from __future__ import annotations

import argparse
import json
import resource
import time
from collections.abc import Iterator

import numpy as np

from benchmarks.train_step import machine
from itune.data.contamination import GRAM, Index
from itune.data.records import Record
from itune.data.splits import normalise

WORDS_PER_EXAMPLE = 80
SHARED_EVERY = 1000  # training examples


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--train", type=int, default=20_000)
    parser.add_argument("--evaluated", type=int, default=5_000)
    parser.add_argument("--peer_share", type=float, default=0.2, help="of the examples, that the peer gets")
    flags = parser.parse_args()
    started = time.perf_counter()
    report = Index(examples("eval", flags.evaluated)).check(examples("train", flags.train))
    seconds = time.perf_counter() - started
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    num_peer = [int(flags.peer_share * n) for n in (flags.train, flags.evaluated)]
    started = time.perf_counter()
    peer(*num_peer)
    peer_seconds = time.perf_counter() - started
    ours, theirs = (flags.train + flags.evaluated) / seconds, sum(num_peer) / peer_seconds
    print(
        f"{seconds:.1f} s, peak {peak / 1e9:.2f} GB, {sum(report.pairs.values()):,} examples hit; making them included"
    )
    figures = {"name": "contamination", "ours": ours, "peer": theirs, "ratio": ours / theirs, "unit": "examples/s"}
    sizes = {
        "train": flags.train,
        "evaluated": flags.evaluated,
        "peer_train": num_peer[0],
        "peer_evaluated": num_peer[1],
    }
    print(json.dumps(figures | {"machine": machine(), "seconds": seconds, "peak_bytes": peak} | sizes))


def examples(task: str, count: int) -> Iterator[Record]:
    """A passage of 80 words of a skewed vocabulary each; every 1000th training example has an evaluation passage."""
    vocabulary = np.array([f"word{i}" for i in range(50_000)])
    for i in range(count):
        shared = task == "train" and i % SHARED_EVERY == 0
        rng = np.random.default_rng([task == "eval" or shared, i // SHARED_EVERY if shared else i])
        ids = (rng.random(WORDS_PER_EXAMPLE) ** 3 * len(vocabulary)).astype(int)
        fields = {"passage": " ".join(vocabulary[ids]), "label": "yes"}
        yield Record(spans=(), id=str(i), task=task, split="", example=i, variant=0, extras=fields)


def peer(train: int, evaluated: int) -> int:
    """Training examples that share a gram."""
    grams: dict[tuple[str, ...], int] = {}
    for i, record in enumerate(examples("eval", evaluated)):
        grams.update(dict.fromkeys(_grams(record), i))
    return sum(any(gram in grams for gram in _grams(record)) for record in examples("train", train))


def _grams(record: Record) -> Iterator[tuple[str, ...]]:
    words = normalise(record.extras["passage"]).split()
    return (tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1))


if __name__ == "__main__":
    main()
