"""TFRecord and TFDS: read without a description, and through SeqIO's own sources from add_task to prepared shards."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
import seqio
import tensorflow as tf
import tensorflow_datasets as tfds

from itune.data import find_files, prompt_completion_task, read_records, registry, text_key
from itune.errors import UserError
from tests.data.toy import Toy, records_of, split_of

ROWS = [{"question": f"What is {i} + é?", "answer": f"{i}é", "grade": i} for i in range(6)]
TASKS = """
    import seqio
    import tensorflow as tf
    from itune.data import Template, add_task

    text = tf.io.FixedLenFeature([], tf.string)
    features = {{"question": text, "answer": text, "grade": tf.io.FixedLenFeature([], tf.int64)}}
    add_task(
        "sums/one",
        source={source},
        templates=[Template("ask", "{{question}} ({{grade}})", "{{answer}}")],
        cluster="sums",
        licence="CC0-1.0",
        identity="one",
        sensitive={sensitive},
    )
"""
EXAMPLES = """seqio.TFExampleDataSource(
            {{"train": "{folder}/x.tfrecord-*", "validation": "{folder}/x.tfrecord-00000-of-00002"}}, features)"""
DATA_SET = 'seqio.TfdsDataSource("sums:1.0.0", tfds_data_dir="{folder}")'


def message(row: dict) -> bytes:
    kinds = {
        bytes: lambda values: tf.train.Feature(bytes_list=tf.train.BytesList(value=values)),
        int: lambda values: tf.train.Feature(int64_list=tf.train.Int64List(value=values)),
        float: lambda values: tf.train.Feature(float_list=tf.train.FloatList(value=values)),
        type(None): lambda values: tf.train.Feature(),
    }
    features = {}
    for name, value in row.items():
        values = value if isinstance(value, list) else [value]
        values = [v.encode() if isinstance(v, str) else v for v in values]
        features[name] = kinds[type(values[0]) if values else bytes](values)
    return tf.train.Example(features=tf.train.Features(feature=features)).SerializeToString()


def write(path: Path, rows: list[dict], options: str = "") -> Path:
    with tf.io.TFRecordWriter(str(path), options) as writer:
        for row in rows:
            writer.write(message(row))
    return path


def two_shards(folder: Path) -> list[Path]:
    names = [f"x.tfrecord-0000{i}-of-00002" for i in range(2)]
    return [write(folder / name, ROWS[i * 3 : i * 3 + 3]) for i, name in enumerate(names)]


def use(toy: Toy, source: str, sensitive: bool = False) -> None:
    toy.write(TASKS.format(source=source.format(folder=toy.folder), sensitive=sensitive))


def prompts(manifest, split: str = "train") -> dict[str, str]:
    return {r.inputs_text: r.id for r in records_of(split_of(manifest, "sums/one", split))}


# Without a description


def test_records_with_types_from_the_data(tmp_path: Path) -> None:
    row = {"a": "é\n", "b": 7, "c": 0.1, "d": ["x", "y"], "e": [], "f": None, "g": [1, 2], "h": b"\xff\x00"}
    path = write(tmp_path / "x.tfrecord", [row, {"a": "z"}])
    first = {"a": "é\n", "b": 7, "c": 0.1, "d": ["x", "y"], "e": None, "f": None, "g": [1, 2], "h": b"\xff\x00"}
    assert list(read_records(path)) == [(f"{path}[0]", first), (f"{path}[1]", {"a": "z"})]
    packed = write(tmp_path / "y.tfrecord.gz", ROWS, "GZIP")
    assert gzip.decompress(packed.read_bytes())
    assert [record for _, record in read_records(packed)] == ROWS
    shards = two_shards(tmp_path)
    assert find_files(tmp_path / "x.tfrecord-*") == shards
    assert [record for _, record in read_records(tmp_path / "x.tfrecord-*")] == ROWS


def test_a_ready_task_over_tfrecord(tmp_path: Path, registries: None) -> None:
    files = {"train": tmp_path / "x.tfrecord-*", "validation": tmp_path / "x.tfrecord-00001-of-00002"}
    two_shards(tmp_path)
    task = prompt_completion_task("tf", files, licence="x", prompt_key="question", completion_key="answer")
    assert [row["prompt"] for row in task.source.checked_rows("train")] == [row["question"] for row in ROWS]
    assert task.source.num_input_examples("validation") == 3


def test_faults_name_the_record(tmp_path: Path) -> None:
    path = write(tmp_path / "x.tfrecord", ROWS)
    data = path.read_bytes()
    size = len(message(ROWS[-1])) + 16
    flipped = bytearray(data)
    flipped[len(data) // 2] ^= 1
    with tf.io.TFRecordWriter(str(tmp_path / "other")) as writer:
        writer.write(b"\xff\xff no example")
    for content, expected in (
        (data[:-5], "x.tfrecord[5]: cannot be read as TFRecord: truncated record at "),
        (data[:4], "x.tfrecord[0]: cannot be read as TFRecord: it is cut short"),
        (data[: len(data) - size + 11], "x.tfrecord[5]: cannot be read as TFRecord: it is cut short"),
        (bytes(flipped), "]: cannot be read as TFRecord: corrupted record at "),
        (b"plain text, and more of it", "x.tfrecord[0]: cannot be read as TFRecord: corrupted record at 0"),
        ((tmp_path / "other").read_bytes(), "x.tfrecord[0]: not a tf.train.Example"),
        (b"", "x.tfrecord: no records in this file"),
    ):
        path.write_bytes(content)
        with pytest.raises(UserError) as error:
            list(read_records(path))
        assert expected in str(error.value) and "\n" not in str(error.value)
    packed = write(tmp_path / "y.tfrecord.gz", ROWS, "GZIP")
    data = packed.read_bytes()
    for cut in range(1, 40):
        packed.write_bytes(data[:-cut])
        with pytest.raises(UserError, match=r"y.tfrecord.gz\[\d\]: cannot be read"):
            list(read_records(packed))


# Through SeqIO's sources


def test_examples_become_shards_with_ids_of_their_content(toy: Toy) -> None:
    shards = two_shards(toy.folder)
    use(toy, EXAMPLES)
    first = toy.prepare(mixture="sums/one")
    there = prompts(first)
    assert set(there) == {f"What is {i} + é? ({i})" for i in range(6)}
    inputs = {entry.path for entry in first.inputs}
    assert {str(path) for path in shards} <= inputs
    # Other files, another order: the same ids, for they are of the content.
    content = [path.read_bytes() for path in shards]
    for path, other in zip(shards, content[::-1], strict=True):
        path.write_bytes(other)
    assert first.still_valid() is not None
    assert toy.fingerprint() != split_of(first, "sums/one").fingerprint
    again = toy.prepare(mixture="sums/one")
    assert prompts(again) == there
    row = ROWS[2] | {"grade": "2"}
    expected = text_key(*(part for name in sorted(row) for part in (name, str(row[name]))))
    assert there["What is 2 + é? (2)"] == expected


def test_a_task_module_over_tfrecord_fails_in_one_line(toy: Toy) -> None:
    use(toy, EXAMPLES.replace("x.tfrecord-*", "y.tfrecord-*"))
    with pytest.raises(UserError, match=r"^task 'sums/one', split 'train': no file fits '.*y.tfrecord-\*'$"):
        toy.prepare(mixture="sums/one")


def test_a_shard_that_is_cut_short_is_named(toy: Toy) -> None:
    use(toy, EXAMPLES, sensitive=True)
    shards = two_shards(toy.folder)
    shards[1].write_bytes(shards[1].read_bytes()[:-5])
    with pytest.raises(UserError) as error:
        toy.prepare(mixture="sums/one")
    assert f"({shards[1]}[2])" in str(error.value) and "\n" not in str(error.value)
    assert "its pipeline fails" in str(error.value) and "What is" not in str(error.value)


def test_a_wrong_description_is_one_line(toy: Toy) -> None:
    two_shards(toy.folder)
    toy.write(TASKS.format(source=EXAMPLES.format(folder=toy.folder), sensitive=False).replace('"grade":', '"gade":'))
    with pytest.raises(UserError, match="{grade}|Did you mean 'gade'") as error:
        toy.prepare(mixture="sums/one")
    assert "\n" not in str(error.value)


@pytest.fixture
def data_set(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of a prepared TFDS data set, as its owner hands it on: without its code."""
    folder = toy.folder / "sums" / "1.0.0"
    folder.mkdir(parents=True)
    splits = []
    for split, rows in (("train", ROWS[:4]), ("validation", ROWS[4:])):
        shard = write(folder / f"sums-{split}.tfrecord-00000-of-00001", rows)
        template = tfds.core.ShardedFileTemplate(
            dataset_name="sums", data_dir=folder, split=split, filetype_suffix="tfrecord"
        )
        about = {"shard_lengths": [len(rows)], "num_bytes": shard.stat().st_size, "filename_template": template}
        splits.append(tfds.core.SplitInfo(name=split, **about))
    text = tfds.features.Text()
    tfds.folder_dataset.write_metadata(
        data_dir=folder,
        features=tfds.features.FeaturesDict({"question": text, "answer": text, "grade": tf.int64}),
        split_infos=splits,
        filename_template="{DATASET}-{SPLIT}.{FILEFORMAT}-{SHARD_X_OF_Y}",
        check_data=False,
    )
    monkeypatch.setattr(seqio.utils.LazyTfdsLoader, "_MEMOIZED_BUILDERS", {})
    return folder


