"""Properties of renderings: options, exemplars, inversion, reasoning; each over many rows and keys."""

from __future__ import annotations

import dataclasses
import json
import re

import pytest

from itune.data.keyed import key64
from itune.data.library import shots
from itune.data.library.declaration import load_declaration
from itune.data.library.prompts import VARIANTS, final_answer
from itune.data.library.rows import declared_rows
from itune.data.library.styles import COT_CUES, COT_ENDS, MARKS, OPTION_STYLES, SHOT_STYLES
from itune.data.library.tasks import templates_of
from tests.data.library.conftest import nli_rows
from tests.data.library.test_rows import CHOICE, FREE

KEYS = [key64("test", n) for n in range(40)]


@pytest.fixture
def nli(maker, monkeypatch):
    """(its rows, {variant: its templates})."""
    return world(maker, monkeypatch, maker.declare(), train=nli_rows(24), validation=nli_rows(4, first=100))


def world(maker, monkeypatch, path, **splits):
    d = load_declaration(path)
    maker.write(d.name, **splits)
    rows = list(declared_rows("train", declaration=d))
    monkeypatch.setitem(shots._POOLS, d.name, lambda: rows)
    return rows, {name: templates_of(d, VARIANTS[name], w) for name, w in d.variants.items()}


def every(rows, templates):
    return [(row, t, key, *t.render(row, key)) for row in rows for t in templates for key in KEYS]


def test_the_variants_are_those_that_the_declaration_gives(nli):
    assert list(nli[1]) == ["zs", "zs_opt", "fs", "fs_opt", "inv", "fs_inv"]
    assert [t.id for t in nli[1]["zs"]] == ["plain", "words"], "one is only for options"
    assert [t.id for t in nli[1]["zs_opt"]] == ["plain", "words", "choose"]


def test_options_are_shown_and_the_answer_is_one_of_them_as_they_are_marked(nli):
    rows, by_variant = nli
    seen = set()
    for row, template, key, inputs, targets in every(rows[:4], by_variant["zs_opt"]):
        words = template.wording.words or {"yes_it_does": "yes", "no_it_does_not": "no"}
        style = template._option_style([row], key)
        seen.add(style.id)
        right = words["yes_it_does"] if row["label"] == "yes_it_does" else words["no_it_does_not"]
        assert all(word in inputs for word in words.values())
        line = next(line for line in re.split(r"[\n/;]", inputs) if line.strip().endswith(right) and right in line)
        if style.marks:
            assert targets.strip("()[]:. ") and targets.split(":")[0].strip("()[].") in line, (inputs, targets)
        else:
            assert targets == right
    assert seen == {style.id for style in OPTION_STYLES}


def test_without_options_none_are_shown(nli):
    rows, by_variant = nli
    for row, template, _, inputs, targets in every(rows[:4], by_variant["zs"]):
        assert inputs == template.wording.inputs.format(**row), "the wording and nothing else"
        assert targets in ("yes", "no", "true", "false")


def test_a_wording_that_names_the_answers_gets_no_letters(maker, monkeypatch):
    asks = [{"id": "yes_or_no", "inputs": "{premise} So {hypothesis}? Answer yes or no."}]
    path = maker.declare(templates=asks)
    rows, by_variant = world(maker, monkeypatch, path, train=nli_rows(4), validation=nli_rows(1, first=9))
    found = {targets for *_, targets in every(rows, by_variant["zs_opt"])}
    assert found == {"yes", "no"}


def test_a_rows_own_options_keep_their_order_and_numbers_are_not_marked_by_numbers(maker, monkeypatch):
    record = {"question": "2 and 2?", "choices": {"text": ["3", "4", "5"], "label": ["A", "B", "C"]}, "answerKey": "B"}
    rows, by_variant = world(maker, monkeypatch, maker.declare(CHOICE), train=[record], validation=[record])
    assert rows == [], "the validation row is the same"
    rows, by_variant = world(
        maker, monkeypatch, maker.declare(CHOICE), train=[record], validation=[record | {"question": "1 and 1?"}]
    )
    for _, template, key, inputs, targets in every(rows, by_variant["zs_opt"]):
        assert inputs.index("3") < inputs.index("4") < inputs.index("5")
        assert template._option_style(rows, key).marks != "number"
        assert targets == "4" or targets.strip("()[].: 4").upper() in ("B", "II"), targets


def parts(inputs: str, rows: list[dict]) -> list[str]:
    """The claims that a prompt speaks of, in order."""
    return re.findall(r"claim \d+ holds", inputs)


@pytest.mark.parametrize("variant", ["fs", "fs_opt", "fs_inv"])
def test_exemplars_are_others_of_the_same_task_and_none_is_the_query(nli, variant):
    rows, by_variant = nli
    counts = set()
    claims = {row["hypothesis"] for row in rows}
    for row, _, _, inputs, targets in every(rows[:6], by_variant[variant]):
        found = parts(inputs, rows)
        if variant == "fs_inv":
            assert targets == row["hypothesis"] and row["hypothesis"] not in found
            counts.add(len(found))
        else:
            assert found[-1] == row["hypothesis"] and row["hypothesis"] not in found[:-1]
            counts.add(len(found) - 1)
        assert len(set(found)) == len(found) and set(found) <= claims
    assert counts == set(range(shots.MOST_SHOTS + 1)), "0 to k are drawn"


