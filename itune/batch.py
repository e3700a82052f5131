"""The batch: the one thing that the data side and the model side share.

Legend: B rows, L tokens a row, T supervised positions a row, Le encoder tokens a row.
"""

from __future__ import annotations

import dataclasses
from typing import Any

Array = Any  # numpy on the data side, jax on the model side


@dataclasses.dataclass(frozen=True, kw_only=True)
class Batch:
    """Packed rows, ready for the step.

    `[5, 6 -> 7, EOS]` and `[8 -> 9]` in one row of length 8:
      tokens        5 6 7 E 8 9 0 0
      segment_ids   1 1 1 1 2 2 0 0     0 is padding
      positions     0 1 2 3 0 1 0 0     reset for each example
      loss_index    1 2 4 0             where the prediction is made (the position *before* the target)
      loss_targets  7 E 9 0             the token predicted there: shifted inside an example, never across two
      loss_weights  1 1 1 0             0 is padding; no sentinel id ever stands for it
      loss_task     3 3 0 0             which task of the mixture

    tokens, segment_ids, positions: int32 [B, L].  loss_index, loss_targets, loss_task: int32 [B, T].
    loss_weights: float32 [B, T].  row_ids: int32 [B, 2], the window and the row in it (provenance, dropout keys).
    bidirectional: bool [B, L], prefix-LM inputs; None for a causal batch.
    encoder_*: int32 [B, Le]; None for a decoder-only batch.
    """

    tokens: Array
    segment_ids: Array
    positions: Array
    loss_index: Array
    loss_targets: Array
    loss_weights: Array
    loss_task: Array
    row_ids: Array
    bidirectional: Array | None = None
    encoder_tokens: Array | None = None
    encoder_positions: Array | None = None
    encoder_segment_ids: Array | None = None


FIELDS = tuple(f.name for f in dataclasses.fields(Batch))
