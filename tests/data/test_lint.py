"""Each fault is found where it is, and nowhere else."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from itune.data import lint as lint_module
from itune.data.lint import Finding, lint, stop_on_errors
from itune.data.packing import Limits
from itune.data.plan_tasks import PlanTask
from itune.data.records import Record, Span
from itune.data.tokenizer import Tokenizer
from itune.errors import UserError
from tests.data.toy import Toy, make_model

EOS = 256


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> Tokenizer:
    return Tokenizer.from_folder(make_model(tmp_path_factory.mktemp("model")))


def record(tokenizer: Tokenizer, name: str, question: str, answer: str, **changes) -> Record:
    prompt, reply = tokenizer.encode(question + "\n"), [*tokenizer.encode(answer), EOS]
    spans = (
        Span(role="inputs", supervised=False, ids=np.array(prompt, np.int32)),
        Span(role="targets", supervised=True, ids=np.array(reply, np.int32)),
    )
    fields = dict(spans=spans, id=name, task="t", split="train", example=0, variant=0)
    return Record(**fields | dict(inputs_text=question, targets_text=answer) | changes)


def found(tokenizer: Tokenizer, *records: Record) -> dict[str, Finding]:
    findings = list(lint_module._records("t", records, tokenizer, "plain", {}, whole=True))
    assert len({f.check for f in findings}) == len(findings)
    return {f.check: f for f in findings}


def without_eos(r: Record) -> Record:
    inputs, targets = r.spans
    return dataclasses.replace(r, spans=(inputs, dataclasses.replace(targets, ids=targets.ids[:-1])))


def test_sound_examples_give_no_finding(tokenizer):
    assert not found(tokenizer, *(record(tokenizer, f"r{i}", f"What is {i}?", f"{i} {{}}\n\u00e9") for i in range(5)))


def test_what_is_wrong_with_records_is_named_with_their_ids(tokenizer):
    sound = [record(tokenizer, f"s{i}", f"Sound {i}", str(i)) for i in range(3)]
    faults = {
        "eos": [without_eos(record(tokenizer, "x", "Ask", "Say"))],
        "no-answer": [record(tokenizer, "x", "Ask", "")],
        "duplicate": [record(tokenizer, "x", "Sound 1", "1")],
        "conflict": [record(tokenizer, "x", "Sound 1", "2")],
        "prompt": [record(tokenizer, "x", "Ask", "Say", inputs_text="Ask  ")],
    }
    for check, bad in faults.items():
        findings = found(tokenizer, *sound, *bad)
        assert set(findings) == {check}, check
        assert findings[check].ids == ("x",) and findings[check].message.startswith("1 of 4 examples")
        assert findings[check].level == ("error" if check == "eos" else "warning")


def test_an_exemplar_that_is_the_query_is_found(tokenizer):
    def few_shot(name, exemplar):
        query = {"question": "How many legs does a spider have?", "answer": "eight"}
        shown = "".join(f"Q: {q}\nA: {a}\n\n" for q, a in exemplar)
        return record(tokenizer, name, f"{shown}Q: {query['question']}\nA:", query["answer"], extras=query)

    other = ("How many legs does an ant have?", "six")
    assert not found(tokenizer, few_shot("sound", [other]), few_shot("alone", []))
    findings = found(
        tokenizer, few_shot("sound", [other]), few_shot("x", [("How many legs does a spider have?", "eight")])
    )
    assert set(findings) == {"exemplar"} and findings["exemplar"].ids == ("x",)
    same_question = few_shot("y", [("How many legs does a spider have?", "six")])
    assert not found(tokenizer, same_question), "asked twice, but not answered"


def test_a_vocabulary_that_loses_text_is_found(tokenizer, monkeypatch):
    examples = [record(tokenizer, f"r{i}", f"What is {{{i}}}?", str(i)) for i in range(4)]
    brace = tokenizer.encode("{")[0]
    monkeypatch.setattr(tokenizer, "unk_id", brace)  # as T5's has no braces
    spell = tokenizer.spell
    monkeypatch.setattr(tokenizer, "spell", lambda ids: spell([i for i in ids if i != brace]))
    findings = found(tokenizer, *examples)
    assert set(findings) == {"unknown", "lossy"}
    assert findings["unknown"].share == pytest.approx(4 / sum(sum(len(s.ids) for s in r.spans) for r in examples))
    assert findings["lossy"].share == 1.0


def test_rare_oddities_of_the_data_are_not_reported(tokenizer):
    many = [record(tokenizer, f"r{i}", f"What is {i}?", str(i)) for i in range(200)]
    assert not found(tokenizer, *many, record(tokenizer, "x", "What is 1?", "2"))


@dataclasses.dataclass
class Index:
    inputs: np.ndarray
    targets: np.ndarray


def lengths(inputs, targets, overlong="truncate_inputs"):
    index = Index(np.array(inputs, np.int32), np.array(targets, np.int32))
    task = PlanTask(name="t", identity="t", rate=1.0, index=index, overlong=overlong)
    return list(lint_module._lengths(task, Limits(inputs=10, targets=5, row_length=16, supervised=16)))


def test_truncation_counts_over_a_fifth_of_all_examples():
    assert not lengths([11, 5, 5, 5, 5], [2] * 5)
    (cut,) = lengths([11, 14, 5, 5, 5], [2] * 5)
    assert cut.check == "truncated" and cut.share == pytest.approx(0.4)
    assert "40% of the examples are cut" in cut.message and "12 + 2 tokens" in cut.message
    (dropped,) = lengths([11, 14, 5, 5, 5], [2] * 5, overlong="drop")
    assert "are dropped" in dropped.message


def test_a_task_without_prompts_is_an_error():
    (finding,) = lengths([0, 0], [3, 4])
    assert (finding.check, finding.level) == ("no-prompt", "error")
    with pytest.raises(UserError, match="error: t: no-prompt: every token is learnt"):
        stop_on_errors([finding])


LEAKING = """
    from itune.data import RowSource, Template, add_task

    def rows(split):
        for i in range(5):
            shift = 3 if split == "validation" else 0
            yield {"id": f"{split}-{i}", "question": f"What is {i + shift}?", "answer": "a"}

    ASK = Template("ask", "{question}", "{answer}")
    add_task("leaking", source=RowSource(rows, fields=("question", "answer")), templates=(ASK,), cluster="sums",
             identity="one", licence="CC0-1.0")
