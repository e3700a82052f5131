"""Tasks of the t5 package, unchanged, over a TFDS folder made here. Skipped where there is no t5 (docs/seqio.md)."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.data.toy import make_model

ROOT = Path(__file__).parents[2]
# In a process of its own: t5 registers its tasks once, on import, and its libraries warn.
PREPARE = """
import json, sys
from pathlib import Path
import numpy as np
import seqio, tensorflow as tf, tensorflow_datasets as tfds
try:
    import t5.data.mixtures
except ImportError as error:
    print("absent", error)
    sys.exit()
from itune.data import prepare
from itune.data.manifest import Request
from itune.data.records import decode_record, read_records

folder = Path(sys.argv[1])
F = tfds.features
def write(name, version, features, rows):
    target, dataset = folder / "tfds" / name / version, name.partition("/")[0]
    target.mkdir(parents=True)
    template = tfds.core.ShardedFileTemplate(data_dir=target, dataset_name=dataset, filetype_suffix="tfrecord")
    infos = []
    for split, count in {"train": 3, "validation": 2}.items():
        path = target / f"{dataset}-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for n in range(count):
                writer.write(features.serialize_example(features.encode_example(rows(n))))
        named = template.replace(split=split)
        size = path.stat().st_size
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=[count], num_bytes=size, filename_template=named))
    tfds.folder_dataset.write_metadata(data_dir=str(target), features=features, split_infos=infos)

labels = F.ClassLabel(names=["unacceptable", "acceptable"])
cola = F.FeaturesDict({"idx": F.Scalar(np.int32), "label": labels, "sentence": F.Text()})
write("glue/cola", "1.0.0", cola, lambda n: {"idx": n, "label": n % 2, "sentence": f"It is {n}."})
answers = F.Sequence({"text": F.Text(), "answer_start": np.int32})
texts = {name: F.Text() for name in ("id", "title", "context", "question")}
squad = F.FeaturesDict({**texts, "answers": answers})
answered = lambda n: {"text": [str(n), f"{n} apples"], "answer_start": [10, 10]}
write("squad/v1.1", "3.0.0", squad, lambda n: {"id": f"q{n}", "title": "t", "context": f"There are {n} apples.",
                                              "question": "How many apples?", "answers": answered(n)})
seqio.utils.set_tfds_data_dir_override(str(folder / "tfds"))
seqio.MixtureRegistry.add("both", ["glue_cola_v002", "squad_v010_allanswers"], default_rate=1.0)
fields = {"held_in": [], "held_out": [], "split": "train", "eval_split": "validation", "variants": 1, "prepare_seed": 0}
lengths = {"inputs": 64, "targets": 16}
request = Request(mixture="both", modules=["t5.data.mixtures"], model_folder=str(folder / "model"), workers=1,
                  prompt_format="plain", feature_lengths=lengths, cache=str(folder / "cache"), directory=str(folder),
                  max_bad_records=0, **fields)
for task in prepare.run(request, sys.stderr).train:
    split = task.splits["train"]
    for data in read_records(Path(split.dir), range(split.examples)):
        record = decode_record(data)
        print(json.dumps([task.name, record.inputs_text, record.targets_text]))
"""


def test_tasks_of_the_t5_package_are_prepared_unchanged(tmp_path: Path) -> None:
    make_model(tmp_path / "model")
    paths = [str(ROOT), *filter(None, [os.environ.get("ITUNE_T5_SITE"), os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run(
        [sys.executable, "-c", PREPARE, str(tmp_path)], env=environment, capture_output=True, text=True, timeout=500
    )
    assert done.returncode == 0, done.stderr[-2000:]
    if done.stdout.startswith("absent"):
        pytest.skip(done.stdout.strip())
    assert done.stdout.splitlines() == [
        '["glue_cola_v002", "cola sentence: It is 0.", "unacceptable"]',
        '["glue_cola_v002", "cola sentence: It is 1.", "acceptable"]',
        '["glue_cola_v002", "cola sentence: It is 2.", "unacceptable"]',
        *(
            f'["squad_v010_allanswers", "question: How many apples ? context: There are {n} apples . ", "{n}"]'
            for n in range(3)
        ),
    ]
