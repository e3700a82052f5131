"""The schedule: exact shares, no replacement, random access, and the same rows however they are asked for."""

import dataclasses
import itertools
import json
import math
import random
from collections import Counter
from fractions import Fraction

import numpy as np
import pytest

from itune.data.allocation import RATE_UNIT, Allocation, quantise_rates
from itune.data.evalplan import SequentialPlan
from itune.data.keyed import hash64, key64, keyed_order, splitmix64
from itune.data.schedule import Plan, PlanTask, TaskIndex
from itune.errors import UserError

LENGTHS = {"inputs": 96, "targets": 32}


def make_index(identity, num_examples, variants=1, seed=0, longest=90):
    rng = np.random.default_rng(seed)
    n = num_examples * variants
    keys = hash64(key64(identity), np.arange(num_examples, dtype=np.uint64))
    return TaskIndex(
        inputs=rng.integers(1, longest, n).astype(np.int32),
        targets=rng.integers(2, 30, n).astype(np.int32),
        example_key=np.repeat(keys, variants),
        template=np.zeros(n, np.int16),
        shard=np.zeros(n, np.int32),
        offset=np.arange(n, dtype=np.int32),
    )


def make_task(name, num_examples=50, rate=1.0, identity=None, variants=1, **fields):
    index = fields.pop("index", None) or make_index(identity or name, num_examples, variants)
    return PlanTask(name=name, identity=identity or name, rate=rate, index=index, variants=variants, **fields)


def make_plan(tasks, **fields):
    defaults = {"seed": 7, "row_length": 128, "window": 64, "feature_lengths": LENGTHS}
    return Plan(tasks, **(defaults | fields))


def three_tasks(**fields):
    return [make_task("a", 50, 3.0, **fields), make_task("b", 20, 1.0, **fields), make_task("c", 200, 0.5, **fields)]


def make_allocation(rates, limits=None, seed=0):
    rng = random.Random(seed)
    offsets = [rng.randrange(RATE_UNIT) for _ in rates]
    return Allocation(quantise_rates(rates), offsets, limits, [rng.randrange(1 << 63) for _ in rates])


def all_segments(plan, first=0, last=None):
    return [s for i in range(first, plan.num_rows if last is None else last) for s in plan.row(i).segments]


def drawn(plan, windows):
    """(task, epoch, record) in the order of the stream."""
    draws = plan.draws.draws(0, windows * plan.window)
    return list(zip(*(draws[name].tolist() for name in ("task", "epoch", "record")), strict=True))


# Allocation.


def test_rates_are_quantised_in_proportion():
    rng = random.Random(0)
    for _ in range(200):
        rates = [rng.choice([0.0, 1e-9, 1e-4, 1.0, 1000.0]) * rng.random() for _ in range(rng.randrange(1, 40))]
        rates.append(1.0)
        quantised = quantise_rates(rates)
        assert sum(quantised) == RATE_UNIT
        for rate, integer in zip(rates, quantised, strict=True):
            assert (rate > 0) == (integer > 0)
            assert abs(integer - rate / math.fsum(rates) * RATE_UNIT) <= 2 + len(rates)
    assert quantise_rates([1.0]) == [RATE_UNIT]
    assert sum(quantise_rates([1e-15] * 5000 + [1.0])) == RATE_UNIT
    for bad in ([], [0.0], [1.0, -1.0], [math.nan], [math.inf]):
        with pytest.raises(UserError, match="rates must be"):
            quantise_rates(bad)


def test_every_count_is_within_one_of_its_share_at_every_time():
    rng = random.Random(1)
    for trial in range(100):
        rates = [10 ** rng.uniform(-5, 2) for _ in range(rng.randrange(1, 60))]
        limits = [rng.randrange(1, 2000) for _ in rates] if trial % 2 else None
        allocation = make_allocation(rates, limits, trial)
        integers = quantise_rates(rates)
        for t in [0, 1, 2, rng.randrange(1 << 20), rng.randrange(1 << 40), rng.randrange(1 << 61)]:
            if limits is None:
                t &= (1 << 40) - 1
            counts = allocation.counts(t).tolist()
            for k, count in enumerate(counts):
                # Exactly, in Python's integers; counts() must not overflow.
                asked = t * integers[k] / RATE_UNIT
                if limits is not None:
                    asked = min(limits[k], asked)
                assert abs(count - asked) <= 1 + 1e-9 * asked, (trial, t, k)


