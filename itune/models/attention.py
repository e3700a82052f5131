"""Attention over packed rows: one dispatch, four backends, the same numbers.

Legend: B rows, L tokens, H query heads, G key-value heads (H = G * R), K head width.
A token attends to earlier tokens of its own segment, and to itself; and to the tokens of its segment that are marked
bidirectional (a prefix-LM's prompt), wherever they stand; with a window W, to none that is W or more tokens away.
Padding (segment 0) attends to nothing and yields 0.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jax.sharding import Mesh
from jax.sharding import PartitionSpec as P

from itune.models.splash import LANES, splash_attention
from itune.models.triton import ROWS, WIDTHS, triton_attention
from itune.parallel.config import RULES, Rules
from itune.parallel.mesh import BATCH_AXES

BLOCK = 64  # smaller than elsewhere: packing masks more of it, and scores stay in the cache of a core
NEGATIVE = -1e30  # finite: exp(NEGATIVE - NEGATIVE) must not be NaN in a block that is masked throughout


def choose_backend(
    name: str,
    length: int,
    platform: str,
    bidirectional: bool = False,
    *,
    window: bool = False,
    softcap: bool = False,
    width: int = 64,
) -> str:
    """Resolves "auto" on a platform ("cpu", "gpu", "tpu") and refuses what can't be honoured.

    window, softcap, bidirectional: whether they are asked for.  width: of a head.
    A silently ignored mask is the worst of bugs.
    """
    if name == "blockwise" and length % BLOCK:
        raise ValueError(
            f"attention='blockwise' needs rows of a multiple of {BLOCK} tokens, not {length}; "
            "'reference' takes any length"
        )
    kernels = {"splash": ("tpu", "TPU", LANES), "triton": ("gpu", "GPU", ROWS)}
    why = {
        kernel: [
            *([f"rows of a multiple of {multiple} tokens, not {length}"] if length % multiple else []),
            *(["tokens that see no later one"] if bidirectional else []),
            *(["attention without windows"] if kernel == "triton" and window else []),
            *(["scores without a soft-cap"] if kernel == "triton" and softcap else []),
            *([f"heads {' or '.join(map(str, WIDTHS))} wide, not {width}"] if width not in WIDTHS else [])
            * (kernel == "triton"),
        ]
        for kernel, (_, _, multiple) in kernels.items()
    }
    if name == "auto" and platform == "cpu":
        return "blockwise" if length % BLOCK == 0 else "reference"
    if name == "auto":
        return next((k for k, (here, _, _) in kernels.items() if here == platform and not why[k]), "reference")
    if name in kernels and platform != kernels[name][0]:
        raise ValueError(
            f"attention={name!r} is a {kernels[name][1]}'s kernel, and this runs on {platform}; 'auto' takes what fits"
        )
    if why.get(name):
        raise ValueError(f"attention={name!r} needs {', '.join(why[name])}; 'reference' takes any")
    return name


def attend(
    q_BLHK,
    k_BLGK,
    v_BLGK,
    segment_ids_BL,
    bidirectional_BL=None,
    *,
    window=None,
    windows: Sequence[int] = (),
    scale: float = 0.0,
    softcap: float = 0.0,
    backend: str = "auto",
    mesh: Mesh | None = None,
    rules: Rules = RULES,
):
    """Attention inside segments: causal, but for what is marked bidirectional.

    Args:
      q_BLHK, k_BLGK, v_BLGK: queries, keys and values, RoPE applied; H a multiple of G. Not yet scaled.
      segment_ids_BL: int32, 0 is padding; a segment's tokens are contiguous.
      bidirectional_BL: bool, the tokens that all of their segment see: the beginning of a segment; None for none.
      window: int32 scalar, may be traced: tokens that a query sees, itself among them; None for all.
      windows: the widths that `window` may have in this model, 0 for all tokens: read by "splash" alone.
      scale: of the scores; 0 is 1 / sqrt(K).  softcap: cap * tanh(scores / cap), where the cap is not 0.
      backend: "reference" (any shape, any device), "blockwise" (skips blocks that packing masks), "splash" (TPU,
        causal), "triton" (GPU, causal, no window and no soft-cap), "auto".
      mesh: where rows lie on (data, fsdp); None for one device.
      rules: where heads lie on it. Key-value heads may be copied where query heads are split, not the other way round.

    Returns: [B, L, H, K], in q's dtype.
    Raises: ValueError if the backend can't take this shape.
    """
    platform = jax.default_backend() if mesh is None else mesh.devices.flat[0].platform
    asked = {"window": window is not None, "softcap": bool(softcap), "width": q_BLHK.shape[3]}
    backend = choose_backend(backend, q_BLHK.shape[1], platform, bidirectional_BL is not None, **asked)
    backends: dict[str, Callable] = {"reference": reference_attention, "blockwise": blockwise_attention}
    scores = Scores(scale or 1.0 / math.sqrt(q_BLHK.shape[3]), softcap)
    masks = {"bidirectional": bidirectional_BL, "window": window}
    given = tuple(name for name, mask in masks.items() if mask is not None)
    split = _split_heads(mesh, rules)

    def inner(q, k, v, segment_ids, *rest):
        if split is not None:
            k, v = (_read_here(x, 2, q.shape[2], q_BLHK.shape[2], split) for x in (k, v))
        found = dict(zip(given, rest, strict=True))
        if backend == "splash":
            width = found.get("window")
            return splash_attention(q, k, v, segment_ids, width, windows=windows, scale=scores.scale, softcap=softcap)
        if backend == "triton":
            return triton_attention(q, k, v, segment_ids, scale=scores.scale)
        return backends[backend](q, k, v, segment_ids, found.get("bidirectional"), found.get("window"), scores)

    arguments = (q_BLHK, k_BLGK, v_BLGK, segment_ids_BL, *(masks[name] for name in given))
    if mesh is None or mesh.size == 1:
        return inner(*arguments)
    rows = P(BATCH_AXES)
    heads, kv_heads = (P(BATCH_AXES, None, axis, None) for axis in (rules.heads, rules.kv_heads))
    # Attention is independent per row and key-value head: a shard_map keeps the loops local, where automatic
    # partitioning would gather.
    specs = (heads, kv_heads, kv_heads, rows, *({"bidirectional": rows, "window": P()}[name] for name in given))
    return jax.shard_map(inner, mesh=mesh, in_specs=specs, out_specs=heads, check_vma=False)(*arguments)


def _split_heads(mesh: Mesh | None, rules: Rules) -> str | None:
    """The mesh axis that splits query heads, where key-value heads are copied along it."""
    return rules.heads if mesh is not None and mesh.size > 1 and not rules.kv_heads else None


def _read_here(x, dimension: int, own: int, heads: int, axis: str):
    """Of all key-value heads, a dimension of x, those that this device's `own` of all query heads read."""
    repeats, first = heads // x.shape[dimension], lax.axis_index(axis) * own
    if repeats % own == 0 or own % repeats == 0:
        return lax.dynamic_slice_in_dim(x, first // repeats, max(1, own // repeats), axis=dimension)
    # Some key-value head's queries begin on one device and end on the next: one for each run that surely shares it.
    run = math.gcd(repeats, own)
    return jnp.take(x, (first + run * jnp.arange(own // run)) // repeats, axis=dimension, mode="clip")


class Scores(NamedTuple):
    """What becomes of q k before the softmax: times `scale`, then (unless the cap is 0) cap * tanh(x / cap)."""

    scale: float
    softcap: float = 0.0

    def __call__(self, products):
        scores = products * self.scale
        return self.softcap * jnp.tanh(scores / self.softcap) if self.softcap else scores

    def slope(self, scores):
        """The derivative by the products, at `scores`."""
        return self.scale * (1.0 - jnp.square(scores / self.softcap)) if self.softcap else self.scale


def reference_attention(q_BLHK, k_BLGK, v_BLGK, segment_ids_BL, bidirectional_BL, window, scores: Scores):
    """The definition, with the whole [L, L] score matrix: what every other backend is tested against."""
    L = q_BLHK.shape[1]
    same_BLM = segment_ids_BL[:, :, None] == segment_ids_BL[:, None, :]
    index_L = jnp.arange(L)
    ahead_LM = index_L[:, None] - index_L[None, :]
    seen_BLM = (ahead_LM >= 0)[None]
    if bidirectional_BL is not None:
        seen_BLM = seen_BLM | bidirectional_BL[:, None, :]
    if window is not None:
        seen_BLM = seen_BLM & (jnp.abs(ahead_LM) < window)[None]
    return masked_attention(q_BLHK, k_BLGK, v_BLGK, same_BLM & seen_BLM & (segment_ids_BL[:, :, None] > 0), scores)


def masked_attention(q_BLHK, k_BMGK, v_BMGK, mask_BLM, scores: Scores, bias_HLM=None, weigh=lambda probs: probs):
    """Attention by any mask.

    bias_HLM: added to the scores; [B, H, L, M] where rows differ in it.  weigh: the probabilities (dropout).
    """
    B, L, H, K = q_BLHK.shape
    M, G = k_BMGK.shape[1:3]
    q_BLGRK = q_BLHK.reshape(B, L, G, H // G, K)
    s = scores(jnp.einsum("blgrk,bmgk->bgrlm", q_BLGRK, k_BMGK, preferred_element_type=jnp.float32))
    if bias_HLM is not None:
        s = s + bias_HLM.reshape(-1, G, H // G, L, M)
    s = jnp.where(mask_BLM[:, None, None], s, NEGATIVE)
    probs = weigh(jax.nn.softmax(s, axis=-1) * mask_BLM.any(axis=-1)[:, None, None, :, None])
    return jnp.einsum("bgrlm,bmgk->blgrk", probs.astype(v_BMGK.dtype), v_BMGK).reshape(B, L, H, K)


# ---- blockwise ------------------------------------------------------------------------------------------------
# XLA's CPU backend runs batched products at a tenth of the rate of 2-D ones, so everything below is a 2-D product:
# the R query heads that share a key-value head are stacked into one block of R * BLOCK rows. Packed rows are
# block-diagonal: the loop over key blocks starts at the first block of the segment of the query block's first token,
# so cost follows the sum of squares of example lengths.


class _Rows(NamedTuple):
    """What masks a row. segments, key_positions: [N, BLOCK].  first, end: [N], the key blocks of each query block.

    window: a scalar, or None.
    """

    segments: jax.Array
    key_positions: jax.Array
    first: jax.Array
    end: jax.Array
    window: jax.Array | None


def _first_key_block(segment_ids_BL):
    """[B, L/BLOCK] int32: the first key block each query block can see; one past itself if that is all padding."""
    B, L = segment_ids_BL.shape
    index_L = jnp.arange(L, dtype=jnp.int32)
    starts = segment_ids_BL != jnp.pad(segment_ids_BL, ((0, 0), (1, 0)), constant_values=-1)[:, :-1]
    start_BL = lax.cummax(jnp.where(starts, index_L[None], 0), axis=1)
    start_BL = jnp.where(segment_ids_BL > 0, start_BL, L * 2)
    first_BN = start_BL.reshape(B, L // BLOCK, BLOCK).min(axis=-1) // BLOCK
    return jnp.minimum(first_BN, jnp.arange(L // BLOCK)[None] + 1)


def _key_positions(segment_ids_BL, bidirectional_BL):
    """[B, L] int32: the first position in the row that may see each key; every position may see a bidirectional one."""
    index_BL = jnp.broadcast_to(jnp.arange(segment_ids_BL.shape[1], dtype=jnp.int32), segment_ids_BL.shape)
    return index_BL if bidirectional_BL is None else jnp.where(bidirectional_BL, 0, index_BL)


def _end_key_block(segment_ids_BL, bidirectional_BL):
    """[B, L/BLOCK] int32: one past the last key block that each query block can see."""
    B, L = segment_ids_BL.shape
    own_BN = jnp.broadcast_to(jnp.arange(1, L // BLOCK + 1, dtype=jnp.int32), (B, L // BLOCK))
    if bidirectional_BL is None:
        return own_BN
    index_L = jnp.arange(L, dtype=jnp.int32)
    after = jnp.pad(segment_ids_BL[:, 1:], ((0, 0), (0, 1))), jnp.pad(bidirectional_BL[:, 1:], ((0, 0), (0, 1)))
    ends_BL = bidirectional_BL & ~(after[1] & (after[0] == segment_ids_BL))
    end_BL = lax.cummin(jnp.where(ends_BL, index_L[None], L), axis=1, reverse=True)
    end_BN = jnp.where(bidirectional_BL, end_BL, 0).reshape(B, L // BLOCK, BLOCK).max(axis=-1) // BLOCK + 1
    return jnp.maximum(own_BN, end_BN)


def _split(x_BLHK, groups: int):
    """[B, L, H, K] -> [B * G, N, R * BLOCK, K]: one 2-D block per row, key-value head and block of tokens."""
    B, L, H, K = x_BLHK.shape
    R, N = H // groups, L // BLOCK
    x = x_BLHK.reshape(B, N, BLOCK, groups, R, K).transpose(0, 3, 1, 4, 2, 5)
    return x.reshape(B * groups, N, R * BLOCK, K)


def _join(x, batch: int, groups: int):
    """The inverse of `_split`."""
    _, N, rows, K = x.shape
    R = rows // BLOCK
    x = x.reshape(batch, groups, N, R, BLOCK, K).transpose(0, 2, 4, 1, 3, 5)
    return x.reshape(batch, N * BLOCK, groups * R, K)


def _mask(rows: _Rows, i, j, repeats: int):
    """[R * BLOCK, BLOCK] bool: query block i against key block j."""
    q_C, k_C = rows.segments[i], rows.segments[j]
    mask = (q_C[:, None] == k_C[None, :]) & (q_C[:, None] > 0)
    index_C = jnp.arange(BLOCK)
    mask &= (i * BLOCK + index_C)[:, None] >= rows.key_positions[j][None, :]
    if rows.window is not None:
        mask &= jnp.abs((i - j) * BLOCK + index_C[:, None] - index_C[None, :]) < rows.window
    return jnp.tile(mask, (repeats, 1))


def _dot(a, b, contract):
    return lax.dot_general(a, b, (contract, ((), ())), preferred_element_type=jnp.float32)


def _forward_one(scores: Scores, q_NRK, k_NCK, v_NCK, masks: _Rows):
    """One row and key-value head: output [N, R * BLOCK, K] and log-sum-exp [N, R * BLOCK].

    By online softmax (Milakov & Gimelshein 2018).
    """
    N, rows, K = q_NRK.shape
    repeats = rows // BLOCK

    def query_block(i, carry):
        out, lse = carry
        q = q_NRK[i]

        def key_block(j, state):
            acc, top, total = state
            mask = _mask(masks, i, j, repeats)
            s = jnp.where(mask, scores(_dot(q, k_NCK[j], ((1,), (1,)))), NEGATIVE)
            new_top = jnp.maximum(top, s.max(axis=1))
            p = jnp.where(mask, jnp.exp(s - new_top[:, None]), 0.0)
            shrink = jnp.exp(top - new_top)
            acc = acc * shrink[:, None] + _dot(p.astype(v_NCK.dtype), v_NCK[j], ((1,), (0,)))
            return acc, new_top, total * shrink + p.sum(axis=1)

        start = (jnp.zeros((rows, K), jnp.float32), jnp.full((rows,), NEGATIVE), jnp.zeros((rows,), jnp.float32))
        acc, top, total = lax.fori_loop(masks.first[i], masks.end[i], key_block, start)
        safe = jnp.where(total > 0, total, 1.0)
        return out.at[i].set((acc / safe[:, None]).astype(out.dtype)), lse.at[i].set(top + jnp.log(safe))

    start = (jnp.zeros_like(q_NRK), jnp.zeros((N, rows), jnp.float32))
    return lax.fori_loop(0, N, query_block, start)


def _backward_one(scores: Scores, q_NRK, k_NCK, v_NCK, masks: _Rows, out_NRK, lse_NR, dout_NRK):
    """Gradients of `_forward_one` with respect to q, k and v; scores are computed again, block by block."""
    N, rows, _ = q_NRK.shape
    repeats = rows // BLOCK
    delta_NR = (dout_NRK.astype(jnp.float32) * out_NRK.astype(jnp.float32)).sum(axis=-1)

    def query_block(i, carry):
        dq_all, dk_all, dv_all = carry
        q, dout, lse, delta = q_NRK[i], dout_NRK[i], lse_NR[i], delta_NR[i]

        def key_block(j, state):
            dq, dk_all, dv_all = state
            k, v = k_NCK[j], v_NCK[j]
            s = scores(_dot(q, k, ((1,), (1,))))
            p = jnp.where(_mask(masks, i, j, repeats), jnp.exp(s - lse[:, None]), 0.0)
            dv_all = dv_all.at[j].add(_dot(p.astype(dout.dtype), dout, ((0,), (0,))))
            ds = (p * (_dot(dout, v, ((1,), (1,))) - delta[:, None]) * scores.slope(s)).astype(q.dtype)
            dk_all = dk_all.at[j].add(_dot(ds, q, ((0,), (0,))))
            return dq + _dot(ds, k, ((1,), (0,))), dk_all, dv_all

        dq, dk_all, dv_all = lax.fori_loop(
            masks.first[i], masks.end[i], key_block, (jnp.zeros(q.shape, jnp.float32), dk_all, dv_all)
        )
        return dq_all.at[i].set(dq.astype(dq_all.dtype)), dk_all, dv_all

    zeros = jnp.zeros(k_NCK.shape, jnp.float32)
    return lax.fori_loop(0, N, query_block, (jnp.zeros_like(q_NRK), zeros, zeros))


@functools.partial(jax.custom_vjp, nondiff_argnums=(6,))
def blockwise_attention(q_BLHK, k_BLGK, v_BLGK, segment_ids_BL, bidirectional_BL, window, scores: Scores):
    """Flash attention (Dao et al. 2022) by 2-D products, skipping the key blocks that packing and window mask."""
    return _blockwise_forward(q_BLHK, k_BLGK, v_BLGK, segment_ids_BL, bidirectional_BL, window, scores)[0]


def _loop_inputs(segment_ids_BL, bidirectional_BL, window, groups: int) -> _Rows:
    B, L = segment_ids_BL.shape
    blocks = (B, L // BLOCK, BLOCK)
    first_BN, end_BN = _first_key_block(segment_ids_BL), _end_key_block(segment_ids_BL, bidirectional_BL)
    if window is not None:
        index_N = jnp.arange(L // BLOCK)
        # floor division: of a window that reaches back before the row's beginning, a negative block.
        first_BN = jnp.maximum(first_BN, ((index_N * BLOCK - window + 1) // BLOCK)[None])
        end_BN = jnp.minimum(end_BN, (((index_N + 1) * BLOCK + window - 2) // BLOCK + 1)[None])
        window = jnp.full(B, window)
    rows = _Rows(
        segment_ids_BL.reshape(blocks),
        _key_positions(segment_ids_BL, bidirectional_BL).reshape(blocks),
        first_BN,
        end_BN,
        window,
    )
    return jax.tree.map(lambda a: jnp.repeat(a, groups, axis=0), rows)


def _blockwise_forward(q_BLHK, k_BLGK, v_BLGK, segment_ids_BL, bidirectional_BL, window, scores):
    B, G = q_BLHK.shape[0], k_BLGK.shape[2]
    q, k, v = (_split(x, G) for x in (q_BLHK, k_BLGK, v_BLGK))
    rows = _loop_inputs(segment_ids_BL, bidirectional_BL, window, G)
    out, lse = lax.map(lambda x: _forward_one(scores, *x), (q, k, v, rows))
    return _join(out, B, G), (q, k, v, segment_ids_BL, bidirectional_BL, window, out, lse)


def _blockwise_backward(scores, residuals, dout_BLHK):
    q, k, v, segment_ids_BL, bidirectional_BL, window, out, lse = residuals
    B = dout_BLHK.shape[0]
    G = q.shape[0] // B
    rows = _loop_inputs(segment_ids_BL, bidirectional_BL, window, G)
    inputs = (q, k, v, rows, out, lse, _split(dout_BLHK, G))
    dq, dk, dv = lax.map(lambda x: _backward_one(scores, *x), inputs)
    return _join(dq, B, G), _join(dk, B, G).astype(k.dtype), _join(dv, B, G).astype(v.dtype), None, None, None


blockwise_attention.defvjp(_blockwise_forward, _blockwise_backward)


def cached_attention(
    q_BHK,
    k_BGK,
    v_BGK,
    k_BGMK,
    v_BGMK,
    length_B,
    window,
    scores: Scores,
    *,
    mesh: Mesh | None = None,
    rules: Rules = RULES,
):
    """One new token a row against its own key and value and the cache's at positions < length_B.

    Args:
      q_BHK, k_BGK, v_BGK: of the new token.
      k_BGMK, v_BGMK: the cache, with room for M positions.
      length_B: int32, positions filled before it.
      window, scores, mesh, rules: as in `attend`.

    Returns: [B, H, K] in q's dtype.
    """
    split = _split_heads(mesh, rules)
    if mesh is None or split is None:
        return _cached_attention(q_BHK, k_BGK, v_BGK, k_BGMK, v_BGMK, length_B, window, scores)

    # Left to the compiler, it splits the cache's heads as far as they go, and gathers all of it at every token.
    def inner(q, k, v, k_cache, v_cache, length, window):
        here = (_read_here(x, 1, q.shape[1], q_BHK.shape[1], split) for x in (k, v, k_cache, v_cache))
        k, v, k_cache, v_cache = here
        return _cached_attention(q, k, v, k_cache, v_cache, length, window, scores)

    whole = q_BHK.shape[0] % math.prod(mesh.shape[axis] for axis in BATCH_AXES)
    rows = None if whole else BATCH_AXES
    specs = (P(rows, split), *[P(rows)] * 5, P())
    arguments = (q_BHK, k_BGK, v_BGK, k_BGMK, v_BGMK, length_B, window)
    return jax.shard_map(inner, mesh=mesh, in_specs=specs, out_specs=P(rows, split), check_vma=False)(*arguments)


def _cached_attention(q_BHK, k_BGK, v_BGK, k_BGMK, v_BGMK, length_B, window, scores: Scores):
    B, H, K = q_BHK.shape
    G, M = k_BGMK.shape[1:3]
    q_BGRK = q_BHK.reshape(B, G, H // G, K)
    cached = scores(jnp.einsum("bgrk,bgmk->bgrm", q_BGRK, k_BGMK, preferred_element_type=jnp.float32))
    ahead_BM = length_B[:, None] - jnp.arange(M)[None]
    seen_BM = ahead_BM > 0 if window is None else (ahead_BM > 0) & (ahead_BM < window)
    cached = jnp.where(seen_BM[:, None, None], cached, NEGATIVE)
    own = scores(jnp.einsum("bgrk,bgk->bgr", q_BGRK, k_BGK, preferred_element_type=jnp.float32)[..., None])
    top = jnp.maximum(cached.max(axis=-1, keepdims=True), own)
    p_cached, p_own = jnp.exp(cached - top), jnp.exp(own - top)
    out = (
        jnp.einsum("bgrm,bgmk->bgrk", p_cached.astype(v_BGMK.dtype), v_BGMK)
        + p_own.astype(v_BGK.dtype) * v_BGK[:, :, None]
    )
    return (out / (p_cached.sum(axis=-1, keepdims=True) + p_own)).astype(q_BHK.dtype).reshape(B, H, K)
