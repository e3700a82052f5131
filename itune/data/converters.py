"""Converters: how planned rows of examples become a batch, in numpy.

    causal            prompt and answer in one row; a token sees what stands before it
    prefix_lm         the same, and the tokens of a prompt see each other in both directions (Raffel et al. 2020, 3.2.1)
    encoder_decoder   prompts to the encoder, answers to the decoder, each packed in the same order

Legend: B rows, L tokens a row, T supervised positions a row, Le encoder tokens a row, E examples in the batch, n tokens
of all of them.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import numpy as np

from itune.batch import Batch
from itune.data.feed import RecordReader, cut_example
from itune.data.schedule import PlannedRow, RowPlan
from itune.errors import UserError

LOSS_NORMS = ("tokens", "example")


@dataclasses.dataclass(frozen=True)
class _Places:
    """Where the tokens of examples lie when they stand one after another in their rows; each is int64 [n]."""

    row: np.ndarray
    column: np.ndarray
    position: np.ndarray
    example: np.ndarray

    @classmethod
    def of(cls, row_of: np.ndarray, length: np.ndarray, B: int) -> _Places:
        """row_of, length: int64 [E], in the order of rows."""
        starts = np.cumsum(length) - length
        row_start = np.zeros(B, np.int64)
        np.cumsum(np.bincount(row_of, weights=length, minlength=B).astype(np.int64)[:-1], out=row_start[1:])
        row, index = np.repeat(row_of, length), np.arange(int(length.sum()))
        example = np.repeat(np.arange(len(length)), length)
        return cls(row, index - row_start[row], index - np.repeat(starts, length), example)


def assemble(rows: Sequence[PlannedRow], plan: RowPlan, reader: RecordReader, loss_norm: str) -> Batch:
    """The batch of some planned rows; see `itune.batch.Batch` for the layout.

    loss_norm: "tokens", every prediction weighs 1; "example", those of an example sum to 1.
    Raises UserError naming the file of a record that is unreadable or not as long as planned.
    """
    if loss_norm not in LOSS_NORMS:
        raise UserError(f"loss_norm={loss_norm!r} must be one of {LOSS_NORMS}")
    batch = _empty(rows, plan)
    segments = [segment for row in rows for segment in row.segments]
    if not segments:
        return batch
    cut = [cut_example(segment, plan, reader) for segment in segments]
    row_of = np.repeat(np.arange(len(rows)), [len(row.segments) for row in rows])
    if plan.converter == "encoder_decoder":
        target, predicted, places = _encoder_decoder(batch, cut, row_of)
    else:
        target, predicted, places = _decoder_only(batch, cut, row_of)
    # predicted: of the n, those whose token is a target. A row's predictions lie side by side.
    in_row = np.bincount(places.row[predicted], minlength=len(rows))
    where = (
        places.row[predicted],
        np.arange(len(predicted)) - np.repeat(np.cumsum(in_row) - in_row, in_row),
    )
    example = places.example[predicted]
    batch.loss_index[where] = places.column[predicted] - (0 if plan.converter == "encoder_decoder" else 1)
    batch.loss_targets[where] = target
    batch.loss_task[where] = np.array([s.task for s in segments])[example]
    batch.loss_weights[where] = 1.0 if loss_norm == "tokens" else 1.0 / np.bincount(example)[example]
    return batch


def _empty(rows: Sequence[PlannedRow], plan: RowPlan) -> Batch:
    B, L, T = len(rows), plan.L, plan.T

    def zeros(width: int) -> np.ndarray:
        return np.zeros((B, width), np.int32)

    encoder = plan.converter == "encoder_decoder"
    return Batch(
        tokens=zeros(L),
        segment_ids=zeros(L),
        positions=zeros(L),
        loss_index=zeros(T),
        loss_targets=zeros(T),
        loss_weights=np.zeros((B, T), np.float32),
        loss_task=zeros(T),
        row_ids=np.array([(row.window, row.row) for row in rows], np.int32).reshape(B, 2),
        bidirectional=np.zeros((B, L), bool) if plan.converter == "prefix_lm" else None,
        encoder_tokens=zeros(plan.Le) if encoder else None,
        encoder_positions=zeros(plan.Le) if encoder else None,
        encoder_segment_ids=zeros(plan.Le) if encoder else None,
    )


Cut = list[tuple[np.ndarray, np.ndarray]]  # (ids, supervised) of each example
Converted = tuple[np.ndarray, np.ndarray, _Places]  # targets, where they stand among the n, places of the n


def _segment_numbers(row_of: np.ndarray) -> np.ndarray:
    """int64 [E]: an example's segment id in its row, from 1."""
    per_row = np.bincount(row_of)
    return np.arange(len(row_of)) - np.repeat(np.cumsum(per_row) - per_row, per_row) + 1


def _decoder_only(batch: Batch, cut: Cut, row_of: np.ndarray) -> Converted:
    ids = np.concatenate([ids for ids, _ in cut])
    supervised = np.concatenate([supervised for _, supervised in cut])
    at = _Places.of(row_of, np.array([len(ids) for ids, _ in cut]), len(batch.tokens))
    batch.tokens[at.row, at.column] = ids
    batch.segment_ids[at.row, at.column] = _segment_numbers(row_of)[at.example]
    batch.positions[at.row, at.column] = at.position
    if batch.bidirectional is not None:
        first = np.array([int(np.argmax(supervised)) for _, supervised in cut])
        batch.bidirectional[at.row, at.column] = at.position < first[at.example]
    # Nothing stands before an example's first token, so it is never predicted: labels shift inside examples only.
    predicted = np.flatnonzero(supervised & (at.position > 0))
    return ids[predicted], predicted, at


def _encoder_decoder(batch: Batch, cut: Cut, row_of: np.ndarray) -> Converted:
    """A decoder's input is its target moved by one, after the start token 0 (T5's, which is also its padding)."""
    assert batch.encoder_tokens is not None
    assert batch.encoder_positions is not None
    assert batch.encoder_segment_ids is not None
    segment = _segment_numbers(row_of)
    inputs, targets = [ids[~supervised] for ids, supervised in cut], [ids[supervised] for ids, supervised in cut]
    at = _Places.of(row_of, np.array([len(ids) for ids in inputs]), len(batch.tokens))
    batch.encoder_tokens[at.row, at.column] = np.concatenate(inputs)
    batch.encoder_positions[at.row, at.column] = at.position
    batch.encoder_segment_ids[at.row, at.column] = segment[at.example]
    at = _Places.of(row_of, np.array([len(ids) for ids in targets]), len(batch.tokens))
    target = np.concatenate(targets)
    before = np.concatenate([[0], target[:-1]])
    batch.tokens[at.row, at.column] = np.where(at.position > 0, before, 0)
    batch.segment_ids[at.row, at.column] = segment[at.example]
    batch.positions[at.row, at.column] = at.position
    return target, np.arange(len(target)), at
