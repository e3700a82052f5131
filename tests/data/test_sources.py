"""Rows from Python and from files: encodings, faults named by line, ids, splits, and the two ready formats."""

from __future__ import annotations

import gzip
import json
import logging
from pathlib import Path

import pytest
import seqio

from itune.data import (
    JsonSource,
    RowSource,
    Table,
    Template,
    alpaca_task,
    find_file,
    hold_out,
    normalise,
    passage_groups,
    prompt_completion_task,
    read_json,
    read_records,
    read_text,
    registry,
    split_of,
)
from itune.errors import UserError


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))
    for theirs in (seqio.TaskRegistry, seqio.MixtureRegistry):
        monkeypatch.setattr(theirs, "_REGISTRY", dict(theirs._REGISTRY))


def jsonl(path: Path, rows: list) -> Path:
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path


def qa(path: Path, **changes) -> JsonSource:
    settings = {"fields": ("q", "a"), "split_by": ("q",), "identity": "qa", "required": ("q", "a")}
    return JsonSource(path, **(settings | changes))


def both(source: RowSource) -> list[dict[str, str]]:
    return [*source.checked_rows("train"), *source.checked_rows("validation")]


# Rows from Python


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"id": "1", "txt": "x"}, "row 2 ('1') of 'train': 'text' is missing, must be text. Did you mean 'txt'?"),
        ({"id": "1", "text": 5}, "row 2 ('1') of 'train': 'text' is int, must be text."),
        ({"text": "x"}, "row 2 (None) of 'train': 'id' is missing, must be text."),
        ({"id": "0", "text": "y"}, "row 2 of 'train': id '0' comes twice"),
        ({"id": "1", "text": "\ud83d"}, "row 2 ('1') of 'train': 'text' holds half of a surrogate pair"),
    ],
)
def test_rows_are_checked(row: dict, message: str) -> None:
    source = RowSource(lambda split: [{"id": "0", "text": "x"}, row], fields=("text",))
    with pytest.raises(UserError) as error:
        source.get_dataset("train")
    assert message in str(error.value)


def test_rows_come_in_order_shard_and_are_counted() -> None:
    source = RowSource(lambda s: ({"id": f"{s}{i}", "text": f"é{i}"} for i in range(5)), fields=("text",))
    rows = list(source.get_dataset("train", shuffle=False).as_numpy_iterator())
    assert rows[1] == {"id": b"train1", "text": "é1".encode()}
    shard = source.get_dataset("train", shard_info=seqio.ShardInfo(index=1, num_shards=2))
    assert [r["id"] for r in shard.as_numpy_iterator()] == [b"train1", b"train3"]
    assert source.num_input_examples("validation") == 5
    with pytest.raises(UserError, match="no split 'trian' here. Did you mean 'train'?"):
        source.get_dataset("trian")
    empty = RowSource(lambda split: [], fields=("text",))
    assert list(empty.get_dataset("train").as_numpy_iterator()) == []


def test_what_a_source_remembers_is_not_in_its_attributes() -> None:
    """Its attributes enter the fingerprint: counting rows first must not give another."""
    source = RowSource(lambda s: [{"id": "1", "text": "x"}], fields=("text",))
    before = dict(vars(source))
    source.num_input_examples("train")
    assert vars(source) == before


# Files


def test_plain_and_gz_stand_in_for_each_other(tmp_path: Path) -> None:
    packed = tmp_path / "a.jsonl.gz"
    packed.write_bytes(gzip.compress('{"q": "é"}\n'.encode()))
    plain = jsonl(tmp_path / "b.jsonl", [{"q": "é"}])
    for path in (packed, tmp_path / "a.jsonl", plain, tmp_path / "b.jsonl.gz"):
        assert [record for _, record in read_records(path)] == [{"q": "é"}]
    with pytest.raises(UserError, match="bb.jsonl: no such file. Did you mean 'b.jsonl'?"):
        find_file(tmp_path / "bb.jsonl")


