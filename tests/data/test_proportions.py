"""What tasks gave: the tally is the summary at every row, shares are shares, reasons are the policy's."""

from __future__ import annotations

import csv
import io
import random
import types

import numpy as np
import pytest
from rich.console import Console

from itune.data.proportions import COUNTS, Tally, as_csv, by_share, drop_reasons, proportions
from itune.data.proportions_text import percent, print_proportions
from itune.data.schedule import Plan, PlanTask, TaskIndex


def task(name: str, lengths: list[tuple[int, int]], *, rate: float = 1.0, variants: int = 1, overlong: str = "drop"):
    """A task of so many (inputs, targets)."""
    n = len(lengths)
    zeros = np.zeros(n, np.int32)
    index = TaskIndex(
        inputs=np.array([a for a, _ in lengths], np.int32),
        targets=np.array([b for _, b in lengths], np.int32),
        example_key=np.repeat(np.arange(n // variants, dtype=np.uint64), variants),
        template=zeros.astype(np.int16),
        shard=zeros,
        offset=np.arange(n, dtype=np.int32),
    )
    return PlanTask(name=name, identity=name, rate=rate, index=index, variants=variants, overlong=overlong)


def random_plan(seed: int) -> Plan:
    """Few draws a window, and many examples too long."""
    rng = random.Random(seed)
    tasks = []
    for k in range(rng.randrange(1, 6)):
        lengths = [(rng.randrange(1, 20), rng.choice([1, 3, 5, 30, 30, 30])) for _ in range(2 * rng.randrange(1, 12))]
        lengths[0] = (3, 3)  # one that fits, else the task is refused
        policy = rng.choice(["drop", "drop", "truncate_inputs"])
        tasks.append(task(f"t{k}", lengths, rate=rng.choice([0.1, 1.0, 3.0]), overlong=policy))
    return Plan(
        tasks,
        seed=seed,
        row_length=24,
        window=rng.choice([1, 2, 3, 16]),
        max_epochs=rng.choice([0, 2]),
        feature_lengths={"inputs": 16, "targets": 8},
    )


def drawn(plan: Plan, first: int, last: int) -> np.ndarray:
    tasks = plan.summary(first, last)["tasks"].values()
    return np.array([t["examples"] for t in tasks])


@pytest.mark.parametrize("seed", range(40))
def test_the_tally_is_the_summary_at_every_row(seed: int):
    plan = random_plan(seed)
    last = min(60, plan.ensure_rows(60))
    tally = Tally(plan, 0)
    for row in range(1, last + 1):
        tally.advance(row)
        np.testing.assert_array_equal(tally.drawn, drawn(plan, 0, row), err_msg=f"row {row}")
        epochs = [t["epochs"] for t in plan.summary(0, row)["tasks"].values()]
        assert [tally.epochs(k) for k in range(len(plan.tasks))] == epochs


def test_the_plans_of_these_tests_drop_and_end():
    """Or the test above would show little."""
    plans = [random_plan(seed) for seed in range(40)]
    assert sum(any(t["dropped"] for t in p.summary(0, 60)["tasks"].values()) for p in plans) > 20
    assert sum(p.ensure_rows(60) < 60 for p in plans) > 5


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_a_tally_that_begins_later_goes_on_as_the_one_before(seed: int):
    plan = random_plan(seed)
    last = min(40, plan.ensure_rows(40))
    whole = Tally(plan, 0)
    whole.advance(last)
    later = Tally(plan, last // 2)
    supervised = [t["supervised_tokens"] for t in plan.summary(0, last // 2)["tasks"].values()]
    assert later.supervised_tokens.tolist() == supervised
    later.advance(last)
    later.advance(last)  # a step that is read twice counts once
    np.testing.assert_array_equal(later.drawn, whole.drawn)


def manifest(*names: str):
    split = types.SimpleNamespace(examples=9, skipped=2)
    tasks = [types.SimpleNamespace(name=n, cluster=f"cluster of {n}", splits={"train": split}) for n in names]
    return types.SimpleNamespace(train=tasks)


def test_shares_are_of_what_was_placed():
    plan = Plan(
        [task("long", [(10, 6), (10, 6)], rate=1.0), task("short", [(2, 2), (2, 2), (9, 40)], rate=3.0)],
        seed=0,
        row_length=32,
        window=12,
        feature_lengths={"inputs": 16, "targets": 8},
    )
    record = proportions(plan, manifest("long", "short"), "train", steps=4, batch_size=2)
    assert (record["steps"], record["batch_size"], record["digest"]) == (4, 2, plan.digest)
    long, short = record["summary"]["tasks"]["long"], record["summary"]["tasks"]["short"]
    totals = record["summary"]["totals"]
    assert (
        totals["examples"] == long["examples"] + short["examples"] == sum(len(plan.row(i).segments) for i in range(8))
    )
    assert long["share_of_tokens"] == pytest.approx(16 * long["examples"] / totals["tokens"])
    assert short["share_of_supervised_tokens"] == pytest.approx(2 * short["examples"] / totals["supervised_tokens"])
    assert long["share_of_tokens"] > 0.5 > long["share_got"]  # a quarter of the draws, most of the tokens
    assert short["dropped"] and short["dropped_because"] == {"targets_too_long": 1} and "dropped_because" not in long
    assert (long["cluster"], long["examples_available"], long["skipped_in_prepare"]) == ("cluster of long", 9, 2)
    for share in ("share_asked", "share_got", "share_of_examples", "share_of_tokens", "share_of_supervised_tokens"):
        assert long[share] + short[share] == pytest.approx(1.0), share


def test_reasons_are_counted_once_each():
    lengths = [(3, 3), (17, 3), (17, 9), (3, 9), (0, 1), (3, 0)]
    plan = Plan([task("a", lengths)], seed=0, row_length=32, feature_lengths={"inputs": 16, "targets": 8})
    reasons = drop_reasons(plan.tasks[0], plan)
    assert reasons == {"no_target_to_predict": 2, "targets_too_long": 2, "inputs_too_long": 1}
    cuts = Plan(
        [task("a", lengths, overlong="truncate_inputs")], seed=0, row_length=32, feature_lengths=plan._feature_lengths
    )
    assert drop_reasons(cuts.tasks[0], cuts) == {"no_target_to_predict": 2}


def many(n: int) -> dict:
    plan = Plan(
        [task(f"mix{k}", [(3, 3)] * 4, rate=k + 1.0) for k in range(n)],
        seed=0,
        row_length=32,
        feature_lengths={"inputs": 16, "targets": 8},
    )
    return proportions(plan, manifest(*(f"mix{k}" for k in range(n))), "train", steps=50, batch_size=4)


def printed(record: dict, **options) -> list[str]:
    out = io.StringIO()
    print_proportions(record, Console(file=out, width=100), rest="in a file", **options)
    return out.getvalue().splitlines()


def test_the_largest_twenty_are_printed_and_where_the_others_are():
    record = many(25)
    lines = printed(record)
    shown = [line.split()[0] for line in lines if line.startswith("mix")]
    assert len(shown) == 20 and shown == [name for name, _ in by_share(record)][:20]
    assert "and 5 more in a file" in lines
    few = printed(many(3))
    assert [line.split()[0] for line in few if line.startswith("mix")] == [
        "mix0",
        "mix1",
        "mix2",
    ]  # the mixture's own order
    assert not any("more" in line for line in few)
    assert any("50 steps of 4 rows" in line for line in few)


def test_the_csv_holds_every_number():
    record = many(4)
    rows = list(csv.DictReader(io.StringIO(as_csv(record))))
    assert [row["task"] for row in rows] == ["mix0", "mix1", "mix2", "mix3"]
    for row in rows:
        task = record["summary"]["tasks"][row["task"]]
        assert all(float(row[name]) == task[name] for name in ("share_asked", "share_got", "epochs", *COUNTS))


def test_small_shares_keep_their_digits():
    assert [percent(x) for x in (0.125, 0.0, 0.001, 0.0000541)] == ["12.50 %", "0.00 %", "0.10 %", "0.0054 %"]