def test_an_exemplar_never_asks_what_the_query_asks_under_another_id(maker, monkeypatch):
    twins = [row | {"idx": 1000 + row["idx"], "hypothesis": row["hypothesis"].upper()} for row in nli_rows(6)]
    path = maker.declare()
    rows, by_variant = world(maker, monkeypatch, path, train=[*nli_rows(6), *twins], validation=nli_rows(1, first=90))
    assert len(rows) == 12
    for row, _, _, inputs, _ in every(rows, by_variant["fs"]):
        found = [claim.casefold() for claim in re.findall(r"claim \d+ holds", inputs, re.I)]
        assert found.count(row["hypothesis"].casefold()) == 1


def test_exemplars_and_query_are_put_the_same_way(nli):
    rows, by_variant = nli
    for row, template, key, inputs, targets in every(rows[:3], by_variant["fs_opt"]):
        style = template._option_style([row], key)
        count = len(parts(inputs, rows))
        header = style.header.strip() or style.item
        assert inputs.count(header) == count, (header, inputs)
        assert targets


def test_the_number_of_exemplars_can_be_set(nli):
    rows, by_variant = nli
    for variant in ("zs", "fs_opt"):
        for n in (0, 3):
            templates = [template.with_shots(n) for template in by_variant[variant]]
            for _, _, _, inputs, _ in every(rows[:3], templates):
                assert len(re.findall(r"claim \d+ holds", inputs, re.I)) == n + 1
    assert by_variant["zs"][0].with_shots(2) != by_variant["zs"][0], "prepared data are others"


class Words:
    """A tokenizer that counts words."""

    def encode(self, text: str) -> list[int]:
        return [0] * len(text.split())


def test_exemplars_that_the_prompt_has_no_room_for_are_left_out(nli):
    rows, by_variant = nli
    limit, cut = 30, 0
    for template in by_variant["fs"]:
        tight = template.within(shots.Room(tokenizer=Words(), tokens=limit))
        for row in rows:
            for key in KEYS:
                whole, inputs = template.render(row, key)[0], tight.render(row, key)[0]
                query = dataclasses.replace(template, most_shots=0).render(row, key)[0]
                assert len(inputs.split()) <= limit or inputs == query
                cut += inputs != whole
    assert cut > 100


def test_every_exemplar_format_is_used(nli):
    rows, by_variant = nli
    found = "\n".join(inputs for *_, inputs, _ in every(rows, by_variant["fs"]))
    for style in SHOT_STYLES:
        for sign in (style.between.strip(), style.opening.strip(), style.query.split("{")[0].strip()):
            assert sign in found, style.id


def test_inversion_really_inverts(nli):
    rows, by_variant = nli
    for row, _, _, inputs, targets in every(rows, by_variant["inv"]):
        assert targets == row["hypothesis"] and row["hypothesis"] not in inputs
        assert f"Say something that is {row['answer']}." in inputs


def test_reasoning_is_asked_for_and_stands_before_the_answer(maker, monkeypatch):
    fields = FREE | {"columns": {"question": "string", "why": "string", "answers": {"text": "list(string)"}}}
    fields |= {"rationale": "why", "templates": [{"id": "a", "inputs": "Q: {question}\nA:"}]}
    record = {"question": "How many?", "why": "Two and two are four", "answers": {"text": ["4"]}}
    other = record | {"question": "How much?", "why": "It is so.", "answers": {"text": ["7"]}}
    rows, by_variant = world(maker, monkeypatch, maker.declare(fields), train=[record], validation=[other])
    assert list(by_variant) == ["zs", "fs", "zs_cot", "fs_cot"]
    cues, ends = set(), set()
    for _, _, _, inputs, targets in every(rows, by_variant["zs_cot"]):
        question, cue, last = inputs.split("\n")
        assert (question, last) == ("Q: How many?", "A:") and "step by step" in cue
        assert targets.startswith(("Two and two are four. ", "Two and two are four.\n"))
        assert final_answer(targets) == "4"
        cues.add(cue)
        ends.add(targets.removeprefix("Two and two are four."))
    assert cues == set(COT_CUES) and len(ends) == len(COT_ENDS)
    assert final_answer("no conclusion") == "no conclusion"


def test_a_rendering_is_a_function_of_its_key(nli):
    rows, by_variant = nli
    for templates in by_variant.values():
        for row, template, key, inputs, targets in every(rows[:2], templates):
            assert template.render(dict(row), key) == (inputs, targets)


def test_no_mark_comes_twice():
    for name, mark in MARKS.items():
        found = [mark(n) for n in range(12)]
        assert not name or len(set(found)) == 12
    assert json.dumps([dataclasses.asdict(style) for style in OPTION_STYLES])
