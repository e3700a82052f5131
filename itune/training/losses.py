"""Sums with their weights: by task and by example. Division happens once, elsewhere.

Legend: B rows, T supervised positions a row, S segments a row, N tasks.
"""

from __future__ import annotations

import jax.numpy as jnp


def sums_by_task(nll_BT, weights_BT, task_BT, num_tasks: int):
    """(nll [N], tokens [N]): each supervised token counts one, whatever its loss weight."""
    present = (weights_BT > 0).astype(jnp.float32)
    zeros = jnp.zeros(num_tasks, jnp.float32)
    return zeros.at[task_BT].add(nll_BT * present), zeros.at[task_BT].add(present)


def sums_by_example(nll_BT, weights_BT, segment_BT, num_segments: int):
    """(nll [B, S], tokens [B, S]) for segments 1..S: what blame, worst-loss lists and rank classification read."""
    present = (weights_BT > 0).astype(jnp.float32)
    rows = jnp.arange(nll_BT.shape[0])[:, None]
    zeros = jnp.zeros((nll_BT.shape[0], num_segments + 1), jnp.float32)
    segment_BT = jnp.where(present > 0, segment_BT, 0)
    return zeros.at[rows, segment_BT].add(nll_BT * present)[:, 1:], zeros.at[rows, segment_BT].add(present)[:, 1:]
