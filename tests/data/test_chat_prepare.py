"""Conversations from a file through SeqIO, prepare, the plan and the feed; what lint and preview say of them."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest

from itune.data import lint as lint_module
from itune.data.converters import assemble
from itune.data.feed import Reader, kept_tokens, prompt_ids
from itune.data.lint import lint
from itune.data.plan_tasks import PlanTask
from itune.data.prompt import render_turns_prompt
from itune.data.records import Record, Span
from itune.data.schedule import Plan, Segment
from itune.data.turns import read_turns
from itune.errors import UserError
from tests.data.toy import Toy, records_of, split_of

EOS = 256
MODULE = """
    from itune.data import RowSource, Template, add_mixture, add_task, openai_task

    for turns in ("all", "last", "each"):
        openai_task(f"talk/{turns}", "talks.jsonl", licence="CC0-1.0", turns=turns, identity="talks")
    add_mixture("talk", ["talk/all", "talk/last", "talk/each"])

    def rows(split):
        messages = '[{"role": "user", "content": "2+2?"}, {"role": "assistant", "content": "4"}]'
        for i, text in enumerate([messages, messages.replace("]", ", " + messages[1:]), "[1]"]):
            yield {"id": f"{split}-{i}", "inputs": "2+2?", "targets": "4", "turns_json": text}

    AS_GIVEN = Template("as_given", "{inputs}", "{targets}")
    for overlong in ("drop", "truncate_inputs"):
        add_task(f"own/{overlong}", source=RowSource(rows, fields=("inputs", "targets", "turns_json")),
                 templates=[AS_GIVEN], cluster="talk", identity="own", licence="CC0-1.0", overlong=overlong)
