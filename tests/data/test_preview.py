"""What preview shows is what the feed delivers."""

from __future__ import annotations

import io

import numpy as np
import pytest
from rich.console import Console

from itune.data import preview_text
from itune.data.converters import assemble
from itune.data.feed import Reader
from itune.data.plan_tasks import PlanTask
from itune.data.preview import Preview, as_json
from itune.data.schedule import Plan
from itune.errors import UserError
from tests.data.toy import Toy, make_model

LENGTHS = {"inputs": 12, "targets": 8}  # "What is 3 + 3?\n" is cut


class Prepared:
    def __init__(self, toy: Toy, mixture: str = "sums", **fields):
        self.manifest = toy.prepare(mixture=mixture, **fields)
        self.plan = Plan(
            [PlanTask.from_manifest(task, "train") for task in self.manifest.train],
            seed=0,
            row_length=48,
            feature_lengths=LENGTHS,
        )
        self.reader, self.tokenizer = Reader(self.manifest.train, "train"), toy.tokenizer()

    def preview(self, **options) -> Preview:
        return Preview(self.manifest, self.plan, self.reader, self.tokenizer, **options)


def test_rows_are_the_rows_of_the_batch(toy: Toy):
    p = Prepared(toy)
    rows = list(p.preview().of_step(3, 2))
    assert [(r.row, r.step) for r in rows] == [(4, 3), (5, 3)]
    batch = assemble([p.plan.row(4), p.plan.row(5)], p.plan, p.reader, "tokens")
    for b, row in enumerate(rows):
        tokens = [t for e in row.examples for t in e.tokens]
        assert [t.id for t in tokens] == batch.tokens[b, : len(tokens)].tolist()
        assert not batch.tokens[b, len(tokens) :].any()
        learnt = [n for n, t in enumerate(tokens) if t.learnt]
        weighted = batch.loss_weights[b] > 0
        assert learnt == sorted((batch.loss_index[b][weighted] + 1).tolist())
        assert len(row.examples) == batch.segment_ids[b].max()


def test_an_example_tells_where_it_comes_from(toy: Toy):
    p = Prepared(toy)
    (row,) = p.preview().rows([0], 2)
    for example, segment in zip(row.examples, p.plan.row(0).segments, strict=True):
        record = p.reader.record(segment.task, segment.record)
        assert (example.task, example.id, example.split, example.template) == (
            record.task,
            record.id,
            "train",
            record.template,
        )
        assert example.epoch == segment.epoch
        assert example.cut == sum(len(s.ids) for s in record.spans) - len(example.tokens) > 0
        assert "".join(t.text for t in example.tokens if t.learnt).endswith("<eos>")


def test_tasks_are_shown_from_any_example_held_out_ones_too(toy: Toy):
    p = Prepared(toy, held_out=("held",))
    shown = list(p.preview().examples("sums/two", 3, 5))
    assert [e.id for e in shown] == ["train-3", "train-4"]
    assert [e.split for e in p.preview().examples("held", 0, 1)] == ["validation"]
    with pytest.raises(UserError, match="sums/tow.*Did you mean 'sums/two'"):
        list(p.preview().examples("sums/tow", 0, 1))
    with pytest.raises(UserError, match="--example=5: task 'sums/two' has 5 examples"):
        list(p.preview().examples("sums/two", 5, 1))
    with pytest.raises(UserError, match="counted from 1"):
        p.preview().of_step(0, 2)


def test_text_of_sensitive_tasks_is_withheld_unless_asked_for(toy: Toy):
    p = Prepared(toy, mixture="secret")
    (hidden, *_), (told, *_) = p.preview().rows([0], 1), p.preview(show_text=True).rows([0], 1)
    assert "What" not in str(as_json(hidden)) and "What" in "".join(t.text for t in told.examples[0].tokens)
    assert [t.id for t in hidden.examples[0].tokens] == [t.id for t in told.examples[0].tokens]
    assert "--show_text" in printed(hidden) and "What" not in printed(hidden)


def printed(*views, each_token: bool = False) -> str:
    out = io.StringIO()
    preview_text.print_views(views, Console(file=out, width=60), each_token=each_token)
    return out.getvalue()


def test_without_colour_the_margin_tells_what_is_learnt(toy: Toy):
    p = Prepared(toy)
    (example,) = p.preview().examples("sums/two", 3, 1)
    lines = printed(example).splitlines()
    assert any(line.startswith("    | What is 3 +") for line in lines)
    assert any(line.startswith("    > 6<eos>") for line in lines)
    tokens = printed(example, each_token=True).splitlines()
    assert sum(line.rstrip().endswith("'<eos>'") for line in tokens) == 1
    assert len([line for line in tokens if " inputs " in line]) == sum(t.role == "inputs" for t in example.tokens)


def test_pieces_join_to_the_whole_and_split_no_character(tmp_path):
    from itune.data.tokenizer import Tokenizer

    tokenizer = Tokenizer.from_folder(make_model(tmp_path / "model"))
    text = "na\u00efve \U0001f600 {x}\n<eos>"
    ids = tokenizer.encode(text)
    pieces = tokenizer.pieces(np.array(ids))
    assert "".join(pieces) == text and len(pieces) == len(ids)
    assert "\ufffd" not in "".join(pieces) and pieces[2:4] == ["", "\u00ef"]
