"""Tokens are drawn as documented: the filters by a plain numpy definition, the draws by chi-square."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itune.errors import UserError
from itune.inference.config import GREEDY, SamplingConfig
from itune.inference.sampling import Settings, best, choose, penalise, warp

V = 12
CASES = [
    SamplingConfig(temperature=1.0),
    SamplingConfig(temperature=0.6),
    SamplingConfig(temperature=1.7, top_k=5),
    SamplingConfig(temperature=1.0, top_k=1),
    SamplingConfig(temperature=1.0, top_k=100),
    SamplingConfig(temperature=0.9, top_p=0.8),
    SamplingConfig(temperature=1.0, top_p=1e-6),
    SamplingConfig(temperature=1.3, min_p=0.2),
    SamplingConfig(temperature=1.5, top_k=7, top_p=0.7, min_p=0.1, repetition_penalty=1.8),
    SamplingConfig(temperature=0.8, repetition_penalty=0.5),
]


def some_logits(rows: int, seed: int = 0) -> np.ndarray:
    return (2.5 * np.random.default_rng(seed).standard_normal((rows, V))).astype(np.float32)


def by_definition(logits_V: np.ndarray, seen_V: np.ndarray, c: SamplingConfig) -> np.ndarray:
    """The probabilities of a draw, as SamplingConfig documents them, in float64."""
    scores = logits_V.astype(np.float64)
    divided = np.where(scores > 0, scores / c.repetition_penalty, scores * c.repetition_penalty)
    scores = np.where(seen_V, divided, scores) / c.temperature
    order = np.argsort(-scores)
    kept = order[: c.top_k] if c.top_k else order
    weights = softmax(scores[kept])
    kept = kept[: 1 + int((np.cumsum(weights) < c.top_p).sum())]
    kept = [token for token in kept if np.exp(scores[token] - scores[order[0]]) >= c.min_p]
    probabilities = np.zeros(len(scores))
    probabilities[kept] = softmax(scores[kept])
    return probabilities


def softmax(x: np.ndarray) -> np.ndarray:
    exp = np.exp(x - x.max())
    return exp / exp.sum()


def seen_tokens(rows: int) -> np.ndarray:
    return np.random.default_rng(1).random((rows, V)) < 0.4


def test_filtered_probabilities_are_those_of_the_definition():
    """Rows with other settings in one call: each gets its own."""
    for seed in range(5):
        logits, seen = some_logits(len(CASES), seed), seen_tokens(len(CASES))
        settings = Settings.of(CASES)
        found = jax.nn.softmax(warp(penalise(jnp.asarray(logits), seen, settings.penalty), settings), axis=1)
        expected = [by_definition(*row) for row in zip(logits, seen, CASES, strict=True)]
        np.testing.assert_allclose(found, np.array(expected), atol=2e-6)


@pytest.mark.parametrize("n", range(len(CASES)))
def test_draws_have_the_probabilities_of_the_definition(n):
    """Chi-square over 4,000 seeds; the bound is that of a probability of one in a million."""
    draws = 4000
    logits, seen = some_logits(1, 7), seen_tokens(1)
    configs = [CASES[n].updated({"seed": seed}) for seed in range(draws)]
    rows = lambda x: jnp.asarray(np.broadcast_to(x, (draws, V)))  # noqa: E731
    token = jax.jit(choose)(rows(logits), rows(seen), jnp.full(draws, 3), Settings.of(configs)).token
    counts = np.bincount(np.asarray(token), minlength=V)
    expected = draws * by_definition(logits[0], seen[0], CASES[n])
    assert not counts[expected == 0].any(), "a token that the filters leave out"
    # Cells of few expected draws go together, as the approximation needs.
    big = expected >= 5
    o, e = ([*a[big], a[~big].sum()] for a in (counts, expected))
    statistic = sum((x - y) ** 2 / y for x, y in zip(o, e, strict=True) if y > 0)
    freedom = max(sum(y > 0 for y in e) - 1, 1)
    bound = freedom * (1 - 2 / (9 * freedom) + 4.75 * (2 / (9 * freedom)) ** 0.5) ** 3  # Wilson & Hilferty 1931
    assert statistic < bound, (o, e)


def test_a_draw_depends_on_seed_and_place_and_on_nothing_else():
    logits = np.repeat(some_logits(1, 3), 6, axis=0)
    hot = lambda seed: SamplingConfig(temperature=2.0, seed=seed)  # noqa: E731
    seen = jnp.zeros((6, V), bool)

    def draw(configs, places):
        return np.asarray(choose(jnp.asarray(logits), seen, jnp.asarray(places), Settings.of(configs))[0])

    many = np.array([draw([hot(5)] * 5 + [GREEDY], [0, 1, 2, 0, 1, 2]) for _ in range(2)])
    assert (many[0] == many[1]).all() and (many[0][:2] == many[0][3:5]).all()
    assert many[0][5] == logits[0].argmax()
    other = draw([hot(1), hot(5), hot(2), hot(3), hot(5), hot(5)], [0, 0, 0, 0, 2, 1])
    assert other[1] == many[0][0] and other[4] == many[0][2] and other[5] == many[0][1]
    spread = {tuple(draw([hot(seed)] * 6, range(6))) for seed in range(8)}
    assert len(spread) > 4


def test_the_best_and_its_lead():
    logits = np.array([[1.0, 3.0, 2.5, 3.0], [-np.inf, -2.0, -np.inf, -np.inf], [0.0, -1.0, -4.0, -0.5]], np.float32)
    token, gap = best(jnp.asarray(logits))
    assert token.tolist() == [1, 1, 0] and gap.tolist() == [0.0, np.inf, 0.5]


def test_equal_tokens_stay_or_go_together():
    logits = jnp.asarray([[2.0, 1.0, 1.0, 1.0, -0.0, 0.0]])
    kept = lambda c: np.flatnonzero(np.isfinite(np.asarray(warp(logits, Settings.of([c])))[0])).tolist()  # noqa: E731
    assert kept(SamplingConfig(temperature=1.0, top_k=2)) == [0, 1, 2, 3]
    assert kept(SamplingConfig(temperature=1.0, top_p=0.5)) == [0, 1, 2, 3]
    assert kept(SamplingConfig(temperature=1.0, min_p=0.3)) == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"temperature": -1.0}, "temperature=-1.0 must be 0 (greedy) or more"),
        ({"temperature": float("nan")}, "temperature=nan must be a number"),
        ({"temperature": "hot"}, "temperature='hot' must be a number"),
        ({"temperature": 1.0, "top_k": -1}, "top_k=-1 must be 0 (off) or more"),
        ({"temperature": 1.0, "top_k": 2.5}, "top_k=2.5 must be a whole number"),
        ({"temperature": 1.0, "top_p": 0.0}, "top_p=0.0 must be above 0"),
        ({"temperature": 1.0, "min_p": 1.5}, "min_p=1.5 must be between 0"),
        ({"top_p": 0.9}, "top_p=0.9 does nothing at temperature 0 (greedy)"),
        ({"repetition_penalty": 0.0}, "repetition_penalty=0.0 must be above 0"),
        ({"seed": -1}, "seed=-1 must be between 0"),
        ({"seed": True}, "seed=True must be a whole number"),
        ({"stop": ["a", ""]}, "stop=('a', '') must be texts that are not empty"),
        ({"stop": 3}, "stop=3 must be texts"),
        ({"beams": 0}, "beams=0 must be at least 1"),
        ({"beams": 2, "temperature": 1.0}, "beams=2 goes with temperature 0"),
        ({"max_new_tokens": 0}, "max_new_tokens=0 must be at least 1"),
        ({"temprature": 1.0}, "there is no setting 'temprature'. Did you mean 'temperature'?"),
    ],
)
def test_settings_out_of_range_are_one_line(fields, message):
    with pytest.raises(UserError) as caught:
        GREEDY.updated(fields)
    assert message in str(caught.value) and "\n" not in str(caught.value)


def test_settings_of_a_request_over_those_of_the_call():
    base = SamplingConfig(temperature=0.7, top_p=0.9, max_new_tokens=5)
    assert base.updated({"stop": "x", "seed": 4}) == SamplingConfig(
        temperature=0.7, top_p=0.9, max_new_tokens=5, stop=("x",), seed=4
    )
    assert base.updated({"temperature": 0}) == SamplingConfig(temperature=0, max_new_tokens=5)
