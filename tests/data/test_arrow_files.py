"""Arrow as `datasets` leaves it: saved folders, cache files, class labels by name; and by name through `datasets`."""

from __future__ import annotations

import contextlib
import importlib
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import seqio

from itune.data import JsonSource, Template, add_task, find_files, prompt_completion_task, read_records, registry
from itune.data.hf_datasets import HubName, hub_files
from itune.errors import UserError

LABEL = {"names": ["negative", "positive"], "_type": "ClassLabel"}
TAGS = {"names": ["O", "B"], "_type": "ClassLabel"}
FEATURES = {
    "text": {"dtype": "string", "_type": "Value"},
    "label": LABEL,
    "tags": {"feature": TAGS, "_type": "List"},
    "old_tags": [TAGS],
}
ROWS = [
    {"text": "good é", "label": 1, "tags": [0, 1], "old_tags": [1]},
    {"text": "bad", "label": 0, "tags": [], "old_tags": [0, 0]},
    {"text": "unknown", "label": -1, "tags": None, "old_tags": [-1]},
]
NAMED = [
    {"label_name": "positive", "tags_name": ["O", "B"], "old_tags_name": ["B"]},
    {"label_name": "negative", "tags_name": [], "old_tags_name": ["O", "O"]},
    {"label_name": None, "tags_name": None, "old_tags_name": [None]},
]
EXPECTED = [row | names for row, names in zip(ROWS, NAMED, strict=True)]


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))
    for theirs in (seqio.TaskRegistry, seqio.MixtureRegistry):
        monkeypatch.setattr(theirs, "_REGISTRY", dict(theirs._REGISTRY))


def table_of(rows: list[dict], features: Any = FEATURES) -> Any:
    arrow = importlib.import_module("pyarrow")
    metadata = {"huggingface": json.dumps({"info": {"features": features}})} if features is not None else None
    return arrow.Table.from_pylist(rows).replace_schema_metadata(metadata)


def write_stream(path: Path, rows: list[dict], features: Any = FEATURES, batch: int = 2) -> Path:
    arrow = importlib.import_module("pyarrow")
    table = table_of(rows, features)
    path.parent.mkdir(parents=True, exist_ok=True)
    with arrow.OSFile(str(path), "wb") as file, arrow.ipc.new_stream(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=batch)
    return path


def save(folder: Path, rows: list[dict], features: Any = FEATURES) -> Path:
    """As `Dataset.save_to_disk(folder, num_shards=2)` lays it out."""
    names = [f"data-0000{i}-of-00002.arrow" for i in range(2)]
    write_stream(folder / names[0], rows[:2], features)
    write_stream(folder / names[1], rows[2:], features)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text(json.dumps({"features": features}))
    return folder


def records(path: Path | str) -> list[dict]:
    return [record for _, record in read_records(path)]


# Files and folders


def test_streams_and_files_are_read_with_the_names_of_labels(tmp_path: Path) -> None:
    path = write_stream(tmp_path / "org___name-train.arrow", ROWS)
    assert list(read_records(path)) == [(f"{path}[{i}]", row) for i, row in enumerate(EXPECTED)]
    arrow = importlib.import_module("pyarrow")
    table = table_of(ROWS)
    with arrow.ipc.new_file(str(tmp_path / "x.arrow"), table.schema) as writer:
        writer.write_table(table)
    assert records(tmp_path / "x.arrow") == EXPECTED
    importlib.import_module("pyarrow.parquet").write_table(table, tmp_path / "x.parquet")
    assert records(tmp_path / "x.parquet") == EXPECTED
    assert records(write_stream(tmp_path / "plain.arrow", ROWS, features=None)) == ROWS


def test_a_column_of_that_name_is_the_owners(tmp_path: Path) -> None:
    rows = [{"label": 1, "label_name": "mine"}]
    assert records(write_stream(tmp_path / "x.arrow", rows, {"label": LABEL})) == rows


