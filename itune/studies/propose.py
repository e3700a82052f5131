"""Which mixture next: a regression of the endpoint's loss on mixture shares, over the runs that are done.

After RegMix (Liu et al. 2024, arXiv 2407.01492): fit what many small runs show, predict many mixtures, take the mean
of the best. Here linear, with a term for each seed, so that the prediction has an interval; no mixture is proposed that
goes beyond the shares seen, and none where left-out mixtures are not predicted.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

import numpy as np
from scipy import stats

from itune.data.manifest import Manifest
from itune.data.rates import by_name
from itune.evaluation.results import RunFiles, number, write_text
from itune.studies.arms import Study, difference
from itune.studies.outcomes import Outcome
from itune.studies.panels import Runs, read_runs
from itune.studies.statistics import LEVEL

MORE = 2  # mixtures more than groups, at least
CANDIDATES, BEST = 10_000, 100
NAME = "proposal.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixtures:
    """groups: tasks that all arms scale together.  shares: by arm, float [groups].  loss: by (arm, seed)."""

    groups: Sequence[Sequence[str]]
    shares: Mapping[str, np.ndarray]
    loss: Mapping[tuple[str, int], float]

    @property
    def distinct(self) -> int:
        return len({tuple(np.round(self.shares[arm], 6)) for arm, _ in self.loss})


@dataclasses.dataclass(frozen=True, kw_only=True)
class Proposal:
    """share: of each group.  change: the loss against the base's mixture, nats per token.  low, high: at LEVEL."""

    share: np.ndarray
    change: float
    low: float
    high: float
    r2: float


def mixtures(study: Study, found: Mapping[str, Outcome], runs: Runs) -> Mixtures:
    """Of the arms that differ from the base in nothing but their mixture, and in the steps that hold
    StudyConfig.held_equal. The tasks of EvalConfig.unseen are not looked at."""
    asked = {name: _asked(by_seed) for name, by_seed in runs.items() if by_seed}
    base = asked.get(study.base.name, {})
    mixture = ("DataConfig.",) if study.config.held_equal == "steps" else ("DataConfig.", "TrainConfig.steps")
    same = {a.name for a in study.arms if all(k.startswith(mixture) for k in difference(study.base.config, a.config))}
    arms = [name for name in asked if name in same and set(asked[name]) == set(base)]
    by_scale: dict[tuple[float, ...], list[str]] = {}
    for task, share in base.items():
        if share:
            # Tasks that no arm parts: their shares' ratios are those of the base. By the first of them.
            scale = tuple(round(asked[name][task] / share, 4) for name in arms)
            by_scale.setdefault(scale, []).append(task)
    groups = list(by_scale.values())
    unseen = study.base.config.evaluation.unseen
    loss = {}
    for name in arms:
        for seed, losses in found[name].values.items():
            by_task: dict[str, list[float]] = {}
            for (task, _), value in losses.items():
                if math.isfinite(value) and not any(fnmatchcase(task, pattern) for pattern in unseen):
                    by_task.setdefault(task, []).append(value)
            if by_task:
                loss[name, seed] = float(np.mean([np.mean(values) for values in by_task.values()]))
    shares = {name: np.array([sum(asked[name][t] for t in group) for group in groups]) for name in arms}
    return Mixtures(groups=groups, shares=shares, loss=loss)


def _asked(by_seed: Mapping[int, RunFiles]) -> dict[str, float]:
    plan = next(iter(by_seed.values())).plan
    tasks = (plan.get("summary") or {}).get("tasks") or {}
    return {task: number(row.get("share_asked")) or 0.0 for task, row in tasks.items()}


def fit(m: Mixtures) -> tuple[np.ndarray, np.ndarray, float, int]:
    """(a coefficient a group, their covariance, R2 of mixtures left out, residual degrees of freedom).

    Least squares of loss on shares and a level for each seed but the first; the shares add up to 1, so that they hold
    the first's level.
    """
    keys = sorted(m.loss)
    seeds = sorted({seed for _, seed in keys})[1:]
    x = np.array([[*m.shares[arm], *(float(seed == s) for s in seeds)] for arm, seed in keys])
    y = np.array([m.loss[key] for key in keys])
    beta, covariance, df = _least_squares(x, y)
    labels = [tuple(np.round(m.shares[arm], 6)) for arm, _ in keys]
    # What a mixture's own runs say beyond their seeds' levels is what the others must predict.
    level = {s: np.mean([y[i] for i, (_, seed) in enumerate(keys) if seed == s]) for s in {s for _, s in keys}}
    wrong = total = 0.0
    for label in dict.fromkeys(labels):
        out = np.array([found == label for found in labels])
        rest, _, _ = _least_squares(x[~out], y[~out])
        wrong += float(((y[out] - x[out] @ rest) ** 2).sum())
        total += float(sum((y[i] - level[keys[i][1]]) ** 2 for i in np.flatnonzero(out)))
    return beta, covariance, 1 - wrong / total if total else math.nan, df


