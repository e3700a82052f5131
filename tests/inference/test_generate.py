"""Greedy generation with a cache equals the definition; and the command around it."""

from __future__ import annotations

import functools
import io
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itune import cli, generate
from itune.errors import UserError
from itune.inference.caches import CACHE
from itune.inference.config import GREEDY
from itune.inference.generate import Generator
from itune.models.compute import Compute
from itune.models.decoder import logits
from itune.parallel.config import RULES, MeshConfig
from itune.parallel.mesh import make_mesh, param_sharding
from tests import tiny
from tests.world import write_model

NEW = 6
NO_EOS = (tiny.CONFIG.vocab_size,)  # an id that is never chosen
LENGTHS = (1, 40, CACHE - 1, CACHE, CACHE + 1)


@functools.cache
def prompts() -> list[list[int]]:
    rng = np.random.default_rng(0)
    return [rng.integers(3, tiny.CONFIG.vocab_size, n).tolist() for n in LENGTHS]


@functools.cache
def params():
    return tiny.params(tiny.spec())


@functools.cache
def generator(batch_size: int = 8) -> Generator:
    return Generator(tiny.spec(), params(), Compute(), batch_size=batch_size)


@functools.cache
def complete() -> list[list[int]]:
    return generator().generate(prompts(), NEW, NO_EOS)


@jax.jit
def next_token(params, tokens_BL, n):
    """The argmax after the first n tokens of the only row: a whole forward pass, without a cache."""
    positions_BL = jnp.arange(tokens_BL.shape[1])[None]
    segments_BL = (positions_BL < n).astype(jnp.int32)
    compute = Compute(attention="reference")
    return logits(tiny.spec().merge(params), tokens_BL, segments_BL, positions_BL, compute)[0, n - 1].argmax()


def by_definition(prompt: list[int]) -> list[int]:
    ids = list(prompt)
    for _ in range(NEW):
        row = np.zeros((1, 2 * CACHE), np.int32)
        row[0, : len(ids)] = ids
        ids.append(int(next_token(params(), row, len(ids))))
    return ids[len(prompt) :]


@pytest.mark.parametrize("n", range(len(LENGTHS)), ids=[f"prompt of {n}" for n in LENGTHS])
def test_greedy_is_the_argmax_of_whole_forward_passes(n):
    assert complete()[n] == by_definition(prompts()[n])


def test_completions_tell_prompts_apart():
    """Else the comparison above would show little."""
    assert len({tuple(tokens) for tokens in complete()}) == len(LENGTHS)
    assert len(set(np.concatenate(complete()).tolist())) > 5


@pytest.mark.parametrize("batch_size", [1, 2, 3])
def test_neighbours_and_order_change_no_completion(batch_size):
    backwards = generator(batch_size).generate(prompts()[::-1], NEW, NO_EOS)
    assert backwards[::-1] == complete()


def test_eos_ends_its_row_and_no_other():
    whole = complete()
    eos = whole[2][3]
    cut = [tokens[: tokens.index(eos)] if eos in tokens else tokens for tokens in whole]
    assert any(len(c) < NEW for c in cut) and any(len(c) == NEW for c in cut)
    assert generator().generate(prompts(), NEW, (eos,)) == cut
    other = whole[0][2]
    both = [tokens[: min(map(tokens.index, {eos, other} & {*tokens}), default=NEW)] for tokens in whole]
    assert both != cut and generator().generate(prompts(), NEW, (eos, other)) == both, "the first of either ends it"


def test_the_gaps_are_those_between_the_two_best_logits():
    (tokens, gaps), *_ = generator(1).generate_with_gaps([prompts()[1]], NEW, NO_EOS)
    spec, row = tiny.spec(), jnp.asarray([prompts()[1] + tokens[:-1]])
    positions_BL = jnp.arange(row.shape[1])[None]
    compute = Compute(attention="reference")
    found = logits(spec.merge(params()), row, jnp.ones_like(row), positions_BL, compute)[0, -NEW:]
    best = jnp.sort(found, axis=-1)
    np.testing.assert_allclose(gaps, best[:, -1] - best[:, -2], atol=1e-4)


