"""Which mixture next: by losses that are made to follow the shares."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from itune.errors import UserError
from itune.evaluation.losses import write_losses
from itune.evaluation.results import ExampleLoss
from itune.studies.arms import Study, load_study
from itune.studies.outcomes import outcomes
from itune.studies.propose import Mixtures, Proposal, fit, propose, write_proposal

WEIGHTS = np.array([2.0, 1.0, 3.0])


def made(count: int, noise: float, seeds: int = 2) -> Mixtures:
    rng = np.random.default_rng(3)
    shares = {"base": np.array([0.4, 0.3, 0.3])}
    shares |= {f"mixture {n}": rng.dirichlet([4.0, 3.0, 3.0]) for n in range(1, count)}
    loss = {
        (arm, seed): float(x @ WEIGHTS + 0.3 * seed + noise * rng.standard_normal())
        for arm, x in shares.items()
        for seed in range(seeds)
    }
    return Mixtures(groups=[["a"], ["b"], ["c", "d"]], shares=shares, loss=loss)


def test_the_coefficients_are_those_that_made_the_losses():
    beta, covariance, r2, df = fit(made(10, 0.0))
    assert beta[:3] == pytest.approx(WEIGHTS, abs=1e-9) and beta[3] == pytest.approx(0.3)
    assert r2 == pytest.approx(1.0) and df == 20 - 4 and np.all(np.abs(covariance) < 1e-12)


def test_a_better_mixture_is_found_within_what_was_seen():
    m = made(16, 0.01)
    found = propose(m, "base")
    assert isinstance(found, Proposal) and found.high < 0 and found.low < found.change < found.high
    seen = np.array(list(m.shares.values()))
    assert (found.share >= seen.min(axis=0)).all() and (found.share <= seen.max(axis=0)).all()
    assert found.share[1] > 0.3 and found.share.sum() == pytest.approx(1.0)
    truth = float((found.share - m.shares["base"]) @ WEIGHTS)
    assert found.low < truth < found.high


def test_too_few_mixtures_are_said_to_be_too_few():
    said = propose(made(4, 0.01), "base")
    assert isinstance(said, str) and "of 4 mixtures, and 3 groups of tasks need 5 or more" in said


def test_noise_proposes_nothing():
    """The mixture that looks best is one of many: its interval must hold for whichever that is."""
    claims = 0
    for seed in range(600):
        m = made(8, 0.01)
        rng = np.random.default_rng(seed)
        noise = {key: float(rng.standard_normal()) for key in m.loss}
        found = propose(Mixtures(groups=m.groups, shares=m.shares, loss=noise), "base")
        claims += isinstance(found, Proposal) and found.high < 0
    assert claims <= 0.025 * 600


@pytest.fixture
def study(tmp_path: Path) -> Study:
    path = tmp_path / "study.gin"
    path.write_text(
        "include 'gin_configs/recipes/quickstart.gin'\nEvalConfig.unseen = ('secret',)\n"
        "StudyConfig.seeds = (0,)\nStudyConfig.random_mixtures = 6\nStudyConfig.mix = ('a', 'b', 'c*')\n"
    )
    return load_study([path], workdir=str(tmp_path / "out"))


def test_from_a_studys_files_to_a_binding_and_unseen_tasks_are_not_looked_at(study: Study):
    assert [arm.name for arm in study.arms[1:]] == [f"mixture {n}" for n in range(1, 7)]
    base = {"a": 0.5, "b": 0.2, "c1": 0.2, "c2": 0.1}
    for number, arm in enumerate(study.arms):
        factors = arm.config.data.rate_factors or dict.fromkeys(("a", "b", "c*"), 1.0)
        rates = {t: share * factors["c*" if t[0] == "c" else t] for t, share in base.items()}
        shares = {t: rate / sum(rates.values()) for t, rate in rates.items()}
        folder = Path(arm.run(study.folder, 0).model_dir)
        folder.mkdir(parents=True)
        summary = {"tasks": {t: {"share_asked": share} for t, share in shares.items()}}
        (folder / "plan.json").write_text(json.dumps({"summary": summary}))
        (folder / "evaluation.json").write_text("{}")
        loss = {"open": 3.0 - shares["a"], "secret": 100.0 * number}
        rows = [ExampleLoss(group="held_out", task=t, id="0", nll=v, tokens=1.0) for t, v in loss.items()]
        write_losses(folder / "losses.jsonl", [], rows)
    lines = write_proposal(study, outcomes(study))
    assert lines[0].startswith("a: 50.0% of the examples -> ") and lines[2].startswith("c1 and 1 more: 30.0%")
    assert "R2 of mixtures left out 1.00" in lines[-2]
    binding = json.loads((study.folder / "proposal.json").read_text())["binding"]
    factors = eval(binding.partition("=")[2])
    assert factors["a"] > 1 and factors["c1"] == factors["c2"]


def test_random_mixtures_need_to_know_of_what(tmp_path: Path):
    path = tmp_path / "study.gin"
    path.write_text("include 'gin_configs/recipes/quickstart.gin'\nStudyConfig.random_mixtures = 6\n")
    with pytest.raises(UserError, match="needs StudyConfig.mix"):
        load_study([path])
