"""Our side of make_likelihoods.py. Runs in .venv, without torch."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from itune.inference.loglikelihood import Scorer
from tests.parity import likelihoods, ours


def faults(scorer: Scorer, pairs: Sequence[Any], references: Sequence[Mapping[str, Any]]) -> list[str]:
    """What differs; which token is likeliest may where the reference's two best are next to equal."""
    found = []
    for pair, got, theirs in zip(pairs, scorer.score(pairs), references, strict=True):
        if not abs(got.logprob - theirs["logprob"]) <= likelihoods.TOLERANCE:
            found.append(f"{pair}: {got.logprob}, not {theirs['logprob']}")
        if got.greedy != theirs["greedy"] and theirs["gap"] > ours.LOGIT_TOLERANCE:
            found.append(f"{pair}: greedy is {got.greedy}, not {theirs['greedy']}")
    return found
