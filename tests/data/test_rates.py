"""Rates that a run sets: stages, units, limits, what is left out."""

import dataclasses
import itertools
from collections import Counter
from types import SimpleNamespace

import numpy as np
import pytest

from itune.data.config import DataConfig
from itune.data.plan_tasks import capped
from itune.data.rates import by_name, lookup, nested, scaled
from itune.errors import UserError
from tests.data.test_schedule import all_segments, make_index, make_plan, make_task, three_tasks


def shares(plan, first, last):
    """Share of each task's draws in a stretch of the stream."""
    task = plan.draws.draws(first, last)["task"]
    return (np.bincount(task, minlength=len(plan.tasks)) / len(task)).tolist()


def test_a_curriculum_switches_at_a_number_of_examples():
    stages = ((500, {"*": 0.0, "b": 1.0}), (1500, {"[ab]": 2.0, "c": 4.0}))
    plan = make_plan(three_tasks(), curriculum=stages, rates={"a": 1.0})
    assert shares(plan, 0, 500) == [0, 1, 0]
    assert shares(plan, 500, 1500) == pytest.approx([0.25, 0.25, 0.5], abs=2e-3)
    assert shares(plan, 1500, 4000) == pytest.approx([1 / 2.5, 1 / 2.5, 0.5 / 2.5], abs=2e-3), "the run's own rates"
    whole = plan.draws.draws(0, 4000)
    for first, last in ((0, 4000), (490, 510), (499, 1501), (1500, 1500), (2999, 3000)):
        part = plan.draws.draws(first, last)
        assert all(np.array_equal(part[name], column[first:last]) for name, column in whole.items())
    b = [(e, r) for k, e, r in zip(*(whole[n].tolist() for n in ("task", "epoch", "record")), strict=True) if k == 1]
    assert len(set(b)) == len(b), "a stage goes on where the one before it stopped: nothing is drawn twice in an epoch"
    asked = {name: task["share_asked"] for name, task in plan.summary(0, plan.index_of(7, 0))["tasks"].items()}
    assert asked == pytest.approx({"a": 0, "b": 1, "c": 0}), "seven windows of 64 are all of the first stage"
    later = plan.summary(plan.index_of(25, 0), plan.index_of(60, 0))["tasks"]
    assert [t["share_asked"] for t in later.values()] == pytest.approx([0.4, 0.4, 0.2])
    assert [t["share_got"] for t in later.values()] == pytest.approx([0.4, 0.4, 0.2], abs=2e-3)


def test_a_stage_whose_tasks_are_used_up_makes_room_for_the_next():
    plan = make_plan(three_tasks(), curriculum=((500, {"*": 0.0, "b": 1.0}),), max_epochs=2)
    draws = plan.draws.draws(0, 10**6)
    assert draws["task"][:40].tolist() == [1] * 40 and 1 not in draws["task"][40:]
    assert plan.draws.total == len(draws["task"]) == 2 * (50 + 20 + 200)
    seen = Counter((s.task, s.epoch, s.record) for s in all_segments(plan))
    assert len(seen) == 2 * (50 + 20 + 200) and set(seen.values()) == {1}


@pytest.mark.parametrize("unit", ["tokens", "supervised_tokens"])
def test_rates_may_be_shares_of_tokens(unit):
    long = dataclasses.replace(make_index("a", 60), targets=np.full(60, 30, np.int32), inputs=np.full(60, 60, np.int32))
    short = dataclasses.replace(make_index("b", 60), targets=np.full(60, 3, np.int32))
    tasks = [make_task("a", index=long, rate=1.0), make_task("b", index=short, rate=1.0)]
    plan = make_plan(tasks, rate_unit=unit)
    found = plan.summary(0, 2000)
    for task in found["tasks"].values():
        assert task["share_asked"] == pytest.approx(0.5)
        assert task["share_got"] == pytest.approx(0.5, abs=0.01)
    counts = [task[unit] for task in found["tasks"].values()]
    assert counts[0] / sum(counts) == pytest.approx(0.5, abs=0.01)
    by_example = make_plan(tasks).summary(0, 2000)["tasks"]
    assert by_example["a"]["examples"] == pytest.approx(by_example["b"]["examples"], rel=0.01)
    assert by_example["a"][unit] > 1.5 * by_example["b"][unit]


