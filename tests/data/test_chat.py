"""Spans of conversations: what is supervised, in which tokens, and which templates and records are refused."""

from __future__ import annotations

import collections
import json
import types
from pathlib import Path

import pytest
import tokenizers
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tokenizers import decoders, models, pre_tokenizers

from itune.data.chat import chat_prompt, chat_spans, end_of_turn
from itune.data.conversations import conversation_rows, oasst_conversations
from itune.data.prompt import render_prompt, render_spans, render_turns_prompt, stop_id
from itune.data.readers import read_records
from itune.data.records import Record, Span
from itune.data.tokenizer import Tokenizer
from itune.data.turns import (
    ASSISTANT,
    SYSTEM,
    TURNS_FEATURE,
    USER,
    BadRecord,
    Turn,
    layout,
    read_turns,
    write_turns,
)
from itune.errors import UserError
from tests.data.toy import CHAT, make_model
from tests.parity.chats import CLOSE, OPEN, STYLES

SYSTEM_TURN = Turn(role=SYSTEM, text="Be brief.")
TALK = [SYSTEM_TURN, *(Turn(role=r, text=t) for r, t in [(USER, "2+2?"), (ASSISTANT, "4"), (USER, "3+3?")])]
TALK.append(Turn(role=ASSISTANT, text="It is\n\n6"))
CHATML = STYLES["chatml"].plain
MARKED = STYLES["chatml"].template
CHATML_TOKENS = ("<eos>", "<|im_start|>", "<|im_end|>")


def model(folder: Path, template: str | None = CHATML, specials: tuple[str, ...] = CHATML_TOKENS) -> Tokenizer:
    return Tokenizer.from_folder(make_model(folder / "m", template, specials))


def styled(folder: Path, name: str, *, marked: bool) -> Tokenizer:
    style = STYLES[name]
    folder = make_model(folder / name / str(marked), style.template if marked else style.plain, style.specials)
    special = {"eos_token": style.eos, "bos_token": style.bos}
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    tokenizer.add_special_tokens([text for text in special.values() if text])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = json.loads((folder / "tokenizer_config.json").read_text()) | {k: v for k, v in special.items() if v}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return Tokenizer.from_folder(folder)


def read(tokenizer: Tokenizer, spans: tuple[Span, ...]) -> list[tuple[str, bool, str]]:
    return [(span.role, span.supervised, tokenizer.spell(span.ids.tolist())) for span in spans]


def flat(spans: tuple[Span, ...]) -> list[int]:
    return [int(i) for span in spans for i in span.ids]


# What is supervised


@pytest.mark.parametrize("template", [CHATML, MARKED], ids=["prefixes", "markers"])
def test_replies_and_their_end_are_supervised_and_nothing_else(tmp_path: Path, template: str) -> None:
    tokenizer = model(tmp_path, template)
    assert read(tokenizer, chat_spans(tokenizer, TALK)) == [
        ("system", False, "<|im_start|>system\nBe brief.<|im_end|>\n"),
        ("user", False, "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n"),
        ("assistant", True, "4<|im_end|>"),
        ("user", False, "\n<|im_start|>user\n3+3?<|im_end|>\n<|im_start|>assistant\n"),
        ("assistant", True, "It is\n\n6<|im_end|>"),
    ]


def test_untrained_replies_are_context_and_what_follows_the_last_learnt_one_is_cut(tmp_path: Path) -> None:
    tokenizer = model(tmp_path)
    read_only = Turn(role=ASSISTANT, text="4", trained=False)
    turns = [*TALK[:2], read_only, *TALK[3:], Turn(role=USER, text="Thanks"), read_only]
    found = read(tokenizer, chat_spans(tokenizer, turns))
    assert [span[:2] for span in found] == [
        ("system", False),
        ("user", False),
        ("assistant", False),
        ("user", False),
        ("assistant", True),
    ]
    assert found[2][2] == "<|im_start|>assistant\n4<|im_end|>\n" and "Thanks" not in str(found)
    with pytest.raises(BadRecord, match="no reply in it is to be learnt"):
        chat_spans(tokenizer, [TALK[1], read_only])


words = st.text(st.sampled_from("ab \n\t<|é[]"), max_size=12).map(str.strip)


@pytest.fixture(scope="module")
def all_styles(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Tokenizer]]:
    folder = tmp_path_factory.mktemp("styles")
    return {name: [styled(folder, name, marked=marked) for marked in (True, False)] for name in STYLES}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.sampled_from(sorted(STYLES)), st.booleans(), st.lists(st.tuples(words, words, st.booleans()), min_size=1))
