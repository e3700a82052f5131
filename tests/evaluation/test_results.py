"""The sign test, pooling, and files that bear a kill."""

from __future__ import annotations

import json
import math
import stat
from pathlib import Path

import pytest

from itune.evaluation.findings import findings
from itune.evaluation.results import (
    Eval,
    Evaluation,
    ExampleLoss,
    Pooled,
    Prediction,
    load_run,
    notes_from_source,
    pool,
    read_predictions,
    sign_test,
    summarise,
    write_predictions,
)


@pytest.mark.parametrize(
    ("improved", "worsened", "p"),
    [
        (0, 0, 1.0),
        (5, 0, 1 / 32),
        (0, 5, 1.0),
        (8, 2, 56 / 1024),  # 45 + 10 + 1 ways
        (9, 1, 11 / 1024),
        (15, 5, 21700 / 2**20),  # C(20, 0..5) = 1 + 20 + 190 + 1140 + 4845 + 15504
        (10, 10, 0.5880985260009766),  # one half and half of C(20, 10) / 2^20
    ],
)
def test_sign_test_equals_the_binomial_tail(improved: int, worsened: int, p: float) -> None:
    assert sign_test(improved, worsened) == pytest.approx(p, rel=1e-12)


def test_sign_test_of_thousands_is_exact_and_finite() -> None:
    assert sign_test(3000, 3000) == pytest.approx(0.5 + math.comb(6000, 3000) / 2**6001, rel=1e-12)
    assert 0 <= sign_test(20_000, 10) < 1e-300
    with pytest.raises(ValueError, match="negative"):
        sign_test(-1, 3)


def loss(id: str, nll: float, tokens: float, group: str = "held_in", task: str = "a") -> ExampleLoss:
    return ExampleLoss(group=group, task=task, id=id, nll=nll, tokens=tokens)


def test_pooling_matches_examples_and_divides_sums_once() -> None:
    before = [
        loss("1", 20, 10),
        loss("2", 2, 2),
        loss("3", 3, 3),
        loss("only before", 1, 1),
        loss("1", 9, 3, "held_out"),
    ]
    after = [loss("3", 3, 3), loss("2", 4, 2), loss("1", 5, 10), loss("1", 6, 3, "held_out"), loss("only after", 1, 1)]
    pooled = pool(before, after)
    held_in = pooled["held_in"]
    assert (held_in.n, held_in.improved, held_in.worsened, held_in.ties) == (3, 1, 1, 1)
    assert held_in.loss_before == pytest.approx(25 / 15)  # not the mean of 2, 1 and 1
    assert held_in.loss_after == pytest.approx(12 / 15)
    assert held_in.sign_test_p == pytest.approx(0.75)
    assert pooled["held_out"].improved == 1


def test_an_example_without_target_tokens_or_with_nan_is_not_pooled() -> None:
    assert pool([loss("1", 0, 0), loss("2", math.nan, 3)], [loss("1", 0, 0), loss("2", 1, 3)]) == {}


def test_evaluation_survives_its_file_and_nan_becomes_null(tmp_path: Path) -> None:
    before = summarise([loss("1", 4, 2), loss("2", 2, 4)], {"a": {"rouge_l": 30.0}}, {"a": 2})
    assert before.held_in["a"].loss == pytest.approx(1.0)
    evaluation = Evaluation(
        before=before, after=summarise([loss("1", math.nan, 2)]), notes=("n",), timings={"train": 3.0}
    )
    evaluation.save(tmp_path / "evaluation.json")
    text = (tmp_path / "evaluation.json").read_text()
    assert "NaN" not in text
    loaded = Evaluation.load(tmp_path / "evaluation.json")
    assert loaded.before == before
    assert loaded.after is not None and loaded.after.held_in["a"].loss is None
    assert loaded.notes == ("n",) and loaded.timings == {"train": 3.0}


def prediction(task: str, after: str) -> Prediction:
    return Prediction(task=task, group="held_in", id="1", template="t", prompt="P", target="T", before="B", after=after)


def test_sensitive_text_is_not_written_unless_asked_for(tmp_path: Path) -> None:
    path = tmp_path / "predictions.jsonl"
    both = [prediction("open", "free\u2028text"), prediction("secret", "SECRET")]
    write_predictions(path, both, sensitive={"secret"})
    assert "SECRET" not in path.read_text() and stat.S_IMODE(path.stat().st_mode) == 0o600
    loaded = read_predictions(path)
    assert [p.after for p in loaded] == ["free\u2028text", None]
    assert [p.sensitive for p in loaded] == [False, True]
    assert all(getattr(loaded[1], name) is None for name in ("prompt", "target", "before", "before_chat"))
    write_predictions(path, both, sensitive={"secret"}, show_text=True)
    assert "SECRET" in path.read_text() and stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_run_cut_short_is_read_as_far_as_it_goes(tmp_path: Path) -> None:
    assert set(load_run(tmp_path).missing) >= {"config.json", "metrics.jsonl", "evaluation.json"}
    lines = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": 1.9},
        {"step": 2, "loss": 1.8},
        {"step": 2, "eval": {"held_in": {}}},
    ]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (tmp_path / "metrics.jsonl").write_text(text + '{"step": 3, "lo')
    (tmp_path / "evaluation.json").write_text('{"before": {"held_in": {"a": {"loss": 2.0, "exam')
    (tmp_path / "plan.json").write_text("[1]")
    run = load_run(tmp_path)
    assert [(s["step"], s["loss"]) for s in run.steps] == [(1, 2.0), (2, 1.8)]
    assert len(run.evals) == 1 and run.evaluation == Evaluation()
    assert len(run.problems) == 2


def evaluation(loss_after: float, improved: int, worsened: int) -> Evaluation:
    pooled = Pooled(
        n=improved + worsened,
        improved=improved,
        worsened=worsened,
        ties=0,
        sign_test_p=sign_test(improved, worsened),
        loss_before=2.0,
        loss_after=loss_after,
    )
    return Evaluation(before=Eval(), after=Eval(), pooled={"held_in": pooled})


@pytest.mark.parametrize(
    ("loss_after", "improved", "worsened", "said", "not_said"),
    [
        (1.0, 90, 10, "fell from 2.000 to 1.000", "no improvement"),
        (1.9, 11, 9, "could be chance", "rose"),
        (1.9, 11, 9, "no improvement", "rose"),
        (2.5, 10, 90, "rose from 2.000 to 2.500", "fell"),
        (2.5, 10, 90, "no improvement", "fell"),
        (1.5, 40, 60, "minority", "could be chance"),
        (2.5, 99, 1, "no improvement", "fell"),
        (2.0001, 50, 50, "stayed at 2.000", "rose"),
    ],
)
def test_findings_claim_no_more_than_the_numbers(
    loss_after: float, improved: int, worsened: int, said: str, not_said: str
) -> None:
    text = " ".join(findings(evaluation(loss_after, improved, worsened)))
    assert said in text and not_said not in text


def test_notes_say_what_the_base_model_is() -> None:
    notes = " ".join(notes_from_source({"instruction_tuned": True, "quantised": "Q4_1"}, held_out=True))
    assert "instruction-tuned" in notes and "4 bits (Q4_1)" in notes and "pretraining" in notes
    assert notes_from_source({}, held_out=False) == ()
