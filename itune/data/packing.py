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

PACKER_VERSION = 1
OVERLONG = ("truncate_inputs", "drop")
_T_STEP = 16
_CLASSES = 8
_TRIES = 16


@dataclasses.dataclass(frozen=True, kw_only=True)
class Limits:
    """Tokens an example may have: in its prompt, in its targets, in all (L), and predictions (T)."""

    inputs: int
    targets: int
    row_length: int
    supervised: int


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


def fit(inputs: np.ndarray, targets: np.ndarray, drop: np.ndarray, limits: Limits) -> Fitted:
    """Apply the policy for overlong examples; `drop` says whose task drops rather than truncates. All arrays [n].

    Targets are cut first, at their end; then inputs, to what is left of the row.
    """
    inputs, targets = inputs.astype(np.int64), targets.astype(np.int64)
    # One token of a prompt stays whatever the targets need: the first target is predicted from it.
    floor = np.minimum(inputs, min(1, limits.inputs))
    num_targets = np.minimum(targets, np.minimum(limits.targets, limits.row_length - floor))
    num_targets = np.minimum(num_targets, limits.supervised + (floor == 0))
    num_inputs = np.minimum(np.minimum(inputs, limits.inputs), limits.row_length - num_targets)
    cut_inputs, cut_targets = num_inputs < inputs, num_targets < targets
    predictions = num_targets - (num_inputs == 0)
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
    """Best-fit-decreasing (Johnson 1973) of n examples into rows of at most L tokens, T predictions and S segments.

    Sorted and fitted by whichever of tokens and predictions is scarcer over all n. An example is never split.
    Raises ValueError if an example exceeds a row's budget.
    """
    if len(tokens) == 0:
        return Packed(np.zeros(0, np.int64), np.zeros(1, np.int64))
    if tokens.max() > row_length or predictions.max() > supervised or segments < 1:
        raise ValueError(f"an example of {tokens.max()} tokens, {predictions.max()} predictions fits in no row")
    size, size_budget, other, other_budget = tokens, row_length, predictions, supervised
    if int(predictions.sum()) * row_length > int(tokens.sum()) * supervised:
        size, size_budget, other, other_budget = other, other_budget, size, size_budget
    decreasing = np.lexsort((-other, -size))
    row = _best_fit(size[decreasing].tolist(), other[decreasing].tolist(), size_budget, other_budget, segments)
    by_row = np.argsort(row, kind="stable")
    return Packed(decreasing[by_row], np.concatenate([[0], np.cumsum(np.bincount(row))]))


def _best_fit(sizes: list[int], others: list[int], size_budget: int, other_budget: int, segments: int) -> np.ndarray:
    """int64 [n]: each example's row, for sizes in decreasing order.

    Open rows stand in buckets by (class of room under the other budget, room), and each class has one big integer with
    a bit for each bucket in use. The fullest row with room enough is then a shift and a lowest set bit away in each
    class, however many rows are open. Within the one class where some rows can hold `other` and some can't, a few are
    tried.
    """
    width = -(-(other_budget + 1) // _CLASSES)
    buckets: list[dict[int, list[int]]] = [{} for _ in range(_CLASSES)]
    in_use = [0] * _CLASSES
    other_room: list[int] = []
    segment_room: list[int] = []
    smallest, smallest_other = sizes[-1], min(others)
    rows = []
    for size, other in zip(sizes, others, strict=True):
        best, best_class = size_budget + 1, 0
        for c in range(-(-other // width), _CLASSES):
            candidates = in_use[c] >> size
            if candidates:
                room = size + (candidates & -candidates).bit_length() - 1
                if room < best:
                    best, best_class = room, c
        if other % width:
            c = other // width
            candidates, tries = in_use[c] >> size & ((1 << max(0, best - size)) - 1), _TRIES
            while candidates and tries:
                lowest = candidates & -candidates
                room = size + lowest.bit_length() - 1
                bucket = buckets[c][room]
                if other_room[bucket[-1]] >= other:
                    best, best_class = room, c
                    break
                tries, candidates = tries - 1, candidates ^ lowest
        if best > size_budget:
            row, best = len(other_room), size_budget
            other_room.append(other_budget)
            segment_room.append(segments)
        else:
            bucket = buckets[best_class][best]
            row = bucket.pop()
            if not bucket:
                in_use[best_class] ^= 1 << best
        rows.append(row)
        room = best - size
        other_room[row] -= other
        segment_room[row] -= 1
        # A row that nothing can still enter is closed.
        if room >= smallest and segment_room[row] and other_room[row] >= smallest_other:
            c = other_room[row] // width
            buckets[c].setdefault(room, []).append(row)
            in_use[c] |= 1 << room
    return np.array(rows, np.int64)


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
    """(T, S): those given, or where 0 the smallest of the ladder that cost under 1 % of fill against no budget but L's.

    windows: (tokens, predictions) of examples that are packed together.  min_supervised: T is at least this, so that no
    example must be cut for T's sake.
    """
    if supervised and segments:
        return supervised, segments
    unbounded = max((len(tokens) for tokens, _ in windows), default=1) or 1

    def packings(t: int, s: int) -> list[Packed]:
        return [pack(*window, row_length=row_length, supervised=t, segments=s) for window in windows]

    def rows(t: int, s: int) -> int:
        return sum(packed.num_rows for packed in packings(t, s))

    # The tokens are the same, so fill falls as rows grow; integers, so that every host chooses alike.
    free = rows(supervised or row_length, segments or unbounded)
    if not supervised:
        ladder = [t for t in supervised_ladder(row_length) if t >= min_supervised]
        supervised = _smallest(ladder, lambda t: 99 * rows(t, segments or unbounded) < 100 * free)
    if not segments:
        most = max((int(np.diff(p.start).max(initial=1)) for p in packings(supervised, unbounded)), default=1)
        segments = _smallest(segments_ladder(most), lambda s: 99 * rows(supervised, s) < 100 * free)
    return supervised, segments


def _smallest(ladder: list[int], good: Callable[[int], bool]) -> int:
    """The smallest rung that is good, by bisection; the last rung counts as good."""
    low, high = 0, len(ladder) - 1
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if good(ladder[middle]) else (middle + 1, high)
    return ladder[high]