def test_any_conversation_in_any_style(all_styles, name: str, system: bool, said: list[tuple[str, str, bool]]) -> None:
    pairs = [(Turn(role=USER, text=a), Turn(role=ASSISTANT, text=b or ".", trained=t)) for a, b, t in said]
    turns = [SYSTEM_TURN] * system + [turn for pair in pairs for turn in pair]
    if not any(turn.learnt for turn in turns):
        turns[-1] = Turn(role=ASSISTANT, text=turns[-1].text)
    results = []
    for tokenizer in all_styles[name]:
        spans = chat_spans(tokenizer, turns)
        closing = tokenizer.spell([end_of_turn(tokenizer)])
        whole = tokenizer.render_chat([turn.message for turn in turns], add_generation_prompt=False)
        assert whole.startswith(tokenizer.spell(flat(spans)))
        replies = [text for _, learnt, text in read(tokenizer, spans) if learnt]
        expected = [turn.text for turn in turns if turn.learnt]
        assert [text.removesuffix(closing).strip() for text in replies] == expected
        assert all(text.endswith(closing) for text in replies)
        # What stands before each learnt reply is what generation would be given.
        learnt = [n for n, turn in enumerate(turns) if turn.learnt]
        places = [n for n, span in enumerate(spans) if span.supervised]
        for turn, place in zip(learnt, places, strict=True):
            assert chat_prompt(tokenizer, turns[:turn]) == flat(spans[:place])
        results.append([(span.role, span.supervised, span.ids.tolist()) for span in spans])
    assert results[0] == results[1], "markers and prefixes tell the same"


# Tokens at the boundary


def merging(folder: Path, template: str, merges: list[tuple[str, str]]) -> Tokenizer:
    """Bytes and a few merged pairs, split as GPT-2 does: white space before a word depends on the word."""
    make_model(folder / "m", template, CHATML_TOKENS)
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocab = {piece: i for i, piece in enumerate([*alphabet, *(a + b for a, b in merges)])}
    tokenizer = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([*CHATML_TOKENS])
    tokenizer.save(str(folder / "m" / "tokenizer.json"))
    return Tokenizer.from_folder(folder / "m")


@pytest.mark.parametrize(
    ("header", "reply", "merge"),
    [
        ("\n\n", "Hi", ("\u010a", "\u010a")),  # alone one token, before a word two
        ("\n", "  Hi", ("\u010a", "\u0120")),  # a token that straddles the boundary
    ],
)
def test_where_a_prompt_would_be_other_tokens_the_text_is_cut(
    tmp_path: Path, header: str, reply: str, merge: tuple[str, str]
) -> None:
    tokenizer = merging(tmp_path, CHATML.replace("\n", header), [merge])
    turns = [TALK[1], Turn(role=ASSISTANT, text=reply), TALK[3], Turn(role=ASSISTANT, text=reply)]
    spans = chat_spans(tokenizer, turns)
    text = tokenizer.render_chat([turn.message for turn in turns], add_generation_prompt=False)
    whole = tokenizer.encode(text)
    assert flat(spans) != whole[: len(flat(spans))], "the case tests nothing"
    assert text.startswith(tokenizer.spell(flat(spans)))
    assert [text for _, learnt, text in read(tokenizer, spans) if learnt] == [reply + "<|im_end|>"] * 2
    head = tokenizer.render_chat([turns[0].message], add_generation_prompt=True)
    assert spans[0].ids.tolist() == tokenizer.encode(head) == chat_prompt(tokenizer, turns[:1])
    assert chat_prompt(tokenizer, turns[:3]) == flat(spans[:3])


# Templates that can't be trained on


FOR = "{% for m in messages %}"
ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
THINKING = "<think></think>"
BODY = "{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}"


