"""Against small files that transformers and peft wrote (make_golden.py). The whole comparison is `make parity`."""

from __future__ import annotations

import json

import numpy as np
import pytest

from itune.inference.loglikelihood import Scorer
from itune.models.compute import Compute
from itune.models.config import FullConfig
from tests.conftest import ROOT
from tests.parity import (
    chats,
    families,
    likelihoods,
    our_chats,
    our_families,
    our_likelihoods,
    our_metrics,
    our_sampling,
    ours,
    tiny,
)

GOLDEN = ROOT / "tests" / "golden"
CHANGED = "Refactor? A bug. Intended? make_golden.py --golden, and say so in CHANGELOG."


@pytest.fixture(scope="module")
def tiny_folder(tmp_path_factory):
    return tiny.write_folder(tmp_path_factory.mktemp("tiny"))


@pytest.fixture(scope="module")
def tiny_golden():
    golden = dict(np.load(GOLDEN / "tiny_llama.npz"))
    assert str(golden.pop("digest")) == tiny.digest(), "made from other weights: " + CHANGED
    return golden


@pytest.mark.parametrize("lora", [False, True], ids=["plain", "lora"])
def test_tiny_llama_has_transformers_logits_loss_and_gradients(tiny_folder, tiny_golden, lora):
    expected = {name: array for name, array in tiny_golden.items() if name.startswith("lora_") == lora}
    errors = ours.worst(ours.tiny_results(tiny_folder, lora=lora), expected)
    assert len(errors) == 2 + (3 * 7 * 2 if lora else 3 * 9 + 3)
    assert max(errors.values()) < 1e-4, (CHANGED, max(errors, key=errors.__getitem__), max(errors.values()))


@pytest.mark.parametrize("name", [*families.CONFIGS, *families.T5S])
def test_each_family_has_transformers_logits_loss_and_gradients(name, tmp_path):
    golden = np.load(GOLDEN / "families.npz")
    spec, params = ours.load(our_families.write_folder(tmp_path, name), FullConfig())
    found = families.summary(our_families.results(spec, params, Compute()))
    assert found["names"].tolist() == golden[f"{name}/names"].tolist()
    for key in ("logits", "loss", "gradients"):
        expected = golden[f"{name}/{key}"]
        # A gradient's product with fixed numbers is at most its length times theirs.
        scale = np.abs(expected[:, :1]) * 40 if key == "gradients" else np.abs(expected).max()
        assert (np.abs(found[key] - expected) <= 1e-4 * scale).all(), (CHANGED, key)


def test_filtered_probabilities_are_those_of_transformers_processors():
    rows = json.loads((GOLDEN / "probabilities.json").read_text())
    assert our_sampling.probability_difference(rows) <= our_sampling.TOLERANCE, CHANGED


def test_beams_and_repetition_penalty_find_what_transformers_does(tmp_path):
    rows = json.loads((GOLDEN / "searches.json").read_text())
    for name in {row["model"] for row in rows}:
        our_families.write_folder(tmp_path / name, name)
    assert len({tuple(row["new"]) for row in rows}) > 8 and len({len(row["new"]) for row in rows}) > 3
    assert not our_sampling.search_faults(rows, tmp_path), CHANGED


@pytest.mark.parametrize("name", likelihoods.NAMES)
def test_continuations_are_as_likely_as_in_transformers(name, tmp_path):
    rows = json.loads((GOLDEN / "likelihoods.json").read_text("utf-8"))
    scorer = Scorer(*ours.load(our_families.write_folder(tmp_path, name)), Compute(), row_length=64)
    references = [row for row in rows if row["model"] == name]
    assert len(references) == len(likelihoods.pairs())
    assert not our_likelihoods.faults(scorer, likelihoods.pairs(), references), CHANGED


@pytest.fixture(scope="module")
def smollm2_model(smollm2):
    return ours.load(smollm2)


def test_real_logits(smollm2_model):
    golden = np.load(GOLDEN / "smollm2_logits.npz")
    cuts = np.cumsum(golden["lengths"])[:-1]
    prompts = np.split(golden["tokens"], cuts)
    assert len(prompts) >= 5 and min(map(len, prompts)) >= 64
    found = np.concatenate(ours.prompt_logits(*smollm2_model, prompts))
    assert np.array_equal(found.argmax(-1), golden["argmax"]), CHANGED
    top = np.take_along_axis(found, golden["top_ids"], axis=-1)
    assert np.abs(top - golden["top_logits"]).max() < ours.LOGIT_TOLERANCE, CHANGED
    logsumexp = np.logaddexp.reduce(found.astype(np.float64), axis=-1)
    assert np.abs(logsumexp - golden["logsumexp"]).max() < ours.LOGIT_TOLERANCE, CHANGED


@pytest.mark.slow
def test_greedy_generation_is_transformers(smollm2_model, smollm2):
    """20 prompts x 64 tokens with our KV cache, near ties excepted."""
    from itune.data.tokenizer import Tokenizer
    from itune.inference.generate import Generator
    from itune.models.compute import Compute

    rows = json.loads((GOLDEN / "smollm2_greedy.json").read_text("utf-8"))
    tokenizer = Tokenizer.from_folder(smollm2)
    found = Generator(*smollm2_model, Compute()).generate([row["prompt"] for row in rows], 64, [tokenizer.eos_id])
    faults = [
        (row["text"], ours.greedy_difference(new, row, tokenizer.eos_id)) for row, new in zip(rows, found, strict=True)
    ]
    assert len(rows) == 20
    assert not [fault for fault in faults if fault[1]], CHANGED
    assert [tokenizer.encode(row["text"]) for row in rows] == [row["prompt"] for row in rows]


def test_chat_spans_are_transformers_ids_and_assistant_masks(smollm2):
    """In every style of template, with generation blocks and without."""
    golden = json.loads((GOLDEN / "chat.json").read_text("utf-8"))
    counts, faults = our_chats.differences(smollm2, chats.CONVERSATIONS, golden)
    assert not faults, CHANGED
    assert counts == {"equal": 2 * len(chats.STYLES) * len(chats.CONVERSATIONS)}


def test_a_tie_excuses_what_follows_and_nothing_else():
    reference = {"new": [5, 6, 7, 2], "gaps": [1.0, 0.0005, 1.0, 1.0]}
    assert ours.greedy_difference([5, 6, 7], reference, eos_id=2) is None
    assert ours.greedy_difference([5, 9, 9], reference, eos_id=2) is None
    assert ours.greedy_difference([4, 6, 7], reference, eos_id=2) == "step 0: 4, not 5 (gap 1.0)"
    assert ours.greedy_difference([5, 6], reference, eos_id=2) == "step 2: 2, not 7 (gap 1.0)"
    assert ours.greedy_difference([5, 6, 7, 8], reference, eos_id=2) == "step 3: 8, not 2 (gap 1.0)"


def test_metrics_are_those_of_rouge_score_sacrebleu_and_scikit_learn():
    assert not our_metrics.faults(json.loads((GOLDEN / "metrics.json").read_text("utf-8"))), CHANGED
