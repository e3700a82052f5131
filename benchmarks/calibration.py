"""How often a study without any effect calls one significant, and how large an effect must be to be found.

python -m benchmarks.calibration --studies=2000 [--gin_file=STUDY.gin --workdir=DIR: variances fitted to its runs]

Simulated: differences of arms from the base that they share, under seeds, tasks and examples that vary as given or
fitted; the code that judges a real study judges them. Family-wise: any of the arms. The last line is one JSON object.
"""

from __future__ import annotations

import argparse
import json
import math

import numpy as np

from itune.studies.arms import load_study
from itune.studies.outcomes import differences, outcomes
from itune.studies.statistics import effect, exact_interval, judge, smallest_effect

SHIFTS = (0.0, 0.5, 1.0, 1.5, 2.0)  # of the smallest effect that the design is said to find


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--arms", type=int, default=4)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--sizes", type=int, nargs="+", default=[8, 8, 16, 32], help="examples of each task")
    parser.add_argument("--spread", type=float, nargs=3, default=[0.05, 0.2, 0.1], help="seeds, examples, residual")
    parser.add_argument("--gin_file", action="append", default=[])
    parser.add_argument("--workdir")
    flags = parser.parse_args()
    spread, sizes = tuple(flags.spread), list(flags.sizes)
    if flags.gin_file:
        spread, sizes = fitted(flags.gin_file, flags.workdir)
    rng = np.random.default_rng(7)
    smallest = design(rng, flags.arms, flags.seeds, sizes, spread)
    alarms = sum(any_significant(rng, flags.arms, flags.seeds, sizes, spread, 0.0) for _ in range(flags.studies))
    low, high = exact_interval(alarms, flags.studies)
    print(f"no effect: {alarms} of {flags.studies} studies call some arm significant: {low:.1%} to {high:.1%}")
    power = {}
    for shift in SHIFTS[1:]:
        few = max(flags.studies // 4, 1)
        found = sum(any_significant(rng, flags.arms, flags.seeds, sizes, spread, shift * smallest) for _ in range(few))
        power[f"{shift * smallest:.4f}"] = found / few
        print(f"one arm of {shift * smallest:.4f} ({shift} of the smallest): some arm significant in {found / few:.1%}")
    figures = {
        "name": "calibration",
        "false_alarms": alarms / flags.studies,
        "interval": [low, high],
        "studies": flags.studies,
        "smallest_effect": smallest,
        "power": power,
        "spread": dict(zip(("seeds", "examples", "residual"), spread, strict=True)),
        "arms": flags.arms,
        "seeds": flags.seeds,
        "sizes": sizes,
        "fitted": bool(flags.gin_file),
    }
    print(json.dumps(figures))


def simulated(
    rng: np.random.Generator, seeds: int, sizes: list[int], spread: tuple[float, ...], shift: float
) -> dict[str, np.ndarray]:
    of_seed, of_example, residual = spread
    moved = shift + of_seed * rng.standard_normal((seeds, 1))
    return {
        f"task {k}": moved + of_example * rng.standard_normal((1, n)) + residual * rng.standard_normal((seeds, n))
        for k, n in enumerate(sizes)
    }


def any_significant(
    rng: np.random.Generator, arms: int, seeds: int, sizes: list[int], spread: tuple[float, ...], shift: float
) -> bool:
    """Of a study in which the first arm has the effect `shift`, and the others none."""
    half = tuple(value / math.sqrt(2) for value in spread)  # an arm's own and the base's, which all arms share
    base = simulated(rng, seeds, sizes, half, 0.0)
    effects = {}
    for n in range(arms):
        own = simulated(rng, seeds, sizes, half, shift if n == 0 else 0.0)
        effects[f"arm {n}"] = effect({task: own[task] - base[task] for task in own})
    return any(verdict.significant for verdict in judge(effects).values())


def design(rng: np.random.Generator, arms: int, seeds: int, sizes: list[int], spread: tuple[float, ...]) -> float:
    """The effect that such a study is said to find, by the errors of a hundred of them."""
    found = [effect(simulated(rng, seeds, sizes, spread, 0.0)) for _ in range(100)]
    return float(np.median([smallest_effect(e.se, e.df, arms) for e in found]))


def fitted(gin_files: list[str], workdir: str | None) -> tuple[tuple[float, ...], list[int]]:
    """Standard deviations of seeds, examples and residual in the differences of a study's arms, by moments."""
    study = load_study(gin_files, workdir=workdir)
    found = outcomes(study)
    base = found[study.base.name]
    parts, sizes = [], []
    for name, outcome in found.items():
        arrays, _ = differences(base, outcome) if name != study.base.name else ({}, [])
        sizes = [a.shape[1] for a in arrays.values()] or sizes
        for a in arrays.values():
            seeds, examples = a.shape
            if seeds < 2 or examples < 2:
                continue
            rest = a - a.mean(axis=0) - a.mean(axis=1, keepdims=True) + a.mean()
            residual = float((rest**2).sum()) / ((seeds - 1) * (examples - 1))
            of_seed = max(0.0, float(a.mean(axis=1).var(ddof=1)) - residual / examples)
            of_example = max(0.0, float(a.mean(axis=0).var(ddof=1)) - residual / seeds)
            parts.append((of_seed, of_example, residual))
    if not parts:
        raise SystemExit(f"{study.folder}: no arm has two seeds of two examples")
    return tuple(math.sqrt(float(np.mean(column))) for column in zip(*parts, strict=True)), sizes


if __name__ == "__main__":
    main()