@pytest.mark.parametrize(
    ("template", "error"),
    [
        (FOR + "{{ m.role + ': ' + m.content + '\n' }}{% endfor %}", "closes an assistant's turn with nothing"),
        (FOR + "{{ m.content + ' END ' }}{% endfor %}", "closes an assistant's turn with 'END', which is no single"),
        (FOR + BODY + "{% endfor %}", "puts text of its own before the reply, after its prompt"),
        ("{% if messages|length > 1 %}Earlier: {% endif %}" + CHATML, "renders a conversation with its reply diff"),
        (CHATML.replace("m.content", "m.content | upper"), "leaves out or rewrites"),
        (FOR + BODY.replace("m.content", f"'{THINKING}' + m.content") + "{% endfor %}" + ASK, "puts text of its own"),
        (CHATML.replace("\n' }}{% if m", "\n' }}" + OPEN + CLOSE + "{% if m"), "has 2 generation blocks for 1"),
        (MARKED.replace(CLOSE, "").replace("m.content + '<|im_end|>' }}", "m.content }}" + CLOSE + "<|im_end|>", 1),
         "generation block ends before '<|im_end|>'"),
        (MARKED.replace(CLOSE + "{{ '\n' }}", "{{ '\n###' }}" + CLOSE), "goes on after '<|im_end|>' has closed"),
        (MARKED.replace("assistant\n' }}", "assistant' }}"), "begins after the end of the reply's header"),
        (MARKED.replace(OPEN, OPEN + "Say: "), "puts text of its own"),
        ("{{ nothing.here }}", "chat template failed"),
    ],
)  # fmt: skip
def test_a_template_that_cannot_be_trained_on_is_refused(tmp_path: Path, template: str, error: str) -> None:
    tokenizer = model(tmp_path, template)
    with pytest.raises(UserError) as caught:
        chat_spans(tokenizer, TALK[1:3])
    assert error in str(caught.value) and "\n" not in str(caught.value)
    assert "plain" in str(caught.value) or "failed" in error
    assert stop_id(tokenizer, "chat") in (256, 258), "generation goes on as it did"


def test_a_block_that_begins_before_the_end_of_the_header(tmp_path: Path) -> None:
    template = (
        FOR + "{% if m.role == 'assistant' %}" + OPEN + BODY + CLOSE + "{% else %}" + BODY + "{% endif %}{% endfor %}"
    )
    with pytest.raises(UserError, match="generation block begins before the end of the reply's header"):
        chat_spans(model(tmp_path, template + ASK), TALK[1:3])


def test_white_space_after_the_end_of_a_turn_is_never_supervised(tmp_path: Path) -> None:
    tokenizer = model(tmp_path, MARKED.replace(CLOSE + "{{ '\n' }}", "{{ '\n' }}" + CLOSE))
    assert read(tokenizer, chat_spans(tokenizer, TALK)) == read(
        model(tmp_path / "2"), chat_spans(model(tmp_path), TALK)
    )


# Conversations that a sound template can't lay out


@pytest.mark.parametrize(
    ("template", "error"),
    [
        (CHATML.replace("'<|im_end|>'", "'<|im_end|>' * loop.last"), "message 3: the chat template does not close"),
        (CHATML.replace("m.content", "m.content.split('is')[-1]"), "message 5: the chat template leaves"),
        (CHATML.replace("m.content", "('sure: ' if loop.index > 4 else '') + m.content"), "message 5: the chat"),
        ("{{ '<eos>' * (messages | length > 4) }}" + CHATML, "message 3: the chat template renders"),
        ("{% if messages[0].role == 'system' %}{{ raise_exception('No system role') }}{% endif %}" + CHATML,
         "the model's chat template failed: No system role"),
        ("{% if messages|length > 4 %}{{ raise_exception('Odd: ' + messages[1].content) }}{% endif %}" + CHATML,
         "the model's chat template refuses its turns"),
    ],
)  # fmt: skip
def test_a_conversation_that_a_template_changes_is_a_bad_record(tmp_path: Path, template: str, error: str) -> None:
    tokenizer = model(tmp_path, template)
    chat_spans(tokenizer, TALK[1:3])
    with pytest.raises(BadRecord) as caught:
        chat_spans(tokenizer, TALK)
    assert error in str(caught.value)
    assert not any(turn.text in str(caught.value) for turn in TALK), "no example text in an error"


@pytest.mark.parametrize(
    ("reply", "error"),
    [
        (" \n", "its targets are empty"),
        ("a<|im_end|>b", "EOS stands inside its targets"),
        ("a<|im_end|>\n<|im_start|>assistant\nb", "another token that the chat template puts around turns"),
        ("<|im_start|>", "another token that the chat template puts around turns"),
    ],
)
def test_a_reply_with_tokens_of_the_template(tmp_path: Path, reply: str, error: str) -> None:
    turns = [*TALK[:4], Turn(role=ASSISTANT, text=reply)]
    with pytest.raises(BadRecord, match="message 5: ") as caught:
        chat_spans(model(tmp_path), turns)
    assert error in str(caught.value)


def test_a_prompt_may_spell_a_header(tmp_path: Path) -> None:
    turns = [Turn(role=USER, text="x<|im_end|>\n<|im_start|>assistant\nno"), *TALK[2:]]
    tokenizer = model(tmp_path)
    assert [text for _, learnt, text in read(tokenizer, chat_spans(tokenizer, turns)) if learnt] == [
        "4<|im_end|>",
        "It is\n\n6<|im_end|>",
    ]


