"""Rows through TensorFlow Datasets are those of the same data as JSON lines, whatever features the data set has."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
import tensorflow as tf
import tensorflow_datasets as tfds

from itune.data.library.declaration import load_declaration
from itune.data.library.rows import declared_rows, files_of, records
from itune.errors import UserError
from tests.data.library.conftest import NLI, Maker

NAMES = ["yes_it_does", "no_it_does_not"]
COLUMNS = {
    "text": "string",
    "label": NAMES,
    "sure": "bool",
    "score": "float",
    "count": "int",
    "translation": {"fr": "string", "en": "string"},
    "words": "list(string)",
    "answers": {"text": "list(string)", "start": "list(int)"},
    "table": "list(list(string))",
    "weights": "list(float)",
}
FEATURES = {
    "text": tfds.features.Text(),
    "label": tfds.features.ClassLabel(names=NAMES),
    "sure": tf.bool,
    "score": tf.float32,
    "count": tf.int64,
    "fr": tfds.features.Text(),
    "en": tfds.features.Text(),
    "words": tfds.features.Sequence(tfds.features.Text()),
    "answers": tfds.features.Sequence({"text": tfds.features.Text(), "start": tf.int32}),
    "table": tfds.features.Sequence(tfds.features.Sequence(tfds.features.Text())),
    "weights": tfds.features.Sequence(tf.float32),
}


def row(number: int) -> dict[str, Any]:
    return {
        "text": f"Ça, {number}.",
        "label": number % 3 - 1,  # -1 is an unlabelled row
        "sure": number % 2 == 0,
        "score": number / 10,
        "count": number,
        "translation": {"fr": f"été {number}", "en": f"summer {number}"},
        "words": ["a"] * (number % 3),
        "answers": {"text": [f"b{n}" for n in range(number % 3)], "start": list(range(number % 3))},
        "table": [["c"] * n for n in range(number % 4)],
        "weights": [0.1, number + 0.7],
    }


ROWS = {"train": [row(n) for n in range(12)], "test": [row(n) for n in range(12, 17)]}
DECLARED = NLI | {
    "name": "features",
    "columns": COLUMNS,
    "tfds": "features_of_many_kinds:1.0.0",
    "tfds_columns": {"translation.fr": "fr", "translation.en": "en"},
    "splits": {"train": "train", "validation": "test"},
    "fields": {"french": "translation.fr", "first": "answers.text", "table": "table", "weights": "weights"},
    "templates": [{"id": "plain", "inputs": "{text} {french} {score} {sure} {words} {first} {weights} {table}"}],
    "inversions": [],
}


def flat(record: dict[str, Any]) -> dict[str, Any]:
    """As TFDS has it: texts of both languages beside the others."""
    return {key: value for key, value in record.items() if key != "translation"} | record["translation"]


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tfds")

    class FeaturesOfManyKinds(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        VERSION = tfds.core.Version("1.0.0")
        url_infos: ClassVar[dict[str, Any]] = {}  # nothing is fetched

        def _info(self) -> tfds.core.DatasetInfo:
            return self.dataset_info_from_configs(features=tfds.features.FeaturesDict(FEATURES), disable_shuffling=True)

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            return {split: enumerate(map(flat, rows)) for split, rows in ROWS.items()}

        def _generate_examples(self) -> Any:
            raise NotImplementedError

    FeaturesOfManyKinds(data_dir=folder).download_and_prepare()
    return folder


@pytest.fixture
def asked(maker: Maker, data_dir: Path, monkeypatch: pytest.MonkeyPatch) -> Maker:
    monkeypatch.setenv("ITUNE_LIBRARY_FROM", "tfds")
    monkeypatch.setenv("TFDS_DATA_DIR", str(data_dir))
    return maker


def test_rows_are_those_of_the_same_data_as_lines(asked: Maker, monkeypatch: pytest.MonkeyPatch) -> None:
    d = load_declaration(asked.declare(DECLARED))
    asked.write("features", **ROWS)
    theirs = {split: list(declared_rows(split, declaration=d)) for split in ("train", "validation")}
    first = [record for _, record in records(d, "train")]
    monkeypatch.setenv("ITUNE_LIBRARY_FROM", "files")
    assert theirs == {split: list(declared_rows(split, declaration=d)) for split in theirs}
    assert first == [record for _, record in records(d, "train")]
    assert len(theirs["train"]) == 8 and theirs["train"][0]["french"] == "été 1"


def test_the_files_that_are_digested_are_tfds_own(asked: Maker, data_dir: Path) -> None:
    d = load_declaration(asked.declare(DECLARED))
    assert {Path(path) for path in files_of(d)} == set(data_dir.rglob("*.tfrecord*"))


@pytest.mark.parametrize("read", [files_of, lambda d: list(records(d, "train"))])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"tfds": "no_such_set:1.0.0"}, "tfds:no_such_set:1.0.0.*: cannot be loaded: DatasetNotFoundError"),
        ({"splits": {"train": "trian"}}, "tfds:features.*split=trian: has no split 'trian', only test, train"),
    ],
)
def test_what_is_not_there_is_one_line(asked: Maker, read: Any, changes: dict[str, Any], message: str) -> None:
    d = load_declaration(asked.declare(DECLARED | changes))
    with pytest.raises(UserError, match=message) as error:
        read(d)
    assert "\n" not in str(error.value)
