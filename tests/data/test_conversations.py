"""Conversations as rows: whole ones and single turns, which turns and paths are taken, what is left out."""

from __future__ import annotations

import collections
import copy
import json
import logging
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import seqio

from itune.data import Template, normalise, oasst_task, openai_task, registry, sharegpt_task
from itune.data.conversations import PATHS, TURNS, oasst_conversations
from itune.data.fingerprint import Describer, digest
from itune.data.readers import read_records
from itune.data.turns import ASSISTANT, SYSTEM, USER, Turn, layout, read_turns
from itune.errors import UserError


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))
    for theirs in (seqio.TaskRegistry, seqio.MixtureRegistry):
        monkeypatch.setattr(theirs, "_REGISTRY", dict(theirs._REGISTRY))


def jsonl(path: Path, records: list) -> Path:
    path.write_text("".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records), encoding="utf-8")
    return path


def rows(task: Callable[..., seqio.Task], path: Path, name: str = "mine", **options: Any) -> list[dict[str, str]]:
    """The rows of both sides, training's first."""
    source = task(name, path, licence="CC0-1.0", **({"validation_fraction": 0.0} | options)).source
    return [*source.checked_rows("train"), *source.checked_rows("validation")]


def learnt(row: dict[str, str]) -> list[tuple[str, bool]]:
    """(text, whether it is learnt) of a conversation's turns."""
    return [(turn.text, turn.learnt) for turn in read_turns(row["turns_json"])]


def sides(found: list[dict[str, str]]) -> list[tuple[str, str]]:
    return [(row["inputs"], row["targets"]) for row in found]


# Layout


@pytest.mark.parametrize(
    ("turns", "text"),
    [
        ([(USER, "2+2?")], "2+2?"),
        ([(SYSTEM, "Be brief."), (USER, "2+2?")], "Be brief.\n\n2+2?"),
        (
            [(SYSTEM, "Be brief."), (USER, "2+2?"), (ASSISTANT, "4"), (USER, "3+3?")],
            "Be brief.\n\nUser: 2+2?\n\nAssistant: 4\n\nUser: 3+3?\n\nAssistant:",
        ),
        ([(ASSISTANT, "Hi"), (USER, "2+2?")], "Assistant: Hi\n\nUser: 2+2?\n\nAssistant:"),
        ([(USER, "a"), (SYSTEM, "Switch."), (USER, "b")], "User: a\n\nSystem: Switch.\n\nUser: b\n\nAssistant:"),
        ([(SYSTEM, ""), (USER, "2+2?")], "2+2?"),
    ],
)
def test_layout(turns: list[tuple[str, str]], text: str) -> None:
    assert layout([Turn(role=role, text=said) for role, said in turns]) == text


# OpenAI and ShareGPT: the owner's layout


SAID = [("system", "Be brief."), ("user", "2+2?"), ("assistant", "4"), ("user", "3+3?\n"), ("assistant", " 6\n")]
OPENAI = {"messages": [{"role": role, "content": text} for role, text in SAID]}
SHAREGPT_NAMES = {"system": "system", "user": "human", "assistant": "gpt"}
SHAREGPT = {"id": "x_0", "conversations": [{"from": SHAREGPT_NAMES[role], "value": text} for role, text in SAID]}
FIRST = ("Be brief.\n\n2+2?", "4")
SECOND = ("Be brief.\n\nUser: 2+2?\n\nAssistant: 4\n\nUser: 3+3?\n\nAssistant:", " 6")


@pytest.mark.parametrize(("task", "record"), [(openai_task, OPENAI), (sharegpt_task, SHAREGPT)])
def test_golden(tmp_path: Path, task: Callable[..., seqio.Task], record: dict) -> None:
    path = jsonl(tmp_path / "x.jsonl", [record, record])
    each = rows(task, path, "each", turns="each")
    assert sides(each) == [FIRST, SECOND]
    assert [row["turn"] for row in each] == ["1", "2"] and "turns_json" not in each[0]
    whole, last = rows(task, path, "whole"), rows(task, path, "last", turns="last")
    assert sides(whole) == sides(last) == [SECOND] and whole[0]["turn"] == "2"
    assert whole[0]["id"] == last[0]["id"] == each[1]["id"]
    texts = ["Be brief.", "2+2?", "4", "3+3?", " 6"]
    assert learnt(whole[0]) == list(zip(texts, [False, False, True, False, True], strict=True))
    assert learnt(last[0]) == list(zip(texts, [False, False, False, False, True], strict=True))
    (one,) = registry.get("whole").get_dataset(None, "train", shuffle=False).as_numpy_iterator()
    assert (one["inputs_pretokenized"].decode(), one["targets_pretokenized"].decode()) == SECOND
    assert one["field/turns_json"].decode() == whole[0]["turns_json"]
    policies = {name: registry.info(name).overlong for name in ("whole", "last", "each")}
    assert policies == {"whole": "drop", "last": "drop", "each": "truncate_inputs"}
    assert registry.info("each").truncate_side == "left" and registry.info("each").cluster == "conversation"