def test_a_mesh_gives_the_same_completions():
    """Also where its devices outnumber the prompts: rows are filled up."""
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    spec = tiny.spec()
    placed = {p: jax.device_put(a, param_sharding(mesh, spec.axes[p], a.shape, RULES)) for p, a in params().items()}
    found = Generator(spec, placed, Compute(mesh=mesh), batch_size=8).generate(prompts()[:2], NEW, NO_EOS)
    assert found == complete()[:2]


def test_prompts_of_like_length_compile_once():
    fresh = Generator(tiny.spec(), params(), Compute(), batch_size=4)
    compiled = lambda: (fresh._slots.admit._cache_size(), fresh._slots.advance._cache_size())  # noqa: E731
    fresh.generate([[5] * n for n in (20, 30, 25, 27)], 2, NO_EOS)
    fresh.generate([[6] * n for n in (22, 29, 30, 31, 22, 29, 30, 31)], 3, NO_EOS)
    assert compiled() == (1, 1)
    fresh.generate([[6] * (CACHE + 1)] * 3, 2, NO_EOS)
    assert compiled() == (2, 2), "a longer cache, longer rows"


def test_check_can_stop_between_batches():
    calls = []

    def check():
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        generator(1).generate(prompts()[:1] * 5, NEW, NO_EOS, check=check)
    assert len(calls) == 3


def test_prompts_that_cannot_be_continued_are_named():
    with pytest.raises(UserError, match="prompt 1 is empty"):
        generator().generate([[5], []], NEW, NO_EOS)
    longest = tiny.CONFIG.max_positions - NEW
    generator().check_length("p", longest, NEW)
    with pytest.raises(UserError, match=rf"prompt 0 has {longest + 1} tokens; with {NEW} new ones .* 512 positions"):
        generator().generate([[5] * (longest + 1)], NEW, NO_EOS)
    with pytest.raises(UserError, match="at least 1"):
        generator().generate([[5]], 0, NO_EOS)


# ---- the command ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> str:
    return str(write_model(tmp_path_factory.mktemp("generate") / "model"))


@pytest.fixture
def command(capsys):
    """python -m itune.generate ARGS, in this process -> (exit code, stdout, stderr)."""

    def run(*argv: str) -> tuple[int, str, str]:
        code = cli.run(generate.main, argv)
        out, err = capsys.readouterr()
        return code, out, err

    return run


def stdin(monkeypatch, text: str) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_json_has_a_line_for_each_prompt_in_order(command, model):
    # The longest first: prompts are decoded by length, and come back in order.
    asked = ["a prompt much longer than the next", "é", "third"]
    few = ("--max_new_tokens=4", "--format=json")
    code, out, err = command(f"--model={model}", *(f"--prompt={text}" for text in asked), *few, "--batch_size=2")
    assert code == 0
    lines = [json.loads(line) for line in out.splitlines()]
    assert [line["prompt"] for line in lines] == asked
    assert all(set(line) == {"prompt", "completion", "tokens"} and 0 <= line["tokens"] <= 4 for line in lines)
    assert err == f"{model}: prompt format 'chat'\n", "the tokenizer has a template, so chat is the default; it says so"
    alone = [json.loads(command(f"--model={model}", f"--prompt={text}", *few)[1]) for text in asked]
    assert alone == lines


def test_the_prompt_format_changes_what_the_model_sees(command, model):
    flags = (f"--model={model}", "--prompt=hello", "--max_new_tokens=8")
    chat, plain = command(*flags, "--prompt_format=chat"), command(*flags, "--prompt_format=plain")
    assert chat[0] == plain[0] == 0
    assert chat[1] != plain[1] and chat[2] == plain[2] == ""
    assert command(*flags)[1] == chat[1]


def test_prompts_from_files_and_stdin(command, model, tmp_path, monkeypatch):
    (tmp_path / "p.txt").write_text("one\nadd\n")
    (tmp_path / "p.jsonl").write_text(
        '{"prompt": "one"}\n\n{"instruction": "add", "input": " "}\n{"instruction": "add", "input": "1, 2"}\n'
    )
    flags = (f"--model={model}", "--max_new_tokens=3", "--format=json")

    def texts(path: str) -> list[str]:
        code, out, _ = command(*flags, f"--prompts={path}")
        assert code == 0
        return [json.loads(line)["prompt"] for line in out.splitlines()]

    assert texts(str(tmp_path / "p.txt")) == ["one", "add"]
    assert texts(str(tmp_path / "p.jsonl")) == ["one", "add", "add\n\n1, 2"]
    stdin(monkeypatch, "one\nadd")
    assert texts("-") == ["one", "add"]


