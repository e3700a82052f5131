"""Beam search as transformers has it, with length_penalty 1 and early_stopping False, for encoder-decoders.

Requests of like beams go batch by batch, prompts of like length together; a batch ends with the last of its rows.

Legend: B prompts, P their length, W beams, C candidates a prompt, T new tokens, V vocabulary, K stop tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np

from itune.inference.request import Completion, Decode, Reply, Request
from itune.inference.sampling import Settings, penalise
from itune.inference.slots import row_length
from itune.models.compute import Compute
from itune.models.encdec import START_ID, EncoderDecoder
from itune.models.spec import ModelSpec, Params
from itune.parallel.arrays import fetch

NEVER = -1e9  # the score of what must not be chosen


class Beams(NamedTuple):
    """Of each prompt, best first: its W beams, tokens [B, W, T] (-1 behind the last) and their scores [B, W].

    ended: of those that have ended, which are real.
    """

    tokens: jax.Array
    scores: jax.Array
    ended: jax.Array

    def best(self, places_BC) -> Beams:
        take = lambda x: jnp.take_along_axis(x, places_BC.reshape(*places_BC.shape, *[1] * (x.ndim - 2)), axis=1)  # noqa: E731
        return Beams(*map(take, self))


def search(model: EncoderDecoder, tokens_BP, length_B, penalty_B, stops_K, room: int, beams: int, compute: Compute):
    """The best ended beam of each prompt: tokens [B, room], -1 behind the last. A prompt of length 0 has none.

    A beam's score is the sum of its tokens' log-probabilities (after the repetition penalty); of one that has ended,
    over its length. A prompt is done once its best open beam, ended now, would fall behind all its ended ones.
    """
    B, W = tokens_BP.shape[0], beams
    C = max(2, 1 + stops_K.shape[0]) * W  # were all the best to end, W would still go on

    def step_scores(hidden, seen_XV):
        logits_XV = model.head_logits(hidden, compute)
        return penalise(jax.nn.log_softmax(logits_XV, axis=-1), seen_XV, jnp.repeat(penalty_B, W))

    def extend(step, hidden, going: Beams, ended: Beams, open_B, seen_XV):
        V = seen_XV.shape[1]
        sums_BWV = step_scores(hidden, seen_XV).reshape(B, W, V) + going.scores[..., None]
        sum_BC, place_BC = jax.lax.top_k(sums_BWV.reshape(B, W * V), C)
        from_BC, token_BC = place_BC // V, (place_BC % V).astype(jnp.int32)
        ends_BC = jnp.isin(token_BC, stops_K) | (step + 1 >= room)
        grown = going.best(from_BC).tokens.at[:, :, step].set(token_BC)
        # Only the W best of the candidates may end; the others are there to go on.
        counts_BC = ends_BC & (jnp.arange(C) < W)[None] & open_B[:, None]
        final_BC = jnp.where(counts_BC, sum_BC / (step + 1), NEVER)
        pool = Beams(grown, final_BC, counts_BC)
        both = Beams(*(jnp.concatenate(pair, axis=1) for pair in zip(ended, pool, strict=True)))
        ended = both.best(jax.lax.top_k(both.scores, W)[1])
        going_BC = jnp.where(ends_BC, sum_BC + NEVER, sum_BC)
        kept_BW = jax.lax.top_k(going_BC, W)[1]
        going = Beams(grown, going_BC, ends_BC).best(kept_BW)
        worst_BW = jnp.where(ended.ended, ended.scores.min(axis=1, keepdims=True), NEVER)
        open_B = open_B & (going.scores[:, :1] / (step + 1) > worst_BW).any(axis=1)
        rows_X = (jnp.arange(B)[:, None] * W + jnp.take_along_axis(from_BC, kept_BW, axis=1)).reshape(-1)
        newest_X = going.tokens[:, :, step].reshape(-1)
        return going, ended, open_B, rows_X, newest_X

    def more(carry):
        step, open_B = carry[0], carry[3]
        return (step < room) & open_B.any()

    def one(carry):
        step, going, ended, open_B, token_X, cache, seen_XV = carry
        hidden, cache = model.decode(token_X, cache, jnp.full(B * W, step), compute)
        going, ended, open_B, rows_X, token_X = extend(step, hidden, going, ended, open_B, seen_XV)
        return step + 1, going, ended, open_B, token_X, model.pick(cache, rows_X), mark(seen_XV[rows_X], token_X)

    def mark(seen_XV, token_X):
        return seen_XV.at[jnp.arange(B * W), token_X].set(True)

    hidden_BD, cache, _ = model.prefill(tokens_BP, length_B, room - 1, compute)
    cache, hidden = model.repeat(cache, W), jnp.repeat(hidden_BD, W, axis=0)
    nothing = jnp.full((B, W, room), -1, jnp.int32)
    # All beams of a prompt are the same yet: only the first may be continued.
    first_BW = jnp.broadcast_to(jnp.where(jnp.arange(W) > 0, NEVER, 0.0)[None], (B, W))
    never_BW = jnp.full((B, W), NEVER)
    no_BW = jnp.zeros((B, W), bool)
    seen_XV = mark(jnp.zeros((B * W, model.config.vocab_size), bool), jnp.full(B * W, START_ID))
    begin = jnp.zeros((), jnp.int32)
    going, ended, open_B, rows_X, token_X = extend(
        begin, hidden, Beams(nothing, first_BW, no_BW), Beams(nothing, never_BW, no_BW), length_B > 0, seen_XV
    )
    cache, seen_XV = model.pick(cache, rows_X), mark(seen_XV[rows_X], token_X)
    carry = (begin + 1, going, ended, open_B, token_X, cache, seen_XV)
    return jax.lax.while_loop(more, one, carry)[2].tokens[:, 0]


class BeamBatches:
    """Requests for beams, in batches."""

    def __init__(self, spec: ModelSpec, compute: Compute):
        @functools.partial(jax.jit, static_argnames=("room", "beams"))
        def found(params, tokens_BP, length_B, penalty_B, stops_K, room, beams):
            model = cast(EncoderDecoder, spec.merge(params))
            return search(model, tokens_BP, length_B, penalty_B, stops_K, room, beams, compute)

        self._found = found

    def run(
        self,
        params: Params,
        requests: Sequence[Request],
        size: int,
        stop_ids: Sequence[int],
        decode: Decode | None,
        check: Callable[[], Any],
    ) -> Iterator[tuple[int, Completion]]:
        """(number of the request, its completion), a batch of `size` after another."""
        kind = lambda i: (requests[i].settings.beams, requests[i].settings.max_new_tokens)  # noqa: E731
        order = sorted(range(len(requests)), key=lambda i: (kind(i), len(requests[i].ids)))
        stops_K = np.array(sorted(set(stop_ids)), np.int32)
        while order:
            check()
            chosen = [i for i in order[:size] if kind(i) == kind(order[0])]
            order = order[len(chosen) :]
            tokens_BT = self._batch(params, [requests[i] for i in chosen], size, stops_K)
            for row, i in enumerate(chosen):
                reply, n = Reply(requests[i], stop_ids, decode), int((tokens_BT[row] >= 0).sum())
                reply.add(tokens_BT[row, :n].tolist(), [0.0] * n)
                yield i, reply.completion()

    def _batch(self, params: Params, requests: Sequence[Request], size: int, stops_K: np.ndarray) -> np.ndarray:
        """[size, room]: the first rows are the requests'; the rest are fillers."""
        length = row_length(max(len(request.ids) for request in requests))
        tokens_BP, length_B = np.zeros((size, length), np.int32), np.zeros(size, np.int32)
        for row, request in enumerate(requests):
            tokens_BP[row, : len(request.ids)] = request.ids
            length_B[row] = len(request.ids)
        settings = Settings.of([requests[min(row, len(requests) - 1)].settings for row in range(size)])
        first = requests[0].settings
        how = {"room": first.max_new_tokens, "beams": first.beams}
        return fetch(self._found(params, tokens_BP, length_B, settings.penalty, stops_K, **how))
