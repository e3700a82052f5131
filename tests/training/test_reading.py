"""Lines of metrics.jsonl: sums over intervals, totals since step 0, and the examples of a step that went wrong."""

from __future__ import annotations

import json
import types

import numpy as np
import pytest

from itune.data.schedule import Plan, PlanTask, TaskIndex
from itune.training.reading import MetricsReader
from itune.training.step import StepMetrics

STEPS, SIZE = 10, 2
CUMULATED = ("task_tokens_total", "task_epochs", "supervised_tokens_total")


def task(name: str, targets: list[int], rate: float) -> PlanTask:
    n = len(targets)
    zeros = np.zeros(n, np.int32)
    index = TaskIndex(
        inputs=np.full(n, 4, np.int32),
        targets=np.array(targets, np.int32),
        example_key=np.arange(n, dtype=np.uint64),
        template=zeros.astype(np.int16),
        shard=zeros,
        offset=zeros,
    )
    return PlanTask(name=name, identity=name, rate=rate, index=index, overlong="drop")


@pytest.fixture
def plan() -> Plan:
    """Two tasks, the second of which drops half of its examples, and a third that is hardly ever drawn."""
    tasks = [task("a", [2, 3, 5], 2.0), task("b", [4, 40, 4, 40], 1.0), task("rare", [1], 1e-6)]
    return Plan(tasks, seed=3, row_length=40, window=8, feature_lengths={"inputs": 8, "targets": 8})


def step_metrics(plan: Plan, step: int, *, bad: tuple[int, int] | None = None) -> StepMetrics:
    """As the step would sum them: every supervised token of example (row, segment) costs 1 + a little by place.

    bad: the (row, segment) whose loss is not finite.
    """
    example_nll, example_tokens = np.zeros((2, SIZE, plan.S), np.float32)
    task_nll, task_tokens = np.zeros((2, len(plan.tasks)), np.float32)
    tokens = 0
    for b in range(SIZE):
        for s, segment in enumerate(plan.row(step * SIZE + b).segments):
            nll = np.float32(np.nan if (b, s) == bad else segment.num_targets * (1 + 0.01 * step + 0.1 * b))
            example_nll[b, s], example_tokens[b, s] = nll, segment.num_targets
            task_nll[segment.task] += nll
            task_tokens[segment.task] += segment.num_targets
            tokens += segment.num_inputs + segment.num_targets
    total = task_nll.sum()
    return StepMetrics(
        loss_sum=total,
        weight=task_tokens.sum(),
        task_nll=task_nll,
        task_tokens=task_tokens,
        example_nll=example_nll,
        example_tokens=example_tokens,
        tokens=np.int32(tokens),
        grad_norm=np.float32(1.0),
        finite=np.isfinite(total),
    )


class Lines:
    def __init__(self):
        self.lines: list[dict] = []

    def write(self, record: dict) -> None:
        self.lines.append(json.loads(json.dumps(record, allow_nan=False)))


def reader(plan: Plan, log_every: int, first_step: int = 0, interval=None) -> tuple[MetricsReader, list[dict]]:
    train = types.SimpleNamespace(batch_size=SIZE, steps=STEPS, log_every=log_every, on_nonfinite="skip")
    records = types.SimpleNamespace(record=lambda k, r: types.SimpleNamespace(id=f"id-{r}"))
    data = types.SimpleNamespace(plan=plan, task_names=[t.name for t in plan.tasks], reader=records)
    lines = Lines()
    config = types.SimpleNamespace(train=train)
    return MetricsReader(config, data, lines, first_step=first_step, interval=interval), lines.lines


def run(plan: Plan, log_every: int, first: int = 0, last: int = STEPS, interval=None):
    """(lines, what a checkpoint at step `last` would keep)."""
    found, lines = reader(plan, log_every, first, interval)
    batch = types.SimpleNamespace(tokens=np.zeros((SIZE, plan.L), np.int32))
    for step in range(first, last):
        assert found.push(step, batch, step_metrics(plan, step), 1e-3) is None
    assert found.flush() is None
    return lines, json.loads(json.dumps(found.interval()))


def timeless(lines: list[dict]) -> list[dict]:
    clock = ("seconds", "tokens_per_s", "supervised_tokens_per_s", "goodput")
    return [{k: v for k, v in line.items() if k not in clock} for line in lines]


def test_a_line_sums_its_interval_and_the_last_one_is_written_too(plan: Plan):
    lines, kept = run(plan, 4)
    assert [(line["step"], line["steps"]) for line in lines] == [(4, 4), (8, 4), (10, 2)]
    assert kept["steps"] == 0 and not kept["tasks"]
    steps = [step_metrics(plan, step) for step in range(4, 8)]
    nll, tokens = sum(s.task_nll for s in steps), sum(s.task_tokens for s in steps)
    line = lines[1]
    assert line["task_loss"] == {n: pytest.approx(nll[k] / tokens[k]) for k, n in ((0, "a"), (1, "b"))}
    assert line["task_tokens"] == {"a": tokens[0], "b": tokens[1]}  # "rare" was not drawn: it has no place in the line
    assert line["loss"] == pytest.approx(nll.sum() / tokens.sum())
    assert line["tokens"] == sum(s.tokens for s in steps)
    assert line["fill"] == pytest.approx(line["tokens"] / (4 * SIZE * plan.L), abs=1e-4)