def test_declared_encodings_and_byte_order_marks(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_bytes('{"q": "sé"}\n{"q": "fièvre"}'.encode("latin-1"))
    with pytest.raises(UserError, match=r"x.jsonl:1: not utf-8-sig \(byte 0xe9\); declare its encoding="):
        read_text(path)
    assert [r["q"] for _, r in read_records(path, "latin-1")] == ["sé", "fièvre"]
    path.write_bytes('{"q": "a"}\n{"q": "bé"}'.encode("utf-8-sig"))
    assert [r["q"] for _, r in read_records(path)] == ["a", "bé"]
    with pytest.raises(UserError, match="unknown encoding 'utf-9'"):
        read_text(path, "utf-9")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"q": 1}\n\n{"q": }\n', "x.json:3: not JSON"),
        ('[{"q": 1},\n {"q" 2}]', "x.json:2: not JSON"),
        ('{"q": 1}\n[2]', "x.json:2: expected a JSON object, found list"),
        ('[{"q": 1}, 7]', "x.json[1]: expected a JSON object, found int"),
    ],
)
def test_bad_json_names_file_and_line(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "x.json"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        list(read_records(path))
    assert f"{tmp_path}/{message}" in str(error.value) and "\n" not in str(error.value)


def test_broken_gz_and_whole_json(tmp_path: Path) -> None:
    path = tmp_path / "x.json.gz"
    path.write_bytes(gzip.compress(b'{"a": [1, 2]}' * 100)[:-12])
    with pytest.raises(UserError, match="x.json.gz: cannot be read"):
        read_json(path)
    path.write_bytes(gzip.compress(b'{"a": [1, 2]}'))
    assert read_json(path) == {"a": [1, 2]}


def test_line_separators_inside_strings_do_not_end_a_record(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "x.jsonl", [{"q": "a\u2028b\x85c\r\nd"}, {"q": "e"}])
    assert [r["q"] for _, r in read_records(path)] == ["a\u2028b\x85c\r\nd", "e"]


# JsonSource


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"q": "x", "answer": "y"}, "x.jsonl:2: no 'a' in this record."),
        ({"q": ["x"], "a": "y"}, "x.jsonl:2: 'q' is a list, must be text"),
    ],
)
def test_records_lacking_text_are_named(tmp_path: Path, record: dict, message: str) -> None:
    source = qa(jsonl(tmp_path / "x.jsonl", [{"q": "x", "a": "y"}, record]))
    with pytest.raises(UserError) as error:
        source.checked_rows("train")
    assert f"{tmp_path}/{message}" in str(error.value)