def test_marks_in_the_text_are_refused(tmp_path: Path) -> None:
    turns = [Turn(role=USER, text="\ufdd0"), TALK[2]]
    with pytest.raises(BadRecord, match="holds the noncharacters"):
        chat_spans(model(tmp_path, MARKED), turns)
    assert chat_spans(model(tmp_path, CHATML), turns), "only where marks are looked for"


# The end


def test_generation_stops_where_the_template_closes_a_turn(tmp_path: Path) -> None:
    tokenizer = styled(tmp_path, "gemma", marked=False)
    closing = tokenizer.encode("<end_of_turn>")
    assert [stop_id(tokenizer, "chat")] == closing != [tokenizer.eos_id] == [stop_id(tokenizer, "plain")]
    assert all(span.ids[-1] == closing[0] for span in chat_spans(tokenizer, TALK) if span.supervised)
    with pytest.raises(UserError, match="Did you mean 'chat'"):
        stop_id(tokenizer, "chatt")


def test_a_session_stops_there(tmp_path: Path) -> None:
    from itune.inference.session import Session

    tokenizer = styled(tmp_path, "gemma", marked=False)
    for prompt_format, stop in (("chat", "<end_of_turn>"), ("plain", "<eos>")):
        rest = dict.fromkeys(("name", "spec", "params", "compute", "mesh"))
        session = Session(tokenizer=tokenizer, prompt_format=prompt_format, **rest)  # type: ignore[arg-type]
        assert [session.stop_ids[0]] == tokenizer.encode(stop)


def test_the_chat_baseline_lays_a_plain_record_out_anew(tmp_path: Path) -> None:
    """With all its replies; or, where the template refuses such turns, as one question with its history as text."""
    from itune.evaluation.evaluate import Evaluator

    texts = {
        "inputs_text": layout(TALK[:4]),
        "targets_text": TALK[4].text,
        "extras": {TURNS_FEATURE: write_turns(TALK)},
    }
    refusing = "{% if messages[0].role == 'system' %}{{ raise_exception('No') }}{% endif %}" + CHATML
    for template in (CHATML, refusing):
        tokenizer = model(tmp_path, template)
        plain = spans_of(tokenizer, "plain", TALK)
        record = Record(spans=plain, id="x", task="t", split="s", example=0, variant=0, **texts)
        found = Evaluator._as_chat(types.SimpleNamespace(tokenizer=tokenizer), record).spans  # type: ignore[arg-type]
        if template is CHATML:
            assert read(tokenizer, found) == read(tokenizer, chat_spans(tokenizer, TALK))
        else:
            one = [Turn(role=USER, text=layout(TALK[:4])), TALK[4]]
            assert read(tokenizer, found) == read(tokenizer, chat_spans(tokenizer, one))


# One question and its reply, and the plain format


def spans_of(
    tokenizer: Tokenizer, prompt_format: str, turns: list[Turn] | tuple = (), **texts: str
) -> tuple[Span, ...]:
    texts = {"inputs_text": "", "targets_text": ""} | texts
    ids = {name: tokenizer.encode(texts[f"{name}_text"]) for name in ("inputs", "targets")}
    return render_spans(tokenizer, prompt_format, **ids, **texts, turns=turns)  # type: ignore[arg-type]


@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
def test_a_single_turn_is_a_conversation_of_one(tmp_path: Path, prompt_format: str) -> None:
    tokenizer = model(tmp_path)
    alone = spans_of(tokenizer, prompt_format, inputs_text="2+2?", targets_text="4")
    assert read(tokenizer, alone) == read(tokenizer, spans_of(tokenizer, prompt_format, TALK[1:3]))
    assert alone[0].ids.tolist() == render_prompt(tokenizer, "2+2?", prompt_format)


def test_a_text_that_goes_on_has_a_blank_before_its_answer(tmp_path: Path) -> None:
    """The ids are those of the text as a whole, so that generation begins where an exemplar's answer does."""
    tokenizer = model(tmp_path, None)
    spans = spans_of(tokenizer, "continued", inputs_text="Answer:", targets_text="4")
    assert read(tokenizer, spans) == [("inputs", False, "Answer:"), ("targets", True, " 4<eos>")]
    assert flat(spans)[:-1] == tokenizer.encode("Answer: 4")
    assert render_prompt(tokenizer, "Answer:", "continued") == spans[0].ids.tolist()
    assert stop_id(tokenizer, "continued") == tokenizer.eos_id
    with pytest.raises(UserError, match="prompt_format='continued' is for questions with an answer"):
        spans_of(tokenizer, "continued", TALK)


