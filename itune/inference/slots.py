"""Continuous batching: slots that requests take and leave, a cache beside them, compiled steps over all of them.

Legend: S slots, R packed rows, P their length, D width, V vocabulary, K stop tokens, C steps a chunk.
Waiting prompts are prefilled packed, several in a row like examples in training, so that no shape is padded far.
Which slot a request has, and what runs beside it, enters none of its numbers but by rounding.
"""

from __future__ import annotations

import functools
import math
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from itune.inference.caches import Arrivals, Lengths, cache_of
from itune.inference.request import Completion, Decode, Reply, Request
from itune.inference.sampling import Settings, choose
from itune.models.compute import Compute
from itune.models.spec import ModelSpec, Params
from itune.parallel.arrays import fetch, spans_processes

PIECE = 64  # packed rows are this long, or 2, 3, 4, 6, 8, 12, ... times: few shapes, few compilations
PACKED = 512  # tokens of a packed row, unless one prompt is longer
CHUNK = 16  # steps between two looks by the host


class State(NamedTuple):
    """Of all slots, on the devices.

    cache: see `itune.inference.caches`.  token: the newest, not yet in the cache.  position: where it goes.
    gap, logprob: of `token`, as `choose` has them.  written: tokens of the request so far.  limit: to write.
    done: the slot is free, or its request has ended.  fresh: `token` came from the prefill and was not handed out yet.
    seen: what a repetition penalty is for.
    """

    cache: Any
    token: jax.Array
    gap: jax.Array
    logprob: jax.Array
    position: jax.Array
    written: jax.Array
    limit: jax.Array
    done: jax.Array
    fresh: jax.Array
    seen: jax.Array
    settings: Settings


def row_length(n: int) -> int:
    """The least of 64, 128, 192, 256, 384, 512, 768, ... that holds n."""
    power = PIECE * 2 ** max(0, math.ceil(math.log2(n / PIECE)))
    return power * 3 // 4 if power > 2 * PIECE and n <= power * 3 // 4 else power


