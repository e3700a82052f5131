"""transformers' log-probabilities of continuations, one forward pass each. Runs in .venv-parity."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from tests.parity import families, likelihoods


@torch.no_grad()
def score(model: torch.nn.Module, context: Sequence[int], continuation: Sequence[int]) -> dict[str, Any]:
    """{"logprob", "greedy", "gap": between the two best logits, where they are closest}."""
    if not continuation:
        return {"logprob": 0.0, "greedy": True, "gap": 1.0}
    if model.config.is_encoder_decoder:
        logits = model(torch.tensor([context]), decoder_input_ids=torch.tensor([[0, *continuation[:-1]]])).logits[0]
    else:
        logits = model(torch.tensor([[*context, *continuation[:-1]]])).logits[0, len(context) - 1 :]
    target = torch.tensor(continuation)
    logprob = logits.log_softmax(-1).gather(1, target[:, None]).double().sum()
    gap = -logits.topk(2).values.diff().max()
    return {"logprob": float(logprob), "greedy": bool((logits.argmax(-1) == target).all()), "gap": float(gap)}


def tiny(folder: Path) -> list[dict[str, Any]]:
    """Of the models that make_families.py and make_t5.py wrote to `folder`."""
    out = []
    for name in likelihoods.NAMES:
        auto = AutoModelForSeq2SeqLM if name in families.T5S else AutoModelForCausalLM
        settings = {"attn_implementation": "eager", "dtype": torch.float32}
        model = auto.from_pretrained(folder / name, **settings).eval()
        out += [{"model": name} | score(model, *pair) for pair in likelihoods.pairs()]
    return out


def real(model: torch.nn.Module, backend: Any) -> list[dict[str, Any]]:
    """Of the real model, with the ids that `backend` gives; "context" and "continuation" hold them."""
    encode = lambda text: backend.encode(text, add_special_tokens=False).ids  # noqa: E731
    rows = []
    for context, continuations in likelihoods.TEXTS:
        for continuation in continuations:
            ids = {"context": encode(context), "continuation": encode(continuation)}
            rows.append(ids | score(model, **ids))
    return rows


def ranking(model: torch.nn.Module, backend: Any, end: int) -> dict[str, Any]:
    """By way of comparing: "logprobs" [questions, options], and the options that it picks; in the plain prompt format.

    The ways are written out here from their papers: sum; per token; less that after an empty question; shares of the
    options less their mean over the questions, in logarithms.
    """
    encode = lambda text: backend.encode(text, add_special_tokens=False).ids  # noqa: E731
    options = [[*encode(option), end] for option in likelihoods.OPTIONS]
    after = lambda context: [score(model, [*context, *encode("\n")], o)["logprob"] for o in options]  # noqa: E731
    given = torch.tensor([after(encode(question)) for question, _ in likelihoods.QUESTIONS], dtype=torch.float64)
    shares = given.log_softmax(dim=1)
    ways = {
        "rank_accuracy": given,
        "rank_accuracy_norm": given / torch.tensor([len(option) for option in options]),
        "rank_accuracy_unconditional": given - torch.tensor(after([]), dtype=torch.float64),
        "rank_accuracy_calibrated": shares - shares.mean(dim=0),
    }
    right = torch.tensor([likelihoods.OPTIONS.index(target) for _, target in likelihoods.QUESTIONS])
    accuracy = {way: 100 * float((scores.argmax(1) == right).double().mean()) for way, scores in ways.items()}
    return {"logprobs": given.tolist(), "alone": after([]), "accuracy": accuracy}