"""


def test_an_evaluation_example_that_is_trained_on_is_an_error(toy: Toy):
    from itune.data.feed import Reader
    from itune.data.schedule import Plan

    toy.write(LEAKING)
    manifest = toy.prepare(mixture="leaking", held_in=("leaking",))
    tasks = [PlanTask.from_manifest(task, "train") for task in manifest.train]
    plan = Plan(tasks, seed=0, row_length=64, feature_lengths={"inputs": 40, "targets": 8})
    parts = (manifest, plan, Reader(manifest.train, "train"), toy.tokenizer())
    (leak,) = lint(*parts)
    assert (leak.check, leak.level, leak.task) == ("leak", "error", "leaking")
    assert leak.message.startswith("2 of 5") and leak.ids == (
        "validation-0 is leaking train-3",
        "validation-1 is leaking train-4",
    )
    assert not lint(*parts, quick=True), "the trainer's quick look does not read evaluation examples"


def test_the_quick_look_takes_a_few_records_of_each_task():
    class Task:
        num_examples, variants = 1000, 2

    chosen = lint_module._choose(Task(), 3)
    assert len(chosen) == lint_module.QUICK_PER_TASK and chosen[0] == 0 and chosen[-1] == 1998
    assert all(r % 2 == 0 for r in chosen)
    assert len(lint_module._choose(Task(), 0)) == 1000
    assert len(lint_module._choose(Task(), 1836)) == lint_module.QUICK_RECORDS // 1836


def test_findings_read_as_one_line():
    finding = Finding(check="eos", level="error", task="a/b", message="1 of 2 examples", share=0.5, ids=("x", "y", "z"))
    assert str(finding) == "error: a/b: eos: 1 of 2 examples (x, y, z, ...)"