def test_half_a_surrogate_pair_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.jsonl"
    path.write_text('{"q": "x", "a": "\\ud83d"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="x.jsonl:1: 'a' holds half of a surrogate pair"):
        qa(path).checked_rows("train")


def test_numbers_nulls_blanks_and_duplicates(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    rows = [{"q": "two?", "a": 2}, {"q": "two?", "a": 2}, {"q": "none", "a": None}, {"q": " ", "a": "x"}]
    source = qa(jsonl(tmp_path / "x.jsonl", rows), validation_fraction=0.0)
    with caplog.at_level(logging.WARNING):
        (row,) = source.checked_rows("train")
    assert (row["q"], row["a"]) == ("two?", "2")
    assert "2 records left out, blank in one of: q, a" in caplog.text


def test_ids_are_of_content_and_not_of_position(tmp_path: Path) -> None:
    rows = [{"q": f"question {i}", "a": str(i)} for i in range(60)]
    there = {r["q"]: r["id"] for r in both(qa(jsonl(tmp_path / "x.jsonl", rows)))}
    back = {r["q"]: r["id"] for r in both(qa(jsonl(tmp_path / "y.jsonl", rows[::-1])))}
    assert there == back and len(set(there.values())) == 60
    assert [r["id"] for r in both(qa(jsonl(tmp_path / "z.jsonl", [{"q": "x", "a": "y", "n": 7}]), id_key="n"))] == ["7"]
    clash = qa(jsonl(tmp_path / "c.jsonl", [{"q": "x", "a": "y", "n": 7}, {"q": "z", "a": "y", "n": 7}]), id_key="n")
    with pytest.raises(UserError, match="c.jsonl:2: id '7' was used before, for other text"):
        clash.checked_rows("train")


def test_a_text_is_on_one_side_whatever_its_spelling_and_place(tmp_path: Path) -> None:
    rows = [{"q": f"Is it {i}?", "a": a} for i in range(300) for a in ("yes", "no")]
    rows += [{"q": f" is IT  {i} ", "a": "perhaps"} for i in range(300)]
    source = qa(jsonl(tmp_path / "x.jsonl", rows))
    sides = {split: {normalise(r["q"]) for r in source.checked_rows(split)} for split in source.splits}
    assert not sides["train"] & sides["validation"]
    assert sum(len(s) for s in sides.values()) == 300 and 12 < len(sides["validation"]) < 50
    fewer = qa(jsonl(tmp_path / "y.jsonl", rows[::3]))
    assert {normalise(r["q"]) for r in fewer.checked_rows("validation")} <= sides["validation"]


def test_the_split_is_keyed_by_identity() -> None:
    keys = [str(i) for i in range(400)]
    one, other = ({k for k in keys if split_of(k, identity=i, validation_fraction=0.5) == "train"} for i in "ab")
    assert 140 < len(one - other) + len(other - one) < 260


def test_nothing_is_read_when_it_is_registered(tmp_path: Path) -> None:
    alpaca_task("later", tmp_path / "absent.json", licence="CC0-1.0")
    with pytest.raises(UserError, match="absent.json: no such file"):
        registry.get("later").get_dataset(None, "train")


def test_field_names_are_checked(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no field 'question' among q, a"):
        qa(tmp_path / "x.jsonl", split_by=("question",))
    with pytest.raises(UserError, match="validation_fraction=1.5"):
        qa(tmp_path / "x.jsonl", validation_fraction=1.5)


# Ready tasks


def rendered(name: str) -> set[tuple[str, str]]:
    task = registry.get(name)
    found = [e for s in task.splits for e in task.get_dataset(None, s, shuffle=False).as_numpy_iterator()]
    return {(e["inputs_pretokenized"].decode(), e["targets_pretokenized"].decode()) for e in found}


@pytest.mark.parametrize(
    ("template", "with_input", "without"),
    [
        ("plain", "Add them.\n\n1 and 2", "Say hi."),
        ("labelled", "Instruction: Add them.\nInput: 1 and 2\nResponse:", "Instruction: Say hi.\nResponse:"),
        ("request_last", "1 and 2\n\nCarry out this instruction: Add them.", "Carry out this instruction: Say hi."),
    ],
)
def test_alpaca_golden(tmp_path: Path, template: str, with_input: str, without: str) -> None:
    from itune.data.ready_tasks import ALPACA_TEMPLATES

    path = tmp_path / "alpaca.json"
    rows = [
        {"instruction": "Add them.", "input": "1 and 2", "output": "3"},
        {"instruction": "Say hi.", "input": "", "output": "Hi"},
        {"instruction": "Say hi.", "output": "Hello"},
        {"instruction": "Say nothing.", "input": "", "output": ""},
    ]
    path.write_text(json.dumps(rows), encoding="utf-8")
    alpaca_task("mine", path, licence="CC0-1.0", templates=[t for t in ALPACA_TEMPLATES if t.id == template])
    assert rendered("mine") == {(with_input, "3"), (without, "Hi"), (without, "Hello")}
    assert registry.info("mine").identity == "mine" and registry.info("mine").metrics == ("rouge_l",)


def test_prompt_completion_golden(tmp_path: Path) -> None:
    path = tmp_path / "pairs.jsonl.gz"
    path.write_bytes(gzip.compress(b'{"q": "2+2 = {?}\\n", "r": " 4\\n"}\n'))
    prompt_completion_task("pairs", path, licence="CC0-1.0", prompt_key="q", completion_key="r", sensitive=True)
    assert rendered("pairs") == {("2+2 = {?}", " 4")}
    assert registry.is_sensitive("pairs")
    with pytest.raises(UserError, match="{response}"):
        prompt_completion_task("other", path, licence="x", templates=[Template("t", "{prompt}", "{response}")])


def test_ready_tasks_over_tables_and_patterns(tmp_path: Path) -> None:
    for number in (1, 2):
        text = f'instruction,input,output\n"Add\nthem.",{number} and 2,{number + 2}\n'
        (tmp_path / f"part-{number}.csv").write_text(text, encoding="utf-8")
    alpaca_task("csv", tmp_path / "part-*.csv", licence="CC0-1.0", templates=[Template("t", "{request}", "{output}")])
    assert rendered("csv") == {("Add\nthem.\n\n1 and 2", "3"), ("Add\nthem.\n\n2 and 2", "4")}
    assert [path.name for path in registry.get("csv").source.files] == ["part-1.csv", "part-2.csv"]
    path = tmp_path / "pairs.tsv.gz"
    path.write_bytes(gzip.compress('"Sé" is what?\ta name\n'.encode("latin-1")))
    plain = Table(delimiter="\t", quote="", columns=("prompt", "completion"))
    prompt_completion_task("tsv", path, licence="CC0-1.0", encoding="latin-1", table=plain)
    assert rendered("tsv") == {('"Sé" is what?', "a name")}


# Splits of ready-made prompts


STORIES = [
    "Maria Okafor planted twelve apple trees behind the old mill before winter came to the valley",
    "the committee in Bergen rejected a proposal to widen the northern tunnel for heavy lorries",
    "a retired pilot named Chen taught his granddaughter how gliders find rising air over ploughed fields",
    "our baker forgot the salt on Tuesday so every customer got a second loaf free of charge",
    "volcanic ash closed nine airports while engineers measured how much glass their turbines swallowed",
]
WORDINGS = {
    "ask": "Read the following passage with care and then tell me in one word what it is about: {} The subject is",
    "title": "{} Which of these four titles would an editor most likely choose for the text above?",
    "short": "Summarise: {}",
}


def test_rows_that_share_source_text_are_one_group() -> None:
    prompts = [wording.format(story) for wording in WORDINGS.values() for story in STORIES]
    templates = [template for template in WORDINGS for _ in STORIES]
    targets = ["Yes"] * len(prompts)
    assert passage_groups(prompts, targets, templates) == [i % 5 for i in range(15)]
    # Without the wording taken out, all "ask" rows would be one group by the words that they share.
    assert len(set(passage_groups(prompts, targets, list(range(15))))) < 5


def test_the_passage_may_stand_in_the_target_and_one_source_in_a_third_of_a_templates_rows() -> None:
    asked = [f"Question {n}: who is it in this text of ours? {STORIES[n % 3]}" for n in "012345678" for n in [int(n)]]
    written = [
        f"Write a text that answers what our friend asks us here: {n}"
        for n in ("who is", "why not", "when was", "how so")
    ]
    targets = ["Maria"] * 9 + [STORIES[1], "none", "nobody", "nowhere"]
    groups = passage_groups([*asked, *written], targets, ["ask"] * 9 + ["write"] * 4)
    assert groups == [0, 1, 2, 0, 1, 2, 0, 1, 2, 1, 10, 11, 12]


def test_prompts_that_only_wording_tells_apart_are_one_group() -> None:
    short = ["tide, moon", "snow, plough", "bread, oven", "tide, moon", "lamp, moth"]
    prompts = [f"Make a sentence of these words: {s}" for s in short] + [
        f"{s}: put these into one line" for s in short[1:]
    ]
    groups = passage_groups(prompts, [str(i) for i in range(9)], ["a"] * 5 + ["b"] * 4)
    assert groups == [0, 1, 2, 0, 4, 1, 2, 0, 4]
    same = ["Write a poem about the sea"] * 4 + ["Write some prose about a lamp"]
    assert passage_groups(same, list("abcde"), "tttuu") == [0, 0, 0, 0, 4]
    assert passage_groups(same, list("abcde"), "ttttt") == [0, 0, 0, 0, 4]


def test_groups_are_closed_under_sharing() -> None:
    first, second = STORIES[0].split(), STORIES[1].split()
    bridge = " ".join([*first[-9:], "xx", *second[:9]])
    prompts = [STORIES[0], STORIES[1], bridge, STORIES[2]]
    assert passage_groups(prompts, [""] * 4, "abcd") == [0, 0, 0, 3]


def test_whole_groups_are_held_out_up_to_the_fraction() -> None:
    groups = [i // 4 for i in range(200)]
    keys = [f"k{i}" for i in range(200)]
    held = hold_out(groups, keys, identity="d", fraction=0.1)
    assert sum(held) == 20
    assert all(len({held[i] for i in range(200) if groups[i] == g}) == 1 for g in range(50))
    assert held != hold_out(groups, keys, identity="e", fraction=0.1)
    shuffled = hold_out(groups[::-1], keys[::-1], identity="d", fraction=0.1)
    assert shuffled == held[::-1]
    assert hold_out([0] * 5, keys[:5], identity="d", fraction=0.5) == [False] * 5
    assert sum(hold_out([0, 0, 0, 1, 1], keys[:5], identity="d", fraction=0.1)) == 2
