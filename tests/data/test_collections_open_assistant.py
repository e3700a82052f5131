"""Open Assistant, releases 1 and 2: trees, messages and tables in the owners' layouts; what the filters take out."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest

from itune.data import open_assistant, registry
from itune.data.collections.open_assistant import LOWER_RANK, NOT_READY, OTHER_LANGUAGE, POOR
from itune.errors import UserError


@pytest.fixture(autouse=True)
def _own_registries(registries: None) -> None:
    pass


def message(number: int, role: str = "prompter", lang: str = "en", quality: float | None = None, **more: Any) -> dict:
    """A message as release 2 has it in JSON."""
    labels = {"spam": {"value": 0.0, "count": 3}}
    if quality is not None:
        labels["quality"] = {"value": quality, "count": 3}
    return {
        "message_id": f"m{number}",
        "user_id": "u",
        "created_date": "2023-02-05T14:23:50.983374+00:00",
        "text": f"Text {number}.",
        "role": role,
        "lang": lang,
        "review_count": 3,
        "review_result": True,
        "deleted": False,
        "synthetic": False,
        "emojis": {"+1": 1},
        "labels": labels,
        "replies": [],
    } | more


def tree(state: str = "ready_for_export", **root: Any) -> dict[str, Any]:
    """m0 asks; m1 (rank 0, poor) and m2 (rank 1, good) answer; m3 asks again in German below m1, and m4 answers it."""
    german = [message(4, "assistant", "de", 0.9)]
    first = message(1, "assistant", quality=0.2, rank=0, replies=[message(3, lang="de", replies=german)])
    prompt = message(0, **root) | {"replies": [first, message(2, "assistant", quality=0.8, rank=1)]}
    return {"message_tree_id": "m0", "tree_state": state, "prompt": prompt}


def flat(record: dict[str, Any], parent: str | None = None, state: str = "ready_for_export") -> list[dict[str, Any]]:
    """The messages of a tree, one after the other, as in *.messages.jsonl.gz."""
    own = {k: v for k, v in record.items() if k != "replies"} | {"parent_id": parent, "tree_state": state}
    return [own, *(m for reply in record["replies"] for m in flat(reply, record["message_id"], state))]


def table_row(record: dict[str, Any]) -> dict[str, Any]:
    """A message as the hub's Parquet tables have it: labels and emojis as columns of lists."""
    labels = record["labels"]
    columns = {"name": list(labels), "value": [v["value"] for v in labels.values()], "count": [3] * len(labels)}
    return record | {"labels": columns, "emojis": {"name": ["+1"], "count": [1]}, "rank": record.get("rank")}


def packed(path: Path, records: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(gzip.compress("".join(json.dumps(r) + "\n" for r in records).encode()))
    return path


TREES = "2023-11-05_oasst2_ready.trees.jsonl.gz"


def learnt(path: Any, **options: Any) -> set[str]:
    """Ids of the messages that are learnt; each is an example."""
    options = {"turns": "each", "paths": "all", "validation_fraction": 0.0} | options
    registry.TASKS.clear()
    registry.seqio.TaskRegistry._REGISTRY.clear()
    source = open_assistant(path, **options).source
    return {row["id"] for split in source.splits for row in source.checked_rows(split)}


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, {"m1", "m2", "m4"}),
        ({"languages": ["en"]}, {"m1", "m2"}),
        ({"min_quality": 0.5}, {"m2"}),
        ({"max_rank": 0}, {"m1", "m4"}),
        ({"paths": "best"}, {"m1", "m4"}),
        ({"paths": "best", "min_quality": 0.5}, {"m2"}),
    ],
)
@pytest.mark.parametrize("layout", ["trees", "messages", "table"])
def test_the_filters_take_a_message_with_all_below_it(
    tmp_path: Path, layout: str, options: dict[str, Any], expected: set[str]
) -> None:
    messages = flat(tree()["prompt"])
    if layout == "trees":
        path: Path = packed(tmp_path / TREES, [tree()])
    elif layout == "messages":
        path = packed(tmp_path / "2023-11-05_oasst2_ready.messages.jsonl.gz", messages)
    else:
        path = tmp_path / "data" / "train-00000-of-00001-4a.parquet"
        path.parent.mkdir()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([table_row(m) for m in messages]), path)
    assert learnt(path, **options) == expected


