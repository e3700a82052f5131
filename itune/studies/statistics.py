"""What the differences between an arm and its base say: estimates, intervals, corrected p-values, what could be seen.

Arms are paired with the base by seed (same order of the data, same initialisation) and by evaluation example. The
difference of example e of task k under seed s is taken as

    d[k, s, e] = effect[k] + seed[s] + example[k, e] + residual,

the seeds and the examples being samples. The mean over seeds, then examples, then tasks estimates the effect; tasks are
fixed (the ones that were evaluated) or, as a harder question, a sample of such tasks. Nothing here is called
significant under `FEWEST_SEEDS` seeds.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping, Sequence

import numpy as np
from scipy import stats

FEWEST_SEEDS = 5
LEVEL = 0.95
POWER = 0.8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Component:
    """A part of the variance of an estimate, and the degrees of freedom that it is known with."""

    variance: float
    df: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Effect:
    """An arm minus its base.

    Attributes:
      estimate: in the unit of the values.  se, df: of Student's t for it.
      p: two-sided, of no difference; nan where nothing varies or there is one seed.
      seeds, tasks, examples: how many there were.
      tasks_sampled: whether the interval is over tasks like these, not only these.
    """

    estimate: float
    se: float
    df: float
    p: float
    seeds: int
    tasks: int
    examples: int
    tasks_sampled: bool = False

    @property
    def interval(self) -> tuple[float, float]:
        """At LEVEL; nan where it can't be known."""
        half = self.se * float(stats.t.ppf((1 + LEVEL) / 2, self.df)) if self.df > 0 else math.nan
        return self.estimate - half, self.estimate + half


def effect(differences: Mapping[str, np.ndarray], *, tasks_sampled: bool = False) -> Effect:
    """The mean difference over tasks, each task counting alike.

    Args:
      differences: float [seeds, examples] by task, arm minus base; as many seeds in each.
      tasks_sampled: take the tasks for a sample, too: then what differs between them is part of the error.

    Raises:
      ValueError: no task, an empty one, or other numbers of seeds; a value that is not finite.
    """
    arrays = [np.asarray(d, np.float64) for d in differences.values()]
    if not arrays or any(a.ndim != 2 or not a.size for a in arrays) or len({len(a) for a in arrays}) > 1:
        raise ValueError("differences must be [seeds, examples] for each task, with as many seeds in each")
    if not all(np.isfinite(a).all() for a in arrays):
        raise ValueError("a difference is not finite")
    seeds, tasks = len(arrays[0]), len(arrays)
    means = np.array([a.mean(axis=1) for a in arrays])  # [tasks, seeds]
    estimate = float(means.mean())
    parts = [_seeds(means)]
    if tasks_sampled:
        parts.append(_tasks(means))
    else:
        parts += [_examples(a, tasks) for a in arrays]
    se, df = _together(parts)
    p = float(2 * stats.t.sf(abs(estimate) / se, df)) if se > 0 and df > 0 else math.nan
    return Effect(
        estimate=estimate,
        se=se,
        df=df,
        p=p,
        seeds=seeds,
        tasks=tasks,
        examples=sum(a.shape[1] for a in arrays),
        tasks_sampled=tasks_sampled,
    )


def _seeds(means: np.ndarray) -> Component:
    """From the differences' means over tasks, one a seed: what another set of seeds would change."""
    seeds = means.shape[1]
    if seeds < 2:
        return Component(variance=math.nan, df=0)
    return Component(variance=float(means.mean(axis=0).var(ddof=1)) / seeds, df=seeds - 1)


def _examples(a: np.ndarray, tasks: int) -> Component:
    """What other examples of one task would change, by analysis of variance of seeds x examples without interaction.

    The mean square between examples holds the residual as well, which the component of seeds holds already.
    """
    seeds, examples = a.shape
    if examples < 2:
        return Component(variance=0.0, df=0)  # one example stands for nothing but itself
    between = seeds * a.mean(axis=0).var(ddof=1)
    if seeds < 2:
        return Component(variance=float(between) / examples / tasks**2, df=examples - 1)
    residual = a - a.mean(axis=0) - a.mean(axis=1, keepdims=True) + a.mean()
    within = float((residual**2).sum()) / ((seeds - 1) * (examples - 1))
    return Component(variance=max(0.0, float(between) - within) / (seeds * examples) / tasks**2, df=examples - 1)


def _tasks(means: np.ndarray) -> Component:
    """What other tasks would change, the differences between their examples included."""
    tasks = len(means)
    if tasks < 2:
        return Component(variance=math.nan, df=0)
    return Component(variance=float(means.mean(axis=1).var(ddof=1)) / tasks, df=tasks - 1)


def _together(parts: Sequence[Component]) -> tuple[float, float]:
    """(standard error, degrees of freedom) of a sum of variances (Satterthwaite 1946)."""
    if any(math.isnan(part.variance) for part in parts):
        return math.nan, 0.0
    total = sum(part.variance for part in parts)
    if total <= 0:
        return 0.0, 0.0
    return math.sqrt(total), total**2 / sum(part.variance**2 / part.df for part in parts if part.variance > 0)


# Several arms


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verdict:
    """An effect among several. p_corrected: Holm's; significant: below 1 - LEVEL, with FEWEST_SEEDS seeds or more."""

    effect: Effect
    p_corrected: float
    significant: bool


def judge(effects: Mapping[str, Effect]) -> dict[str, Verdict]:
    """Corrects for the number of comparisons (Holm 1979). An effect without a p-value is never significant."""
    names = sorted(effects, key=lambda name: (math.isnan(effects[name].p), effects[name].p))
    corrected: dict[str, float] = {}
    highest = 0.0
    for rank, name in enumerate(names):
        p = effects[name].p
        highest = max(highest, min(1.0, (len(names) - rank) * p)) if not math.isnan(p) else math.nan
        corrected[name] = highest
    return {
        name: Verdict(
            effect=found,
            p_corrected=corrected[name],
            significant=found.seeds >= FEWEST_SEEDS and corrected[name] < 1 - LEVEL,
        )
        for name, found in effects.items()
    }


def smallest_effect(se: float, df: float, comparisons: int) -> float:
    """The effect that a study of so many comparisons finds with probability POWER, by t's shifted distribution.

    se, df: of one comparison, as guessed or as measured. The strictest step of Holm's correction is assumed.
    """
    if df <= 0 or not se > 0:
        return math.nan
    threshold = float(stats.t.ppf(1 - (1 - LEVEL) / (2 * comparisons), df))
    low, high = 0.0, 2 * threshold + 5.0
    for _ in range(60):  # the power rises with the shift
        middle = (low + high) / 2
        # The other tail adds nothing at such a shift, and SciPy's is no number for a large one.
        power = float(stats.nct.sf(threshold, df, middle))
        low, high = (low, middle) if power >= POWER else (middle, high)
    return high * se


def exact_interval(successes: int, of: int) -> tuple[float, float]:
    """At LEVEL, of a share (Clopper & Pearson 1934)."""
    tail = (1 - LEVEL) / 2
    low = float(stats.beta.ppf(tail, successes, of - successes + 1)) if successes else 0.0
    high = float(stats.beta.ppf(1 - tail, successes + 1, of - successes)) if successes < of else 1.0
    return low, high
