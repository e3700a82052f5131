"""Requests of every kind together in few slots are what each is alone; stop strings; encoder-decoders."""

from __future__ import annotations

import functools

import jax
import numpy as np
import pytest

from itune.errors import UserError
from itune.inference.caches import cache_length
from itune.inference.config import GREEDY, SamplingConfig
from itune.inference.generate import Generator
from itune.inference.request import Completion, Reply, Request
from itune.inference.slots import CHUNK, row_length
from itune.models.compute import Compute
from itune.models.config import EncoderDecoderConfig
from itune.models.encdec import START_ID
from itune.models.layers import NO_DROPOUT
from itune.models.spec import init_params, model_spec
from itune.parallel.config import RULES, MeshConfig
from itune.parallel.mesh import make_mesh, param_sharding
from tests import tiny

NEVER = (tiny.CONFIG.vocab_size,)  # a stop token that is never written
TIE = 1e-3
KINDS = (
    SamplingConfig(max_new_tokens=5),
    SamplingConfig(max_new_tokens=CHUNK + 9, temperature=1.0, seed=3),
    SamplingConfig(max_new_tokens=1, temperature=1.0, seed=4),
    SamplingConfig(max_new_tokens=11, temperature=0.8, top_k=9, top_p=0.9, seed=2**32 - 1),
    SamplingConfig(max_new_tokens=CHUNK + 1, repetition_penalty=1.5),
    SamplingConfig(max_new_tokens=7, temperature=1.2, min_p=0.02, repetition_penalty=1.1, seed=5),
)
LENGTHS = (3, 70, 20, 350, 1, 90, 33, 8, 129, 64, 2, 15)
T5 = EncoderDecoderConfig(
    family="t5_gated",
    vocab_size=97,
    width=32,
    encoder_layers=2,
    decoder_layers=2,
    num_heads=4,
    head_dim=12,
    mlp_width=40,
    norm_eps=1e-5,
    tied_embeddings=False,
    scaled_outputs=False,
    activation="gelu_tanh",
    gated=True,
    relative_buckets=8,
    relative_max_distance=20,
)