def _least_squares(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, int]:
    inverse = np.linalg.pinv(x.T @ x)
    beta = inverse @ x.T @ y
    df = len(y) - int(np.linalg.matrix_rank(x))
    residual = float(((y - x @ beta) ** 2).sum()) / df if df > 0 else math.nan
    return beta, inverse * residual, df


def propose(m: Mixtures, base: str) -> Proposal | str:
    """A mixture, or in words why there is none."""
    needed = len(m.groups) + MORE
    if m.distinct < needed:
        return (
            f"no mixture is proposed: the runs that are done are of {m.distinct} mixtures, and {len(m.groups)} groups "
            f"of tasks need {needed} or more (StudyConfig.random_mixtures makes them)"
        )
    beta, covariance, r2, df = fit(m)
    if not (r2 > 0 and df > 0):
        return (
            f"no mixture is proposed: fitted without it, a mixture's loss is not predicted (R2 {r2:.2f}); what the "
            "shares do is less than what seeds do"
        )
    seen = np.array([m.shares[arm] for arm in dict.fromkeys(arm for arm, _ in m.loss)])
    rng = np.random.default_rng(0)
    # Between mixtures that were run, so that no share goes beyond what was seen.
    weights = rng.dirichlet(np.full(len(seen), 0.5), CANDIDATES)
    candidates = weights @ seen
    k = len(m.groups)
    best = candidates[np.argsort(candidates @ beta[:k])[:BEST]].mean(axis=0)
    step = best - m.shares[base]
    change = float(step @ beta[:k])
    # Scheffé's: it holds for every mixture between those at once, and so for the one that looked best.
    ways = int(np.linalg.matrix_rank(seen - m.shares[base]))
    factor = math.sqrt(ways * float(stats.f.ppf(LEVEL, ways, df)))
    half = factor * math.sqrt(float(step @ covariance[:k, :k] @ step))
    return Proposal(share=best, change=change, low=change - half, high=change + half, r2=r2)


def write_proposal(study: Study, found: Mapping[str, Outcome]) -> list[str]:
    """Lines for people; proposal.json where there is one. Removes an older one that no longer holds."""
    m = mixtures(study, found, read_runs(study, found))
    path = study.folder / NAME
    path.unlink(missing_ok=True)
    if not m.loss:
        return ["no mixture is proposed: no run is done"]
    made = propose(m, study.base.name)
    if isinstance(made, str):
        return [made]
    own = m.shares[study.base.name]
    factors = {
        task: round(float(made.share[g] / own[g]), 4) for g, group in enumerate(m.groups) for task in group if own[g]
    }
    before = _base_factors(study)
    said = {task: factor * _factor(before, task) for task, factor in factors.items()}
    binding = f"DataConfig.rate_factors={said!r}"
    record = {"binding": binding, "change": made.change, "interval": [made.low, made.high], "r2": made.r2}
    write_text(path, json.dumps(record, indent=1) + "\n")
    lines = [
        f"{_called(group)}: {own[g]:.1%} of the examples -> {made.share[g]:.1%}" for g, group in enumerate(m.groups)
    ]
    sure = "" if made.high < 0 else "; the interval holds 0, so that it may be no better"
    lines.append(
        f"predicted: {made.change:+.4f} nats per token against the base (interval {made.low:+.4f} to {made.high:+.4f}, "
        f"R2 of mixtures left out {made.r2:.2f}){sure}. A prediction, not a run: try it as an arm"
    )
    return [*lines, f"the binding is in {path}"]


def _base_factors(study: Study) -> Mapping[str, float]:
    """With tasks' names in place of clusters and sources, by the manifest of a run of the base."""
    factors = study.base.config.data.rate_factors
    for seed in study.config.seeds:
        path = Path(study.base.run(study.folder, seed).model_dir) / "manifest.json"
        if path.is_file():
            return by_name(Manifest.load(path).train, factors, "DataConfig.rate_factors")
    return factors


def _factor(factors: Mapping[str, float], task: str) -> float:
    """As itune.data.rates.lookup: a name before patterns."""
    return factors.get(task, next((f for name, f in factors.items() if fnmatchcase(task, name)), 1.0))


def _called(group: Sequence[str]) -> str:
    return group[0] if len(group) == 1 else f"{group[0]} and {len(group) - 1} more"
