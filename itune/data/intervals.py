"""What counts over examples come to, with intervals at the number of examples that there are."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

Counts = Mapping[str, tuple[float, float]]  # name: (hits, of how many), of one example

LEVEL = 0.95
RESAMPLES = 1000
_SEED = 812


def summarise(examples: Sequence[Counts], scale: float = 100.0) -> dict[str, float]:
    """[{"x": (1, 2)}, {"x": (2, 2)}] -> {"x": 75.0, "x/of": 4.0, "x/low": 50.0, "x/high": 100.0}.

    x is scale * sum of hits / sum of `of`; low and high are the ends of its interval, see `interval`. A name of which
    there is nothing to count (all `of` are 0) is left out: that is neither 0 nor 100.
    """
    out: dict[str, float] = {}
    for name in dict.fromkeys(name for counts in examples for name in counts):
        pairs = [counts[name] for counts in examples if name in counts and counts[name][1] > 0]
        if not pairs:
            continue
        hits, of = (sum(column) for column in zip(*pairs, strict=True))
        low, high = interval(pairs, shares=scale == 100.0)
        out |= {
            name: scale * hits / of,
            f"{name}/of": float(of),
            f"{name}/low": scale * low,
            f"{name}/high": scale * high,
        }
    return out


def interval(pairs: Sequence[tuple[float, float]], *, shares: bool = True) -> tuple[float, float]:
    """95 % interval of sum(hits) / sum(of), in the unit of hits.

    Percentile bootstrap over examples (Efron & Tibshirani 1993, 13.3), RESAMPLES times, seeded: the same counts give
    the same interval. Where every example has none, or every example all, resampling would say that it is certain; then
    (shares only) the exact one-sided bound over examples is used (Clopper & Pearson 1934): 0 of 10 -> (0, 0.308). One
    example that is neither, or not a share, has no interval: both ends are its value.
    """
    hits, of = np.array(pairs, np.float64).T
    n = len(pairs)
    if shares and (not hits.any() or (hits == of).all()):
        bound = ((1 - LEVEL) / 2) ** (1 / n)
        return (0.0, 1 - bound) if not hits.any() else (bound, 1.0)
    drawn = np.random.default_rng(_SEED).integers(n, size=(RESAMPLES, n))
    values = hits[drawn].sum(1) / of[drawn].sum(1)
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)


def of_sums(counts: np.ndarray, score: Callable[[np.ndarray], float]) -> tuple[float, float]:
    """95 % interval of score(sum of counts over examples), by the same bootstrap: of corpus BLEU, F1 and their like.

    counts: [examples, statistics].  One example has no interval: both ends are its value.
    """
    n = len(counts)
    rng = np.random.default_rng(_SEED)
    # How often each example is drawn: sums over examples are then one product.
    drawn = rng.multinomial(n, np.full(n, 1 / n), size=RESAMPLES)
    values = [score(sums) for sums in drawn @ counts]
    tail = 100 * (1 - LEVEL) / 2
    low, high = np.percentile(values, [tail, 100 - tail])
    return float(low), float(high)