def test_a_reply_that_conversations_share_is_learnt_once(tmp_path: Path) -> None:
    said = [("user", "a?"), ("assistant", "A"), ("user", "b?"), ("assistant", "B")]
    more = [*said[:3], ("assistant", "C")]
    records = [
        {"messages": [{"role": role, "content": text} for role, text in turns]}
        for turns in (said, more, said[:2], said)
    ]
    first, second = rows(openai_task, jsonl(tmp_path / "x.jsonl", records))
    assert [is_learnt for _, is_learnt in learnt(first)] == [False, True, False, True]
    assert [is_learnt for _, is_learnt in learnt(second)] == [False, False, False, True]
    (last, other) = rows(openai_task, jsonl(tmp_path / "y.jsonl", records[:2]), "last", turns="last")
    assert [is_learnt for _, is_learnt in learnt(last)] == [is_learnt for _, is_learnt in learnt(other)]


def test_conversations_are_not_cut_and_take_no_templates(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [OPENAI])
    with pytest.raises(UserError, match="task 'a': whole conversations can't be cut, only overlong='drop'"):
        openai_task("a", path, licence="x", overlong="truncate_inputs")
    with pytest.raises(UserError, match="task 'b': templates are for turns='each'"):
        openai_task("b", path, licence="x", turns="last", templates=[Template("x", "{inputs}?", "{targets}")])
    for name, turns in (("c", "last"), ("d", "each")):
        openai_task(name, path, licence="x", turns=turns, overlong="truncate_inputs")
        assert registry.info(name).overlong == "truncate_inputs"
    openai_task("e", path, licence="x", turns="each", templates=[Template("x", "{inputs}?", "{targets}")])


def test_both_formats_give_the_same_ids_whatever_the_order(tmp_path: Path) -> None:
    others = [
        {"messages": [{"role": "user", "content": f"n{i}?"}, {"role": "assistant", "content": str(i)}]}
        for i in range(9)
    ]
    there = rows(openai_task, jsonl(tmp_path / "a.jsonl", [OPENAI, *others]), "there", turns="each")
    back = rows(openai_task, jsonl(tmp_path / "b.jsonl", [*others[::-1], OPENAI]), "back", turns="each")
    share = rows(sharegpt_task, jsonl(tmp_path / "c.jsonl", [SHAREGPT]), "share", turns="each")
    by_text = {(row["inputs"], row["targets"]): row["id"] for row in there}
    assert by_text == {(row["inputs"], row["targets"]): row["id"] for row in back}
    assert [row["id"] for row in share] == [row["id"] for row in there[:2]]
    assert len({row["id"] for row in there}) == 11
    whole = rows(openai_task, jsonl(tmp_path / "d.jsonl", [*others, OPENAI]), "whole")
    assert {row["id"] for row in whole} == {row["id"] for row in there[1:]}


def test_a_conversation_is_on_one_side(tmp_path: Path) -> None:
    records = []
    for i in range(200):
        said = [("user", f"Question {i % 100}?"), ("assistant", f"a{i}"), ("user", f"more {i}"), ("assistant", "b")]
        records.append({"messages": [{"role": role, "content": text} for role, text in said]})
    path = jsonl(tmp_path / "x.jsonl", records)
    source = openai_task("mine", path, licence="CC0-1.0", validation_fraction=0.2).source
    train, held = (
        {normalise(row["inputs"].split("\n")[0].removeprefix("User: ")) for row in source.checked_rows(split)}
        for split in ("train", "validation")
    )
    assert not train & held and len(train | held) == 100 and 8 < len(held) < 35


