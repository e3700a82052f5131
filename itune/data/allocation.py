"""Which task each draw is of: exact shares by virtual time, in integers, at any point of the stream.

Legend: K tasks.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np

from itune.errors import UserError

RATE_UNIT = 1 << 32
UNLIMITED = 1 << 62
_MASK = RATE_UNIT - 1


def quantise_rates(rates: Sequence[float | Fraction]) -> list[int]:
    """Integers that sum to 2^32, in proportion; a positive rate stays positive. Plans compute with these alone.

    Raises UserError unless all are finite, none is negative and one is positive.
    """
    if not all(math.isfinite(rate) and rate >= 0 for rate in rates) or not any(rates):
        raise UserError(f"rates must be finite, not negative and not all zero, got {list(rates)[:8]}")
    exact = [Fraction(rate) for rate in rates]
    total = sum(exact)
    shares = [rate * RATE_UNIT / total for rate in exact]
    quantised = [max(int(share), int(share > 0)) for share in shares]
    left = RATE_UNIT - sum(quantised)
    if left < 0:  # so many tiny rates were raised to 1 that the largest gives way
        quantised[max(range(len(quantised)), key=quantised.__getitem__)] += left
        left = 0
    whole = [k for k in range(len(shares)) if shares[k] >= 1]
    by_remainder = sorted(whole, key=lambda k: (int(shares[k]) - shares[k], k))
    for k in by_remainder[:left]:
        quantised[k] += 1
    return quantised


class Allocation:
    """The draw stream: at time t, task k has been drawn count_k(t) = min(limit_k, floor((t R_k + U_k) / 2^32)) times.

    So |count_k(t) - min(limit_k, t R_k / 2^32)| <= 1 at every t, no task starves, and any stretch of the stream is
    found by bisection. Draws are merged in the order in which they cross; everything is integer arithmetic.

    rates: R, sum 2^32.  offsets: U, keyed, in [0, 2^32).  limits: None for no limit, of one task or of all.
    ties: the order of draws that cross at once.

    Attributes rates; total: draws in all, None if some task has no limit.
    """

    def __init__(
        self,
        rates: Sequence[int],
        offsets: Sequence[int],
        limits: Sequence[int | None] | None,
        ties: Sequence[int],
    ):
        self.rates = np.array(rates, np.uint64)
        self._offsets = np.array(offsets, np.uint64)
        limits = list(limits) if limits is not None else [None] * len(rates)
        bounds = [UNLIMITED if n is None else n for n in limits]
        self._limits = np.array([n if r else 0 for n, r in zip(bounds, rates, strict=True)], np.uint64)
        self._ties = np.array(ties, np.uint64)
        ends = all(n is not None for n, r in zip(limits, rates, strict=True) if r)
        self.total: int | None = int(self._limits.sum()) if ends else None
        if any(n * RATE_UNIT // r >= UNLIMITED for n, r in zip(limits, rates, strict=True) if r and n is not None):
            raise UserError("max_epochs of a task with so small a rate comes after 2^62 draws; raise the rate")

    def counts(self, t: int) -> np.ndarray:
        """int64 [K]: draws of each task up to virtual time t < 2^63."""
        # t R needs up to 95 bits: split t, and no product reaches 2^64.
        high, low = np.uint64(t >> 32), np.uint64(t & _MASK)
        counts = self.rates * high + ((self.rates * low + self._offsets) >> np.uint64(32))
        return np.minimum(counts, self._limits).astype(np.int64)

    def counts_of(self, draws: int) -> np.ndarray:
        """int64 [K]: draws of each task among the first `draws` of the stream."""
        if self.total is not None and draws >= self.total:
            return self._limits.astype(np.int64)
        counts = self.counts(self._last_time(lambda drawn: drawn <= draws, draws))
        task, _ = self.draws(int(counts.sum()), draws)
        return counts + np.bincount(task, minlength=len(counts))

    def draws(self, first: int, last: int) -> tuple[np.ndarray, np.ndarray]:
        """(task, n) of draws first..last-1 of the stream, int64 [last - first]: the n-th draw, from 0, of that task."""
        if last <= first:
            return np.zeros(0, np.int64), np.zeros(0, np.int64)
        low = self._last_time(lambda drawn: drawn <= first, first)
        high = self._last_time(lambda drawn: drawn < last, last) + 1
        before = self.counts(low)
        per_task = self.counts(high) - before
        task = np.repeat(np.arange(len(per_task)), per_task)
        n = np.arange(len(task)) + np.repeat(before - (np.cumsum(per_task) - per_task), per_task)
        # Draw n (from 0) crosses at ((n + 1) 2^32 - U) / R: whole ticks, and 31 bits of the rest, rounded up so that a
        # crossing after tick t never ties with one at t. n < 2^32 draws of one task.
        rate = self.rates[task]
        tick, rest = np.divmod(((n.astype(np.uint64) + np.uint64(1)) << np.uint64(32)) - self._offsets[task], rate)
        part = ((rest << np.uint64(31)) + rate - np.uint64(1)) // rate
        skip = first - int(before.sum())
        order = np.lexsort((self._ties[task], part, tick))[skip : skip + last - first]
        return task[order], n[order]

    def _last_time(self, holds: Callable[[int], bool], draws: int) -> int:
        """The largest t for which `holds` the number of draws up to t; it holds at draws - K - 1."""
        # Rates sum to one draw a tick, and each floor moves a count by less than one.
        low = max(0, draws - len(self.rates) - 1)
        step = 2 * len(self.rates) + 2
        while holds(int(self.counts(low + step).sum())):
            low, step = low + step, step * 2
        high = low + step
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (middle, high) if holds(int(self.counts(middle).sum())) else (low, middle)
        return low
