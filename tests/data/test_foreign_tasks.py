"""Tasks of a module that knows nothing of itune (tests/data/foreign.py), against SeqIO's own get_dataset and rates."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from itune.data.manifest import Manifest, PreparedTask
from itune.data.records import Record
from tests.data.toy import Toy, records_of

EOS = 256
LENGTHS = {"inputs": 64, "targets": 12}
TASKS = ("function", "trimmed", "no_eos", "rekeyed", "prefixed", "seeded", "expanded", "targets_only", "lines")
TASKS += ("examples", "files", "tfds", "passed_through", "fewshot")


@pytest.fixture(scope="module")
def foreign(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    """The module in a folder with its data, imported as `--module_import` would, into emptied registries."""
    import sys

    import seqio

    from itune.data import registry

    folder = tmp_path_factory.mktemp("foreign")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(seqio.TaskRegistry, "_REGISTRY", {})
        patch.setattr(seqio.MixtureRegistry, "_REGISTRY", {})
        patch.setattr(registry, "TASKS", {})
        patch.setattr(sys, "path", list(sys.path))
        shutil.copy(Path(__file__).with_name("foreign.py"), folder / "user_foreign.py")
        _write_data(folder)
        yield Toy(folder)
        sys.modules.pop("user_foreign", None)


def _write_data(folder: Path) -> None:
    import tensorflow as tf

    for split, count in {"train": 30, "validation": 4}.items():
        half = count // 2
        for part, numbers in enumerate((range(half), range(half, count))):
            rows = "".join(f"line {n}, é\t{n * 2}\n" for n in numbers)
            (folder / f"{split}-{part}.tsv").write_text(f"question\tanswer\n{rows}")
            (folder / f"{split}-{part}.txt").write_text("".join(f"{split} {n}\n" for n in numbers))
        with tf.io.TFRecordWriter(str(folder / f"{split}.tfrecord")) as writer:
            for n in range(count):
                text = tf.train.Feature(bytes_list=tf.train.BytesList(value=[f"example {n}".encode()]))
                label = tf.train.Feature(int64_list=tf.train.Int64List(value=[n]))
                features = tf.train.Features(feature={"text": text, "label": label})
                writer.write(tf.train.Example(features=features).SerializeToString())
    _write_tfds(folder / "tfds")


def _write_tfds(folder: Path) -> None:
    """A data set as TFDS lays it out, read back by name and folder with no code of its own."""
    import tensorflow as tf
    import tensorflow_datasets as tfds

    folder = folder / "sentences" / "1.0.0"
    folder.mkdir(parents=True)
    features = tfds.features.FeaturesDict({"text": tfds.features.Text(), "label": tfds.features.Scalar(np.int64)})
    template = tfds.core.ShardedFileTemplate(data_dir=folder, dataset_name="sentences", filetype_suffix="tfrecord")
    infos = []
    for split, count in {"train": 30, "validation": 4}.items():
        path = folder / f"sentences-{split}.tfrecord-00000-of-00001"
        with tf.io.TFRecordWriter(str(path)) as writer:
            for n in range(count):
                writer.write(features.serialize_example({"text": f"sentence {n}", "label": n % 3}))
        size = path.stat().st_size
        named = template.replace(split=split)
        infos.append(tfds.core.SplitInfo(name=split, shard_lengths=[count], num_bytes=size, filename_template=named))
    tfds.folder_dataset.write_metadata(data_dir=str(folder), features=features, split_infos=infos)


@pytest.fixture(scope="module")
def everything(foreign: Toy) -> Manifest:
    return foreign.prepare(mixture="everything", modules=("user_foreign",), feature_lengths=LENGTHS, variants=2)


def _seqio_rows(foreign: Toy, name: str, split: str, variant: int) -> list[dict[str, Any]]:
    """The task's rows by SeqIO itself, with the model's vocabulary bound and no more of ours than that."""
    import seqio

    from itune.data import HFVocabulary

    task = seqio.TaskRegistry.get(name)
    vocabulary = HFVocabulary(foreign.tokenizer())
    features = {
        name: seqio.Feature(vocabulary, add_eos=feature.add_eos, required=feature.required, dtype=feature.dtype)
        if name in ("inputs", "targets")
        else feature
        for name, feature in task.output_features.items()
    }
    task = task.replace(output_features=features)
    seed = None if name == "fewshot" else variant  # prepare_seed is 0
    dataset = task.get_dataset(
        LENGTHS, split, shuffle=False, seed=seed, trim_output_features=False, try_in_mem_cache=False
    )
    return list(dataset.as_numpy_iterator())


def _task(manifest: Manifest, name: str) -> PreparedTask:
    return next(task for task in manifest.train if task.name == name)


def _records(manifest: Manifest, name: str, split: str, variant: int) -> list[Record]:
    return [r for r in records_of(_task(manifest, name).splits[split]) if r.variant == variant]


def test_all_of_them_are_there(everything: Manifest) -> None:
    assert [task.name for task in everything.train] == sorted(TASKS)
    assert not everything.failed


@pytest.mark.parametrize("name", TASKS)
def test_tokens_are_those_of_seqios_own_dataset(name: str, foreign: Toy, everything: Manifest) -> None:
    newline = foreign.tokenizer().encode("\n")
    for split, variant in (("train", 0), ("train", 1), ("validation", 0)):
        ours = _records(everything, name, split, variant)
        theirs = _seqio_rows(foreign, name, split, variant)
        assert len(ours) == len(theirs) >= 4
        for record, row in zip(ours, theirs, strict=True):
            prompt, reply = (span.ids.tolist() for span in record.spans)
            targets = row["targets"].tolist()
            assert prompt == [*row["inputs"].tolist(), *newline]
            # Whatever the pipeline does about EOS, a target ends in one.
            assert reply == (targets if targets[-1] == EOS else [*targets, EOS])
            assert record.inputs_text == row["inputs_pretokenized"].decode()
            assert record.targets_text == row["targets_pretokenized"].decode()


def test_their_pipelines_did_what_the_test_means_them_to(everything: Manifest) -> None:
    texts = {name: [r.inputs_text for r in _records(everything, name, "train", 0)] for name in TASKS}
    assert texts["function"][3] == "What is the square of number 3?"
    assert len(texts["expanded"]) == 30 and texts["expanded"][1] == "0"
    assert texts["lines"][0] == "line 0, é" and len(texts["lines"]) == 30
    assert texts["targets_only"] == [""] * 30
    assert texts["fewshot"][5].startswith("Q: What is") and texts["fewshot"][5].endswith("number 5? A:")
    assert texts["fewshot"][5].count("Q: ") == 3
    assert texts["tfds"] != sorted(texts["tfds"]) or len(texts["tfds"]) == 30
    trimmed = [r.spans[1].ids for r in _records(everything, "trimmed", "train", 0)]
    assert all(ids[-1] == EOS and len(ids) <= LENGTHS["targets"] for ids in trimmed)


def test_random_steps_give_each_variant_its_own_rendering_and_always_the_same(
    foreign: Toy, everything: Manifest
) -> None:
    first, second = (_records(everything, "seeded", "train", variant) for variant in (0, 1))
    same = [a.inputs_text == b.inputs_text for a, b in zip(first, second, strict=True)]
    assert not any(same)
    assert [r.id for r in first] == [r.id for r in second]
    plain = [_records(everything, "function", "train", v) for v in (0, 1)]
    assert [r.inputs_text for r in plain[0]] == [r.inputs_text for r in plain[1]]
    alone = foreign.prepare(mixture="seeded", modules=("user_foreign",), feature_lengths=LENGTHS)
    assert [r.inputs_text for r in _records(alone, "seeded", "train", 0)] == [r.inputs_text for r in first]
    other = foreign.prepare(mixture="seeded", modules=("user_foreign",), feature_lengths=LENGTHS, prepare_seed=1)
    assert not {r.inputs_text for r in _records(other, "seeded", "train", 0)} & {r.inputs_text for r in first}


def test_other_features_are_kept_for_metrics(everything: Manifest) -> None:
    record = _records(everything, "function", "train", 0)[2]
    assert record.extras["references"] == '["4", "number 2"]'
    assert record.extras["n"] == "2"
    assert _records(everything, "passed_through", "train", 0)[2].extras["scores"] == "[2, 3]"
    assert _task(everything, "function").metrics == ["exact"]


@pytest.mark.parametrize("mixture", ["pair", "sized", "nested", "deep", "everything"])
def test_rates_are_seqios_own(mixture: str, foreign: Toy, everything: Manifest) -> None:
    import seqio

    from itune.data import mixture_info

    theirs = seqio.MixtureRegistry.get(mixture)
    expected = {task.name: theirs.get_rate(task) for task in theirs.tasks}
    assert {info.name: rate for info, rate in mixture_info(mixture)} == expected
    if mixture == "sized":
        assert expected == {"function": 5.0, "lines": 5.0}
    if mixture == "nested":
        assert expected["function"] == pytest.approx(2 * 0.25 + 0.5) and expected["seeded"] == 1.5


def test_a_second_look_finds_all_prepared(foreign: Toy, everything: Manifest) -> None:
    """The fingerprints of library sources must not change once they have been read from."""
    written = {p: p.stat().st_ino for p in (foreign.folder / "cache").rglob("COMPLETED")}
    again = foreign.prepare(mixture="everything", modules=("user_foreign",), feature_lengths=LENGTHS, variants=2)
    assert again.train == everything.train
    assert {p: p.stat().st_ino for p in (foreign.folder / "cache").rglob("COMPLETED") if p in written} == written
    assert everything.still_valid() is None


@pytest.mark.parametrize("name", ["train-0.tsv", "train.tfrecord", "train-1.txt"])
def test_files_of_seqios_sources_are_inputs(name: str, foreign: Toy, everything: Manifest) -> None:
    assert str(foreign.folder / name) in {entry.path for entry in everything.inputs}