def test_what_is_left_out_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = [tree(), tree("aborted_low_grade", message_id="m9")]
    for reply in records[1]["prompt"]["replies"]:
        reply["message_id"] += "b"
    path = packed(tmp_path / TREES, records)
    with caplog.at_level(logging.WARNING):
        learnt(path, min_quality=0.5, languages=("en",))
    assert f"2 {POOR}" not in caplog.text and f"3 {POOR}" in caplog.text and f"5 {NOT_READY}" in caplog.text
    caplog.clear()
    learnt(path, max_rank=0, languages=("en",))
    assert f"1 {LOWER_RANK}" in caplog.text and f"2 {OTHER_LANGUAGE}" in caplog.text
    assert "m1b" in learnt(path, ready_only=False)


def test_languages_by_code_or_by_their_first_part(tmp_path: Path) -> None:
    brazil = message(1, "assistant", "pt-BR")
    path = packed(tmp_path / TREES, [{"prompt": message(0, lang="pt-BR", replies=[brazil])}])
    assert learnt(path, languages=["pt"]) == learnt(path, languages=["pt-BR"]) == {"m1"}
    with pytest.raises(UserError, match="no turn to learn from; left out: 2 messages in other languages"):
        learnt(path, languages=["en"])


def test_a_copy_of_the_repository(tmp_path: Path) -> None:
    folder = tmp_path / "oasst2"
    messages = flat(tree()["prompt"])
    for split in ("train", "validation"):
        path = folder / "data" / f"{split}-00000-of-00001-4a.parquet"
        path.parent.mkdir(parents=True, exist_ok=True)
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist([table_row(m) for m in messages]), path)
    task = open_assistant(folder)
    assert (task.name, task.source.splits) == ("oasst2", ("train", "validation"))
    info = registry.info("oasst2")
    assert (info.licence, info.identity, info.cluster) == ("Apache-2.0", "oasst2", "conversation")
    packed(folder / "2023-11-05_oasst2_all.trees.jsonl.gz", [tree("growing")])
    packed(folder / TREES, [tree()])
    assert [Path(f).name for f in open_assistant(folder, name="trees").source.files] == [TREES]
    packed(folder / "2023-04-12_oasst_ready.trees.jsonl.gz", [tree()])
    with pytest.raises(UserError, match="oasst2: holds 2023-04-12_oasst_ready.trees.jsonl.gz and 2023-11-05_oasst2"):
        open_assistant(folder, name="both")
    assert open_assistant(folder / "2023-04-12_oasst_ready.trees.jsonl.gz").name == "oasst1"
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds neither \*_ready.trees.jsonl.gz nor"):
        open_assistant(tmp_path / "empty")


def test_the_real_trees(data_dir: Path) -> None:
    path = data_dir / "general" / "oasst_en_100_tree.jsonl"
    whole = learnt(path)
    assert len(whole) > 100 and learnt(path, languages=["en"]) == whole
    assert 0 < len(learnt(path, max_rank=0)) < len(whole)


def test_bad_settings_and_labels_are_one_line(tmp_path: Path) -> None:
    path = packed(tmp_path / TREES, [tree()])
    with pytest.raises(UserError, match=r"min_quality=5 must be in \[0, 1\]"):
        open_assistant(path, min_quality=5)
    with pytest.raises(UserError, match=r"languages='en' must be a tuple of codes, \('en',\)"):
        open_assistant(path, languages="en")
    bad = tree()
    bad["prompt"]["replies"][0]["labels"] = {"quality": "high"}
    with pytest.raises(UserError, match=r"jsonl.gz:1: .*replies\[0\]: 'labels' has no number for 'quality'"):
        learnt(packed(tmp_path / "bad.trees.jsonl.gz", [bad]), min_quality=0.5)
    bad["prompt"]["replies"][0]["rank"] = "first"
    with pytest.raises(UserError, match=r"replies\[0\]: 'rank' is a str, must be a number"):
        learnt(packed(tmp_path / "worse.trees.jsonl.gz", [bad]), max_rank=0)