def test_a_task_may_have_a_limit_of_its_own():
    plan = make_plan(three_tasks(), task_epochs={"a": 1, "b*": 3})
    found = plan.summary(0, 3000)["tasks"]
    assert [found[n]["examples"] for n in "ab"] == [50, 60] and found["c"]["epochs"] > 10
    assert plan.num_rows is None
    ending = make_plan(three_tasks(), task_epochs={"a": 1}, max_epochs=2)
    assert [t["epochs"] for t in ending.summary(0, ending.num_rows)["tasks"].values()] == [1, 2, 2]


def test_a_rate_of_zero_leaves_a_task_out():
    plan = make_plan([*three_tasks(), make_task("empty", 0)], rates={"empty": 0.0, "c": 0.0})
    found = plan.summary(0, 100)["tasks"]
    assert (found["c"]["examples"], found["empty"]["examples"]) == (0, 0)
    assert found["a"]["share_asked"] == pytest.approx(0.75)


def test_what_is_excluded_is_never_drawn_and_changes_the_digest():
    excluded = np.arange(50) % 2 == 0
    plan = make_plan([make_task("a", 50, variants=2, excluded=excluded), make_task("b", 20)], max_epochs=3)
    whole = make_plan([make_task("a", 50, variants=2), make_task("b", 20)], max_epochs=3)
    seen = Counter(s.record // 2 for s in all_segments(plan) if s.task == 0)
    assert seen == Counter({e: 3 for e in range(50) if e % 2})
    found = plan.summary(0, plan.num_rows)["tasks"]["a"]
    assert (found["dropped"], found["epochs"]) == (25, 3)
    assert plan.digest != whole.digest
    with pytest.raises(UserError, match="task 'a': every example is dropped.*and is not excluded"):
        make_plan([make_task("a", 50, excluded=np.ones(50, bool))])


def test_a_variant_that_is_too_long_gives_way_to_the_next():
    index = make_index("a", 40, 3)
    long = np.arange(120) % 3 == np.arange(120) // 3 % 3  # one variant of each example
    index = dataclasses.replace(index, inputs=np.where(long, 500, 20).astype(np.int32))
    plan = make_plan([make_task("a", index=index, variants=3, overlong="drop")], max_epochs=6)
    seen = Counter(s.record for s in all_segments(plan))
    assert not any(long[record] for record in seen), "never the one that its task would drop"
    assert set(Counter(record // 3 for record in seen.elements()).values()) == {6}, "each example once an epoch"
    assert set(seen.values()) == {2, 4}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"rates": {"aa": 1.0}}, r"DataConfig.rates: no task of the mixture is called 'aa'. Did you mean 'a'"),
        ({"rates": {"x*": 1.0}}, r"DataConfig.rates: no task of the mixture is called 'x\*'"),
        ({"rates": {"*": 0.0}}, "DataConfig.rates: every task of the mixture has the rate 0"),
        ({"curriculum": ((9, {"*": 0.0}),)}, r"DataConfig.curriculum\[0\]: every task of the mixture has the rate 0"),
        ({"task_epochs": {"d": 1}}, "DataConfig.task_epochs: no task of the mixture is called 'd'"),
    ],
)
def test_rates_that_cannot_be_are_refused_by_name(fields, message):
    with pytest.raises(UserError, match=message):
        make_plan(three_tasks(), **fields)


def test_a_name_goes_before_patterns_and_the_first_pattern_before_the_next():
    said = {"a*": 1.0, "*": 2.0, "ab": 3.0}
    assert lookup(["ab", "ac", "x"], said, "") == [3.0, 1.0, 2.0]


