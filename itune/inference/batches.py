"""Generation batch by batch, for encoder-decoders: a batch ends with the last of its rows.

Legend: B prompts, P prefill length, T new tokens, D width, V vocabulary, K stop tokens.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from itune.inference.beams import search
from itune.inference.request import Completion, Decode, Reply, Request
from itune.inference.sampling import Settings, choose
from itune.inference.slots import row_length
from itune.models.compute import Compute
from itune.models.encdec import START_ID, EncoderDecoder
from itune.models.spec import Model, ModelSpec, Params
from itune.parallel.arrays import fetch


def continue_batch(
    model: Model,
    tokens_BP,
    length_B,
    limit_B,
    settings: Settings,
    stops_K,
    room: int,
    compute: Compute,
    prefix_lm: bool = False,
):
    """New tokens [B, room] int32, -1 behind a row's last, and the gap between the two best scores at each.

    A row ends with the first of `stops_K` that it writes, which is among its tokens, or at `limit_B`.
    The prompt runs through the model once, every new token but the last once; nothing runs once all rows have ended.
    A repetition penalty is for what the decoder has read, its start token included, as transformers has it.
    """
    B = tokens_BP.shape[0]
    rows = jnp.arange(B)

    def pick(hidden_BD, step, done_B, seen_BV):
        logits_BV = model.head_logits(hidden_BD, compute)
        token_B, gap_B = choose(logits_BV, seen_BV, jnp.full(B, step), settings)
        ended_B = done_B | jnp.isin(token_B, stops_K) | (step + 1 >= limit_B)
        return token_B, gap_B, ended_B, seen_BV.at[rows, token_B].set(True)

    def more(carry):
        step, done_B = carry[:2]
        return (step < room) & ~done_B.all()

    def one(carry):
        step, done_B, token_B, cache, seen_BV, out, gaps = carry
        hidden_BD, cache = model.decode(token_B, cache, next_B + step - 1, compute)
        token_B, gap_B, ended_B, seen_BV = pick(hidden_BD, step, done_B, seen_BV)
        out = out.at[:, step].set(jnp.where(done_B, -1, token_B))
        return step + 1, ended_B, token_B, cache, seen_BV, out, gaps.at[:, step].set(gap_B)

    hidden_BD, cache, next_B = model.prefill(tokens_BP, length_B, room - 1, compute, prefix_lm)
    seen_BV = jnp.zeros((B, model.config.vocab_size), bool).at[:, START_ID].set(True)
    # A prompt of length 0 is a filler row: done before it starts.
    filler_B = length_B <= 0
    token_B, gap_B, done_B, seen_BV = pick(hidden_BD, jnp.zeros((), jnp.int32), filler_B, seen_BV)
    out = jnp.full((B, room), -1, jnp.int32).at[:, 0].set(jnp.where(filler_B, -1, token_B))
    gaps = jnp.zeros((B, room), jnp.float32).at[:, 0].set(gap_B)
    carry = (jnp.ones((), jnp.int32), done_B, token_B, cache, seen_BV, out, gaps)
    return jax.lax.while_loop(more, one, carry)[5:]


class Batches:
    """Requests by length, in batches of like beams."""

    def __init__(self, spec: ModelSpec, compute: Compute, *, prefix_lm: bool):
        @functools.partial(jax.jit, static_argnames="room")
        def sample(params, tokens_BP, length_B, limit_B, settings, stops_K, room):
            model = spec.merge(params)
            return continue_batch(model, tokens_BP, length_B, limit_B, settings, stops_K, room, compute, prefix_lm)

        @functools.partial(jax.jit, static_argnames=("room", "beams"))
        def beam(params, tokens_BP, length_B, penalty_B, stops_K, room, beams):
            return search(
                cast(EncoderDecoder, spec.merge(params)), tokens_BP, length_B, penalty_B, stops_K, room, beams, compute
            )

        self._sample, self._beam, self._mesh = sample, beam, compute.mesh

    def run(
        self,
        params: Params,
        requests: Sequence[Request],
        size: int,
        stop_ids: Sequence[int],
        decode: Decode | None,
        check: Callable[[], Any],
    ) -> Iterator[tuple[int, Completion]]:
        """(number of the request, its completion), a batch after another."""
        kind = lambda i: (requests[i].settings.beams, requests[i].settings.max_new_tokens)  # noqa: E731
        order = sorted(range(len(requests)), key=lambda i: (kind(i), len(requests[i].ids)))
        stops_K = np.array(sorted(set(stop_ids)), np.int32)
        while order:
            check()
            chosen = [i for i in order[:size] if kind(i) == kind(order[0])]
            order = order[len(chosen) :]
            tokens, gaps = self.batch(params, [requests[i] for i in chosen], size, stops_K)
            for row, i in enumerate(chosen):
                reply, n = Reply(requests[i], stop_ids, decode), int((tokens[row] >= 0).sum())
                reply.add(tokens[row, :n].tolist(), gaps[row, :n].tolist())
                yield i, reply.completion()

    def batch(self, params: Params, requests: Sequence[Request], size: int, stops_K: np.ndarray):
        """Of two host arrays [size, room], the first rows are the requests'; the rest are fillers, all -1."""
        tokens_BP, length_B, limit_B, settings = _arrays(requests, size)
        room, beams = int(limit_B.max()), requests[0].settings.beams
        if beams > 1:
            found = self._beam(params, tokens_BP, length_B, settings.penalty, stops_K, room=room, beams=beams)
        else:
            found = self._sample(params, tokens_BP, length_B, limit_B, settings, stops_K, room=room)
        return fetch(found)

    def lower(self, params: Params, request: Request, size: int) -> tuple[dict[str, Any], None]:
        """({"batch": lowered}, None), as `Slots.lower`: nothing lies between its calls, the cache is inside."""
        assert self._mesh is not None, "without arrays it needs to be told its devices"
        copied = NamedSharding(self._mesh, P())
        on = lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=copied)  # noqa: E731
        arrays = jax.tree.map(on, (*_arrays([request] * size, size), np.zeros(2, np.int32)))
        return {"batch": self._sample.lower(params, *arrays, room=request.settings.max_new_tokens)}, None


def _arrays(requests: Sequence[Request], size: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Settings]:
    """(tokens [size, P], lengths, limits, settings [size]); a row without a request has length 0."""
    shape = (size, row_length(max(len(request.ids) for request in requests)))
    tokens_BP, length_B, limit_B = np.zeros(shape, np.int32), np.zeros(size, np.int32), np.zeros(size, np.int32)
    for row, request in enumerate(requests):
        tokens_BP[row, : len(request.ids)] = request.ids
        length_B[row], limit_B[row] = len(request.ids), request.settings.max_new_tokens
    settings = Settings.of([requests[min(row, len(requests) - 1)].settings for row in range(size)])
    return tokens_BP, length_B, limit_B, settings