def test_the_stream_agrees_with_the_counts_from_any_point():
    rng = random.Random(2)
    for trial in range(60):
        rates = [10 ** rng.uniform(-4, 1) for _ in range(rng.randrange(1, 30))]
        limits = [rng.randrange(1, 300) for _ in rates] if trial % 2 else None
        allocation = make_allocation(rates, limits, trial)
        total = min(1500, allocation.total or 1500)
        task, n = allocation.draws(0, total)
        for k in range(len(rates)):  # each task is drawn in order, without a gap
            assert n[task == k].tolist() == list(range((task == k).sum()))
        for _ in range(10):
            first = rng.randrange(total)
            last = rng.randrange(first, total) + 1
            some_task, some_n = allocation.draws(first, last)
            assert np.array_equal(some_task, task[first:last]) and np.array_equal(some_n, n[first:last])
        if limits is not None and total == allocation.total:
            assert np.bincount(task, minlength=len(rates)).tolist() == limits


def test_draws_are_merged_in_the_order_of_exact_crossing_times():
    rates = [0.5, 0.3, 0.15, 0.05]
    integers, offsets = quantise_rates(rates), [5, RATE_UNIT - 1, RATE_UNIT // 2, 0]
    task, n = Allocation(integers, offsets, None, [0, 1, 2, 3]).draws(0, 2000)
    times = [
        Fraction((b + 1) * RATE_UNIT - offsets[a], integers[a]) for a, b in zip(task.tolist(), n.tolist(), strict=True)
    ]
    # Ties of the 31-bit fraction are within 2^-31 of a draw.
    assert all(later - earlier > -Fraction(1, 1 << 30) for earlier, later in itertools.pairwise(times))


def test_a_task_of_weight_one_in_ten_thousand_gets_its_share():
    allocation = make_allocation([0.9999, 0.0001])
    for t in range(0, 200_001, 5_000):
        assert abs(allocation.counts(t)[1] - t * 1e-4) <= 1
    task, _ = allocation.draws(0, 200_000)
    assert abs(int((task == 1).sum()) - 20) <= 1
    gaps = np.diff(np.flatnonzero(task == 1))
    assert gaps.min() >= 9_998 and gaps.max() <= 10_002


def test_far_windows_cost_no_more_than_near_ones():
    allocation = make_allocation([1.0, 2.0, 3e-4])
    task, n = allocation.draws(10**9, 10**9 + 100)
    assert len(task) == 100
    assert abs(int(n[task == 1].max()) - 10**9 * 2 / 3.0003) < 1e3


# Order.


def test_keyed_hashes_are_what_they_were():
    """They order every run ever made. Another result here breaks resuming: don't update it, find out why."""
    # SplitMix64 seeded with 0, as published with it.
    assert int(splitmix64(np.zeros(1, np.uint64))[0]) == 0xE220A8397B1DCDAF
    assert key64("order", 3, "natural_questions", 1) == 12853377966384691405
    assert hash64(5, np.arange(2, dtype=np.uint64)).tolist() == [4517933670823692284, 12773366489153039575]
    assert len({key64("ab", "c"), key64("a", "bc"), key64(1, "1"), key64("1", 1), key64("abc")}) == 5


def test_the_order_of_examples_depends_on_their_keys_alone():
    keys = np.random.default_rng(0).integers(0, 1 << 63, 200).astype(np.uint64)
    ordered = keys[keyed_order(9, keys)].tolist()
    shuffled = np.random.default_rng(1).permutation(keys)
    assert shuffled[keyed_order(9, shuffled)].tolist() == ordered
    fewer = keys[::3]
    kept = set(fewer.tolist())
    assert fewer[keyed_order(9, fewer)].tolist() == [k for k in ordered if k in kept]
    assert keys[keyed_order(10, keys)].tolist() != ordered != sorted(ordered)


def test_no_replacement_within_an_epoch_and_none_left_out():
    plan = make_plan(three_tasks(), max_epochs=3)
    seen = Counter((s.task, s.epoch, s.record) for s in all_segments(plan))
    assert set(seen.values()) == {1}
    assert len(seen) == 3 * (50 + 20 + 200)
    orders = [[r for k, e, r in drawn(plan, 99) if (k, e) == (0, epoch)] for epoch in range(3)]
    assert sorted(orders[0]) == sorted(orders[1]) and orders[0] != orders[1], "each epoch has its own order"


def test_two_mixtures_share_a_tasks_order():
    alone = make_plan([make_task("a", 50)], window=32)
    among = make_plan([make_task("x", 30, 5.0), make_task("a", 50, 0.2), make_task("y", 9)], window=64)
    order = [(e, r) for k, e, r in drawn(alone, 10)]
    shared = [(e, r) for k, e, r in drawn(among, 100) if k == 1]
    n = min(len(order), len(shared))
    assert n > 100 and order[:n] == shared[:n]
    other_seed = [(e, r) for k, e, r in drawn(make_plan([make_task("a", 50)], window=32, seed=8), 10)]
    assert other_seed[:n] != order[:n]


def test_template_arms_pair():
    """Another name, other lengths, another V: the same examples are drawn at the same places of the stream."""
    arms = []
    for name, variants in (("a_terse", 1), ("a_wordy", 4)):
        index = make_index("a", 50, variants, seed=variants)
        mine = make_task(name, identity="a", variants=variants, index=index, fingerprint=name)
        arms.append(make_plan([mine, make_task("b", 30, 0.7)]))
    one = [(k, e, r) for k, e, r in drawn(arms[0], 6)]
    four = [(k, e, r // 4 if k == 0 else r) for k, e, r in drawn(arms[1], 6)]
    assert one == four


def test_variants_rotate_with_the_epoch_and_differ_between_examples():
    plan = make_plan([make_task("a", 40, variants=3)], max_epochs=3)
    by_example = {}
    for _, epoch, record in drawn(plan, 99):
        by_example.setdefault(record // 3, {})[epoch] = record % 3
    assert all(sorted(v.values()) == [0, 1, 2] for v in by_example.values())
    assert all(v[1] == (v[0] + 1) % 3 for v in by_example.values())
    assert {v[0] for v in by_example.values()} == {0, 1, 2}


def test_rows_are_not_ordered_by_length():
    plan = make_plan([make_task("a", 5000)], window=1024)
    (rows,) = plan.rows_in_windows(1)
    longest = np.array([max(s.num_inputs + s.num_targets for s in plan.row(i).segments) for i in range(rows)])
    assert abs(np.corrcoef(longest, np.arange(rows))[0, 1]) < 0.3


# Rows.


def test_random_access_equals_sequential():
    plan = make_plan(three_tasks(), max_epochs=2)
    rows = [plan.row(i) for i in range(plan.num_rows)]
    rng = random.Random(3)
    other = make_plan(three_tasks(), max_epochs=2)
    for i in rng.sample(range(len(rows)), len(rows)):
        assert other.row(i) == rows[i]
        assert other.index_of(rows[i].window, rows[i].row) == i
    for i in (-1, len(rows)):
        with pytest.raises(IndexError):
            other.row(i)
    with pytest.raises(IndexError):
        other.index_of(0, 10**6)


def test_growing_ahead_equals_planning_at_once_even_after_the_cache_is_gone(monkeypatch):
    monkeypatch.setattr("itune.data.schedule._CACHED_CHUNKS", 1)
    monkeypatch.setattr("itune.data.schedule._CHUNK_DRAWS", 200)
    monkeypatch.setattr("itune.data.draws._CACHED_ORDERS", 10)
    slow, fast = make_plan(three_tasks()), make_plan(three_tasks())
    assert fast.ensure_rows(300) >= 300
    for i in range(300):
        assert slow.row(i) == fast.row(i)
    assert slow.rows_in_windows(10) == fast.rows_in_windows(10)
    assert slow.row(3) == make_plan(three_tasks()).row(3)


def test_budgets_hold_and_every_draw_is_placed_once_and_whole():
    plan = make_plan(three_tasks(variants=2), max_epochs=2, supervised_per_row=48, segments_per_row=4)
    tasks = plan.tasks
    placed = Counter()
    for i in range(plan.num_rows):
        segments = plan.row(i).segments
        assert 1 <= len(segments) <= plan.S == 4
        assert sum(s.num_inputs + s.num_targets for s in segments) <= plan.L
        assert sum(s.num_targets for s in segments) <= plan.T == 48
        for s in segments:
            placed[s.task, s.epoch, s.record] += 1
            assert s.num_inputs == tasks[s.task].index.inputs[s.record]
            assert s.num_targets == tasks[s.task].index.targets[s.record]
    assert placed == Counter(drawn(plan, 10**2))
    windows = -(-2 * (50 + 20 + 200) // 64)
    counts = plan.rows_in_windows(windows + 5)
    assert len(counts) == windows and sum(counts) == plan.num_rows, "the last window is partial, and the last"


def test_an_endless_plan_has_no_number_of_rows_and_goes_on():
    plan = make_plan(three_tasks())
    assert plan.num_rows is None
    assert {s.epoch for s in plan.row(2000).segments} > {0} or plan.row(2000).segments[0].epoch > 0


def test_chosen_shape_never_cuts_what_feature_lengths_allow():
    short = dataclasses.replace(make_index("a", 300), targets=np.full(300, 3, np.int32))
    rare = dataclasses.replace(make_index("b", 300), targets=np.full(300, 32, np.int32))
    only = make_plan([make_task("a", index=short)])
    plan = make_plan([make_task("a", index=short), make_task("b", rate=1e-4, index=rare)])
    assert only.T == 16, "so the fill alone would not ask for more"
    assert plan.T == 32
    assert plan.tasks[1].index.targets[0] == 32 and plan.summary(0, 9000)["tasks"]["b"]["truncated_targets"] == 0


def test_overlong_examples_are_cut_or_dropped_and_counted():
    def plan(overlong):
        index = make_index("a", 60)
        index = dataclasses.replace(index, inputs=np.where(np.arange(60) % 3 == 0, 500, 20).astype(np.int32))
        return make_plan([make_task("a", index=index, overlong=overlong), make_task("b", 60)], max_epochs=1)

    cut, dropping = plan("truncate_inputs"), plan("drop")
    summary = cut.summary(0, cut.num_rows)["tasks"]["a"]
    counts = {"truncated": 20, "truncated_targets": 0, "dropped": 0, "examples": 60}
    assert summary | counts == summary
    assert max(s.num_inputs for s in all_segments(cut)) == LENGTHS["inputs"]
    summary = dropping.summary(0, dropping.num_rows)["tasks"]["a"]
    assert summary | {"truncated": 0, "dropped": 20, "examples": 40, "epochs": 1, "share_got": 0.4} == summary
    assert not any(s.record % 3 == 0 for s in all_segments(dropping) if s.task == 0)
    long = {r for _, _, r in drawn(cut, 9)} - {r for k, _, r in drawn(dropping, 9) if k == 0}
    assert [d for d in drawn(cut, 9) if d[0] == 0 and d[2] not in long] == [d for d in drawn(dropping, 9) if d[0] == 0]


def test_summaries_of_stretches_add_up_to_the_rows():
    plan = make_plan([*three_tasks(), make_task("d", 90, overlong="drop")], max_epochs=2, row_length=70, window=32)
    whole = plan.summary(0, plan.num_rows)
    assert whole == json.loads(json.dumps(whole))
    cuts = [0, 1, 17, 18, 60, plan.num_rows]
    parts = [plan.summary(a, b)["tasks"] for a, b in itertools.pairwise(cuts)]
    for name, task in whole["tasks"].items():
        for field in ("examples", "tokens", "supervised_tokens", "truncated"):
            assert task[field] == sum(part[name][field] for part in parts), (name, field)
        assert {part[name]["dropped"] for part in parts} == {task["dropped"]}, "of the task, whatever the stretch"
    assert whole["tasks"]["d"]["dropped"] > 10
    segments, counted = all_segments(plan, 17, 60), plan.summary(17, 60)
    tokens = sum(s.num_inputs + s.num_targets for s in segments)
    assert sum(t["tokens"] for t in counted["tasks"].values()) == tokens
    assert sum(t["supervised_tokens"] for t in counted["tasks"].values()) == sum(s.num_targets for s in segments)
    assert counted["rows"] == 43 and counted["fill"]["tokens"] == tokens / (43 * plan.L)
    assert whole["tasks"]["a"]["share_asked"] == pytest.approx(3 / 5.5)
    assert [t["epochs"] for t in whole["tasks"].values()] == [2, 2, 2, 2]


def test_examples_of_a_step_are_its_rows_examples():
    plan = make_plan(three_tasks())
    blamed = plan.examples_of_step(3, 4)
    assert blamed == [("abc"[s.task], s.record) for s in all_segments(plan, 12, 16)]


def test_digest_depends_on_everything_that_rows_depend_on():
    def digest(task=None, **fields):
        return make_plan([make_task("a", 50, **(task or {})), make_task("b", 30)], **fields).digest

    shorter = dataclasses.replace(make_index("a", 50), targets=np.full(50, 3, np.int32))
    digests = [
        digest(),
        digest(seed=8),
        digest(window=63),
        digest(row_length=129),
        digest(supervised_per_row=56),
        digest(segments_per_row=2),
        digest(max_epochs=5),
        digest(feature_lengths={"inputs": 95, "targets": 32}),
        digest(task={"rate": 1.5}),
        digest(rates={"a": 1.25}),
        digest(curriculum=((64, {"a": 3.0}),)),
        digest(curriculum=((65, {"a": 3.0}),)),
        digest(rate_unit="tokens"),
        digest(task_epochs={"a": 2}),
        digest(converter="prefix_lm"),
        digest(task={"excluded": np.arange(50) == 3}),
        digest(task={"overlong": "drop"}),
        digest(task={"truncate_side": "left"}),
        digest(task={"fingerprint": "x"}),
        digest(task={"index": shorter}),
    ]
    assert len(set(digests)) == len(digests)
    assert digest() == digests[0]


def test_what_cannot_be_planned_is_refused_by_name():
    with pytest.raises(UserError, match="'empty' has no examples"):
        make_plan([make_task("a"), make_task("empty", 0)])
    with pytest.raises(UserError, match="task 'a': every example is dropped"):
        make_plan([make_task("a", overlong="drop")], feature_lengths={"inputs": 1, "targets": 1})
    with pytest.raises(UserError, match="overlong='cut'"):
        make_task("a", overlong="cut")
    with pytest.raises(UserError, match="do not divide by variants=2"):
        make_task("a", index=make_index("a", 3), variants=2)
    assert make_plan([make_task("a"), make_task("empty", 0, rate=0.0)]).row(50), "what is never drawn may be empty"


# Evaluation.


def make_eval_plan(tasks, **fields):
    defaults = {"batch_size": 4, "row_length": 128, "feature_lengths": LENGTHS}
    return SequentialPlan(tasks, **(defaults | fields))


def test_sequential_plan_holds_every_example_once_in_whole_batches():
    plan = make_eval_plan(three_tasks(variants=3))
    seen = Counter((s.task, s.record) for s in all_segments(plan))
    assert seen == Counter({(k, 3 * e): 1 for k, n in enumerate((50, 20, 200)) for e in range(n)})
    assert plan.num_rows % 4 == 0
    assert [c.examples for c in plan.chosen] == [50, 20, 200]
    for (task, record), (row, slot) in plan.where.items():
        segment = plan.row(row).segments[slot]
        assert (segment.task, segment.record) == (task, record)
    assert len(plan.where) == 270
    assert all(len(plan.row(i).segments) <= plan.S for i in range(plan.num_rows))


def test_examples_per_task_are_the_same_for_everybody_and_nest():
    def chosen(tasks, n):
        return {(tasks[s.task].name, s.record) for s in all_segments(make_eval_plan(tasks, examples_per_task=n))}

    few, more = chosen(three_tasks(), 8), chosen(three_tasks(), 30)
    assert len(few) == 24 and len(more) == 80
    assert few < more
    assert {x for x in few if x[0] == "a"} == chosen([make_task("a", 50)], 8)
    assert {r for n, r in few if n == "c"} != set(range(8))


def test_sequential_plan_drops_by_policy_and_counts():
    index = dataclasses.replace(make_index("a", 10), inputs=np.array([500, *[5] * 9], np.int32))
    plan = make_eval_plan([make_task("a", index=index, overlong="drop")])
    assert (plan.chosen[0].examples, plan.chosen[0].dropped) == (9, 1)
    assert (0, 0) not in plan.where
    cutting = make_eval_plan([make_task("a", index=index)])
    assert (cutting.chosen[0].examples, cutting.chosen[0].truncated, cutting.chosen[0].dropped) == (10, 1, 0)
    with pytest.raises(IndexError):
        plan.row(plan.num_rows)