def test_max_examples_keeps_the_same_examples_in_every_task_of_a_data_set():
    tasks = [make_task("rte/zs", 50, identity="rte"), make_task("rte/fs", 50, identity="rte", variants=2)]
    drawn = {}
    for most in (0, 50, 20, 10):
        plan = make_plan([capped(task, most) for task in tasks], max_epochs=1)
        seen = [(s.task, s.record // tasks[s.task].variants) for s in all_segments(plan)]
        drawn[most] = [{example for task, example in seen if task == k} for k in (0, 1)]
        assert len(seen) == 2 * (most or 50), "each once"
        assert drawn[most][0] == drawn[most][1]
    assert drawn[10][0] < drawn[20][0] < drawn[50][0] == drawn[0][0] == set(range(50))
    by_key = np.argsort(tasks[0].example_keys)[:10].tolist()
    assert drawn[10][0] == set(by_key) != set(range(10)), "chosen by key, not by position"
    excluded = np.arange(50) < 25
    left = capped(dataclasses.replace(tasks[0], excluded=excluded), 10).excluded
    assert (~left).sum() == 10 and not (~left & excluded).any(), "of those that may be trained on"
    assert capped(dataclasses.replace(tasks[0], excluded=excluded), 30).excluded is excluded


def test_a_run_says_how_many_examples_it_takes():
    with pytest.raises(ValueError, match="DataConfig.max_examples=-1 must not be negative"):
        DataConfig(mixture="m", max_examples=-1)


def test_factors_multiply_the_mixtures_rates_or_those_of_the_run():
    names, mixture = ["rte/zs", "rte/fs", "cb/zs"], [2.0, 1.0, 4.0]
    assert scaled(names, mixture, {}, {"*/fs": 0.5, "cb/*": 0.0}) == [2.0, 0.5, 0.0]
    assert scaled(names, mixture, {"rte/*": 3.0}, {"rte/fs": 2.0}) == [3.0, 6.0, 4.0]
    with pytest.raises(UserError, match="DataConfig.rate_factors: no task of the mixture is called 'rte/sz'. Did you"):
        scaled(names, mixture, {}, {"rte/sz": 1.0})
    with pytest.raises(UserError, match="every task of the mixture has the rate 0"):
        scaled(names, mixture, {}, {"*": 0.0})
    with pytest.raises(ValueError, match=r"DataConfig.rate_factors\['x'\]=-1.0 must be a number"):
        DataConfig(mixture="m", rate_factors={"x": -1.0})


def test_fewer_tasks_and_clusters_are_subsets_of_more():
    tasks = [(f"{cluster}/{n}", cluster) for cluster in "abcde" for n in range(4)]
    chosen = [nested(tasks, n, 0) for n in range(1, 21)]
    assert [len(found) for found in chosen] == list(range(1, 21))
    assert all(few < more for few, more in itertools.pairwise(chosen))
    whole = [nested(tasks, 0, n) for n in range(1, 6)]
    assert [len(found) for found in whole] == [4, 8, 12, 16, 20]
    assert all(few < more for few, more in itertools.pairwise(whole))
    assert nested(tasks, 3, 1) < nested(tasks, 0, 1) and nested(tasks, 0, 0) == {name for name, _ in tasks}
    assert nested(tasks[::-1], 5, 0) == nested(tasks, 5, 0), "no order of the mixture's enters"
    with pytest.raises(UserError, match="DataConfig.max_tasks=21: there are 20"):
        nested(tasks, 21, 0)
    with pytest.raises(UserError, match="DataConfig.max_clusters=6: there are 5"):
        nested(tasks, 0, 6)


def test_tasks_are_named_by_their_cluster_or_source_too():
    known = [
        SimpleNamespace(name="rte/zs", cluster="nli", identity="super_glue/rte"),
        SimpleNamespace(name="cb/zs", cluster="nli", identity="cb"),
        SimpleNamespace(name="sst2/zs", cluster="sentiment", identity="sst2"),
    ]
    said = {"cluster:nli": 2.0, "source:glue:rte": 3.0, "cb/zs": 5.0, "*": 7.0}
    assert by_name(known, said, "") == {"rte/zs": 2.0, "cb/zs": 5.0, "sst2/zs": 7.0}, "a name first, then in order"
    assert by_name(known, {"source:RTE": 0.0}, "") == {"rte/zs": 0.0}, "under any of its names"
    assert by_name(known, {"x*": 1.0}, "") == {"x*": 1.0}, "patterns are `lookup`'s to judge"
    with pytest.raises(
        UserError, match="R: no task of the mixture is called 'cluster:nil'. Did you mean 'cluster:nli'"
    ):
        by_name(known, {"cluster:nil": 1.0}, "R")
