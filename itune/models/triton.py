"""Attention on GPU: the flash kernel that comes with JAX, held to what `itune.models.attention` promises.

Legend: B rows, L tokens, H query heads, G key-value heads, K head width.
"""

from __future__ import annotations

import jax.numpy as jnp

ROWS = 128  # the kernel's blocks: a row is a multiple of it
WIDTHS = (32, 64, 128)  # of heads; wider ones take more of a GPU's shared memory than the backward pass has


def triton_attention(q_BLHK, k_BLGK, v_BLGK, segment_ids_BL, *, scale: float, interpret: bool = False):
    """Causal attention inside segments; blocks that lie after the diagonal are not computed.

    Args:
      q_BLHK, k_BLGK, v_BLGK, segment_ids_BL, scale: as in `itune.models.attention.attend`; L must be a multiple of 128.
      interpret: run the kernel's operations without a GPU, slowly.

    Returns: [B, L, H, K], in q's dtype; 0 at padding.
    """
    from jax.experimental.pallas.ops.gpu.attention import mha

    # The kernel wants a key-value head for each query head; autodiff sums the copies' gradients.
    repeats = q_BLHK.shape[2] // k_BLGK.shape[2]
    k_BLHK, v_BLHK = (jnp.repeat(x, repeats, axis=2) for x in (k_BLGK, v_BLGK))
    out_BLHK = mha(q_BLHK, k_BLHK, v_BLHK, segment_ids_BL, sm_scale=scale, causal=True, interpret=interpret)
    # To the kernel padding is a segment like any other.
    return jnp.where((segment_ids_BL > 0)[:, :, None, None], out_BLHK, 0).astype(q_BLHK.dtype)