def test_what_is_left_out_is_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    call = {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]}
    user, image = {"role": "user", "content": "q?"}, {"type": "image_url", "image_url": {"url": "x"}}
    parts = [{"type": "text", "text": "See"}, {"type": "text", "text": "this."}]
    reply = {"role": "assistant", "content": "r"}
    records = [
        {"messages": [user, call, {"role": "tool", "content": "5"}, reply]},
        {"messages": [{"role": "user", "content": [*parts, image]}, reply]},
        {"messages": [{"role": "user", "content": parts}, reply]},
        {"messages": [user, {"role": "assistant", "content": " \n"}]},
        {"messages": [user, {"role": "assistant", "content": "no", "weight": 0}, user, reply]},
        {"messages": [user]},
        {"messages": []},
        {"messages": [{"role": "system", "content": "s"}, reply]},
        {"messages": [{"role": "user", "content": ""}, reply]},
    ]
    with caplog.at_level(logging.WARNING):
        found = rows(openai_task, jsonl(tmp_path / "x.jsonl", records))
    assert sides(found) == [
        ("See\nthis.", "r"),
        ("User: q?\n\nAssistant: no\n\nUser: q?\n\nAssistant:", "r"),
    ]
    for text in (
        "1 conversations with tool calls",
        "1 conversations with more than text",
        "2 blank turns",
        "1 turns of weight 0",
        "3 conversations without an assistant's turn after a user's",
    ):
        assert text in caplog.text


def test_sharegpt_quirks(tmp_path: Path) -> None:
    """A system text beside the conversation; a conversation that the assistant opens."""
    human, gpt = {"from": "human", "value": "q"}, {"from": "gpt", "value": "r"}
    records = [
        {"system": "Be brief.", "conversations": [human, gpt]},
        {"conversations": [gpt, human, gpt]},
        {"conversations": [human, {"from": "function_call", "value": "f()"}, gpt]},
    ]
    assert sides(rows(sharegpt_task, jsonl(tmp_path / "x.jsonl", records))) == [
        ("Be brief.\n\nq", "r"),
        ("Assistant: r\n\nUser: q\n\nAssistant:", "r"),
    ]


def test_parquet_conversations_and_patterns(tmp_path: Path) -> None:
    arrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    parquet.write_table(arrow.Table.from_pylist([OPENAI]), tmp_path / "b.parquet")
    jsonl(tmp_path / "a.jsonl", [OPENAI])
    assert sides(rows(openai_task, tmp_path / "b.parquet", "one", turns="each")) == [FIRST, SECOND]
    task = openai_task("two", tmp_path / "*", licence="CC0-1.0")
    assert [path.name for path in task.source.files] == ["a.jsonl", "b.parquet"]
    assert task.source.num_input_examples("train") + task.source.num_input_examples("validation") == 1


# Open Assistant


def message(name: str, *replies: dict, rank: int | None = None, **more: Any) -> dict:
    """ "u1" is the prompter's, "a1" the assistant's; the text is the name in capitals."""
    role = {"u": "prompter", "a": "assistant"}[name[0]]
    return {"message_id": name, "text": name.upper(), "role": role, "rank": rank, "replies": list(replies)} | more


TREE = message(
    "u1",
    message("a1", message("u2", message("a4"))),  # no rank: after all that have one
    message("a2", rank=1),
    message("a3", message("u3", message("a5", rank=1), message("a6", rank=0)), message("u4"), rank=0),
    message("a7", message("u5", message("a8")), rank=0, deleted=True, text=""),
)
TREES = [{"message_tree_id": "u1", "tree_state": "ready_for_export", "prompt": TREE}]


def flat(trees: list[dict]) -> list[dict]:
    """The same messages, one a record, in an order of no use."""
    found, waiting = [], [(tree["prompt"], None) for tree in trees]
    while waiting:
        node, parent = waiting.pop()
        found.append({k: v for k, v in node.items() if k != "replies"} | {"parent_id": parent})
        waiting += [(reply, node["message_id"]) for reply in reversed(node["replies"])]
    return found