def test_tfds_on_a_local_folder(toy: Toy, data_set: Path) -> None:
    use(toy, DATA_SET)
    before = toy.fingerprint()
    manifest = toy.prepare(mixture="sums/one", eval_split="validation")
    assert {*prompts(manifest)} == {f"What is {i} + é? ({i})" for i in range(4)}
    assert {*prompts(manifest, "validation")} == {f"What is {i} + é? ({i})" for i in (4, 5)}
    assert split_of(manifest, "sums/one").fingerprint == before == toy.fingerprint()
    inputs = {entry.path for entry in manifest.inputs}
    assert {str(p) for p in data_set.glob("*.tfrecord*")} | {str(data_set / "features.json")} <= inputs
    about = data_set / "dataset_info.json"
    about.write_text(json.dumps(json.loads(about.read_text()) | {"description": "other"}))
    assert manifest.still_valid() == f"{about} has changed"


def test_tfds_that_is_not_there_is_one_line(toy: Toy) -> None:
    use(toy, DATA_SET)
    with pytest.raises(UserError, match="^task 'sums/one': its source fails: DatasetNotFoundError: ") as error:
        toy.prepare(mixture="sums/one")
    assert "sums" in str(error.value) and "\n" not in str(error.value)


def test_a_sensitive_task_over_tfrecord_is_private(toy: Toy) -> None:
    two_shards(toy.folder)
    use(toy, EXAMPLES, sensitive=True)
    manifest = toy.prepare(mixture="sums/one")
    assert manifest.sensitive and registry.is_sensitive("sums/one")
    directory = Path(split_of(manifest, "sums/one").dir)
    assert {oct(path.stat().st_mode & 0o777) for path in directory.iterdir()} == {"0o600"}