def letters(ids: list[int]) -> str:
    """Two characters a token: a stop string may begin in the middle of one and end in another."""
    return "".join(chr(97 + i // 10) + str(i % 10) for i in ids)


@functools.cache
def params():
    return tiny.params(tiny.spec())


@functools.cache
def generator(batch_size: int) -> Generator:
    return Generator(tiny.spec(), params(), Compute(), batch_size=batch_size)


@functools.cache
def requests() -> list[Request]:
    rng = np.random.default_rng(3)
    return [
        Request(ids=rng.integers(3, tiny.CONFIG.vocab_size, n).tolist(), settings=KINDS[i % len(KINDS)])
        for i, n in enumerate(LENGTHS)
    ]


@functools.cache
def alone() -> list[Completion]:
    return [generator(1).complete([request], NEVER)[0] for request in requests()]


@functools.cache
def encoder_decoder(batch_size: int, mesh: bool = False) -> Generator:
    spec = model_spec(T5)
    weights = init_params(spec, 0, spec.paths)
    if not mesh:
        return Generator(spec, weights, Compute(), batch_size=batch_size)
    laid = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    placed = {p: jax.device_put(a, param_sharding(laid, spec.axes[p], a.shape, RULES)) for p, a in weights.items()}
    return Generator(spec, placed, Compute(mesh=laid), batch_size=batch_size)


@functools.cache
def encoded_alone() -> list[Completion]:
    return [encoder_decoder(1).complete([request], NEVER)[0] for request in requests()]


MADE = pytest.mark.parametrize("made", [generator, encoder_decoder], ids=["decoder", "encoder-decoder"])


def same(found: list[Completion], expected: list[Completion]) -> None:
    """Token by token, but from where two scores lie within TIE of each other anything may follow."""
    compared = 0
    for n, (one, other) in enumerate(zip(found, expected, strict=True)):
        for step, (a, b) in enumerate(zip(one.tokens, other.tokens, strict=True)):
            compared += 1
            if a != b:
                assert min(one.gaps[step], other.gaps[step]) < TIE, (n, step, one, other)
                break
    assert compared > 0.9 * sum(len(c.tokens) for c in expected), "ties must stay the exception"


def test_each_request_has_as_many_tokens_as_it_asked_for():
    assert [len(c.tokens) for c in alone()] == [r.settings.max_new_tokens for r in requests()]
    assert {c.ended for c in alone()} == {"length"}


@pytest.mark.parametrize("slots", [3, 8])
def test_neighbours_slots_and_order_change_no_completion(slots):
    same(generator(slots).complete(requests(), NEVER), alone())
    same(generator(slots).complete(requests()[::-1], NEVER)[::-1], alone())


def test_a_mesh_changes_no_completion():
    mesh = make_mesh(MeshConfig(data=2, fsdp=2, tensor=2))
    spec = tiny.spec()
    placed = {p: jax.device_put(a, param_sharding(mesh, spec.axes[p], a.shape, RULES)) for p, a in params().items()}
    same(Generator(spec, placed, Compute(mesh=mesh), batch_size=8).complete(requests(), NEVER), alone())


@MADE
def test_seeds_tell_requests_apart_and_nothing_else_does(made):
    settings = [SamplingConfig(max_new_tokens=12, temperature=1.5, seed=seed) for seed in (1, 2, 1, 3)]
    found = made(3).complete([Request(ids=[5, 6, 7], settings=s) for s in settings], NEVER)
    assert found[0].tokens == found[2].tokens
    assert len({tuple(c.tokens) for c in found}) == 3


@MADE
def test_a_free_slot_is_taken_before_the_others_are_done(made):
    """Two slots, one long request, many short ones: the long one must not be waited for."""
    # By prompt and reply together the long one is first in line.
    long = Request(ids=[5] * 9, settings=SamplingConfig(max_new_tokens=60))
    short = Request(ids=[6] * 70, settings=SamplingConfig(max_new_tokens=4))
    looks = []
    ended = [i for i, _ in made(2).stream([long, *[short] * 6], NEVER, check=lambda: looks.append(1))]
    assert ended[-1] == 0 and sorted(ended) == list(range(7))
    assert len(looks) <= 7 + 60 // CHUNK


@MADE
@pytest.mark.parametrize("slots", [1, 3])
def test_a_stop_string_ends_its_request_where_it_first_stands(made, slots):
    """It spans tokens; what it leaves does not depend on where the host looked."""
    expected = alone() if made is generator else encoded_alone()
    whole = expected[1]
    text = letters(whole.tokens)
    stop = next(text[n : n + 3] for n in range(2 * CHUNK - 3, len(text), 2) if text.index(text[n : n + 3]) == n)
    asked = list(requests())
    asked[1] = Request(ids=asked[1].ids, settings=asked[1].settings.updated({"stop": ["zzz", stop]}))
    found = made(slots).complete(asked, NEVER, decode=letters)
    cut = text.index(stop)
    assert found[1].text == text[:cut] and found[1].ended == "string"
    assert found[1].tokens == whole.tokens[: -(-(cut + len(stop)) // 2)]
    assert found[1].text and stop not in found[1].text
    same(found[:1] + found[2:], expected[:1] + expected[2:])


def test_a_reply_is_the_same_however_many_tokens_come_at_a_time():
    tokens, stop_id = [11, 12, 13, 14, 96, 15], 96
    for stop, expected in ((), ("token", [11, 12, 13, 14])), (("2b3",), ("string", [11, 12, 13])):
        for size in (1, 2, 3, 6):
            reply = Reply(Request(ids=[1], settings=GREEDY.updated({"stop": list(stop)})), [stop_id], letters)
            for n in range(0, len(tokens), size):
                if not reply.ended:
                    reply.add(tokens[n : n + size], [1.0] * len(tokens[n : n + size]))
            found = reply.completion()
            assert (found.ended, found.tokens) == expected
            assert found.text == letters(found.tokens).partition("2b3" if stop else "-")[0]


def test_a_repetition_penalty_is_for_prompt_and_completion():
    """So large a one that whatever was seen loses to any positive logit that was not."""
    request = Request(ids=list(range(3, 50)), settings=SamplingConfig(max_new_tokens=8, repetition_penalty=1e6))
    found = generator(1).complete([request], NEVER)[0].tokens
    assert len({*found}) == 8 and not {*found} & {*request.ids}


def test_beams_are_for_encoder_decoders():
    with pytest.raises(UserError, match="prompt 0 asks for beams=2: beam search is for encoder-decoders"):
        generator(1).complete([Request(ids=[5], settings=SamplingConfig(beams=2))], NEVER)


def test_shapes_are_few():
    assert [row_length(n) for n in (1, 64, 65, 128, 129, 193, 300, 385, 512, 700)] == [
        *(64, 64, 128, 128, 192, 256, 384, 512, 512, 768)
    ]
    assert [cache_length(n) for n in (1, 128, 129, 500)] == [128, 128, 256, 512]
    assert len({row_length(n) for n in range(1, 4096)}) < 15


def test_an_encoder_decoders_requests_are_what_each_is_alone():
    """Slots are left and taken at other positions of the reply, with other prompts beside them, the caches growing."""
    assert [len(c.tokens) for c in encoded_alone()] == [r.settings.max_new_tokens for r in requests()]
    same(encoder_decoder(3).complete(requests(), NEVER), encoded_alone())
    same(encoder_decoder(8).complete(requests()[::-1], NEVER)[::-1], encoded_alone())
    same(encoder_decoder(8, mesh=True).complete(requests(), NEVER), encoded_alone())


def test_an_encoder_decoders_tokens_are_those_of_its_whole_forward_pass():
    """Greedy, without a cache: the packed batch's hidden states, one example a row."""
    spec = model_spec(T5)
    model = spec.merge(init_params(spec, 0, spec.paths))
    for n in (0, 1, 3):
        request = Request(ids=requests()[n].ids, settings=SamplingConfig(max_new_tokens=6))
        (found,) = encoder_decoder(3).complete([request], NEVER)
        fed = np.array([[START_ID, *found.tokens[:-1]]], np.int32)
        ones = np.ones((1, len(request.ids)), np.int32)
        memory = model.encode(np.array([request.ids], np.int32), ones, Compute())
        seen = (memory, np.ones((1, fed.shape[1], len(request.ids)), bool))
        causal = np.tril(np.ones((1, fed.shape[1], fed.shape[1]), bool))
        hidden = model._scaled(model.decoder(model._embed(fed, Compute()), causal, seen, Compute(), NO_DROPOUT, 9))
        logits = np.asarray(model.head_logits(hidden[0], Compute()))
        assert logits.argmax(axis=1).tolist() == found.tokens
        top = np.sort(logits, axis=1)
        np.testing.assert_allclose(found.gaps, top[:, -1] - top[:, -2], atol=1e-4)
        told = jax.nn.log_softmax(logits)[np.arange(6), found.tokens].sum()
        assert found.logprob == pytest.approx(float(told), abs=1e-4)


def test_fewer_steps_run_than_batch_by_batch(monkeypatch):
    """Replies that stop tokens end here and there: a batch would last as long as the longest of its replies."""
    size, stops, rng = 3, tuple(range(3, 97, 12)), np.random.default_rng(1)
    asked = [
        Request(
            ids=rng.integers(3, 97, n).tolist(), settings=SamplingConfig(max_new_tokens=60, temperature=2.0, seed=n)
        )
        for n in range(4, 16)
    ]
    slots, steps, tokens = encoder_decoder(size)._slots, [], []
    advance = slots.advance

    def counted(*arguments):
        state, written = advance(*arguments)
        # A step runs only while some slot writes; the first column is for what a prefill has written.
        real_SC = np.asarray(written[0])[:, 1:] >= 0
        steps.append(int(real_SC.any(axis=0).sum()))
        tokens.append(int(real_SC.sum()))
        return state, written

    monkeypatch.setattr(slots, "advance", counted)
    found = encoder_decoder(size).complete(asked, stops)
    lengths = [len(c.tokens) + (c.ended == "token") for c in found]
    assert sum(tokens) == sum(lengths) and len({*lengths}) > size
    # Prompts of like length together: the order they are in.
    by_batch = sum(max(lengths[n : n + size]) for n in range(0, len(asked), size))
    assert sum(lengths) / size <= sum(steps) < 0.8 * by_batch


def test_a_log_probability_is_the_models_own_and_counts_the_stop_token():
    """The same tokens greedily, with a penalty that leaves them, or ended by a token that is then counted, too."""
    request = requests()[0]
    (whole,) = generator(1).complete([Request(ids=request.ids, settings=SamplingConfig(max_new_tokens=6))], NEVER)
    (one,) = generator(1).complete([Request(ids=request.ids, settings=SamplingConfig(max_new_tokens=1))], NEVER)
    stop = next(t for t in whole.tokens[1:] if t != whole.tokens[0])
    n = whole.tokens.index(stop)
    asked = [Request(ids=request.ids, settings=SamplingConfig(max_new_tokens=m)) for m in (6, n + 1)]
    (cut,), (upto,) = generator(1).complete(asked[:1], (stop,)), generator(1).complete(asked[1:], NEVER)
    assert cut.tokens == whole.tokens[:n] and cut.ended == "token"
    assert cut.logprob == pytest.approx(upto.logprob, abs=1e-5) and upto.logprob < one.logprob < 0


def test_beams_and_others_go_together():
    """And stop tokens that some of them write."""
    kinds = (*KINDS[:4], SamplingConfig(max_new_tokens=9, beams=3), SamplingConfig(max_new_tokens=9))
    asked = [Request(ids=r.ids, settings=kinds[i % len(kinds)]) for i, r in enumerate(requests()) if len(r.ids) < 65][
        :6
    ]
    whole = [encoder_decoder(1).complete([request], NEVER)[0] for request in asked]
    assert len({tuple(c.tokens[:4]) for c in whole}) > 2
    assert [c.logprob is None for c in whole] == [r.settings.beams > 1 for r in asked]
    same(encoder_decoder(4).complete(asked, NEVER), whole)
    stop = whole[-1].tokens[5]
    ended = encoder_decoder(4).complete(asked, (stop,))
    for request, cut, full in zip(asked, ended, whole, strict=True):
        if request.settings.beams == 1:
            n = full.tokens.index(stop) if stop in full.tokens else len(full.tokens)
            assert cut.tokens == full.tokens[:n]
    assert any(c.ended == "token" for c in ended)
