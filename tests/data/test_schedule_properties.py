"""Exactness over random mixtures: whatever the rates, stages and limits, shares hold and nothing is drawn twice."""

from collections import Counter
from fractions import Fraction

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from itune.data.allocation import RATE_UNIT
from tests.data.test_schedule import make_plan, make_task

SETTINGS = settings(max_examples=60, deadline=None, derandomize=True, database=None)
RATES = st.floats(1e-3, 1e3)


@st.composite
def mixtures(draw, epochs=(0, 0)):
    """(tasks, fields of a plan); epochs: the least and most of max_epochs."""
    sizes = draw(st.lists(st.integers(1, 40), min_size=1, max_size=6))
    tasks = [
        make_task(f"t{k}", n, draw(RATES), variants=draw(st.integers(1, 3)), identity=f"i{draw(st.integers(0, 9))}")
        for k, n in enumerate(sizes)
    ]
    untils = sorted(draw(st.sets(st.integers(1, 300), max_size=3)))
    names = [task.name for task in tasks]
    curriculum = tuple((until, draw(st.dictionaries(st.sampled_from(names), RATES))) for until in untils)
    fields = {"curriculum": curriculum, "seed": draw(st.integers(0, 99)), "window": draw(st.integers(1, 70))}
    return tasks, fields | {"max_epochs": draw(st.integers(*epochs))}


@SETTINGS
@given(mixtures())
def test_every_task_has_its_share_of_every_stage(mixture):
    """Decision 16: in virtual time a count is within one of its share, so among d merged draws within K + 1 of it."""
    tasks, fields = mixture
    plan = make_plan(tasks, **fields)
    first = 0
    for stage in plan.describe()["stages"]:
        until, rates = stage
        last = until if until is not None else first + 500
        drawn = plan.draws.draws(first, last)["task"]
        counts = np.cumsum(np.eye(len(tasks), dtype=np.int64)[drawn], axis=0)
        for d in {1, len(drawn) // 2, len(drawn)} - {0}:
            for k, rate in enumerate(rates):
                assert abs(int(counts[d - 1, k]) - Fraction(rate, RATE_UNIT) * d) <= len(tasks) + 1
        first = last


@SETTINGS
@given(mixtures(epochs=(1, 3)))
def test_nothing_is_drawn_twice_in_an_epoch_and_nothing_is_left_out(mixture):
    tasks, fields = mixture
    plan = make_plan(tasks, **fields)
    draws = plan.draws.draws(0, plan.draws.total)
    examples = draws["record"] // np.array([task.variants for task in tasks])[draws["task"]]
    seen = Counter(zip(draws["task"].tolist(), draws["epoch"].tolist(), examples.tolist(), strict=True))
    epochs = range(fields["max_epochs"])
    assert seen == Counter({(k, e, x): 1 for k, t in enumerate(tasks) for e in epochs for x in range(t.num_examples)})
    for k in range(len(tasks)):
        mine = draws["epoch"][draws["task"] == k]
        assert (np.diff(mine) >= 0).all(), "one epoch after the other"


@SETTINGS
@given(mixtures(epochs=(0, 3)), st.data())
def test_any_stretch_of_the_stream_is_the_stream(mixture, data):
    tasks, fields = mixture
    plan = make_plan(tasks, **fields)
    end = min(plan.draws.total or 800, 800)
    whole = plan.draws.draws(0, end)
    first = data.draw(st.integers(0, end))
    last = data.draw(st.integers(first, end))
    part = plan.draws.draws(first, last)
    assert all(np.array_equal(part[name], column[first:last]) for name, column in whole.items())


@SETTINGS
@given(mixtures(epochs=(1, 2)))
def test_rows_hold_every_draw_of_their_window_within_the_budgets(mixture):
    tasks, fields = mixture
    plan = make_plan(tasks, **fields)
    row = 0
    for window, rows in enumerate(plan.rows_in_windows(10**6)):
        segments = [s for i in range(row, row + rows) for s in plan.row(i).segments]
        draws = plan.draws.draws(window * plan.window, (window + 1) * plan.window)
        drawn = zip(*(draws[name].tolist() for name in ("task", "record", "epoch")), strict=True)
        assert Counter((s.task, s.record, s.epoch) for s in segments) == Counter(drawn)
        for i in range(row, row + rows):
            held = plan.row(i).segments
            assert 1 <= len(held) <= plan.S
            assert sum(s.num_inputs + s.num_targets for s in held) <= plan.L
            assert sum(s.num_targets for s in held) <= plan.T
        row += rows
    assert row == plan.num_rows
