"""Which examples share a row: truncation, best-fit-decreasing under three budgets, and the choice of the budgets.

Legend: L tokens a row, T supervised predictions a row, S segments (examples) a row, n examples, R rows.

    tokens [3, 5, 2, 6], L = 8  ->  rows {6, 2}, {5, 3}

A row of a causal model predicts each supervised token from the position before it, so an example with an empty prompt
has one prediction fewer than targets: nothing stands before the first.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence

import numpy as np

PACKER_VERSION = 2
OVERLONG = ("truncate_inputs", "drop")
_T_STEP = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Tokens an example may have: in its prompt, in its targets, in all (L), and predictions (T).

    encoder: 0, or what an encoder's row holds (Le): prompts lie there, and L holds targets alone.
    """

    inputs: int
    targets: int
    row_length: int
    supervised: int
    encoder: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fitted:
    """Examples after truncation, arrays [n]: num_inputs, num_targets, predictions int64; the rest bool.

    dropped: not to be placed, because its task drops overlong examples or because no prediction is left of it.
    cut_targets: its end, EOS included, is truncated away and not supervised.
    """

    num_inputs: np.ndarray
    num_targets: np.ndarray
    predictions: np.ndarray
    cut_inputs: np.ndarray
    cut_targets: np.ndarray
    dropped: np.ndarray

    @property
    def tokens(self) -> np.ndarray:
        return self.num_inputs + self.num_targets

    def sizes(self, limits: Limits) -> tuple[np.ndarray, np.ndarray]:
        """What `pack` packs: tokens and predictions; or encoder and decoder tokens."""
        return (self.num_inputs, self.num_targets) if limits.encoder else (self.tokens, self.predictions)


def fit(inputs: np.ndarray, targets: np.ndarray, drop: np.ndarray, limits: Limits) -> Fitted:
    """Apply the policy for overlong examples; `drop` says whose task drops rather than truncates. All arrays [n].

    Targets are cut first, at their end; then inputs, to what is left of the row.
    """
    inputs, targets = inputs.astype(np.int64), targets.astype(np.int64)
    if limits.encoder:
        # A decoder starts from a token of its own, so all of its targets are predicted.
        num_inputs = np.minimum(inputs, min(limits.inputs, limits.encoder))
        num_targets = np.minimum(targets, min(limits.targets, limits.row_length, limits.supervised))
        return _fitted(inputs, targets, num_inputs, num_targets, num_targets, drop)
    # One token of a prompt stays whatever the targets need: the first target is predicted from it.
    floor = np.minimum(inputs, min(1, limits.inputs))
    num_targets = np.minimum(targets, np.minimum(limits.targets, limits.row_length - floor))
    num_targets = np.minimum(num_targets, limits.supervised + (floor == 0))
    num_inputs = np.minimum(np.minimum(inputs, limits.inputs), limits.row_length - num_targets)
    return _fitted(inputs, targets, num_inputs, num_targets, num_targets - (num_inputs == 0), drop)


def _fitted(
    inputs: np.ndarray,
    targets: np.ndarray,
    num_inputs: np.ndarray,
    num_targets: np.ndarray,
    predictions: np.ndarray,
    drop: np.ndarray,
) -> Fitted:
    cut_inputs, cut_targets = num_inputs < inputs, num_targets < targets
    dropped = (drop & (cut_inputs | cut_targets)) | (predictions <= 0)
    return Fitted(
        num_inputs=num_inputs,
        num_targets=num_targets,
        predictions=predictions,
        cut_inputs=cut_inputs & ~dropped,
        cut_targets=cut_targets & ~dropped,
        dropped=dropped,
    )


@dataclasses.dataclass(frozen=True)
class Packed:
    """Row r holds examples `order[start[r]:start[r + 1]]`, in order of placement. int64: order [n], start [R + 1]."""

    order: np.ndarray
    start: np.ndarray

    @property
    def num_rows(self) -> int:
        return len(self.start) - 1

    def permuted(self, permutation: np.ndarray) -> Packed:
        """Row r of the result is row `permutation[r]` of this."""
        sizes = np.diff(self.start)[permutation]
        start = np.concatenate([[0], np.cumsum(sizes)])
        inside = np.arange(len(self.order)) - np.repeat(start[:-1], sizes)
        return Packed(self.order[np.repeat(self.start[permutation], sizes) + inside], start)


def pack(tokens: np.ndarray, predictions: np.ndarray, *, row_length: int, supervised: int, segments: int) -> Packed:
    """`pack_windows` of one window."""
    budgets = {"row_length": row_length, "supervised": supervised, "segments": segments}
    return pack_windows(tokens, predictions, np.array([len(tokens)]), **budgets)[0]


