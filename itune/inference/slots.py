"""Continuous batching for decoders: slots that requests take and leave, a cache beside them, compiled steps over all.

Legend: S slots, M cache length, R packed rows, P their length, D width, V vocabulary, N layers, G key-value heads,
K head width, C steps a chunk.
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

from itune.inference.request import Completion, Decode, Reply, Request
from itune.inference.sampling import Settings, choose
from itune.models.compute import Compute
from itune.models.decoder import Decoder
from itune.models.spec import ModelSpec, Params
from itune.parallel.arrays import fetch, spans_processes
from itune.parallel.mesh import BATCH_AXES

PIECE = 64  # packed rows are this long, or 2, 3, 4, 6, 8, 12, ... times: few shapes, few compilations
PACKED = 512  # tokens of a packed row, unless one prompt is longer
CACHE = 128  # a cache has so many positions, or 2, 4, 8, ... times
CHUNK = 16  # steps between two looks by the host


class State(NamedTuple):
    """Of all slots, on the devices.

    cache: keys and values, two [N, S, G, M, K].  token: the newest, not yet in the cache.  position: where it goes.
    written: tokens of the request so far.  limit: to write.  done: the slot is free, or its request has ended.
    fresh: `token` came from the prefill and was not handed out yet.  seen: what a repetition penalty is for.
    """

    cache: Any
    token: jax.Array
    gap: jax.Array
    position: jax.Array
    written: jax.Array
    limit: jax.Array
    done: jax.Array
    fresh: jax.Array
    seen: jax.Array
    settings: Settings


class Arrivals(NamedTuple):
    """Packed prompts [R, P] and, by slot, which of them it takes: `length` 0 is none.

    owner: of each token, its slot; S is padding.  start: of the slot's prompt in the rows laid end to end.
    """

    tokens: np.ndarray
    segments: np.ndarray
    positions: np.ndarray
    owner: np.ndarray
    start: np.ndarray
    length: np.ndarray
    limit: np.ndarray
    settings: Settings


def row_length(n: int) -> int:
    """The least of 64, 128, 192, 256, 384, 512, 768, ... that holds n."""
    power = PIECE * 2 ** max(0, math.ceil(math.log2(n / PIECE)))
    return power * 3 // 4 if power > 2 * PIECE and n <= power * 3 // 4 else power


def cache_length(n: int) -> int:
    return CACHE * 2 ** max(0, math.ceil(math.log2(n / CACHE)))


class Slots:
    """The compiled side, and the loop around it."""

    def __init__(self, spec: ModelSpec, compute: Compute, *, rows: int, prefix_lm: bool):
        """rows: packed rows of a prefill: as many as devices take rows."""
        self.spec, self.compute, self.rows, self.prefix_lm = spec, compute, rows, prefix_lm
        self.admit = jax.jit(self._admit, donate_argnums=1)
        self.advance = jax.jit(self._advance, donate_argnums=1)
        self.grow = jax.jit(self._grow, static_argnums=1)
        self.fresh: Callable[[int, int], State] = self.empty
        if compute.mesh is not None and spans_processes(compute.mesh):
            # Nothing else tells the program on whose devices it is to make them.
            copied = NamedSharding(compute.mesh, P())
            lie = State(*cast(Any, [copied] * len(State._fields)))._replace(
                cache=self._cache_sharding(spec.config.num_kv_heads)
            )
            self.fresh = jax.jit(self.empty, static_argnums=(0, 1), out_shardings=lie)

    # ---- compiled

    def empty(self, size: int, length: int) -> State:
        """Free slots; every one of `size` has `length` positions."""
        c = self.spec.config
        shape = (c.num_layers, size, c.num_kv_heads, length, c.head_dim)
        ints, flags = (lambda: jnp.zeros(size, jnp.int32)), (lambda v: jnp.full(size, v))
        floats = lambda: jnp.zeros(size, jnp.float32)  # noqa: E731
        return State(
            cache=tuple(self._placed(jnp.zeros(shape, self.compute.activations)) for _ in range(2)),
            token=ints(),
            gap=floats(),
            position=ints(),
            written=ints(),
            limit=ints(),
            done=flags(True),
            fresh=flags(False),
            seen=jnp.zeros((size, c.vocab_size), bool),
            settings=Settings(floats(), ints(), floats(), floats(), floats(), jnp.zeros(size, jnp.uint32)),
        )

    def _placed(self, cache):
        if self.compute.mesh is None:
            return cache
        return jax.lax.with_sharding_constraint(cache, self._cache_sharding(cache.shape[2]))

    def _cache_sharding(self, num_kv_heads: int):
        """Slots over data x fsdp, heads over tensor, as training lays rows and heads."""
        mesh = self.compute.mesh
        assert mesh is not None
        heads = "tensor" if num_kv_heads % mesh.shape["tensor"] == 0 else None
        return NamedSharding(mesh, P(None, BATCH_AXES, heads))

    def _grow(self, state: State, length: int) -> State:
        more = ((0, 0), (0, 0), (0, 0), (0, length - state.cache[0].shape[3]), (0, 0))
        return state._replace(cache=tuple(self._placed(jnp.pad(x, more)) for x in state.cache))

    def _admit(self, params: Params, state: State, new: Arrivals, stops_K) -> State:
        """Prefills what arrives into its slots, and chooses its first tokens."""
        model = cast(Decoder, self.spec.merge(params))
        both = new.segments > 0 if self.prefix_lm else None
        hidden_RPD, (k, v) = model.hidden(
            new.tokens, new.segments, new.positions, self.compute, bidirectional_BL=both, keep_cache=True
        )
        taken_S = new.length > 0
        last_SD = hidden_RPD.reshape(-1, hidden_RPD.shape[-1])[jnp.maximum(new.start + new.length - 1, 0)]
        pick = lambda fresh, old: jnp.where(taken_S, fresh, old)  # noqa: E731
        settings = Settings(*map(pick, new.settings, state.settings))
        seen_SV = jnp.zeros_like(state.seen).at[new.owner.reshape(-1), new.tokens.reshape(-1)].set(True, mode="drop")
        seen_SV = jnp.where(taken_S[:, None], seen_SV, state.seen)
        count_S = pick(0, state.written)
        token_S, gap_S = choose(model.head_logits(last_SD, self.compute), seen_SV, count_S, settings)
        limit_S = pick(new.limit, state.limit)
        ended_S = jnp.isin(token_S, stops_K) | (limit_S <= 1)
        return State(
            cache=tuple(self._placed(_insert(old, x, new)) for old, x in zip(state.cache, (k, v), strict=True)),
            token=pick(token_S, state.token),
            gap=pick(gap_S, state.gap),
            position=pick(new.length, state.position),
            written=pick(1, state.written),
            limit=limit_S,
            done=pick(ended_S, state.done),
            fresh=state.fresh | taken_S,
            seen=_mark(seen_SV, token_S, taken_S),
            settings=settings,
        )

    def _advance(self, params: Params, state: State, stops_K, enough):
        """(state, tokens [S, C + 1], gaps), -1 where a slot wrote nothing. Ends once `enough` slots are done."""
        model, compute = self.spec.merge(params), self.compute
        S = state.token.shape[0]

        def more(carry):
            step, state = carry[:2]
            return (step <= CHUNK) & (state.done.sum() < enough)

        def one(carry):
            step, state, out, gaps = carry
            hidden_SD, cache = model.decode(state.token, state.cache, state.position, compute)
            logits_SV = model.head_logits(hidden_SD, compute)
            token_S, gap_S = choose(logits_SV, state.seen, state.written, state.settings)
            alive_S = ~state.done
            count_S = state.written + alive_S
            ended_S = jnp.isin(token_S, stops_K) | (count_S >= state.limit)
            state = state._replace(
                cache=tuple(map(self._placed, cache)),
                token=jnp.where(alive_S, token_S, state.token),
                # A slot that is done stays where it is: its row is computed along, and nobody reads it.
                position=state.position + alive_S,
                written=count_S,
                done=state.done | ended_S,
                seen=_mark(state.seen, token_S, alive_S),
            )
            out = out.at[:, step].set(jnp.where(alive_S, token_S, -1))
            return step + 1, state, out, gaps.at[:, step].set(gap_S)

        out = jnp.full((S, CHUNK + 1), -1, jnp.int32).at[:, 0].set(jnp.where(state.fresh, state.token, -1))
        gaps = jnp.zeros((S, CHUNK + 1), jnp.float32).at[:, 0].set(state.gap)
        state = state._replace(fresh=jnp.zeros_like(state.fresh))
        return jax.lax.while_loop(more, one, (jnp.ones((), jnp.int32), state, out, gaps))[1:]

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
        while waiting or slots:
            check()
            free = [s for s in range(size) if s not in slots]
            while free and waiting:
                taken = self._take(waiting, requests, free)
                length = cache_length(max(requests[i].room for i in taken.values()))
                if state is None:
                    state = self.fresh(size, length)
                elif length > state.cache[0].shape[3]:
                    state = self.grow(state, length)
                state = self.admit(params, state, self._arrivals(taken, requests, size), stops_K)
                slots |= {s: (i, Reply(requests[i], stop_ids, decode)) for s, i in taken.items()}
                free = [s for s in free if s not in taken]
            assert state is not None
            # With others waiting a chunk ends once a quarter of the slots can be refilled.
            enough = size - len(slots) + (max(1, len(slots) // 4) if waiting else len(slots))
            state, out, gaps = self.advance(params, state, stops_K, np.int32(enough))
            tokens_SC, gaps_SC = fetch((out, gaps))
            cut = []
            for s, (i, reply) in list(slots.items()):
                real = np.flatnonzero(tokens_SC[s] >= 0)
                reply.add(tokens_SC[s, real].tolist(), gaps_SC[s, real].tolist())
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
        empty = jax.eval_shape(lambda: self.empty(size, cache_length(request.room)))
        lies = self._cache_sharding(self.spec.config.num_kv_heads)
        state = jax.tree.map(on, empty)._replace(cache=tuple(on(x, lies) for x in empty.cache))
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


def _insert(cache_NSGMK, fresh_NRPGK, new: Arrivals):
    """The cache with each arrival's keys (or values) at the front of its slot.

    What follows in the slice belongs to others, or to nobody; it is overwritten before it is ever seen.
    """
    N, R, length, G, K = fresh_NRPGK.shape
    width = min(length, cache_NSGMK.shape[3])
    flat = jnp.pad(fresh_NRPGK.reshape(N, R * length, G, K), ((0, 0), (0, width), (0, 0), (0, 0)))
    order_S = jnp.argsort(new.length == 0, stable=True)

    def one(n, cache):
        s = order_S[n]
        piece = jax.lax.dynamic_slice_in_dim(flat, new.start[s], width, axis=1).transpose(0, 2, 1, 3)
        return jax.lax.dynamic_update_slice(cache, piece[:, None].astype(cache.dtype), (0, s, 0, 0, 0))

    return jax.lax.fori_loop(0, (new.length > 0).sum(), one, cache_NSGMK)