def test_a_saved_folder_stands_for_its_files_and_a_dict_for_its_splits(tmp_path: Path) -> None:
    folder = save(tmp_path / "saved", ROWS)
    (folder / "cache-1234.arrow").write_bytes(b"left by map()")
    assert [file.name for file in find_files(folder)] == ["data-00000-of-00002.arrow", "data-00001-of-00002.arrow"]
    assert records(folder) == EXPECTED
    save(tmp_path / "both" / "train", ROWS)
    save(tmp_path / "both" / "validation", ROWS[::-1])
    (tmp_path / "both" / "dataset_dict.json").write_text('{"splits": ["train", "validation"]}')
    assert records(tmp_path / "both" / "validation") == EXPECTED[::-1]
    for path, message in (
        ("both", "both: holds the splits train, validation; name one, such as "),
        ("both/trian", "both/trian: no such file. Did you mean 'train'?"),
        ("both/dev", "both/dev: no such file. Its splits are train, validation."),
    ):
        with pytest.raises(UserError, match=path) as error:
            records(tmp_path / path)
        assert message in str(error.value)


def test_a_task_over_saved_splits_shows_the_labels_names(tmp_path: Path) -> None:
    for split in ("train", "test"):
        save(tmp_path / split, ROWS)
    source = JsonSource(
        {split: tmp_path / split for split in ("train", "test")},
        fields={"text": "text", "sentiment": "label_name"},
        required=("sentiment",),
        split_by=("text",),
        identity="saved",
    )
    rights = {"licence": "CC0-1.0", "cluster": "sentiment", "identity": "saved"}
    task = add_task("saved", source=source, templates=[Template("t", "{text}?", "{sentiment}")], **rights)
    assert tuple(task.splits) == ("train", "test")
    rendered = [r["targets_pretokenized"] for r in task.get_dataset(None, "test", shuffle=False).as_numpy_iterator()]
    assert rendered == [b"positive", b"negative"]  # the row without a label is left out
    with pytest.raises(UserError, match="no split 'validation' here. There are train, test."):
        source.checked_rows("validation")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ("{", "state.json: cannot be read: "),
        ("[]", "state.json: expected a JSON object, found list"),
        ("{}", "state.json: names no '_data_files'"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "gone.arrow: no such file, though "),
        (
            '{"_data_files": [], "_indices_data_files": [{"filename": "i.arrow"}]}',
            "saved: rows were chosen when it was",
        ),
    ],
)
def test_broken_folders(tmp_path: Path, state: str, message: str) -> None:
    folder = save(tmp_path / "saved", ROWS)
    (folder / "state.json").write_text(state)
    with pytest.raises(UserError, match="saved") as error:
        records(folder)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_a_stream_that_is_cut_short_anywhere_is_an_error(tmp_path: Path) -> None:
    """Between two batches pyarrow itself sees nothing amiss."""
    arrow = importlib.import_module("pyarrow")
    rows = [{"text": f"row {i}" * 20} for i in range(40)]
    path = write_stream(tmp_path / "x.arrow", rows, features=None, batch=4)
    data, quiet = path.read_bytes(), 0
    for size in range(0, len(data), 8):
        path.write_bytes(data[:size])
        if size:
            with contextlib.suppress(OSError, arrow.ArrowInvalid):
                quiet += len(arrow.ipc.open_stream(data[:size]).read_all()) < 40
        with pytest.raises(UserError, match=r"x.arrow(\[\d+\])?: cannot be read as Arrow: ") as error:
            records(path)
        assert "\n" not in str(error.value)
    assert quiet, "the test no longer cuts where pyarrow is silent"


def test_labels_beyond_their_names_and_broken_features_are_named(tmp_path: Path) -> None:
    path = write_stream(tmp_path / "x.arrow", [{"label": 0}, {"label": 2}], {"label": LABEL})
    with pytest.raises(UserError) as error:
        records(path)
    assert str(error.value) == f"{path}[1]: label 'label' is 2, but there are names for 0 to 1"
    with pytest.raises(UserError, match="y.arrow: the features in its schema are not as datasets writes them"):
        records(write_stream(tmp_path / "y.arrow", [{"label": 0}], ["label"]))


# By name, through datasets


@pytest.fixture
def datasets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    library = pytest.importorskip("datasets")
    monkeypatch.setattr(library.config, "HF_DATASETS_CACHE", tmp_path / "hub_cache")
    monkeypatch.setattr(library.config, "HF_HUB_OFFLINE", True)
    hub_files.cache_clear()
    yield library
    hub_files.cache_clear()


