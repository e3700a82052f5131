"""The feed: rows become batches exactly as planned, from any row, on any number of hosts and threads."""

import dataclasses
import itertools
import os
import threading

import numpy as np
import pytest

from itune.batch import FIELDS
from itune.data import feed as feed_module
from itune.data.converters import assemble
from itune.data.evalplan import SequentialPlan
from itune.data.feed import Reader, example_tokens, feed, prompt_ids
from itune.data.manifest import PreparedSplit, PreparedTask
from itune.data.records import Record, Span, SplitWriter
from itune.data.schedule import Plan, PlannedRow, PlanTask, Segment
from itune.errors import UserError

EOS, NEWLINE = 2, 10
LENGTHS = {"inputs": 48, "targets": 16}


def make_record(inputs, targets, *, example=0, variant=0, roles=("inputs", "targets")):
    spans = (
        Span(role=roles[0], supervised=False, ids=np.array(inputs, np.int32)),
        Span(role=roles[1], supervised=True, ids=np.array(targets, np.int32)),
    )
    return Record(spans=spans, id=f"id{example}", task="t", split="train", example=example, variant=variant)


def write_task(folder, name, examples, *, variants=1, shard_bytes=2000, **fields):
    """Prepare a task of random tokens: prompts of 100.. ending in a newline, targets of 1000.. ending in EOS."""
    rng = np.random.default_rng(sum(name.encode()))
    writer = SplitWriter(folder / name / "train", identity=name, private=False, shard_bytes=shard_bytes)
    for example, variant in itertools.product(range(examples), range(variants)):
        inputs = [*rng.integers(100, 1000, rng.integers(0, 60)), NEWLINE]
        targets = [*rng.integers(1000, 2000, rng.integers(1, 20)), EOS]
        writer.add(make_record(inputs, targets, example=example, variant=variant))
    writer.finish({})
    split = PreparedSplit(
        dir=str(folder / name / "train"), fingerprint="f", examples=examples, variants=variants, skipped=0
    )
    prepared = {
        "cluster": "c",
        "licence": "l",
        "identity": name,
        "sensitive": False,
        "overlong": "truncate_inputs",
        "truncate_side": "right",
        "rate": 1.0,
        "metrics": [],
    }
    return PlanTask.from_manifest(PreparedTask(name=name, splits={"train": split}, **(prepared | fields)), "train")


