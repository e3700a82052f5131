"""What a study will take and what it can see, before it is run."""

from __future__ import annotations

import math
import statistics
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from itune.evaluation.panels import duration
from itune.evaluation.results import load_run
from itune.studies.amounts import Amounts, equalise, may_stop, said_amount, unequal
from itune.studies.arms import Study, difference
from itune.studies.measures import Measure
from itune.studies.outcomes import DIVERGED, DONE, answers, outcomes, resolution, state_of
from itune.studies.runner import runs
from itune.studies.statistics import FEWEST_SEEDS, smallest_effect
from itune.terminal import say

SHARE_OF_RATE = 0.4  # of the matrix rate, that a step is taken to reach
SIZE = 1024  # of the matrices whose product is timed


def dry_run(study: Study) -> None:
    """Prepares what is not prepared, and prints the budget. Raises: UserError."""
    console = Console(stderr=True)
    study, facts = equalise(study, lambda line: say(console, line))
    print("\n".join(budget(study, {name: fact.amounts for name, fact in facts.items()})))


def budget(study: Study, found: Mapping[str, Amounts]) -> list[str]:
    """Lines: each arm and its difference; what is held equal and what not; what the study can see; hours; runs."""
    lines, seeds = [], len(study.config.seeds)
    states = [(arm.name, state_of(Path(config.model_dir)), config.model_dir) for arm, _, config in runs(study)]
    for arm in study.arms:
        mine = [state for name, state, _ in states if name == arm.name]
        bad = f", {mine.count(DIVERGED)} diverged" if DIVERGED in mine else ""
        takes = f"{found[arm.name]['tokens']:,} tokens a run"
        lines.append(f"{arm.name}  ({arm.digest}): {takes}, {mine.count(DONE)} of {seeds} runs done{bad}")
        differs = difference(study.base.config, arm.config)
        lines += [f"    {name}: {a!r} -> {b!r}" for name, (a, b) in differs.items()]
    base = found[study.base.name]
    lines.append("the base: " + "; ".join(said_amount(unit, base[unit]) for unit in base))
    lines.append(f"held equal: {study.config.held_equal.replace('_', ' ')}; not equal:")
    lines += [f"    {line}" for line in unequal(found, study.base.name) or ["nothing"]]
    lines += may_stop(study)
    finished = [folder for _, state, folder in states if state == DONE]
    open_arms = [name for name, state, _ in states if state not in (DONE, DIVERGED)]
    lines.append(_seen(study))
    lines.append(_hours(found, open_arms, finished))
    tokens = sum(amount["tokens"] for amount in found.values()) * seeds
    said = f"{len(study.arms)} arms x {seeds} {'seed' if seeds == 1 else 'seeds'} = {len(states)} runs"
    return [*lines, f"{said}, {tokens:,} tokens; {len(finished)} done"]


def _hours(found: Mapping[str, Amounts], open_arms: Sequence[str], finished: Sequence[str]) -> str:
    """By the runs that are done; where there is none, by operations."""
    if not open_arms:
        return "time: every run is done"
    if finished:
        seconds = statistics.fmean(sum(load_run(Path(f)).evaluation.timings.values()) for f in finished)
        return (
            f"time: {duration(seconds * len(open_arms))} more, as long as the {len(finished)} runs that are done took"
        )
    if any("flops" not in found[name] for name in open_arms):
        return "time: not known before a run is done"
    rate = matrix_rate()
    seconds = sum(found[name]["flops"] for name in open_arms) / (rate * SHARE_OF_RATE)
    return (
        f"time: {duration(seconds)} of training steps, at {SHARE_OF_RATE:.0%} of the {rate / 1e9:,.0f} GFLOP/s at "
        "which this machine multiplies matrices in float32; evaluations and compilation come on top"
    )


def matrix_rate() -> float:
    """Operations a second of a float32 product on the default device, the best of a few."""
    import jax
    import jax.numpy as jnp

    product = jax.jit(lambda a, b: a @ b)
    a = jnp.ones((SIZE, SIZE), jnp.float32)
    product(a, a).block_until_ready()
    best = math.inf
    for _ in range(5):
        start = time.perf_counter()
        product(a, a).block_until_ready()
        best = min(best, time.perf_counter() - start)
    return 2 * SIZE**3 / best


def _seen(study: Study) -> str:
    """The smallest effect: by the errors of runs that are done, else in units of what seeds differ by."""
    comparisons, seeds = len(study.arms) - 1, len(study.config.seeds)
    few = f"; under {FEWEST_SEEDS} seeds nothing will be called significant" if seeds < FEWEST_SEEDS else ""
    if math.isfinite(size := resolution(answers(study, outcomes(study)))):
        said = Measure.of(study.config.measure).say(size)
        return f"smallest effect found with a probability of 80 %: {said}, by the runs done{few}"
    size = smallest_effect(1 / math.sqrt(seeds), seeds - 1, comparisons)
    if math.isnan(size):
        return "smallest effect: one seed says nothing about noise"
    return (
        f"smallest effect found with a probability of 80 %: {size:.1f} times the standard deviation of an arm's "
        f"difference over seeds (not known before two seeds are done){few}"
    )
