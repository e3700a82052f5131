"""What a slot keeps between steps, by architecture: its layout, how a prompt gets into it, where the reply begins.

Legend: S slots, M cache length, T reply length, R packed rows, P their length, D width, N layers, G key-value heads,
H heads, K head width.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple, cast

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding
from jax.sharding import PartitionSpec as P

from itune.inference.request import Request
from itune.inference.sampling import Settings
from itune.models.compute import Compute
from itune.models.config import EncoderDecoderConfig, ModelConfig
from itune.models.decoder import Decoder
from itune.models.encdec import START_ID, EncoderDecoder
from itune.models.spec import Model, ModelSpec
from itune.parallel.mesh import BATCH_AXES, param_sharding

CACHE = 128  # a cache has so many positions, or 2, 4, 8, ... times
Lengths = tuple[int, ...]


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


def cache_length(n: int) -> int:
    return CACHE * 2 ** max(0, math.ceil(math.log2(n / CACHE)))


class DecoderCache:
    """Keys and values of a prompt and its reply, one behind the other: two [N, S, G, M, K]."""

    start_id: int | None = None  # the last token of the prompt makes the first prediction

    def __init__(self, config: ModelConfig, compute: Compute, *, prefix_lm: bool):
        self.config, self.compute, self.prefix_lm = config, compute, prefix_lm

    def lengths(self, requests: Sequence[Request]) -> Lengths:
        """(M,) that holds any of the requests."""
        return (cache_length(max(request.room for request in requests)),)

    def empty(self, size: int, lengths: Lengths) -> Any:
        c = self.config
        shape = (c.num_layers, size, c.num_kv_heads, *lengths, c.head_dim)
        return tuple(jnp.zeros(shape, self.compute.activations) for _ in range(2))

    def shardings(self) -> Any:
        """Slots over data x fsdp, heads as their projections lie."""
        lies = _lies(self.compute, 2, "kv_heads", self.config.num_kv_heads)
        return (lies, lies)

    def grow(self, cache: Any, lengths: Lengths) -> Any:
        return tuple(_widened(x, 3, lengths[0]) for x in cache)

    def admit(self, model: Model, cache: Any, new: Arrivals) -> tuple[Any, Any]:
        """(the cache with the prompts that arrive, hidden states [S, D] of their last tokens)."""
        both = new.segments > 0 if self.prefix_lm else None
        hidden_RPD, (k, v) = cast(Decoder, model).hidden(
            new.tokens, new.segments, new.positions, self.compute, bidirectional_BL=both, keep_cache=True
        )
        last_SD = hidden_RPD.reshape(-1, hidden_RPD.shape[-1])[jnp.maximum(new.start + new.length - 1, 0)]
        return tuple(_insert(old, x, new, axis=3) for old, x in zip(cache, (k, v), strict=True)), last_SD

    def read(self, seen_SV, new: Arrivals):
        """What a repetition penalty is for: the prompt, of a slot that takes one."""
        return seen_SV.at[new.owner.reshape(-1), new.tokens.reshape(-1)].set(True, mode="drop")


class EncoderDecoderCache:
    """The reply's own keys and values, two [N, S, T, H, K]; the encoder's, two [N, S, M, H, K], and which are real."""

    start_id: int | None = START_ID

    def __init__(self, config: EncoderDecoderConfig, compute: Compute):
        self.config, self.compute = config, compute

    def lengths(self, requests: Sequence[Request]) -> Lengths:
        """(T, M) that hold any of the requests."""
        longest = max(len(request.ids) for request in requests)
        return cache_length(max(request.settings.max_new_tokens for request in requests)), cache_length(longest)

    def empty(self, size: int, lengths: Lengths) -> Any:
        c = self.config
        kept = [(c.decoder_layers, size, length, c.num_heads, c.head_dim) for length in lengths for _ in range(2)]
        return (*(jnp.zeros(shape, self.compute.activations) for shape in kept), jnp.zeros((size, lengths[1]), bool))

    def shardings(self) -> Any:
        lies = _lies(self.compute, 3, "heads", self.config.num_heads)
        return (*[lies] * 4, NamedSharding(lies.mesh, P(BATCH_AXES)))

    def grow(self, cache: Any, lengths: Lengths) -> Any:
        T, M = lengths
        *stacked, seen_SM = cache
        return (*(_widened(x, 2, n) for x, n in zip(stacked, (T, T, M, M), strict=True)), _widened(seen_SM, 1, M))

    def admit(self, model: Model, cache: Any, new: Arrivals) -> tuple[Any, None]:
        """The cache with the encoded prompts that arrive; the first prediction is made from the start token."""
        fresh = cast(EncoderDecoder, model).memory(new.tokens, new.segments, self.compute)
        *own, k, v, seen_SM = cache
        k, v = (_insert(old, x, new, axis=2) for old, x in zip((k, v), fresh, strict=True))
        fits_SM = jnp.arange(seen_SM.shape[1])[None] < new.length[:, None]
        return (*own, k, v, jnp.where((new.length > 0)[:, None], fits_SM, seen_SM)), None

    def read(self, seen_SV, new: Arrivals):
        """The decoder has read its start token, and nothing of the prompt, as transformers has it."""
        return seen_SV.at[:, START_ID].set(True)


def cache_of(spec: ModelSpec, compute: Compute, *, prefix_lm: bool) -> DecoderCache | EncoderDecoderCache:
    if isinstance(spec.config, EncoderDecoderConfig):
        return EncoderDecoderCache(spec.config, compute)
    return DecoderCache(spec.config, compute, prefix_lm=prefix_lm)


def _lies(compute: Compute, axis: int, name: str, heads: int) -> NamedSharding:
    """Of an array [N, S, ...] whose `axis` are heads, as the parameters' logical axis `name` lies."""
    mesh = compute.mesh
    assert mesh is not None
    (over,) = param_sharding(mesh, (name,), (heads,), compute.rules).spec
    return NamedSharding(mesh, P(None, BATCH_AXES, *[None] * (axis - 2), over))


def _widened(x, axis: int, length: int):
    return jnp.pad(x, [(0, length - x.shape[axis] if n == axis else 0) for n in range(x.ndim)])


def _insert(cache, fresh_NRPGK, new: Arrivals, axis: int):
    """The cache, whose positions are `axis` (2 or 3), with each arrival's keys or values at the front of its slot.

    What follows in the slice belongs to others, or to nobody; it is overwritten before it is seen, or never is.
    """
    N, R, length, G, K = fresh_NRPGK.shape
    width = min(length, cache.shape[axis])
    flat = jnp.pad(fresh_NRPGK.reshape(N, R * length, G, K), ((0, 0), (0, width), (0, 0), (0, 0)))
    order_S = jnp.argsort(new.length == 0, stable=True)

    def one(n, cache):
        s = order_S[n]
        piece = jnp.moveaxis(jax.lax.dynamic_slice_in_dim(flat, new.start[s], width, axis=1), 1, axis - 1)
        return jax.lax.dynamic_update_slice(cache, piece[:, None].astype(cache.dtype), (0, s, 0, 0, 0))

    return jax.lax.fori_loop(0, (new.length > 0).sum(), one, cache)
