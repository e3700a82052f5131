"""Shared text is found where it is, and nowhere else."""

from __future__ import annotations

import numpy as np
import pytest

from itune.data import contamination
from itune.data.contamination import COMMON, GRAM, SHORTEST, Index
from itune.data.records import Record
from itune.data.splits import normalise
from tests.data.test_lint import LEAKING

WORDS = [f"w{i}" for i in range(40)]


def record(task: str, name: str, **fields: str) -> Record:
    return Record(spans=(), id=name, task=task, split="x", example=0, variant=0, extras=fields)


def pairs(evaluated: list[Record], trained: list[Record]) -> set[tuple[str, str]]:
    return {(hit.train_id, hit.eval_id) for hit in Index(evaluated).check(trained).hits}


@pytest.mark.parametrize(("shared", "hit"), [(GRAM - 1, False), (GRAM, True), (GRAM + 5, True)])
def test_thirteen_words_in_a_row_are_a_hit(shared, hit):
    text = " ".join(WORDS[:shared])
    assert bool(pairs([record("e", "1", q=f"before {text} after")], [record("t", "1", p=f"x {text} y")])) == hit


@pytest.mark.parametrize(("words", "hit"), [(SHORTEST - 1, False), (SHORTEST, True), (GRAM - 1, True)])
def test_short_fields_match_as_a_whole(words, hit):
    text = " ".join(WORDS[:words])
    assert bool(pairs([record("e", "1", q=text)], [record("t", "1", p=text)])) == hit
    assert not pairs([record("e", "1", q=text)], [record("t", "1", p=f"{text} more")])


def test_case_and_punctuation_do_not_hide_a_hit():
    report = Index([record("e", "1", q="Is it HIGH, or low?")]).check([record("t", "7", p="is it high - or low")])
    (hit,) = report.hits
    assert (hit.train_field, hit.eval_field, hit.shared) == ("p", "q", "is it high or low")
    assert (hit.train_text, hit.eval_text) == ("is it high - or low", "Is it HIGH, or low?")
    (finding,) = report.findings()
    assert finding.task == "t" and finding.ids == ("7 and 1",) and "1 of 1 examples" in finding.message


def test_grams_do_not_run_over_the_end_of_a_field():
    halves = {"a": " ".join(WORDS[:7]), "b": " ".join(WORDS[7:14])}
    assert not pairs([record("e", "1", **halves)], [record("t", "1", p=" ".join(WORDS[:14]))])


@pytest.mark.parametrize("words", [SHORTEST, GRAM + 2])
def test_boilerplate_counts_for_nothing(words):
    text = " ".join(WORDS[:words])
    evaluated = [record("e", str(i), q=text) for i in range(COMMON + 1)]
    assert len(pairs(evaluated[:COMMON], [record("t", "1", p=text)])) == COMMON
    assert not pairs(evaluated, [record("t", "1", p=text)])


def test_text_of_sensitive_tasks_is_withheld():
    index = Index([record("e", "1", q="one two three four")])
    for hidden in ({"t"}, {"e"}):
        report = index.check([record("t", "1", p="one two three four")], hidden=hidden)
        (hit,) = report.hits
        assert (hit.shared, hit.train_text, hit.eval_text) == (None, None, None)
        assert "three" not in str(*report.findings())


def test_lying_hashes_are_caught(monkeypatch):
    monkeypatch.setattr(contamination, "_hashes", lambda ids: np.zeros(max(len(ids) - GRAM + 1, 0), np.uint64))
    assert not pairs([record("e", "1", q=" ".join(WORDS[:13]))], [record("t", "1", p=" ".join(WORDS[1:14]))])


@pytest.mark.parametrize("seed", range(20))
def test_same_as_the_definition(seed, monkeypatch):
    monkeypatch.setattr(contamination, "BATCH", 3)
    rng = np.random.default_rng(seed)

    def some(task: str) -> list[Record]:
        draw = lambda: " ".join(rng.choice(["a", "B,", "c"], p=[0.9, 0.05, 0.05], size=rng.integers(0, 22)))  # noqa: E731
        return [record(task, str(i), q=draw(), p=draw()) for i in range(12)]

    evaluated, trained = some("e"), some("t")

    def grams(text: str) -> set[tuple[str, ...]]:
        words = normalise(text).split()
        if SHORTEST <= len(words) < GRAM:
            return {("whole", *words)}
        return {tuple(words[i : i + GRAM]) for i in range(len(words) - GRAM + 1)}

    def of(r: Record) -> set[tuple[str, ...]]:
        return set().union(*(grams(text) for text in r.extras.values()))

    expected = {(t.id, e.id) for t in trained for e in evaluated if of(t) & of(e)}
    assert pairs(evaluated, trained) == expected


def test_a_prepared_mixture_is_looked_through(toy, monkeypatch):
    monkeypatch.setattr(contamination, "SHORTEST", 1)
    toy.write(LEAKING)
    manifest = toy.prepare(mixture="leaking", held_in=("leaking",))
    report = contamination.inspect(manifest)
    assert report.pairs.keys() == {("leaking", "leaking")} and report.hits
