"""One side of prepare.py: python benchmarks/prepare_side.py JOB.json. Prints JSON."""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
if hasattr(os, "sched_setaffinity"):  # before TensorFlow and the tokenizer count the cores
    os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})

import seqio
import tensorflow as tf

from itune.data import RowSource, Template, Tokenizer, add_task, bind
from itune.data.manifest import DigestCache, Request
from itune.data.prepare_task import PreparableTask
from itune.data.records import INDEX

LENGTHS = {"inputs": 512, "targets": 512}
COMMON = "the of and a to in is you that it he was for on are as with his they at be this have from or one had by"
WORDS = tuple(COMMON.split())


def rows(examples: int) -> list[dict[str, str]]:
    """Questions of 20 to 120 words, answers of 1 to 30, of short words and numbers."""
    drawn = random.Random(0)

    def text(low: int, high: int) -> str:
        return " ".join(
            drawn.choice(WORDS) if drawn.random() < 0.8 else str(drawn.randrange(10**4))
            for _ in range(drawn.randint(low, high))
        )

    return [{"id": f"r{i}", "question": text(20, 120), "answer": text(1, 30)} for i in range(examples)]


def register(held: list[dict[str, str]]) -> None:
    """The task "seqio", as SeqIO's users write it, and the task "add_task", as ours do; both over the same rows."""
    names = ("id", "question", "answer")

    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices({name: [row[name] for row in held] for name in names})

    @seqio.map_over_dataset
    def template(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        asked = tf.strings.join(["Question: ", row["question"], "\nAnswer:"])
        return {"id": row["id"], "inputs": asked, "targets": row["answer"]}

    features = {name: seqio.Feature(seqio.ByteVocabulary(), add_eos=name == "targets") for name in LENGTHS}
    pre = seqio.preprocessors
    seqio.TaskRegistry.add(
        "seqio",
        source=seqio.FunctionDataSource(dataset, splits=["train"], num_input_examples={"train": len(held)}),
        preprocessors=[template, pre.tokenize, seqio.CacheDatasetPlaceholder(), pre.append_eos],
        output_features=features,
    )
    templates = (
        Template("asked", "Question: {question}\nAnswer:", "{answer}"),
        Template("plain", "{question}", "{answer}"),
    )
    add_task(
        "add_task",
        source=RowSource(lambda split: held, splits=("train",), fields=names[1:], version="1"),
        templates=templates,
        cluster="benchmark",
        licence="made here",
        identity="rows",
    )


def by_seqio(name: str, tokenizer: Tokenizer) -> int:
    """Iterate the task's own dataset, the model's vocabulary in its features. Returns its tokens."""
    task = bind(name, tokenizer, variant=0, prepare_seed=0, feature_lengths=LENGTHS)
    dataset = task.get_dataset(LENGTHS, "train", shuffle=False)
    return sum(len(row["inputs"]) + len(row["targets"]) for row in dataset.as_numpy_iterator())


def by_itune(name: str, tokenizer: Tokenizer, model: str, cache: str) -> int:
    """Write the task's shards. Returns their tokens, less the newline that a plain prompt ends with."""
    import numpy as np

    fields: dict[str, Any] = {"modules": [], "held_in": [], "held_out": [], "split": "train", "eval_split": "train"}
    request = Request(
        mixture=name,
        model_folder=model,
        prompt_format="plain",
        variants=1,
        prepare_seed=0,
        feature_lengths=LENGTHS,
        cache=cache,
        directory=cache,
        max_bad_records=0,
        **fields,
    )
    task = PreparableTask(name, request, tokenizer, DigestCache(Path(cache) / "digests.json"))
    split = task.prepare(["train"], lambda *_: None)["train"]
    with np.load(Path(split.dir) / INDEX) as index:
        return int(index["inputs"].sum() + index["targets"].sum()) - split.examples * len(tokenizer.encode("\n"))


def clock() -> Iterator[float]:
    """CPU seconds of all threads, then elapsed ones."""
    times = os.times()
    yield times.user + times.system
    yield time.perf_counter()


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    tokenizer = Tokenizer.from_folder(Path(job["model"]))
    register(rows(job["examples"]))
    cpu, wall = clock()
    if job["side"] == "SeqIO":
        tokens = by_seqio(job["task"], tokenizer)
    else:
        with tempfile.TemporaryDirectory(prefix="itune-bench-") as cache:
            tokens = by_itune(job["task"], tokenizer, job["model"], cache)
    cpu_now, wall_now = clock()
    print(json.dumps({"cpu_seconds": round(cpu_now - cpu, 2), "seconds": round(wall_now - wall, 2), "tokens": tokens}))


if __name__ == "__main__":
    main()