def test_plain_conversations_are_labelled_text_with_an_end_after_each_reply(tmp_path: Path) -> None:
    tokenizer = model(tmp_path, None)
    found = read(tokenizer, spans_of(tokenizer, "plain", TALK))
    assert found == [
        ("inputs", False, "Be brief.\n\nUser: 2+2?\n\nAssistant:\n"),
        ("targets", True, "4<eos>"),
        ("inputs", False, "\n\nUser: 3+3?\n\nAssistant:\n"),
        ("targets", True, "It is\n\n6<eos>"),
    ]
    spans = spans_of(tokenizer, "plain", TALK)
    assert render_turns_prompt(tokenizer, TALK[:4], "plain") == flat(spans[:3])
    read_only = [*TALK[:2], Turn(role=ASSISTANT, text="4", trained=False), *TALK[3:]]
    history = read(tokenizer, spans_of(tokenizer, "plain", read_only))
    assert history == [("inputs", False, layout(TALK[:4]) + "\n"), ("targets", True, "It is\n\n6<eos>")]
    later = [*TALK, Turn(role=SYSTEM, text="Now in French."), Turn(role=USER, text="1+1?"), TALK[2]]
    assert read(tokenizer, spans_of(tokenizer, "plain", later))[4][2] == (
        "\n\nSystem: Now in French.\n\nUser: 1+1?\n\nAssistant:\n"
    )
    for reply, error in (("", "empty"), ("a<eos>b", "EOS stands inside")):
        with pytest.raises(BadRecord, match=error):
            spans_of(tokenizer, "plain", [*TALK[:4], Turn(role=ASSISTANT, text=reply)])
    with pytest.raises(BadRecord, match="no reply"):
        spans_of(tokenizer, "plain", TALK[:2])


# Turns as JSON


def test_turns_survive_their_json() -> None:
    turns = (*TALK, Turn(role=ASSISTANT, text='"é\n', trained=False))
    assert read_turns(write_turns(turns)) == turns
    assert json.loads(write_turns(turns))[-1] == {"role": "assistant", "content": '"é\n', "weight": 0}


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("{", "is not JSON"),
        ('{"role": "user"}', "is no list of messages"),
        ('["x"]', "is no list of messages"),
        ('[{"role": "user", "content": "x"}, {"role": "gpt", "content": "x"}]', "message 2: needs a 'role'"),
        ('[{"role": "user", "content": null}]', "message 1: needs a 'role'"),
    ],
)
def test_bad_turns_are_refused(text: str, error: str) -> None:
    with pytest.raises(BadRecord, match=error):
        read_turns(text)


# Real conversations


@pytest.mark.parametrize(("paths", "conversations", "replies"), [("all", 555, 687), ("best", 100, 142)])
@pytest.mark.parametrize("prompt_format", ["plain", "chat"])
def test_real_trees(
    data_dir: Path, tmp_path: Path, paths: str, conversations: int, replies: int, prompt_format: str
) -> None:
    """Each of the file's 687 assistant messages is learnt once, whatever the number of paths through it."""
    path = data_dir / "general" / "oasst_en_100_tree.jsonl"
    tokenizer = model(tmp_path, CHAT, ("<eos>", "<user>", "<assistant>"))

    def reader(records, left_out):
        yield from oasst_conversations(records, left_out, paths)

    options = {"identity": "oasst", "validation_fraction": 0.0, "encoding": "utf-8"}
    rows = [*conversation_rows("train", path=str(path), conversations=reader, turns="all", **options)]
    texts = collections.Counter[str]()
    for row in rows:
        turns = read_turns(row["turns_json"])
        spans = spans_of(tokenizer, prompt_format, turns)
        learnt = [text for _, supervised, text in read(tokenizer, spans) if supervised]
        assert learnt == [turn.text + "<eos>" for turn in turns if turn.learnt]
        assert turns[-1].learnt and turns[-1].text == row["targets"] and row["inputs"] == layout(turns[:-1])
        texts.update(learnt)
    said = collections.Counter[str]()
    for _, record in read_records(path):
        waiting = [record["prompt"]]
        while waiting:
            message = waiting.pop()
            waiting += message["replies"] if paths == "all" else []
            if message["role"] == "assistant":
                said[message["text"].strip("\n").rstrip() + "<eos>"] += 1
    assert (len({row["id"] for row in rows}), texts.total()) == (conversations, replies)
    assert paths == "best" or texts == said