@pytest.mark.parametrize("log_every", [1, 3])
def test_totals_are_the_plans(plan: Plan, log_every: int):
    """Counted by the device and by the tally of rows; the plan's own sums are the outside truth."""
    lines, _ = run(plan, log_every)
    dropped = 0
    for line in lines:
        tasks = plan.summary(0, line["step"] * SIZE)["tasks"]
        assert line["supervised_tokens_total"] == sum(t["supervised_tokens"] for t in tasks.values())
        for name in line["task_tokens"]:
            assert line["task_tokens_total"][name] == tasks[name]["supervised_tokens"]
            assert line["task_epochs"][name] == pytest.approx(tasks[name]["epochs"], abs=1e-6)
        dropped += tasks["b"]["dropped"]
    assert dropped, "or the epochs are only those of placed examples"
    assert sum(line["supervised_tokens"] for line in lines) == lines[-1]["supervised_tokens_total"]


@pytest.mark.parametrize("log_every", [1, 4])
@pytest.mark.parametrize("stopped", [1, 3, 4, 6, 9])
def test_a_run_that_stopped_and_went_on_writes_the_lines_of_one_that_did_not(plan: Plan, log_every: int, stopped: int):
    whole, _ = run(plan, log_every)
    before, kept = run(plan, log_every, last=stopped)
    after, _ = run(plan, log_every, first=stopped, interval=kept)
    assert timeless(before + after) == timeless(whole)


def test_steps_without_a_finite_loss_are_left_out_of_means_and_name_their_examples(plan: Plan):
    found, lines = reader(plan, 4)
    batch = types.SimpleNamespace(tokens=np.zeros((SIZE, plan.L), np.int32))
    bad = (1, 2)
    guilty = plan.row(2 * SIZE + bad[0]).segments[bad[1]]
    blamed = f"{plan.tasks[guilty.task].name}:id-{guilty.record}"
    problems = []
    for step in range(4):
        problems.append(found.push(step, batch, step_metrics(plan, step, bad=bad if step == 2 else None), 1e-3))
    problems.append(found.flush())
    assert [bool(p) for p in problems] == [False, False, False, False, True]
    assert problems[4] == f"step 3: loss of {blamed} is not finite; the update was not applied"
    wrong, rest = lines
    assert (wrong["step"], wrong["finite"], wrong["nonfinite_examples"]) == (3, False, [blamed])
    assert (rest["step"], rest["steps"], rest["finite"]) == (4, 1, True) and "nonfinite_examples" not in rest
    two = [step_metrics(plan, step) for step in range(2)]
    assert wrong["loss"] == pytest.approx(sum(s.loss_sum for s in two) / sum(s.weight for s in two))
    other = {"a": "b", "b": "a"}[plan.tasks[guilty.task].name]
    assert wrong["task_loss"][other] is not None
    assert wrong["supervised_tokens"] == sum(step_metrics(plan, step).task_tokens.sum() for step in range(3))


def test_a_gradient_that_is_not_finite_names_every_example_of_the_step(plan: Plan):
    found, lines = reader(plan, 1)
    batch = types.SimpleNamespace(tokens=np.zeros((SIZE, plan.L), np.int32))
    metrics = step_metrics(plan, 0)
    metrics = StepMetrics(**{**vars(metrics), "finite": np.bool_(False), "grad_norm": np.float32(np.inf)})
    found.push(0, batch, metrics, 1e-3)
    problem = found.flush()
    everyone = [f"{plan.tasks[s.task].name}:id-{s.record}" for b in range(SIZE) for s in plan.row(b).segments]
    assert lines[0]["nonfinite_examples"] == everyone and lines[0]["grad_norm"] is None
    assert lines[0]["loss"] is not None and lines[0]["finite"] is False
    assert "gradient is not finite" in problem and everyone[0] in problem
    assert ("metrics.jsonl has all" in problem) == (len(everyone) > 8)


def test_devices_are_read_once_a_line(plan: Plan, monkeypatch):
    """However many steps it sums, and once more for those after the last line of a checkpoint."""
    import jax

    from itune.training import reading

    transfers = []
    real = jax.device_get
    monkeypatch.setattr(reading.jax, "device_get", lambda found: transfers.append(len(found)) or real(found))
    monkeypatch.setattr(reading, "READ_EVERY", 1e9)
    run(plan, 4)
    assert transfers == [4, 4, 2]
    transfers.clear()
    run(plan, 4, last=6)
    assert transfers == [4, 2]


def test_a_run_that_stops_at_a_bad_step_counts_none_after_it(plan: Plan):
    found, lines = reader(plan, 4)
    found.config.train.on_nonfinite = "stop"
    batch = types.SimpleNamespace(tokens=np.zeros((SIZE, plan.L), np.int32))
    for step in range(4):
        found.push(step, batch, step_metrics(plan, step, bad=(0, 0) if step == 1 else None), 1e-3)
    assert found.flush().startswith("step 2: loss of ")
    assert [line["step"] for line in lines] == [2] and found.interval()["steps"] == 0
