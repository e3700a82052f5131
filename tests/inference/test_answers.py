"""What a harness asks, answered in texts. The comparison with lm-eval itself is tests/parity's `harness`."""

from __future__ import annotations

import dataclasses

import pytest

from itune import cli, harness
from itune.data.tokenizer import Tokenizer
from itune.errors import UserError
from itune.inference import session
from itune.inference.answers import Answers, sampling
from tests.parity.harness_tasks import write_tokenizer
from tests.world import write_model


@pytest.fixture(scope="module")
def answers(tmp_path_factory) -> Answers:
    """Of a model whose 512 positions are bytes."""
    return Answers(session.load(str(write_model(tmp_path_factory.mktemp("model")))), batch_size=4)


def with_tokenizer(answers: Answers, folder, encoder: bool) -> Answers:
    """The same with a tokenizer that puts something around every text."""
    write_tokenizer(folder, encoder)
    tokenizer = Tokenizer.from_folder(folder)
    other = Answers(dataclasses.replace(answers.session, tokenizer=tokenizer, prompt_format="plain"))
    other.encoder = encoder
    return other


def test_texts_begin_with_bos_once(answers, tmp_path):
    bare = answers.encode("the hen")
    assert bare == answers.encode("the hen", special=False), "this tokenizer puts nothing around texts"
    other = with_tokenizer(answers, tmp_path, encoder=False)
    bos, ids = other.prefix_id, other.encode("the hen", special=False)
    assert other.encode("the hen") == [bos, *ids] and bos not in ids
    counts = [other.encode("<s>the hen", special=special).count(bos) for special in (None, False, True)]
    assert counts == [1, 1, 2], "a rendered chat spells its own"


def test_an_encoder_decoders_texts_end_with_eos(answers, tmp_path):
    other = with_tokenizer(answers, tmp_path, encoder=True)
    eos, ids = other.tokenizer.eos_id, other.encode("the hen", special=False)
    assert other.prefix_id == eos and other.encode("the hen") == [*ids, eos] and eos not in ids
    assert other._prompt("the hen", 4) == [*ids, eos]


def test_scores_are_the_scorers(answers):
    pairs = [(answers.encode("a hen"), answers.encode(" flew")), ([answers.prefix_id], answers.encode("x"))]
    scored = answers.session.scorer(2).score(pairs)
    assert answers.score(pairs) == [(s.logprob, s.greedy) for s in scored]
    with pytest.raises(UserError, match="request 1: its continuation has no token"):
        answers.score([pairs[0], ([5], [])])


def test_generation_ends_before_the_first_until(answers):
    [whole] = answers.generate([("a hen", {"max_gen_toks": 12})])
    assert len(whole) > 4
    end = whole[3]
    texts = answers.generate(
        [("a hen", {"until": [end], "max_gen_toks": 12}), ("a hen", {"until": end, "max_new_tokens": 2})]
    )
    assert texts == [whole.partition(end)[0], whole[:2].partition(end)[0]]
    assert answers.generate([("", {"max_gen_toks": 1})]), "BOS stands for an empty context"


def test_repeats_of_a_request_are_drawn_anew(answers):
    request = ("a hen", {"max_gen_toks": 8, "do_sample": True, "temperature": 1.5})
    first, second = answers.generate([request, request])
    assert first != second
    assert answers.generate([request, request]) == [first, second]


def test_long_contexts_lose_their_beginning(answers):
    short = Answers(answers.session, max_length=32)
    context = "abc" * 30
    kwargs = {"max_gen_toks": 8}
    assert short._prompt(context, 8) == answers.encode(context)[-24:]
    assert short.generate([(context, kwargs)]) == answers.generate([(context[-24:], kwargs)])
    with pytest.raises(UserError, match="max_gen_toks=32 leaves no room for a context in the model's 32 positions"):
        short.generate([("a", {"max_gen_toks": 32})])
    with pytest.raises(UserError, match="max_length=513 must be 2 to 512"):
        Answers(answers.session, max_length=513)


def test_generation_kwargs():
    greedy = sampling({"until": "\n", "do_sample": False, "temperature": 0.7, "top_p": 0.9})
    assert (greedy.stop, greedy.temperature, greedy.top_p, greedy.max_new_tokens) == (("\n",), 0.0, 1.0, 256)
    drawn = sampling({"until": ["a", ""], "temperature": 0.7, "top_p": 0.9, "top_k": 5, "max_tokens": 3})
    assert (drawn.stop, drawn.temperature, drawn.top_p, drawn.top_k, drawn.max_new_tokens) == (("a",), 0.7, 0.9, 5, 3)
    assert sampling({"max_gen_toks": 2, "max_tokens": 3, "num_beams": 4}).beams == 4
    with pytest.raises(UserError, match="do_sample goes with a temperature above 0"):
        sampling({"do_sample": True})
    with pytest.raises(UserError, match=r"generation_kwargs: there is no setting 'top_pp'. Did you mean 'top_p'"):
        sampling({"top_pp": 1, "temperature": 1.0})


def test_a_chat_can_end_inside_its_last_message(answers):
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "It is "}]
    assert answers.render(messages[:1]) == "<s>user: x</s><s>assistant: "
    assert answers.render(messages, False) == "<s>user: x</s><s>assistant: It is"


def test_a_template_without_system_messages_gets_the_others(answers, tmp_path):
    template = "{% for m in messages %}{% if m.role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ m.content }}"
    other = Answers(answers.session)
    other.tokenizer = Tokenizer.from_folder(write_model(tmp_path))
    other.tokenizer.chat_template = template + "{% endfor %}"
    messages = [{"role": "system", "content": "s"}, {"role": "user", "content": "x"}]
    assert other.render(messages) == "x"
    other.tokenizer.chat_template = None
    with pytest.raises(UserError, match="no chat template"):
        other.render(messages)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--limt=3"], "Did you mean '--limit'"),
        (["--limit=0"], "--limit=0 must be at least 1"),
        (["--include_path=nowhere"], "--include_path=nowhere: no such folder"),
        (["--gin.A=1"], "takes no gin bindings"),
        ([], r"pip install itune[harness]"),
    ],
)
def test_the_command_says_what_is_wrong_in_a_line(words, message, monkeypatch, capsys):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert cli.run(harness.main, ["--model=m", "--tasks=t", *words]) == 2
    err = capsys.readouterr().err
    assert message in err and err.count("\n") == 1