@pytest.mark.parametrize(
    ("paths", "turns", "ids"),
    [
        ("best", "each", ["a3", "a6"]),
        ("best", "all", ["a6"]),
        ("best", "last", ["a6"]),
        ("all", "each", ["a1", "a4", "a2", "a3", "a5", "a6"]),
        ("all", "all", ["a4", "a2", "a5", "a6"]),
        ("all", "last", ["a4", "a2", "a5", "a6", "a3"]),  # a3: the path that ends in u4, which nobody answered
    ],
)
@pytest.mark.parametrize("form", ["trees", "messages"])
def test_paths_and_turns(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, form: str, paths: str, turns: str, ids: list[str]
) -> None:
    path = jsonl(tmp_path / "x.jsonl", TREES if form == "trees" else flat(TREES))
    with caplog.at_level(logging.WARNING):
        found = rows(oasst_task, path, paths=paths, turns=turns)
    assert [row["id"] for row in found] == ids
    assert "left out: 3 deleted messages and replies below them" in caplog.text
    texts = {row["id"]: row["inputs"] for row in found}
    expected = {
        "a1": "U1",
        "a2": "U1",
        "a3": "U1",
        "a4": "User: U1\n\nAssistant: A1\n\nUser: U2\n\nAssistant:",
        "a5": "User: U1\n\nAssistant: A3\n\nUser: U3\n\nAssistant:",
        "a6": "User: U1\n\nAssistant: A3\n\nUser: U3\n\nAssistant:",
    }
    assert texts == {name: expected[name] for name in ids}
    if turns == "all" and paths == "all":
        replies = [[text for text, is_learnt in learnt(row) if is_learnt] for row in found]
        assert replies == [["A1", "A4"], ["A2"], ["A3", "A5"], ["A6"]]