def pack_windows(
    tokens: np.ndarray, predictions: np.ndarray, sizes: np.ndarray, *, row_length: int, supervised: int, segments: int
) -> list[Packed]:
    """Best-fit-decreasing (Johnson 1973) of each window's examples into rows of <= L tokens, T predictions, S segments.

    tokens, predictions: int64 [n], window after window.  sizes: examples in each window; `order` counts within it.
    An example goes where it leaves least of the scarcer budget; first come those that take the largest part of either.
    An example is never split. Raises ValueError if one exceeds a row's budget.
    """
    if len(tokens) and (tokens.max() > row_length or predictions.max() > supervised or segments < 1):
        raise ValueError(f"an example of {tokens.max()} tokens, {predictions.max()} predictions fits in no row")
    scarce, ample, L, T = tokens, predictions, row_length, supervised
    if int(predictions.sum()) * row_length > int(tokens.sum()) * supervised:
        scarce, ample, L, T = predictions, tokens, supervised, row_length
    starts = np.cumsum(sizes) - sizes
    inside = np.arange(len(tokens)) - np.repeat(starts, sizes)
    window = np.repeat(np.arange(len(sizes)), sizes)
    decreasing = np.lexsort((inside, -np.maximum(scarce * T, ample * L), window))
    # [W, N]: windows side by side. They don't concern each other, so one step of numpy places an example in each.
    N = int(sizes.max(initial=0))
    columns = np.zeros((2, len(sizes), N), np.int32)
    columns[:, window, inside] = scarce[decreasing], ample[decreasing]
    row_WN = _best_fit(columns[0], columns[1], sizes, L, T, segments)
    row = row_WN[window, inside]
    by_row = np.lexsort((row, window))
    order = (decreasing - starts[window])[by_row]
    counts = row_WN.max(axis=1, initial=-1) + 1
    packed = []
    for w, (first, n) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
        start = np.concatenate([[0], np.cumsum(np.bincount(row_WN[w, :n], minlength=counts[w]))])
        packed.append(Packed(order[first : first + n], start))
    return packed


def _best_fit(size_WN: np.ndarray, other_WN: np.ndarray, sizes: np.ndarray, L: int, T: int, S: int) -> np.ndarray:
    """int32 [W, N]: each example's row, for sizes in decreasing order; -1 past a window's end.

    Unopened rows are there from the start: they have the most room of all, so they are taken only where nothing fits.
    """
    W, N = size_WN.shape
    room_WR, other_room_WR = np.full((W, 64), L, np.int32), np.full((W, 64), T, np.int32)
    left_WR = np.full((W, 64), S, np.int32)
    row_WN = np.full((W, N), -1, np.int32)
    none, opened = np.int32(L + 1), 0
    for n in range(N):
        w = np.flatnonzero(sizes > n)
        if opened + 1 >= room_WR.shape[1]:
            room_WR, other_room_WR, left_WR = (
                np.concatenate([columns, np.full_like(columns, full)], axis=1)
                for columns, full in ((room_WR, L), (other_room_WR, T), (left_WR, S))
            )
        open_ = (slice(None) if len(w) == W else w, slice(0, opened + 1))
        size, other = size_WN[w, n], other_WN[w, n]
        room, other_room = room_WR[open_], other_room_WR[open_]
        fits = (room >= size[:, None]) & (other_room >= other[:, None])
        row = np.where(fits, room, none).argmin(axis=1)
        row_WN[w, n] = row
        room_WR[w, row] -= size
        other_room_WR[w, row] -= other
        left_WR[w, row] -= 1
        room_WR[w, row] = np.where(left_WR[w, row] > 0, room_WR[w, row], -1)
        opened = max(opened, int(row.max()) + 1)
    return row_WN


def supervised_ladder(row_length: int) -> list[int]:
    """Values of T to choose from: multiples of 16 up to L, and L."""
    return sorted({*range(_T_STEP, row_length + 1, _T_STEP), row_length})


def segments_ladder(most: int) -> list[int]:
    """Values of S to choose from: 1, 2, 3, 4, 6, 8, 12, 16, ... up to the first that is at least `most`."""
    values = [1]
    while values[-1] < most:
        n = values[-1]
        values.append(n + 1 if n < 3 else n * 4 // 3 if n & (n - 1) else n * 3 // 2)
    return values


def choose_budgets(
    windows: Sequence[tuple[np.ndarray, np.ndarray]],
    *,
    row_length: int,
    supervised: int,
    segments: int,
    min_supervised: int,
) -> tuple[int, int]:
    """(T, S): those given, or where 0 the smallest of the ladder that cost little fill against no budget but L's.

    T may cost under 1 %, because every position of it is computed; S at most 0.1 %, because it costs next to nothing.

    windows: (tokens, predictions) of examples that are packed together.  min_supervised: T is at least this, so that no
    example must be cut for T's sake.
    """
    if supervised and segments:
        return supervised, segments
    unbounded = max((len(tokens) for tokens, _ in windows), default=1) or 1
    empty = np.zeros(0, np.int64)
    tokens = np.concatenate([empty, *(tokens for tokens, _ in windows)])
    predictions = np.concatenate([empty, *(predictions for _, predictions in windows)])
    sizes = np.array([len(tokens) for tokens, _ in windows])

    def packings(t: int, s: int) -> list[Packed]:
        return pack_windows(tokens, predictions, sizes, row_length=row_length, supervised=t, segments=s)

    def rows(t: int, s: int) -> int:
        return sum(packed.num_rows for packed in packings(t, s))

    # The tokens are the same, so fill falls as rows grow; integers, so that every host chooses alike.
    free = rows(supervised or row_length, segments or unbounded)
    if not supervised:
        ladder = [t for t in supervised_ladder(row_length) if t >= min_supervised]
        supervised = _smallest(ladder, lambda t: 99 * rows(t, segments or unbounded) < 100 * free)
    if not segments:
        most = max((int(np.diff(p.start).max(initial=1)) for p in packings(supervised, unbounded)), default=1)
        free = rows(supervised, unbounded)
        segments = _smallest(segments_ladder(most), lambda s: 999 * rows(supervised, s) <= 1000 * free)
    return supervised, segments


def _smallest(ladder: list[int], good: Callable[[int], bool]) -> int:
    """The smallest rung that is good, by bisection; the last rung counts as good."""
    low, high = 0, len(ladder) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(ladder[middle]) else (middle + 1, high)
    return ladder[high]