class Slots:
    """The compiled side, and the loop around it."""

    def __init__(self, spec: ModelSpec, compute: Compute, *, rows: int, prefix_lm: bool):
        """rows: packed rows of a prefill: as many as devices take rows."""
        self.spec, self.compute, self.rows = spec, compute, rows
        self.cache = cache_of(spec, compute, prefix_lm=prefix_lm)
        self.admit = jax.jit(self._admit, donate_argnums=1)
        self.advance = jax.jit(self._advance, donate_argnums=1)
        self.grow = jax.jit(self._grow, static_argnums=1)
        self.fresh: Callable[[int, Lengths], State] = self.empty
        if compute.mesh is not None and spans_processes(compute.mesh):
            # Nothing else tells the program on whose devices it is to make them.
            copied = NamedSharding(compute.mesh, P())
            lie = State(*cast(Any, [copied] * len(State._fields)))._replace(cache=self.cache.shardings())
            self.fresh = jax.jit(self.empty, static_argnums=(0, 1), out_shardings=lie)

    # ---- compiled

    def empty(self, size: int, lengths: Lengths) -> State:
        """Free slots; every one of `size` has a cache of such lengths."""
        ints, flags = (lambda: jnp.zeros(size, jnp.int32)), (lambda v: jnp.full(size, v))
        floats = lambda: jnp.zeros(size, jnp.float32)  # noqa: E731
        return State(
            cache=self._placed(self.cache.empty(size, lengths)),
            token=ints(),
            gap=floats(),
            logprob=floats(),
            position=ints(),
            written=ints(),
            limit=ints(),
            done=flags(True),
            fresh=flags(False),
            seen=jnp.zeros((size, self.spec.config.vocab_size), bool),
            settings=Settings(floats(), ints(), floats(), floats(), floats(), jnp.zeros(size, jnp.uint32)),
        )

    def _placed(self, cache):
        if self.compute.mesh is None:
            return cache
        return jax.tree.map(jax.lax.with_sharding_constraint, cache, self.cache.shardings())

    def _grow(self, state: State, lengths: Lengths) -> State:
        return state._replace(cache=self._placed(self.cache.grow(state.cache, lengths)))

    def _admit(self, params: Params, state: State, new: Arrivals, stops_K) -> State:
        """Prefills what arrives into its slots; where the prompt itself predicts it, chooses the first token."""
        model = self.spec.merge(params)
        cache, last_SD = self.cache.admit(model, state.cache, new)
        taken_S = new.length > 0
        pick = lambda fresh, old: jnp.where(taken_S, fresh, old)  # noqa: E731
        settings = Settings(*map(pick, new.settings, state.settings))
        seen_SV = jnp.where(taken_S[:, None], self.cache.read(jnp.zeros_like(state.seen), new), state.seen)
        limit_S = pick(new.limit, state.limit)
        state = state._replace(cache=self._placed(cache), limit=limit_S, settings=settings)
        if last_SD is None:
            return state._replace(
                token=pick(self.cache.start_id, state.token),
                position=pick(0, state.position),
                written=pick(0, state.written),
                done=pick(False, state.done),
                seen=seen_SV,
            )
        count_S = pick(0, state.written)
        token_S, gap_S, logprob_S = choose(model.head_logits(last_SD, self.compute), seen_SV, count_S, settings)
        ended_S = jnp.isin(token_S, stops_K) | (limit_S <= 1)
        return state._replace(
            token=pick(token_S, state.token),
            gap=pick(gap_S, state.gap),
            logprob=pick(logprob_S, state.logprob),
            position=pick(new.length, state.position),
            written=pick(1, state.written),
            done=pick(ended_S, state.done),
            fresh=state.fresh | taken_S,
            seen=_mark(seen_SV, token_S, taken_S),
        )

    def _advance(self, params: Params, state: State, stops_K, enough):
        """(state, (tokens [S, C + 1], -1 where a slot wrote nothing; their gaps; their logprobs)).

        Ends once `enough` slots are done.
        """
        model, compute = self.spec.merge(params), self.compute
        S = state.token.shape[0]

        def more(carry):
            step, state = carry[:2]
            return (step <= CHUNK) & (state.done.sum() < enough)

        def one(carry):
            step, state, written = carry
            hidden_SD, cache = model.decode(state.token, state.cache, state.position, compute)
            logits_SV = model.head_logits(hidden_SD, compute)
            token_S, gap_S, logprob_S = choose(logits_SV, state.seen, state.written, state.settings)
            alive_S = ~state.done
            count_S = state.written + alive_S
            ended_S = jnp.isin(token_S, stops_K) | (count_S >= state.limit)
            state = state._replace(
                cache=self._placed(cache),
                token=jnp.where(alive_S, token_S, state.token),
                # A slot that is done stays where it is: its row is computed along, and nobody reads it.
                position=state.position + alive_S,
                written=count_S,
                done=state.done | ended_S,
                seen=_mark(state.seen, token_S, alive_S),
            )
            newest = (jnp.where(alive_S, token_S, -1), gap_S, logprob_S)
            return step + 1, state, tuple(x.at[:, step].set(n) for x, n in zip(written, newest, strict=True))

        first = (jnp.where(state.fresh, state.token, -1), state.gap, state.logprob)
        empty = (jnp.full((S, CHUNK + 1), -1, jnp.int32), *(jnp.zeros((S, CHUNK + 1), jnp.float32) for _ in range(2)))
        written = tuple(x.at[:, 0].set(n) for x, n in zip(empty, first, strict=True))
        state = state._replace(fresh=jnp.zeros_like(state.fresh))
        return jax.lax.while_loop(more, one, (jnp.ones((), jnp.int32), state, written))[1:]

    # ---- the host's side

    def run(
        self,
        params: Params,
        requests: Sequence[Request],
        size: int,
        stop_ids: Sequence[int],
        decode: Decode | None,
        check: Callable[[], Any],
    ) -> Iterator[tuple[int, Completion]]:
        """(number of the request, its completion) as they end. Short ones go first: the cache grows as it must."""
        order = sorted(range(len(requests)), key=lambda i: requests[i].room)
        waiting, slots = deque(order), dict[int, tuple[int, Reply]]()
        stops_K = np.array(sorted(set(stop_ids)), np.int32)
        state: State | None = None
        lengths: Lengths = ()
        while waiting or slots:
            check()
            free = [s for s in range(size) if s not in slots]
            while free and waiting:
                taken = self._take(waiting, requests, free)
                needed = self.cache.lengths([requests[i] for i in taken.values()])
                if state is None:
                    lengths, state = needed, self.fresh(size, needed)
                elif (longer := tuple(map(max, lengths, needed))) != lengths:
                    lengths, state = longer, self.grow(state, longer)
                state = self.admit(params, state, self._arrivals(taken, requests, size), stops_K)
                slots |= {s: (i, Reply(requests[i], stop_ids, decode)) for s, i in taken.items()}
                free = [s for s in free if s not in taken]
            assert state is not None
            # With others waiting a chunk ends once a quarter of the slots can be refilled.
            enough = size - len(slots) + (max(1, len(slots) // 4) if waiting else len(slots))
            state, written = self.advance(params, state, stops_K, np.int32(enough))
            tokens_SC, *told_SC = fetch(written)
            cut = []
            for s, (i, reply) in list(slots.items()):
                real = np.flatnonzero(tokens_SC[s] >= 0)
                reply.add(tokens_SC[s, real].tolist(), *(told[s, real].tolist() for told in told_SC))
                if reply.ended:
                    yield i, reply.completion()
                    del slots[s]
                    if reply.ended == "string":
                        cut.append(s)
            if cut:
                state = state._replace(done=state.done.at[np.array(cut)].set(True))

    def lower(self, params: Params, request: Request, size: int) -> tuple[dict[str, Any], State]:
        """({"prefill", "decode": lowered}, the state that lies between their calls) on devices that need not be here.

        params: ShapeDtypeStructs on the mesh of `compute`.  request: what every slot holds one like.
        """
        mesh = self.compute.mesh
        assert mesh is not None, "without arrays it needs to be told its devices"
        copied = NamedSharding(mesh, P())
        on = lambda leaf, lies=copied: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=lies)  # noqa: E731
        empty = jax.eval_shape(lambda: self.empty(size, self.cache.lengths([request])))
        state = jax.tree.map(on, empty)._replace(cache=jax.tree.map(on, empty.cache, self.cache.shardings()))
        requests = [request] * size
        taken = self._take(deque(range(size)), requests, range(size))
        new = jax.tree.map(on, self._arrivals(taken, requests, size))
        stops_K = jax.ShapeDtypeStruct((2,), jnp.int32, sharding=copied)
        enough = jax.ShapeDtypeStruct((), jnp.int32, sharding=copied)
        prefill = self.admit.lower(params, state, new, stops_K)
        return {"prefill": prefill, "decode": self.advance.lower(params, state, stops_K, enough)}, state

    def _take(self, waiting: deque[int], requests: Sequence[Request], free: Sequence[int]) -> dict[int, int]:
        """{slot: number of its request} of one prefill: the first in line, as many as its rows hold."""
        taken: dict[int, int] = {}
        filled = [0] * self.rows
        for s in free:
            if not waiting:
                break
            length, row = len(requests[waiting[0]].ids), min(range(self.rows), key=filled.__getitem__)
            if filled[row] and filled[row] + length > PACKED:
                break
            filled[row] += length
            taken[s] = waiting.popleft()
        return taken

    def _arrivals(self, taken: dict[int, int], requests: Sequence[Request], size: int) -> Arrivals:
        filled, places = [0] * self.rows, dict[int, tuple[int, int]]()
        for s, i in taken.items():
            row = min(range(self.rows), key=filled.__getitem__)
            places[s] = row, filled[row]
            filled[row] += len(requests[i].ids)
        shape = (self.rows, row_length(max(filled)))
        zeros = functools.partial(np.zeros, dtype=np.int32)
        new = Arrivals(
            tokens=zeros(shape),
            segments=zeros(shape),
            positions=zeros(shape),
            owner=np.full(shape, size, np.int32),
            start=zeros(size),
            length=zeros(size),
            limit=zeros(size),
            settings=Settings.of(
                [requests[taken[s] if s in taken else next(iter(taken.values()))].settings for s in range(size)]
            ),
        )
        for s, (row, start) in places.items():
            ids = requests[taken[s]].ids
            here = (row, slice(start, start + len(ids)))
            new.tokens[here], new.segments[here], new.owner[here] = ids, s + 1, s
            new.positions[here] = np.arange(len(ids))
            new.start[s], new.length[s] = row * shape[1] + start, len(ids)
            new.limit[s] = requests[taken[s]].settings.max_new_tokens
        return new


def _mark(seen_SV, token_S, where_S):
    rows_S = jnp.where(where_S, jnp.arange(token_S.shape[0]), token_S.shape[0])
    return seen_SV.at[rows_S, token_S].set(True, mode="drop")