def test_messages_come_in_any_order_and_without_parents(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    records = flat(TREES)
    expected = {
        row["id"] for row in rows(oasst_task, jsonl(tmp_path / "x.jsonl", records), "x", paths="all", turns="each")
    }
    random.Random(0).shuffle(records)
    shuffled = rows(oasst_task, jsonl(tmp_path / "y.jsonl", records), "y", paths="all", turns="each")
    assert {row["id"] for row in shuffled} == expected
    # Without a3 the four below it hang from nothing, and so do two messages that reply to each other.
    lacking = [record for record in records if record["message_id"] != "a3"]
    circle = [message("u8") | {"parent_id": "a9"}, message("a9") | {"parent_id": "u8"}]
    with caplog.at_level(logging.WARNING):
        rest = rows(oasst_task, jsonl(tmp_path / "z.jsonl", lacking + circle), "z", paths="all", turns="each")
    assert {row["id"] for row in rest} == {"a1", "a2", "a4"}
    assert "6 messages whose parents are not in the file" in caplog.text


def test_a_thread_deeper_than_pythons_stack(tmp_path: Path) -> None:
    records = [
        message(f"{'ua'[i % 2]}{i}") | {"parent_id": f"{'au'[i % 2]}{i - 1}" if i else None} for i in range(2000)
    ]
    found = rows(oasst_task, jsonl(tmp_path / "x.jsonl", records), turns="last")
    assert [row["id"] for row in found] == ["a1999"]


def test_a_deleted_prompt_takes_its_tree(tmp_path: Path) -> None:
    gone = copy.deepcopy(TREES[0])
    gone["prompt"] |= {"deleted": True, "message_id": "u9"}
    counts: collections.Counter[str] = collections.Counter()
    assert list(oasst_conversations([("x", gone)], counts)) == []
    assert list(counts.values()) == [13]


def test_real_trees(data_dir: Path) -> None:
    """Each of the 687 assistant messages is an example of "each"; nothing in this file is deleted."""
    path = data_dir / "general" / "oasst_en_100_tree.jsonl"
    counted = {}
    for paths in PATHS:
        for turns in TURNS:
            found = rows(oasst_task, path, f"oasst/{paths}/{turns}", paths=paths, turns=turns)
            counted[paths, turns] = len(found)
            assert len({row["id"] for row in found}) == len(found)
    assert counted == {
        ("best", "all"): 100,
        ("best", "last"): 100,
        ("best", "each"): 142,
        ("all", "all"): 555,
        ("all", "last"): 564,
        ("all", "each"): 687,
    }
    (first,) = [
        r
        for r in rows(oasst_task, path, "first", turns="each")
        if r["inputs"].startswith("How can I find the best 401k")
    ]
    assert first["id"] == "fa783ef0-4f4e-457d-b429-afd89edf8757"
    assert first["targets"].startswith("The first step is to research your options.")


def test_real_trees_as_messages_are_the_same(data_dir: Path, tmp_path: Path) -> None:
    path = data_dir / "general" / "oasst_en_100_tree.jsonl"
    messages = flat([record for _, record in read_records(path)])
    assert len(messages) == 1167
    there, back = (
        {row["id"]: row for row in rows(oasst_task, p, p.stem, paths="all", identity="oasst")}
        for p in (path, jsonl(tmp_path / "flat.jsonl", messages))
    )
    assert there == back


# Faults


@pytest.mark.parametrize(
    ("task", "record", "error"),
    [
        (openai_task, {"mesages": []}, "x.jsonl:2: no 'messages' in this record. Did you mean 'mesages'?"),
        (openai_task, SHAREGPT, "x.jsonl:2: no 'messages' in this record. It has id, conversations."),
        (openai_task, {"messages": "hi"}, "x.jsonl:2: 'messages' is a str, must be a list of messages"),
        (openai_task, {"messages": ["hi"]}, "x.jsonl:2: messages[0] is a str, must be an object"),
        (
            openai_task,
            {"messages": [{"role": "asistant", "content": "x"}]},
            "x.jsonl:2: messages[0]: role is 'asistant', must be one of system, developer, user, assistant."
            " Did you mean 'assistant'?",
        ),
        (openai_task, {"messages": [{"role": "user"}]}, "x.jsonl:2: messages[0]: no 'content' in this record."),
        (
            openai_task,
            {"messages": [{"role": "user", "content": {"text": "x"}}]},
            "x.jsonl:2: messages[0]: 'content' is a dict, must be text",
        ),
        (
            sharegpt_task,
            {"conversations": [{"role": "user", "content": "x"}]},
            "x.jsonl:2: conversations[0]: no 'from' in this record. It has role, content.",
        ),
        (
            oasst_task,
            {"prompt": "x", "text": "y"},
            "x.jsonl:2: neither a tree (an object under 'prompt') nor a message",
        ),
        (oasst_task, {"prompt": {"text": "x"}}, "x.jsonl:2: prompt: no 'message_id' in this record."),
        (oasst_task, message("u1") | {"rank": "0"}, "x.jsonl:2: 'rank' is a str, must be a number"),
        (oasst_task, {"prompt": message("u1", "text")}, "x.jsonl:2: message 'u1': replies[0] is a str"),
        (oasst_task, message("u0"), "x.jsonl:2: message_id 'u0' comes twice"),
    ],
)
def test_bad_records_are_named(tmp_path: Path, task: Callable[..., seqio.Task], record: dict, error: str) -> None:
    good = {openai_task: OPENAI, sharegpt_task: SHAREGPT, oasst_task: message("u0")}[task]
    path = jsonl(tmp_path / "x.jsonl", [good, record])
    with pytest.raises(UserError) as caught:
        rows(task, path)
    assert f"{tmp_path}/{error}" in str(caught.value) and "\n" not in str(caught.value)


def test_other_faults(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="task 'x': turns='lst' must be one of .* Did you mean 'last'?"):
        openai_task("x", tmp_path / "x.jsonl", licence="x", turns="lst")
    with pytest.raises(UserError, match="task 'x': paths='bst' must be one of .* Did you mean 'best'?"):
        oasst_task("x", tmp_path / "x.jsonl", licence="x", paths="bst")
    path = jsonl(tmp_path / "x.jsonl", [{"prompt": message("u1", message("a1"))}, {"prompt": message("u2")}])
    assert len(rows(oasst_task, path, "fine")) == 1
    path = jsonl(tmp_path / "y.jsonl", [{"prompt": message("u1", message("a1"))}, {"prompt": message("u2", TREE)}])
    with pytest.raises(UserError, match=r"y.jsonl:\d+: message 'a1' comes twice, with different text"):
        rows(oasst_task, path, "twice", paths="all")
    path = jsonl(tmp_path / "z.jsonl", [{"messages": []}])
    with pytest.raises(UserError, match="z.jsonl: no turn to learn from; left out: 1 conversations without"):
        rows(openai_task, path, "none")


def test_the_options_enter_the_fingerprint(tmp_path: Path) -> None:
    def fingerprint(name: str, **options: Any) -> str:
        source = oasst_task(name, tmp_path / "x.jsonl", licence="x", identity="same", **options).source
        describer = Describer(name)
        return digest([describer.describe(source, "source"), describer.objects])

    plain = fingerprint("a")
    assert plain == fingerprint("b")
    assert len({plain, fingerprint("c", turns="last"), fingerprint("d", paths="all")}) == 3
