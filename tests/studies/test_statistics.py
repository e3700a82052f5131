"""Effects, intervals and verdicts: against other formulas where these are known, and by simulation elsewhere."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from itune.studies.statistics import Effect, effect, exact_interval, judge, smallest_effect


def made(
    rng: np.random.Generator, *, seeds: int, sizes: tuple[int, ...], effect_of: float, seed: float, example: float
) -> dict[str, np.ndarray]:
    """Differences under the model, with a residual of 0.5."""
    shift = seed * rng.standard_normal((seeds, 1))
    return {
        f"t{k}": effect_of + shift + example * rng.standard_normal((1, n)) + 0.5 * rng.standard_normal((seeds, n))
        for k, n in enumerate(sizes)
    }


def test_one_example_a_task_is_the_paired_t_test() -> None:
    rng = np.random.default_rng(0)
    base, arm = rng.normal(2.0, 0.3, (6, 1)), rng.normal(2.2, 0.3, (6, 1))
    found = effect({"t": arm - base})
    expected = stats.ttest_rel(arm[:, 0], base[:, 0])
    assert (found.p, found.df) == (pytest.approx(expected.pvalue), 5)
    assert found.interval == pytest.approx(tuple(expected.confidence_interval(0.95)))
    assert (found.seeds, found.tasks, found.examples) == (6, 1, 1)


def test_tasks_count_alike_whatever_their_size() -> None:
    found = effect({"small": np.full((5, 2), 1.0), "large": np.full((5, 200), 0.0)})
    assert found.estimate == 0.5 and math.isnan(found.p) and found.se == 0.0


@pytest.mark.parametrize("tasks_sampled", [False, True])
def test_intervals_hold_what_they_promise(tasks_sampled: bool) -> None:
    """95 % of the intervals hold the effect, whether seeds or examples vary more; never far fewer."""
    rng = np.random.default_rng(1)
    for seed, example in ((0.3, 0.0), (0.0, 1.0), (0.3, 1.0)):
        held = 0
        for _ in range(600):
            found = effect(
                made(rng, seeds=5, sizes=(8, 16, 30, 12), effect_of=0.2, seed=seed, example=example),
                tasks_sampled=tasks_sampled,
            )
            low, high = found.interval
            held += low <= 0.2 <= high
        low, high = exact_interval(held, 600)
        assert high >= 0.95, (seed, example, held / 600)


def test_examples_that_differ_are_no_effect_of_the_arm() -> None:
    """An arm that shifts examples up and down alike: a t-test over seeds alone would call each study significant."""
    rng = np.random.default_rng(2)
    ours = theirs = 0
    for _ in range(300):
        d = made(rng, seeds=5, sizes=(20,), effect_of=0.0, seed=0.0, example=1.0)
        ours += effect(d).p < 0.05
        theirs += stats.ttest_1samp(d["t0"].mean(axis=1), 0).pvalue < 0.05
    assert ours / 300 < 0.08 < 0.5 < theirs / 300


def test_holms_correction_by_hand() -> None:
    def made_effect(p: float, seeds: int = 5) -> Effect:
        return Effect(estimate=1.0, se=1.0, df=4, p=p, seeds=seeds, tasks=1, examples=1)

    found = judge({"a": made_effect(0.012), "b": made_effect(0.04), "c": made_effect(0.02), "d": made_effect(math.nan)})
    assert {name: v.p_corrected for name, v in found.items() if name != "d"} == pytest.approx(
        {"a": 4 * 0.012, "c": 3 * 0.02, "b": 2 * 0.04}
    )
    assert [name for name, v in found.items() if v.significant] == ["a"]
    later = judge({"a": made_effect(0.03), "b": made_effect(0.031)})
    assert [v.p_corrected for v in later.values()] == pytest.approx([0.06, 0.06]), "never smaller than one before it"
    assert not judge({"a": made_effect(1e-9, seeds=4)})["a"].significant, "under five seeds nothing is"


def test_the_smallest_effect_is_found_with_the_power_it_says() -> None:
    rng = np.random.default_rng(3)
    seeds, spread, comparisons = 5, 0.4, 4
    smallest = smallest_effect(spread / math.sqrt(seeds), seeds - 1, comparisons)
    threshold = 0.05 / comparisons
    found = sum(
        stats.ttest_1samp(smallest + spread * rng.standard_normal(seeds), 0).pvalue < threshold for _ in range(1500)
    )
    low, high = exact_interval(found, 1500)
    assert low <= 0.8 <= high
    assert smallest_effect(0.1, 4, 1) < smallest_effect(0.1, 4, 10)
    assert math.isnan(smallest_effect(0.0, 4, 1)) and math.isnan(smallest_effect(0.1, 0, 1))


def test_one_seed_says_nothing() -> None:
    found = effect({"t": np.ones((1, 5))})
    assert math.isnan(found.p) and all(math.isnan(end) for end in found.interval)


@pytest.mark.parametrize(
    "differences", [{}, {"t": np.zeros((5, 0))}, {"t": np.zeros((5, 2)), "u": np.zeros((4, 2))}, {"t": np.zeros(5)}]
)
def test_bad_differences(differences: dict[str, np.ndarray]) -> None:
    with pytest.raises(ValueError, match="as many seeds"):
        effect(differences)
    with pytest.raises(ValueError, match="not finite"):
        effect({"t": np.array([[math.nan, 1.0]])})


def test_exact_intervals_are_scipys() -> None:
    for k, n in ((0, 20), (3, 20), (20, 20)):
        expected = stats.binomtest(k, n).proportion_ci(0.95, "exact")
        assert exact_interval(k, n) == pytest.approx((expected.low, expected.high))