@pytest.fixture(scope="module")
def tasks(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prepared")
    return [
        write_task(folder, "a", 40, variants=2),
        write_task(folder, "b", 25, rate=0.3, truncate_side="left"),
        write_task(folder, "c", 60, rate=2.0),
    ]


@pytest.fixture(scope="module")
def plan(tasks):
    return Plan(tasks, seed=3, row_length=96, window=32, max_epochs=2, feature_lengths=LENGTHS)


@pytest.fixture(scope="module")
def reader(tasks):
    return Reader(tasks)


def assert_equal(one, other, rows=slice(None)):
    for name in FIELDS:
        a, b = getattr(one, name), getattr(other, name)
        assert (a is None) == (b is None)
        if a is not None:
            np.testing.assert_array_equal(a, b[rows], err_msg=name)


class OneTask:
    """A plan of given rows over records in memory, and their reader."""

    T, S, L = 4, 4, 8

    def __init__(self, records, truncate_side="right", converter="causal", Le=0):
        self.records, self.converter, self.Le = records, converter, Le
        self.tasks = [type("Task", (), {"truncate_side": truncate_side})] * 4

    def record(self, task, record):
        return self.records[record]

    def locate(self, task, record):
        return "data.array_record", record


# Layout.


def test_the_row_in_the_batch_docstring():
    source = OneTask([make_record([5, 6], [7, EOS]), make_record([8], [9])])
    segments = tuple(
        Segment(task=3, record=r, epoch=0, num_inputs=n, num_targets=m) for r, n, m in ((0, 2, 2), (1, 1, 1))
    )
    row = PlannedRow(window=6, row=1, segments=segments)
    batch = assemble([row, PlannedRow(window=0, row=9, segments=())], source, source, "tokens")
    assert batch.tokens.tolist() == [[5, 6, 7, EOS, 8, 9, 0, 0], [0] * 8]
    assert batch.segment_ids.tolist() == [[1, 1, 1, 1, 2, 2, 0, 0], [0] * 8]
    assert batch.positions.tolist() == [[0, 1, 2, 3, 0, 1, 0, 0], [0] * 8]
    assert batch.loss_index.tolist() == [[1, 2, 4, 0], [0] * 4]
    assert batch.loss_targets.tolist() == [[7, EOS, 9, 0], [0] * 4]
    assert batch.loss_weights.tolist() == [[1, 1, 1, 0], [0] * 4]
    assert batch.loss_task.tolist() == [[3, 3, 3, 0], [0] * 4]
    assert batch.row_ids.tolist() == [[6, 1], [0, 9]]
    assert {str(getattr(batch, n).dtype) for n in FIELDS[:8]} == {"int32", "float32"}
    by_example = assemble([row], source, source, "example")
    assert by_example.loss_weights.tolist() == [[0.5, 0.5, 1, 0]]


def test_without_a_prompt_the_first_target_is_not_predicted():
    source = OneTask([make_record([1], [5]), make_record([], [7, 8, EOS])])
    segments = (
        Segment(task=0, record=0, epoch=0, num_inputs=1, num_targets=1),
        Segment(task=0, record=1, epoch=0, num_inputs=0, num_targets=3),
    )
    batch = assemble([PlannedRow(window=0, row=0, segments=segments)], source, source, "tokens")
    assert batch.loss_targets.tolist() == [[5, 8, EOS, 0]]
    assert batch.loss_index.tolist() == [[0, 2, 3, 0]]


def test_cutting_table():
    record = make_record([1, 2, 3, 4, NEWLINE], [7, 8, EOS])
    table = [
        ("right", 5, 3, [1, 2, 3, 4, NEWLINE, 7, 8, EOS]),
        ("right", 3, 3, [1, 2, NEWLINE, 7, 8, EOS]),
        ("left", 3, 3, [3, 4, NEWLINE, 7, 8, EOS]),
        ("right", 5, 2, [1, 2, 3, 4, NEWLINE, 7, 8]),
        ("right", 1, 1, [NEWLINE, 7]),
        ("left", 1, 1, [NEWLINE, 7]),
        ("right", 0, 3, [7, 8, EOS]),
        ("left", 0, 3, [7, 8, EOS]),
    ]
    for side, num_inputs, num_targets, expected in table:
        ids, supervised = example_tokens(record, num_inputs, num_targets, side)
        assert ids.tolist() == expected, (side, num_inputs, num_targets)
        assert supervised.tolist() == [False] * num_inputs + [True] * num_targets


def test_a_chat_prompt_keeps_the_header_that_opens_the_reply():
    record = make_record(range(100, 130), [7, EOS], roles=("user", "assistant"))
    ids, _ = example_tokens(record, 12, 2, "right")
    assert ids.tolist() == [*range(100, 104), *range(122, 130), 7, EOS]


def test_turns_stay_in_order():
    spans = [
        ("user", False, [1, 2]),
        ("assistant", True, [3, EOS]),
        ("user", False, [4]),
        ("assistant", True, [5, EOS]),
    ]
    record = dataclasses.replace(
        make_record([], []), spans=tuple(Span(role=r, supervised=s, ids=np.array(i, np.int32)) for r, s, i in spans)
    )
    ids, supervised = example_tokens(record, 3, 4, "right")
    assert ids.tolist() == [1, 2, 3, EOS, 4, 5, EOS]
    assert supervised.tolist() == [False, False, True, True, False, True, True]


def test_prompts_are_cut_as_in_training():
    record = make_record([1, 2, 3, 4, NEWLINE], [7, 8, EOS])
    segment = Segment(task=0, record=0, epoch=0, num_inputs=3, num_targets=2)
    assert prompt_ids(record, segment, "right") == [1, 2, NEWLINE]
    assert prompt_ids(record, segment, "left") == [3, 4, NEWLINE]
    assert prompt_ids(make_record([], [7, EOS]), dataclasses.replace(segment, num_inputs=0), "left") == []


# Whole plans.


def test_batches_hold_what_the_plan_says(plan, reader):
    """Every example, compared with its record token by token, in plain Python."""
    rows = [plan.row(i) for i in range(plan.num_rows)]
    batch = assemble(rows, plan, reader, "tokens")
    cut_targets = 0
    for b, row in enumerate(rows):
        at, slots = 0, 0
        for number, s in enumerate(row.segments, 1):
            record = reader.record(s.task, s.record)
            inputs, targets = record.spans[0].ids.tolist(), record.spans[1].ids.tolist()
            if len(inputs) > s.num_inputs:
                assert s.num_inputs == LENGTHS["inputs"]
                left = plan.tasks[s.task].truncate_side == "left"
                inputs = inputs[-s.num_inputs :] if left else [*inputs[: s.num_inputs - 1], NEWLINE]
            cut_targets += len(targets) > s.num_targets
            targets = targets[: s.num_targets]
            n = len(inputs) + len(targets)
            span = slice(at, at + n)
            assert batch.tokens[b, span].tolist() == inputs + targets
            assert batch.segment_ids[b, span].tolist() == [number] * n
            assert batch.positions[b, span].tolist() == list(range(n))
            predicted = slice(slots, slots + len(targets))
            assert batch.loss_targets[b, predicted].tolist() == targets
            assert batch.loss_index[b, predicted].tolist() == list(range(at + len(inputs) - 1, at + n - 1))
            assert (batch.loss_weights[b, predicted] == 1).all()
            assert (batch.loss_task[b, predicted] == s.task).all()
            at, slots = at + n, slots + len(targets)
        assert not batch.tokens[b, at:].any() and not batch.segment_ids[b, at:].any()
        assert not batch.loss_weights[b, slots:].any() and not batch.loss_index[b, slots:].any()
    summary = plan.summary(0, plan.num_rows)
    counts = summary["tasks"].values()
    assert sum(t["truncated_targets"] for t in counts) == cut_targets > 0
    assert sum(t["supervised_tokens"] for t in counts) == (batch.loss_weights > 0).sum()


def test_eos_is_supervised_and_no_prompt_token_is(plan, reader):
    batch = assemble([plan.row(i) for i in range(plan.num_rows)], plan, reader, "tokens")
    weighed = batch.loss_weights > 0
    predicted = batch.loss_targets[weighed]
    assert ((predicted == EOS) | (predicted >= 1000)).all(), "prompt tokens are 10 and 100..999"
    assert (predicted == EOS).sum() == (batch.tokens == EOS).sum() > 0
    assert ((batch.tokens == EOS) | (batch.tokens >= 1000)).sum() == weighed.sum(), "every target token is predicted"
    # The label is the next token of the same example.
    b, t = np.nonzero(weighed)
    at = batch.loss_index[b, t]
    assert (batch.tokens[b, at + 1] == batch.loss_targets[b, t]).all()
    assert (batch.segment_ids[b, at] == batch.segment_ids[b, at + 1]).all()
    assert (batch.positions[b, at] + 1 == batch.positions[b, at + 1]).all()


def test_loss_norm_example_weighs_every_example_alike(plan, reader):
    rows = [plan.row(i) for i in range(8)]
    batch = assemble(rows, plan, reader, "example")
    assert batch.loss_weights.sum() == pytest.approx(sum(len(r.segments) for r in rows))
    with pytest.raises(UserError, match="loss_norm='token'"):
        assemble(rows, plan, reader, "token")


def test_feed_resumes_at_any_row_with_identical_batches(plan, tasks, reader):
    whole = list(feed(plan, reader, batch_size=4))
    assert len(whole) == -(-plan.num_rows // 4)
    for start in (0, 4, 4 * (len(whole) - 1)):
        fresh = Plan(tasks, seed=3, row_length=96, window=32, max_epochs=2, feature_lengths=LENGTHS)
        resumed = list(feed(fresh, Reader(tasks), batch_size=4, start_row=start, num_threads=2, prefetch=2))
        assert len(resumed) == len(whole) - start // 4
        for a, b in zip(resumed, whole[start // 4 :], strict=True):
            assert_equal(a, b)
    # Another batch size from a row in the middle: the same rows.
    odd = next(iter(feed(plan, reader, batch_size=3, start_row=5)))
    assert_equal(odd, assemble([plan.row(i) for i in (5, 6, 7)], plan, reader, "tokens"))
    assert list(feed(plan, reader, batch_size=4, start_row=plan.num_rows + 50)) == []


def test_rows_past_the_end_are_empty(plan, reader):
    batch_size = plan.num_rows - 1
    *_, last = feed(plan, reader, batch_size=batch_size)
    assert_equal(assemble([plan.row(plan.num_rows - 1)], plan, reader, "tokens"), last, slice(0, 1))
    assert last.tokens.shape[0] == batch_size
    assert not last.loss_weights[1:].any() and not last.segment_ids[1:].any()


def test_hosts_that_pick_their_rows_see_the_same_global_batch(plan, reader):
    whole = list(feed(plan, reader, batch_size=6))
    for pick in ([0, 1, 2], [3, 4, 5], [5, 0], [2]):
        part = list(feed(plan, reader, batch_size=6, pick=pick))
        assert len(part) == len(whole), "every host makes as many steps, though its own rows may be empty"
        for a, b in zip(part, whole, strict=True):
            for name in set(FIELDS[:8]) - {"row_ids"}:
                np.testing.assert_array_equal(getattr(a, name), getattr(b, name)[pick])
    with pytest.raises(ValueError, match="no such rows"):
        next(feed(plan, reader, batch_size=2, pick=[2]))


def test_an_endless_plan_feeds_on(tasks, reader):
    endless = Plan(tasks, seed=3, row_length=96, window=32, feature_lengths=LENGTHS)
    batches = feed(endless, reader, batch_size=2, start_row=1000)
    assert_equal(next(batches), assemble([endless.row(1000), endless.row(1001)], endless, reader, "tokens"))
    batches.close()


def test_evaluation_feeds_every_example_once(tasks, reader):
    plan = SequentialPlan(tasks, batch_size=4, row_length=96, feature_lengths=LENGTHS, examples_per_task=20)
    seen = []
    for number, batch in enumerate(feed(plan, reader, batch_size=4)):
        assert batch.tokens.shape == (4, plan.L) and batch.loss_index.shape == (4, plan.T)
        for b in range(4):
            for slot, s in enumerate(plan.row(4 * number + b).segments):
                in_segment = batch.segment_ids[b] == slot + 1
                assert in_segment.sum() == s.num_inputs + s.num_targets
                seen.append((s.task, s.record))
    assert len(seen) == len(set(seen)) == 60
    assert {r % 2 for t, r in seen if t == 0} == {0}, "variant 0"


# Reading.


def test_a_reader_takes_a_manifests_tasks(tmp_path):
    task = write_task(tmp_path, "a", 5)
    split = PreparedSplit(dir=str(task.directory), fingerprint="f", examples=5, variants=1, skipped=0)
    names = ("name", "identity", "rate", "overlong", "truncate_side")
    fields = {name: getattr(task, name) for name in names}
    prepared = PreparedTask(**fields, cluster="c", licence="l", sensitive=False, metrics=[], splits={"train": split})
    assert Reader([prepared], "train").record(0, 3).id == Reader([task]).record(0, 3).id == "id3"
    with pytest.raises(UserError, match=r"no prepared split 'trian'\. Did you mean 'train'\?"):
        Reader([prepared], "trian")


def test_blame_gives_ids(plan, reader):
    task, record = plan.examples_of_step(2, 4)[0]
    number = [t.name for t in plan.tasks].index(task)
    assert reader.record(number, record).id == f"id{record // plan.tasks[number].variants}"


def test_few_files_stay_open(tasks):
    reader = Reader(tasks, max_open_files=3)

    def open_files():
        links = (f"/proc/self/fd/{fd}" for fd in os.listdir("/proc/self/fd"))
        return sum(os.path.exists(link) and "array_record" in os.readlink(link) for link in links)

    if not os.path.isdir("/proc/self/fd"):
        pytest.skip("counts files through /proc")
    before = open_files()
    paths = {reader.locate(2, r)[0] for r in range(60)}
    assert len(paths) > 4
    for record in range(60):
        assert reader.record(2, record).example == record
    assert open_files() - before == 3


def test_threads_share_a_reader_whose_files_come_and_go(tasks):
    reader, wrong = Reader(tasks, max_open_files=1), []

    def read(seed):
        rng = np.random.default_rng(seed)
        for record in rng.integers(0, 60, 300).tolist():
            try:
                if reader.record(2, record).example != record:
                    wrong.append(record)
            except Exception as error:
                wrong.append(error)

    threads = [threading.Thread(target=read, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_bad_record_is_named(tmp_path):
    task = write_task(tmp_path, "bad", 30, shard_bytes=1 << 20)
    plan = Plan([task], seed=0, row_length=96, window=8, max_epochs=1, feature_lengths=LENGTHS)
    path, _ = Reader([task]).locate(0, 0)
    short = dataclasses.replace(task, index=dataclasses.replace(task.index, inputs=task.index.inputs + 5))
    longer = Plan([short], seed=0, row_length=96, window=8, max_epochs=1, feature_lengths=LENGTHS)
    with pytest.raises(UserError, match=r"data-00000-of-00001.array_record: record \d+ is not as its index says"):
        list(feed(longer, Reader([short]), batch_size=2))
    data = bytearray(path.read_bytes())
    data[300:-300] = b"\xff" * (len(data) - 600)
    path.write_bytes(data)
    with pytest.raises(UserError, match=r"data-00000-of-00001.array_record: record \d+ can't be read"):
        list(feed(plan, Reader([task]), batch_size=2))
    path.unlink()
    with pytest.raises(UserError, match=r"record \d+ can't be read \(no such file\)"):
        Reader([task]).record(0, 0)
    with pytest.raises(UserError, match=r"index\.npz: not a prepared index"):
        type(task.index).load(tmp_path)


def test_as_many_files_stay_open_as_the_system_allows(monkeypatch):
    limits = {"now": (1024, 20_000)}
    monkeypatch.setattr(feed_module.resource, "getrlimit", lambda _: limits["now"])
    monkeypatch.setattr(feed_module.resource, "setrlimit", lambda _, new: limits.update(now=new))
    assert feed_module.room_for_files() == 8192 and limits["now"] == (16_384, 20_000)
    limits["now"] = (256, 600)
    assert feed_module.room_for_files() == 300

    def refuse(_, new):
        raise OSError("not permitted")

    limits["now"] = (256, 600)
    monkeypatch.setattr(feed_module.resource, "setrlimit", refuse)
    assert feed_module.room_for_files() == 128