"""


@pytest.fixture
def talks(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> Toy:
    def talk(*said: str) -> dict:
        return {"messages": [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]}

    # By the keyed split, "Kept?" is the only one to validate on.
    records = [talk(asked, f"{asked} 4.", "And?", f"{asked} 5.") for asked in ("Away?", "Held?", "Held 1?", "Kept?")]
    records.append(talk("Count.", *[text for n in range(1, 9) for text in (str(n), "on")][:-1]))
    records[1]["messages"].insert(0, {"role": "system", "content": "Be brief."})
    records[2]["messages"][1]["weight"] = 0
    monkeypatch.chdir(toy.folder)
    (toy.folder / "talks.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records))
    toy.write(MODULE)
    return toy


def spelt(toy: Toy, record: Record) -> list[tuple[str, bool, str]]:
    tokenizer = toy.tokenizer()
    return [(span.role, span.supervised, tokenizer.spell(span.ids.tolist())) for span in record.spans]


def test_turns_travel_to_the_batch(talks: Toy) -> None:
    tokenizer = talks.tokenizer()
    for prompt_format in ("chat", "plain"):
        manifest = talks.prepare(mixture="talk", prompt_format=prompt_format)
        records = {name: records_of(split_of(manifest, f"talk/{name}")) for name in ("all", "last", "each")}
        assert {name: len(found) for name, found in records.items()} == {"all": 4, "last": 4, "each": 13}
        for record in (*records["all"], *records["last"]):
            turns = read_turns(record.extras["turns_json"])
            learnt = [span for span in record.spans if span.supervised]
            assert len(learnt) == sum(turn.learnt for turn in turns)
            assert all(span.ids[-1] == EOS and EOS not in span.ids[:-1] for span in learnt)
            assert tokenizer.decode(learnt[-1].ids) == record.targets_text == turns[-1].text
            before = [int(i) for span in record.spans[:-1] for i in span.ids]
            assert before == render_turns_prompt(tokenizer, turns[:-1], prompt_format)
        # The first reply of record 2 has weight 0.
        assert [sum(span.supervised for span in r.spans) for r in records["all"]] == [2, 2, 1, 8]

        tasks = [PlanTask.from_manifest(task, "train") for task in manifest.train]
        plan = Plan(tasks, seed=0, row_length=120, feature_lengths={"inputs": 80, "targets": 24})
        reader, seen = Reader(manifest.train, "train"), set()
        rows = [plan.row(i) for i in range(40)]
        batch = assemble(rows, plan, reader, "tokens")
        for b, row in enumerate(rows):
            start = 0
            for segment in row.segments:
                record = reader.record(segment.task, segment.record)
                if record.task == "talk/each":
                    start += segment.num_inputs + segment.num_targets
                    continue
                ids = np.concatenate([span.ids for span in record.spans])
                seen.add((record.task, segment.record))
                assert batch.tokens[b, start : start + len(ids)].tolist() == ids.tolist(), "whole, whatever its length"
                learnt = np.repeat([s.supervised for s in record.spans], [len(s.ids) for s in record.spans])
                where = batch.loss_index[b][batch.loss_weights[b] > 0]
                mine = where[(where >= start - 1) & (where < start + len(ids) - 1)] + 1 - start
                assert sorted(mine.tolist()) == np.flatnonzero(learnt).tolist()
                start += len(ids)
        # The long conversation is dropped whole; as single turns it is cut.
        assert {number for task, number in seen if task == "talk/all"} == {0, 1, 2}
        found = lint(manifest, plan, reader, tokenizer, quick=True)
        assert {(f.check, f.task) for f in found} <= {("truncated", f"talk/{n}") for n in ("all", "last", "each")}


def test_chat_spans_and_roles(talks: Toy) -> None:
    records = records_of(split_of(talks.prepare(mixture="talk/all", prompt_format="chat"), "talk/all"))
    assert spelt(talks, records[1]) == [
        ("system", False, "<system>Be brief.<eos>"),
        ("user", False, "<user>Held?<eos><assistant>"),
        ("assistant", True, "Held? 4.<eos>"),
        ("user", False, "<user>And?<eos><assistant>"),
        ("assistant", True, "Held? 5.<eos>"),
    ]
    assert records[1].inputs_text == "Be brief.\n\nUser: Held?\n\nAssistant: Held? 4.\n\nUser: And?\n\nAssistant:"


def test_a_users_own_source_of_turns(talks: Toy) -> None:
    with pytest.raises(UserError, match="record 'train-2': its turns_json is no list of messages"):
        talks.prepare(mixture="own/drop")
    (first, second) = records_of(split_of(talks.prepare(mixture="own/drop", max_bad_records=1), "own/drop"))
    assert len(first.spans) == 2 and len(second.spans) == 4
    with pytest.raises(UserError, match="'own/truncate_inputs': conversations with several replies .* overlong='drop'"):
        talks.prepare(mixture="own/truncate_inputs", max_bad_records=1)


# Records


def talk(*texts: str, learnt: str = "01" * 9) -> Record:
    """Spans of bytes; those at a "1" are replies, with EOS."""
    spans = tuple(
        Span(role=("user", "assistant")[on], supervised=bool(on), ids=np.array([*text.encode(), *[EOS] * on], np.int32))
        for text, on in zip(texts, map(int, learnt), strict=False)
    )
    return Record(spans=spans, id="x", task="t", split="train", example=0, variant=0)


def test_a_conversation_is_whole_or_an_error() -> None:
    record = talk("abc", "de", "fgh", "i")
    assert kept_tokens(record, 6, 5, "left").tolist() == list(range(11))
    for sizes in ((5, 5), (6, 4), (0, 2)):
        with pytest.raises(ValueError, match=r"a conversation of 6 \+ 5 tokens, planned to be cut"):
            kept_tokens(record, *sizes, "left")
    one_reply = talk("abc", "de", "fgh", "i", learnt="0001")
    assert kept_tokens(one_reply, 4, 2, "left").tolist() == [4, 5, 6, 7, 8, 9][-6:]


def test_generation_is_given_all_before_the_last_reply() -> None:
    record = talk("abc", "de", "fgh", "i")
    whole = Segment(task=0, record=0, epoch=0, num_inputs=6, num_targets=5)
    assert prompt_ids(record, whole, "left") == [*b"abc", *b"de", EOS, *b"fgh"]


def faults(toy: Toy, record: Record, prompt_format: str = "plain") -> set[str]:
    found = lint_module._records("t", [record], toy.tokenizer(), prompt_format, {}, whole=True)
    return {finding.check for finding in found if finding.level == "error"}


def test_lint_looks_at_every_reply(toy: Toy) -> None:
    sound = talk("abc", "de", "fgh", "i")
    assert not faults(toy, sound)
    cut = dataclasses.replace(sound.spans[1], ids=sound.spans[1].ids[:-1])
    assert faults(toy, dataclasses.replace(sound, spans=(sound.spans[0], cut, *sound.spans[2:]))) == {"eos"}
    inside = dataclasses.replace(sound.spans[1], ids=np.array([EOS, 1, EOS], np.int32))
    assert faults(toy, dataclasses.replace(sound, spans=(sound.spans[0], inside, *sound.spans[2:]))) == {"header"}


def test_lint_finds_headers_and_other_prompts(talks: Toy) -> None:
    """In a chat template with header tokens, as ChatML's."""
    from itune.data.chat import chat_spans
    from tests.data.toy import make_model
    from tests.parity.chats import STYLES

    make_model(talks.folder / "model", STYLES["chatml"].plain, ("<eos>", "<|im_start|>", "<|im_end|>"))
    text = '[{"role":"user","content":"a"},{"role":"assistant","content":"b"},{"role":"user","content":"c"},%s]'
    text %= '{"role":"assistant","content":"d"}'
    spans = chat_spans(talks.tokenizer(), read_turns(text))
    extras = {"extras": {"turns_json": text}, "inputs_text": "x", "targets_text": "d"}
    record = dataclasses.replace(talk("a"), spans=spans, **extras)
    assert not [*lint_module._records("t", [record], talks.tokenizer(), "chat", {}, whole=True)]
    assert faults(talks, record, "plain") == {"eos"}, "another token ends a plain reply"
    header = dataclasses.replace(spans[1], ids=np.concatenate([spans[0].ids[-11:], spans[1].ids]))
    assert faults(talks, dataclasses.replace(record, spans=(spans[0], header, *spans[2:])), "chat") == {"header"}
    other = dataclasses.replace(spans[0], ids=spans[0].ids[1:])
    changed = dataclasses.replace(record, spans=(other, *spans[1:]))
    (finding,) = lint_module._records("t", [changed], talks.tokenizer(), "chat", {}, whole=True)
    assert finding.check == "prompt"


def test_preview_shows_each_turn_and_what_is_learnt(talks: Toy) -> None:
    from tests.data.test_preview import printed

    manifest = talks.prepare(mixture="talk/all", prompt_format="chat")
    tasks = [PlanTask.from_manifest(task, "train") for task in manifest.train]
    plan = Plan(tasks, seed=0, row_length=120, feature_lengths={"inputs": 80, "targets": 24})
    from itune.data.preview import Preview

    preview = Preview(manifest, plan, Reader(manifest.train, "train"), talks.tokenizer())
    examples = list(preview.examples("talk/all", 0, 4))
    assert [example.dropped for example in examples] == [False, False, False, True]
    texts = [line.strip() for line in printed(examples[1]).splitlines()]
    expected = [
        "| <system>Be brief.<eos><user>Held?<eos><assistant>",
        "> Held? 4.<eos>",
        "| <user>And?<eos><assistant>",
        "> Held? 5.<eos>",
    ]
    assert [text for text in texts if text in expected] == expected
    roles = {(token.role, token.learnt) for token in examples[1].tokens}
    assert roles == {("system", False), ("user", False), ("assistant", True)}
