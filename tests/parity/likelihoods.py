"""Contexts with continuations, of which both environments compute the log-probabilities; questions with options."""

from __future__ import annotations

import numpy as np

from tests.parity import families

# Windows, soft-caps, a scaled RoPE, positions that are relative, an encoder.
NAMES = ("llama", "llama3", "mistral", "gemma2", "gemma3", "t5", "flan_t5")
TOLERANCE = 1e-4  # nats, of a continuation's sum
OPTION_TOLERANCE = 1e-3  # of an option's, on the real model

# (context, continuations) for the real model.
TEXTS = (
    ("The capital of France is", (" Paris", " London", " a city of many bridges and museums.")),
    ("Q: Is the sky green?\nA:", (" no", " yes", " maybe")),
    (
        "Premise: A dog runs in the park.\nHypothesis: An animal moves.\nEntailed?\n",
        ("yes", "no", "It is not possible"),
    ),
    ("To be, or not to be, that is", (" the question:", " the answer", "")),
)

# (question, the right option) of one template.
OPTIONS = ("yes", "no", "It is not possible to tell")
QUESTIONS = (
    ("Premise: A dog runs in the park. Hypothesis: An animal moves. True?", "yes"),
    ("Premise: A dog runs in the park. Hypothesis: The dog sleeps. True?", "no"),
    ("Premise: A woman reads. Hypothesis: She reads a novel. True?", "It is not possible to tell"),
    ("Premise: Nobody was at home. Hypothesis: The house was full of guests. True?", "no"),
    ("Premise: Both boys have a red kite. Hypothesis: A boy has a kite. True?", "yes"),
    ("Premise: The train is late. Hypothesis: It is raining. True?", "It is not possible to tell"),
)


def pairs() -> list[tuple[list[int], list[int]]]:
    """Token ids of the tiny models: several continuations to some contexts, and contexts of many lengths."""
    rng = np.random.default_rng(9)
    ids = lambda n: rng.integers(3, families.SIZES["vocab_size"], n).tolist()  # noqa: E731
    out = []
    for length in (1, 4, 9, 23, 40):
        context = ids(length)
        first = ids(1)
        out += [(context, first), (context, ids(1)), (context, first + ids(6)), (context, ids(3))]
    return out