def test_chat_keeps_history_in_the_chat_format_only(command, model, monkeypatch):
    answers = {}
    for prompt_format in ("chat", "plain"):
        stdin(monkeypatch, "hello\n\nhello\n/quit\nnever seen\n")
        flags = (f"--prompt_format={prompt_format}", "--max_new_tokens=5")
        code, out, _ = command(f"--model={model}", "--chat", *flags)
        assert code == 0
        one = command(f"--model={model}", "--prompt=hello", *flags)[1]
        answers[prompt_format] = (out, one)
    out, one = answers["plain"]
    assert out == one * 2, "every line stands for itself"
    out, one = answers["chat"]
    assert out.startswith(one), "the first question is what --prompt asks"
    assert out != one * 2, "the second is asked after the first and its answer"


def test_a_conversation_sends_the_whole_history_and_forgets_its_beginning(model):
    from itune.inference import session, terminal

    loaded, notes = session.load(model), []
    talk = terminal.Conversation(loaded, GREEDY.updated({"max_new_tokens": 4}), notes.append)
    seen = []
    talk._generate = lambda ids: seen.append(loaded.tokenizer._tokenizer.decode(ids, skip_special_tokens=False)) or "ok"
    talk.reply("first")
    talk.reply("second")
    assert seen[1] == "<s>user: first</s><s>assistant: ok</s><s>user: second</s><s>assistant: "
    assert notes == []
    room = talk._generator.max_length
    talk.reply("x" * (room - 60))
    assert len(notes) == 1 and "forgotten" in notes[0]
    assert "first" not in seen[2] and seen[2].endswith("<s>assistant: ")
    with pytest.raises(UserError, match="the prompt has"):
        terminal.Conversation(loaded, GREEDY.updated({"max_new_tokens": 4}), notes.append).reply("x" * room)


def test_settings_of_flags_and_of_records(command, model, tmp_path):
    """A record's own settings stand over the flags'; a prompt's completion is the same alone and among others."""
    rows = [{}, {"seed": 8}, {"temperature": 0}, {"max_new_tokens": 2}, {}]
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": "hello", **row}) + "\n" for row in rows))
    flags = (f"--model={model}", "--format=json", "--max_new_tokens=9", "--temperature=2", "--top_k=50", "--seed=7")
    code, out, err = command(*flags, f"--prompts={tmp_path / 'p.jsonl'}", "--batch_size=2")
    assert code == 0, err
    lines = [json.loads(line) for line in out.splitlines()]
    assert lines[0] == lines[4] != lines[1], "the seed decides"
    assert lines[3]["tokens"] == 2 and len({line["completion"] for line in lines}) == 4
    greedy = command(f"--model={model}", "--format=json", "--max_new_tokens=9", "--prompt=hello")[1]
    assert json.loads(greedy) == lines[2] and json.loads(command(*flags, "--prompt=hello")[1]) == lines[0]


def test_two_models_side_by_side_and_a_stop_string(command, model, tmp_path):
    other = str(write_model(tmp_path / "other", seed=1))
    few = ("--prompt=hello", "--max_new_tokens=8", "--format=json")
    one, two = (json.loads(command(f"--model={name}", *few)[1]) for name in (model, other))
    assert one != two
    both = (f"--model={model}", f"--model={other}", "--prompt=hello", "--max_new_tokens=8")
    assert json.loads(command(*both, "--format=json")[1]) == [{"model": model, **one}, {"model": other, **two}]
    expected = f"[{model}]\n{one['completion']}\n[{other}]\n{two['completion']}\n"
    assert command(*both)[1] == expected
    stop = one["completion"][2]
    cut = json.loads(command(f"--model={model}", *few, f"--stop={stop}")[1])
    assert cut["completion"] == one["completion"].partition(stop)[0].strip() and cut["tokens"] < one["tokens"]