def test_what_datasets_saves_is_what_we_read(tmp_path: Path, datasets: Any) -> None:
    features = datasets.Features(
        text=datasets.Value("string"), label=datasets.ClassLabel(names=LABEL["names"]), n=datasets.Value("int64")
    )
    rows = [{"text": f"é {i}", "label": i % 2, "n": i} for i in range(30)]
    whole = datasets.Dataset.from_list(rows, features=features)
    both = datasets.DatasetDict(train=whole.shuffle(seed=1).select(range(25)), test=whole.select([3]))
    datasets.disable_progress_bars()
    both.save_to_disk(tmp_path / "both", num_shards={"train": 3, "test": 1})
    for split, dataset in both.items():
        expected = [{**row, "label_name": features["label"].int2str(row["label"])} for row in dataset]
        assert records(tmp_path / "both" / split) == expected


def hub_layout(folder: Path) -> Path:
    """A data set as its owner lays it out on the hub: no script, a file for each split."""
    (folder / "data").mkdir(parents=True)
    parquet = importlib.import_module("pyarrow.parquet")
    parquet.write_table(table_of(ROWS[:2]), folder / "data" / "train-00000-of-00001.parquet")
    parquet.write_table(table_of(ROWS[2:]), folder / "data" / "test-00000-of-00001.parquet")
    return folder


def test_by_name(tmp_path: Path, datasets: Any, capfd: pytest.CaptureFixture[str]) -> None:
    name = f"hf:{hub_layout(tmp_path / 'layout')}"
    assert records(f"{name}?split=train") == EXPECTED[:2]
    assert records(f"{name}?split=test") == EXPECTED[2:]
    assert all(file.is_relative_to(tmp_path / "hub_cache") for file in find_files(f"{name}?split=test"))
    splits = {"train": f"{name}?split=train", "validation": f"{name}?split=train"}
    task = prompt_completion_task("hub", splits, licence="x", prompt_key="text", completion_key="label_name")
    assert task.source.num_input_examples("train") == 2
    assert [file.suffix for file in task.source.files] == [".arrow", ".arrow"]
    for path, message in (
        (name, "say which split, such as ?split=train. There are train, test."),
        (f"{name}?split=tset", "no split 'tset' here. Did you mean 'test'? There are train, test."),
        (f"{name}?config=other&split=test", "cannot be loaded: ValueError: BuilderConfig 'other' not found"),
        (f"{name}?spilt=test", "no option 'spilt', only config and split. Did you mean 'split'?"),
        (f"{name}?split=train[:10]", "split='train[:10]' must be one whole split"),
        (f"hf:{tmp_path}/absent", "cannot be loaded: FileNotFoundError"),
        ("hf:", "names no data set"),
    ):
        with pytest.raises(UserError) as error:
            records(path)
        assert message in str(error.value) and "\n" not in str(error.value)
    assert capfd.readouterr() == ("", "")


def test_offline_and_bad_files_are_one_line_without_their_text(tmp_path: Path, datasets: Any) -> None:
    with pytest.raises(
        UserError, match="hf:nobody/nothing@main: cannot be loaded: [A-Za-z]*: .*nobody/nothing"
    ) as error:
        records("hf:nobody/nothing@main")
    assert "\n" not in str(error.value)
    (tmp_path / "csv").mkdir()
    (tmp_path / "csv" / "train.csv").write_text("a,b\n1,2\nSecret patient,3,4,5\n")
    with pytest.raises(UserError, match="its files cannot be read") as error:
        records(f"hf:{tmp_path}/csv")
    assert "Secret" not in str(error.value) and "\n" not in str(error.value)


def test_without_datasets_the_error_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(UserError, match="hf:org/other: reading it needs datasets; pip install datasets"):
        records("hf:org/other")


@pytest.mark.parametrize(
    ("text", "name", "revision", "config", "split"),
    [
        ("hf:squad", "squad", None, None, None),
        ("hf:org/name@1a2b?config=plain&split=test", "org/name", "1a2b", "plain", "test"),
        ("hf:org/name@refs/pr/1", "org/name", "refs/pr/1", None, None),
    ],
)
def test_names(text: str, name: str, revision: str | None, config: str | None, split: str | None) -> None:
    assert HubName.parse(text) == HubName(name=name, revision=revision, config=config, split=split)
