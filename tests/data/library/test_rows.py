"""Records in owners' layouts become rows: labels, keys, lists, several right answers, conversations, splits."""

from __future__ import annotations

import json

import pytest

from itune.data.library.declaration import load_declaration
from itune.data.library.rows import GOLD, REFERENCES, as_text, declared_rows, locate, make_rows
from itune.errors import UserError
from tests.data.library.conftest import NLI, nli_rows

FREE = {
    "name": "tiny_qa",
    "cluster": "qa",
    "licence": "MIT",
    "identity": "tiny_qa",
    "columns": {"question": "string", "answers": {"text": "list(string)"}},
    "answer": "answers.text.0",
    "references": "answers.text",
    "templates": [{"id": "a", "inputs": "{question}"}],
}
CHOICE = {
    "name": "tiny_choice",
    "cluster": "qa",
    "licence": "MIT",
    "identity": "tiny_choice",
    "columns": {
        "question": "string",
        "choices": {"text": "list(string)", "label": "list(string)"},
        "answerKey": "string",
    },
    "answer": "answerKey",
    "keys": "choices.label",
    "options": "choices.text",
    "templates": [{"id": "a", "inputs": "{question}"}],
}
COLUMNS = {
    "name": "tiny_columns",
    "cluster": "qa",
    "licence": "MIT",
    "identity": "tiny_columns",
    "columns": {"question": "string", "one": "string", "two": "string", "label": "string"},
    "answer": "label",
    "options": ["one", "two"],
    "templates": [{"id": "a", "inputs": "{question}"}],
}


def made(maker, fields, record, derive=None):
    return make_rows(load_declaration(maker.declare(fields)), record, "x.jsonl:1", derive)


def test_a_class_is_its_words_from_its_number_or_name(maker):
    for label in (1, "1", "no_it_does_not"):
        (row,) = made(maker, NLI, nli_rows(1)[0] | {"label": label})
        assert (row["answer"], row[GOLD], json.loads(row["options"])) == ("no", "1", ["yes", "no"])
        assert (row["label"], row["idx"]) == ("no_it_does_not", "0")
    for unlabelled in (-1, "-1", None, ""):
        assert made(maker, NLI, nli_rows(1)[0] | {"label": unlabelled}) == []
    with pytest.raises(UserError, match="x.jsonl:1: label: 2 is none of the classes yes_it_does, no_it_does_not"):
        made(maker, NLI, nli_rows(1)[0] | {"label": 2})
    with pytest.raises(UserError, match="label: '2' is none of the classes"):
        made(maker, NLI, nli_rows(1)[0] | {"label": "2"})


def test_the_answer_may_be_a_key_a_number_or_the_text_itself(maker):
    record = {"question": "q", "choices": {"text": ["p", "r", "s"], "label": ["A", "B", "C"]}, "answerKey": "C"}
    (row,) = made(maker, CHOICE, record)
    assert (row["answer"], row[GOLD]) == ("s", "2")
    record = {"question": "q", "one": "p", "two": "r", "label": "1"}
    (row,) = made(maker, COLUMNS | {"keys": ["0", "1"]}, record)
    assert (row["answer"], json.loads(row["options"])) == ("r", ["p", "r"])
    (row,) = made(maker, COLUMNS, record | {"label": 0})
    assert row["answer"] == "p"
    (row,) = made(maker, COLUMNS, record | {"label": "r"})
    assert row[GOLD] == "1"
    with pytest.raises(UserError, match="x.jsonl:1: the answer 'z' is none of p, r"):
        made(maker, COLUMNS, record | {"label": "z"})


def test_several_right_answers_are_references(maker):
    (row,) = made(maker, FREE, {"question": "q", "answers": {"text": ["a", "b", "a"]}})
    assert row["answer"] == "a" and json.loads(row[REFERENCES]) == ["a", "b"]
    (row,) = made(maker, FREE, {"question": "q", "answers": {"text": ["a"]}})
    assert row[REFERENCES] == ""
    assert made(maker, FREE, {"question": "q", "answers": {"text": []}}) == []


def test_a_conversation_is_a_row_for_each_reply(maker):
    fields = FREE | {"name": "talk", "columns": {"turns": "list(string)"}, "turns": "turns"}
    fields = {key: value for key, value in fields.items() if key not in ("answer", "references")}
    fields["templates"] = [{"id": "a", "inputs": "{history}"}]
    rows = made(maker, fields, {"turns": ["Hi", "Hello", " ", "Bye"]})
    assert [(json.loads(r["history"]), r["last"], r["answer"]) for r in rows] == [
        (["Hi"], "Hi", "Hello"),
        (["Hi", "Hello"], "Hello", "Bye"),
    ]
    assert len({row["id"] for row in rows}) == 2


def test_what_is_not_as_declared_is_told(maker):
    with pytest.raises(UserError, match=r"x.jsonl:1: no column 'premise', which tiny_nli.yaml declares"):
        made(maker, NLI, {"premises": "x"})
    derive = {"derive": "halve", "fields": {"half": "half"}}
    with pytest.raises(UserError, match=r"x.jsonl:1: halve fails on this record: KeyError: 'nothing'"):
        made(maker, FREE | derive, {"question": "q", "answers": {"text": ["a"]}}, lambda row: {"half": row["nothing"]})


def test_lists_are_spelt_out():
    assert as_text(["a", "b"]) == "a, b" and as_text([["a", "r", "b"], ["c", "s", "d"]]) == "a | r | b\nc | s | d"
    assert (as_text(None), as_text(True), as_text(2.5)) == ("", "true", "2.5")


def test_training_has_no_row_that_validation_has_and_none_twice(maker):
    train, validation = nli_rows(8), nli_rows(3, first=100)
    shared = validation[0] | {"premise": " FACT 100 holds", "idx": 77}
    maker.write("tiny_nli", train=[*train, train[2], shared], validation=validation)
    d = load_declaration(maker.declare())
    rows = list(declared_rows("train", declaration=d))
    assert [row["idx"] for row in rows] == [str(n) for n in range(8)]
    assert len(list(declared_rows("validation", declaration=d))) == 3


def test_rows_are_looked_for_in_the_folder_then_on_the_hub(maker, monkeypatch):
    d = load_declaration(maker.declare(tfds="tiny/nli"))
    assert locate(d, "train") == "hf:acme/tiny?config=nli&split=train"
    monkeypatch.setenv("ITUNE_LIBRARY_FROM", "tfds")
    assert locate(d, "train") == "tfds:tiny/nli?split=train"
    monkeypatch.setenv("ITUNE_LIBRARY_FROM", "files")
    with pytest.raises(UserError, match=r"tiny_nli: no files of its split 'train' in .*expected train.jsonl"):
        locate(d, "train")
    maker.write("tiny_nli", train=nli_rows(1))
    assert str(locate(d, "train")).endswith("library/tiny_nli/train.jsonl")
    monkeypatch.setenv("ITUNE_LIBRARY_FROM", "disk")
    with pytest.raises(UserError, match="ITUNE_LIBRARY_FROM=disk: must be one of files, hf, tfds"):
        locate(d, "train")


def test_of_a_long_file_so_many_rows_are_read(maker):
    maker.write("tiny_nli", train=nli_rows(9), validation=nli_rows(1, first=50))
    d = load_declaration(maker.declare(read_at_most=4))
    assert len(list(declared_rows("train", declaration=d))) == 4
