"""Attention on TPU: the splash kernel that comes with JAX, held to what `itune.models.attention` promises.

Legend: B rows, L tokens, H query heads, G key-value heads, K head width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jax import lax

LANES = 128  # the kernel's blocks are multiples of it
BLOCKS = (512, 256, LANES)  # the largest that divides a row


def splash_attention(
    q_BLHK,
    k_BLGK,
    v_BLGK,
    segment_ids_BL,
    window=None,
    *,
    windows: Sequence[int] = (),
    scale: float,
    softcap: float = 0.0,
    interpret: bool = False,
):
    """Causal attention inside segments; blocks that lie after the diagonal or outside the window are not computed.

    Args:
      q_BLHK, k_BLGK, v_BLGK, segment_ids_BL, scale, softcap: as in `itune.models.attention.attend`; L must be a
        multiple of 128.
      window: int32 scalar, may be traced, one of `windows`, or at least L; None for all tokens.
      windows: all the widths there are, 0 or at least L for all tokens: the kernel's blocks depend on them, so each is
        a kernel of its own.
      interpret: run the kernel's operations without a TPU, slowly.

    Returns: [B, L, H, K], in q's dtype; 0 at padding.
    """
    L = q_BLHK.shape[1]
    widths = sorted({min(width or L, L) for width in windows}) if window is not None else [L]
    q, k, v = (x.transpose(0, 2, 1, 3) for x in ((q_BLHK * scale).astype(q_BLHK.dtype), k_BLGK, v_BLGK))
    kernels = [functools.partial(_one_width, width, softcap, interpret) for width in widths]
    if len(kernels) == 1:
        out_BHLK = kernels[0](q, k, v, segment_ids_BL)
    else:
        which = jnp.searchsorted(jnp.array(widths), jnp.minimum(window, L))
        out_BHLK = lax.switch(which, kernels, q, k, v, segment_ids_BL)
    # To the kernel padding is a segment like any other.
    out_BLHK = out_BHLK.transpose(0, 2, 1, 3)
    return jnp.where((segment_ids_BL > 0)[:, :, None, None], out_BLHK, 0).astype(q_BLHK.dtype)


def _one_width(width: int, softcap: float, interpret: bool, q_BHLK, k_BGLK, v_BGLK, segment_ids_BL):
    from jax.experimental.pallas.ops.tpu import splash_attention as splash

    H, L = q_BHLK.shape[1:3]
    block = next(size for size in BLOCKS if L % size == 0)
    sizes = splash.BlockSizes(
        block_q=block,
        block_kv=block,
        block_kv_compute=block,
        block_q_dkv=block,
        block_kv_dkv=block,
        block_kv_dkv_compute=block,
        block_q_dq=block,
        block_kv_dq=block,
    )
    shape = (L, L)
    mask = splash.CausalMask(shape) if width >= L else splash.LocalMask(shape, window_size=(width - 1, 0), offset=0)
    kernel = splash.make_splash_mha_single_device(
        splash.MultiHeadMask([mask] * H),
        block_sizes=sizes,
        attn_logits_soft_cap=softcap or None,
        interpret=interpret,
    )

    def row(q_HLK, k_GLK, v_GLK, segment_ids_L):
        return kernel(q_HLK, k_GLK, v_GLK, segment_ids=splash.SegmentIds(segment_ids_L, segment_ids_L))

    return jax.vmap(row)(q_BHLK, k_BGLK, v_BGLK, segment_ids_BL)
