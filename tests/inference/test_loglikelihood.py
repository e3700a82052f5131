"""Log-probabilities of continuations, packed, are those of the definition."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itune.errors import UserError
from itune.inference.generate import Generator
from itune.inference.loglikelihood import Scored, Scorer
from itune.models.compute import Compute
from itune.models.config import EncoderDecoderConfig
from itune.models.spec import init_params, model_spec
from itune.parallel.config import MeshConfig
from itune.parallel.mesh import make_mesh
from tests import tiny

SPEC = tiny.spec("none")
PARAMS = tiny.params(SPEC)
T5 = model_spec(
    EncoderDecoderConfig(
        family="t5",
        vocab_size=97,
        width=32,
        num_heads=4,
        head_dim=12,
        mlp_width=40,
        encoder_layers=2,
        decoder_layers=2,
        norm_eps=1e-5,
        tied_embeddings=True,
        scaled_outputs=True,
        activation="relu",
        gated=False,
        relative_buckets=8,
        relative_max_distance=20,
    ),
    None,
)
T5_PARAMS = init_params(T5, 0, T5.paths)


def definition(context, continuation, *, prefix_lm=False) -> Scored:
    """One pair alone in its row, all logits at hand."""
    ids = np.array([[*context, *continuation]], np.int32)
    places = np.arange(ids.shape[1])[None]
    seen = (places < len(context)) if prefix_lm else None
    model = SPEC.merge(PARAMS)
    hidden = model.hidden(ids, np.ones_like(ids), places, Compute(), bidirectional_BL=seen)[0]
    logits = model.head_logits(hidden, Compute())[len(context) - 1 : -1]
    logprobs = np.asarray(jax.nn.log_softmax(logits))
    target = np.array(continuation)
    return Scored(float(logprobs[np.arange(len(target)), target].sum()), bool((logprobs.argmax(-1) == target).all()))


def t5_definition(context, continuation) -> Scored:
    cache_hidden = []
    model = T5.merge(T5_PARAMS)
    tokens = jnp.array([context], jnp.int32)
    hidden, cache, position = model.prefill(tokens, jnp.array([len(context)]), len(continuation), Compute())
    for token in continuation:
        cache_hidden.append(hidden[0])
        hidden, cache = model.decode(jnp.array([token], jnp.int32), cache, position, Compute())
        position = position + 1
    logprobs = np.asarray(jax.nn.log_softmax(model.head_logits(jnp.stack(cache_hidden), Compute())))
    target = np.array(continuation)
    return Scored(float(logprobs[np.arange(len(target)), target].sum()), bool((logprobs.argmax(-1) == target).all()))


def assert_alike(found, expected):
    for got, want in zip(found, expected, strict=True):
        assert got.logprob == pytest.approx(want.logprob, abs=1e-4)
        assert got.greedy == want.greedy


@pytest.mark.parametrize("prefix_lm", [False, True])
def test_packed_pairs_are_as_each_alone(prefix_lm):
    pairs = tiny.examples(24, seed=3, low=4, high=90)
    scorer = Scorer(SPEC, PARAMS, Compute(), batch_size=2, row_length=64, prefix_lm=prefix_lm)
    assert_alike(scorer.score(pairs), [definition(*pair, prefix_lm=prefix_lm) for pair in pairs])


def test_an_encoder_decoder_reads_the_context_in_its_encoder():
    pairs = tiny.examples(10, seed=4, low=4, high=90)
    found = Scorer(T5, T5_PARAMS, Compute(), batch_size=2, row_length=64).score(pairs)
    assert_alike(found, [t5_definition(*pair) for pair in pairs])


def test_the_order_of_pairs_changes_no_bit():
    pairs = tiny.examples(30, seed=5, high=80)
    pairs += [(pairs[0][0], [7]), (pairs[0][0], [8]), pairs[3]]
    scorer = Scorer(SPEC, PARAMS, Compute(), batch_size=2, row_length=64)
    straight = scorer.score(pairs)
    order = np.random.default_rng(0).permutation(len(pairs))
    assert [straight[i] for i in order] == scorer.score([pairs[i] for i in order])
    assert straight[3] == straight[-1]


def test_options_of_one_token_share_what_is_read():
    context, sizes = [5, 6, 7], []
    scorer = Scorer(SPEC, PARAMS, Compute())
    run = scorer._run
    scorer._run = lambda params, arrays, *rest: sizes.append(arrays["segment_ids"].max()) or run(params, arrays, *rest)
    found = scorer.score([(context, [t]) for t in range(97)])
    assert sizes == [1], "one segment for all of them"
    assert np.exp([f.logprob for f in found]).sum() == pytest.approx(1, abs=1e-5)
    assert sum(f.greedy for f in found) == 1


def test_what_greedy_decoding_writes_is_greedy():
    prompts = [inputs for inputs, _ in tiny.examples(6, seed=6)]
    written = Generator(SPEC, PARAMS, Compute()).generate(prompts, 5, [96])
    written = [ids or [96] for ids in written]
    scorer = Scorer(SPEC, PARAMS, Compute())
    assert all(s.greedy for s in scorer.score(list(zip(prompts, written, strict=True))))
    wrong = [[*ids[:-1], (ids[-1] + 1) % 97] for ids in written]
    assert not any(s.greedy for s in scorer.score(list(zip(prompts, wrong, strict=True))))


def test_a_long_context_loses_its_beginning_and_says_so():
    context, continuation = list(range(3, 43)), [9, 8, 7]
    scorer = Scorer(SPEC, PARAMS, Compute(), max_length=16)
    cut, whole = scorer.score([(context, continuation), (context[-14:], continuation)])
    assert (cut.cut, whole.cut) == (26, 0) and cut.logprob == whole.logprob, "the last token is never read"
    with pytest.raises(UserError, match="17 tokens leave no room"):
        scorer.score([(context, list(range(17)))])
    encoder = Scorer(T5, T5_PARAMS, Compute(), max_length=16)
    cut, whole = encoder.score([(context, continuation), (context[-16:], continuation)])
    assert (cut.cut, whole.cut) == (24, 0) and cut.logprob == whole.logprob


def test_nothing_is_certain_and_nothing_comes_of_nothing():
    scorer = Scorer(SPEC, PARAMS, Compute())
    assert scorer.score([([5], [])]) == [Scored(0.0, True)] and scorer.score([]) == []
    with pytest.raises(UserError, match="pair 1: the context is empty"):
        scorer.score([([5], [6]), ([], [6])])


def test_few_shapes_for_many_pairs():
    scorer, shapes = Scorer(SPEC, PARAMS, Compute(), batch_size=4, row_length=64), set()
    run = scorer._run
    scorer._run = lambda params, arrays, *rest: (
        shapes.add((*arrays["tokens"].shape, *rest[0].shape)) or run(params, arrays, *rest)
    )
    scorer.score(tiny.examples(300, seed=7, low=4, high=100))
    assert len(shapes) <= 6, shapes


def test_over_a_mesh():
    mesh = make_mesh(MeshConfig(data=4, fsdp=2))
    pairs = tiny.examples(20, seed=8)
    one = Scorer(SPEC, PARAMS, Compute(), row_length=64).score(pairs)
    assert_alike(Scorer(SPEC, PARAMS, Compute(mesh=mesh), row_length=64).score(pairs), one)