LONG = "x" * 3000


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["--prompt=a", "--prompts=b.txt"], "both --prompt and --prompts"),
        ([], "no prompt: give --prompt=TEXT"),
        (["--prompt= "], "--prompt: an empty prompt"),
        (["--prompts=missing.txt"], "--prompts=missing.txt: No such file"),
        (["--prompt=a", "--chat"], "--chat reads its prompts from standard input"),
        (["--prompt=a", "--gin.TRAIN_STEPS=1"], "--gin.TRAIN_STEPS=1: generate takes no gin bindings"),
        (["--prompt=a", "--max_new_tokens=0"], "must be at least 1"),
        (["--prompt=a", "--top_p=0.9"], "--top_p=0.9 does nothing at temperature 0"),
        (["--prompt=a", "--temperature=-1"], "--temperature=-1.0 must be 0 (greedy) or more"),
        (["--prompt=a", "--stop="], "--stop=('',) must be texts that are not empty"),
        (["--prompt=a", "--beams=2"], "--prompt: the prompt asks for beams=2: beam search is for encoder-decoders"),
        (["--chat", "--model=other"], "--chat is with one model"),
        (["--prompt=a", "--step=1", "--step=2"], "--step was given 2 times for 1 models"),
        (["--prompt=a", "--step=3"], "--step=3 picks a checkpoint of a run"),
        (["--prompt=a", "--promt=b"], "Did you mean '--prompt'?"),
        (["--prompt=a", f"--prompt={LONG}", "--max_new_tokens=4"], "--prompt: the prompt has 30"),
    ],
)
def test_slips_are_one_line(command, model, argv, message):
    code, out, err = command(f"--model={model}", *argv)
    assert code == 2 and out == ""
    assert message in err.splitlines()[-1] and err.splitlines()[-1].startswith("itune: error: ")
    assert "Traceback" not in err


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            '{"prompt": "a"}\n{"promt": "b"}\n',
            "p.jsonl:2: neither 'prompt' nor 'instruction' in it. Did you mean 'prompt'?",
        ),
        ("{\n", "p.jsonl:1: not JSON"),
        ("[1]\n", "p.jsonl:1: expected a JSON object, found list"),
        ('{"prompt": 3}\n', "p.jsonl:1: 'prompt' must be text, found int"),
        ('{"prompt": "a", "top_k": 3}\n', "p.jsonl:1: top_k=3 does nothing at temperature 0"),
        ('{"prompt": "a", "seed": "x"}\n', "p.jsonl:1: seed='x' must be a whole number"),
        ('{"prompt": ""}\n', "p.jsonl:1: an empty prompt"),
        ("\n", "holds no prompt"),
    ],
)
def test_a_bad_record_is_named(command, model, tmp_path, text, message):
    (tmp_path / "p.jsonl").write_text(text)
    code, _, err = command(f"--model={model}", f"--prompts={tmp_path / 'p.jsonl'}")
    assert code == 2 and message in err and err.count("\n") == 1


def test_a_model_that_is_not_there(command, model):
    code, _, err = command(f"--model={model}s", "--prompt=a")
    assert code == 2 and err.count("\n") == 1
    assert "no such run directory" in err and f"Did you mean '{model}'?" in err


def test_a_prefix_lms_prompt_is_read_in_both_directions():
    """Greedy tokens are those of whole forward passes with the prompt marked, and not those of a causal model."""
    spec, values, prompt = tiny.spec(), params(), prompts()[3]
    causal, prefix = (
        Generator(spec, values, Compute(), batch_size=1, prefix_lm=on).generate([prompt], NEW, NO_EOS)[0]
        for on in (False, True)
    )
    # One pass over the prompt and what came out: each token must be the best one after those before it.
    tokens = jnp.asarray([[*prompt, *prefix[:-1]]])
    positions, model = jnp.arange(tokens.shape[1])[None], spec.merge(values)
    marks = positions < len(prompt)
    hidden = model.hidden(tokens, jnp.ones_like(tokens), positions, Compute(), bidirectional_BL=marks)
    best = model.head_logits(hidden[0, len(prompt) - 1 :], Compute()).argmax(axis=-1)
    assert prefix == best.tolist() != causal
