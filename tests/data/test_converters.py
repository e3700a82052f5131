"""Converters: the layout of prefix-LM and encoder-decoder batches, against SeqIO's feature converters."""

import dataclasses

import numpy as np
import pytest

from itune.data.converters import assemble
from itune.data.feed import Reader
from itune.data.records import Span
from itune.data.schedule import Plan, PlannedRow, Segment
from itune.errors import UserError
from tests.data.test_feed import EOS, OneTask, make_record, write_task
from tests.data.test_feed import LENGTHS as FEATURE_LENGTHS

EXAMPLES = [([5, 6, 11], [7, EOS]), ([8], [9, 12, EOS]), ([13, 14], [15, EOS])]
LENGTH, ENCODER = 16, 9


def one_row(converter, examples=EXAMPLES, Le=0):
    source = OneTask([make_record(*example) for example in examples], converter=converter, Le=Le)
    source.L = source.T = LENGTH
    segments = tuple(
        Segment(task=0, record=n, epoch=0, num_inputs=len(inputs), num_targets=len(targets))
        for n, (inputs, targets) in enumerate(examples)
    )
    return assemble([PlannedRow(window=0, row=0, segments=segments)], source, source, "tokens")


def seqio_row(converter, lengths, examples=EXAMPLES):
    """The first packed row that SeqIO makes of the examples."""
    import tensorflow as tf

    spec = {name: tf.TensorSpec([None], tf.int32) for name in ("inputs", "targets")}
    rows = [{"inputs": inputs, "targets": targets} for inputs, targets in examples]
    dataset = tf.data.Dataset.from_generator(lambda: iter(rows), output_signature=spec)
    return next(converter(dataset, lengths).as_numpy_iterator())


@pytest.fixture(scope="module")
def seqio():
    return pytest.importorskip("seqio")


def test_encoder_decoder_rows_are_seqios(seqio):
    ours = one_row("encoder_decoder", Le=ENCODER)
    theirs = seqio_row(seqio.EncDecFeatureConverter(pack=True), {"inputs": ENCODER, "targets": LENGTH})
    for name, feature in (
        ("encoder_tokens", "encoder_input_tokens"),
        ("encoder_segment_ids", "encoder_segment_ids"),
        ("encoder_positions", "encoder_positions"),
        ("tokens", "decoder_input_tokens"),
        ("segment_ids", "decoder_segment_ids"),
        ("positions", "decoder_positions"),
    ):
        assert getattr(ours, name)[0].tolist() == theirs[feature].tolist(), name
    n = int(ours.loss_weights.sum())
    assert ours.loss_index[0, :n].tolist() == np.flatnonzero(theirs["decoder_loss_weights"]).tolist() == list(range(7))
    assert ours.loss_targets[0, :n].tolist() == theirs["decoder_target_tokens"][:n].tolist()


@pytest.mark.parametrize("example", EXAMPLES)
def test_prefix_lm_marks_what_seqio_lets_see_each_other(seqio, example):
    """SeqIO's decoder reads its targets moved by one, ours reads them where they stand."""
    ours = one_row("prefix_lm", [example])
    lengths = {"inputs": ENCODER, "targets": LENGTH - ENCODER}
    theirs = seqio_row(seqio.PrefixLMFeatureConverter(pack=False), lengths, [example])
    assert ours.tokens[0].tolist() == theirs["decoder_target_tokens"].tolist()
    marked = theirs["decoder_causal_attention"]
    assert ours.bidirectional[0].tolist() == [*marked[1:].astype(bool).tolist(), False]
    n = int(ours.loss_weights.sum())
    assert (ours.loss_index[0, :n] + 1).tolist() == np.flatnonzero(theirs["decoder_loss_weights"]).tolist()


def test_a_packed_prefix_lm_row_is_the_causal_one_with_its_prompts_marked():
    causal, prefix = one_row("causal"), one_row("prefix_lm")
    assert causal.bidirectional is None
    assert prefix.bidirectional[0].astype(int).tolist() == [1, 1, 1, 0, 0, 1, 0, 0, 0, 1, 1, 0, 0, 0, 0, 0]
    for name in ("tokens", "segment_ids", "positions", "loss_index", "loss_targets", "loss_weights"):
        assert np.array_equal(getattr(causal, name), getattr(prefix, name)), name


def conversation():
    spans = [
        ("user", False, [5, 6]),
        ("assistant", True, [7, EOS]),
        ("user", False, [8]),
        ("assistant", True, [9, EOS]),
    ]
    record = make_record([], [])
    made = tuple(Span(role=r, supervised=s, ids=np.array(ids, np.int32)) for r, s, ids in spans)
    return dataclasses.replace(record, spans=made)


@pytest.mark.parametrize("converter", ["prefix_lm", "encoder_decoder"])
def test_several_replies_to_learn_are_for_causal_models(converter):
    source = OneTask([conversation()])
    segments = (Segment(task=0, record=0, epoch=0, num_inputs=3, num_targets=4),)
    row = PlannedRow(window=0, row=0, segments=segments)
    batch = assemble([row], source, source, "tokens")
    assert batch.tokens[0].tolist() == [5, 6, 7, EOS, 8, 9, EOS, 0]
    assert batch.loss_targets[0].tolist() == [7, EOS, 9, EOS]
    source.converter, source.Le = converter, 8
    source.tasks[0].name = "talk"
    with pytest.raises(UserError, match="task 'talk', record 'id0': a conversation with several replies"):
        assemble([row], source, source, "tokens")


def test_an_encoder_decoder_plan_packs_both_sides_and_cuts_neither_for_the_other(tmp_path):
    tasks = [write_task(tmp_path, "a", 200), write_task(tmp_path, "b", 90)]
    shape = {"row_length": 32, "encoder_row_length": 128, "converter": "encoder_decoder"}
    plan = Plan(tasks, seed=1, window=64, max_epochs=1, feature_lengths=FEATURE_LENGTHS, **shape)
    batch = assemble([plan.row(i) for i in range(plan.num_rows)], plan, Reader(tasks), "tokens")
    assert (plan.T, batch.encoder_tokens.shape[1], batch.tokens.shape[1]) == (32, 128, 32)
    segments = [s for i in range(plan.num_rows) for s in plan.row(i).segments]
    assert len(segments) == 290
    for s in segments:
        index = tasks[s.task].index
        assert s.num_inputs == min(48, index.inputs[s.record]) and s.num_targets == min(16, index.targets[s.record])
    assert int(batch.loss_weights.sum()) == sum(s.num_targets for s in segments)
    assert int((batch.encoder_segment_ids > 0).sum()) == sum(s.num_inputs for s in segments)
    assert np.array_equal(batch.encoder_segment_ids.max(axis=1), batch.segment_ids.max(axis=1))
    fill = plan.summary(0, plan.num_rows)["fill"]
    assert fill["encoder"] == pytest.approx((batch.encoder_segment_ids > 0).mean())
    assert fill["tokens"] == pytest.approx((batch.segment_ids > 0).mean())
