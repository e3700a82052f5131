"""From logits to next tokens, each row by its own settings: one compiled function serves every request.

Legend: B rows, V vocabulary.
The order is transformers': repetition penalty; then, unless a row is greedy, temperature, top-k, top-p, min-p, a draw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from itune.inference.config import SamplingConfig

Array = jax.Array | np.ndarray
OFF = 2.0  # a top-p that no mass reaches


class Settings(NamedTuple):
    """SamplingConfig's fields, [B] each."""

    temperature: Array
    top_k: Array
    top_p: Array
    min_p: Array
    penalty: Array
    seed: Array

    @classmethod
    def of(cls, configs: Sequence[SamplingConfig]) -> Settings:
        """Host arrays."""
        column = lambda name, dtype: np.array([getattr(c, name) for c in configs], dtype)  # noqa: E731
        return cls(
            temperature=column("temperature", np.float32),
            top_k=column("top_k", np.int32),
            top_p=column("top_p", np.float32),
            min_p=column("min_p", np.float32),
            penalty=column("repetition_penalty", np.float32),
            seed=column("seed", np.uint32),
        )


class Chosen(NamedTuple):
    """[B] each. token: int32.  gap: between the two best scores.  logprob: of the token, in nats, by the model itself:
    before penalty, temperature and filters."""

    token: jax.Array
    gap: jax.Array
    logprob: jax.Array


def choose(logits_BV, seen_BV, index_B, settings: Settings) -> Chosen:
    """The next token of each row.

    The key of a draw is made from the row's seed and `index_B`, how many tokens its request has written: neither the
    row nor the batch enters. A draw is the best of the scores with Gumbel noise added, so that a gap between the two
    best says, greedy or not, how little would have changed the token.

    seen_BV: bool, the tokens that the repetition penalty is for.
    """
    scores_BV = penalise(logits_BV, seen_BV, settings.penalty)
    drawn_B = settings.temperature > 0

    def draw():
        # A greedy row is computed along and left out: whether it is must not change what is compiled.
        noise_BV = jax.vmap(_noise, (0, 0, None))(settings.seed, index_B, scores_BV.shape[1])
        return jnp.where(drawn_B[:, None], warp(scores_BV, settings) + noise_BV, scores_BV)

    token_B, gap_B = best(jax.lax.cond(drawn_B.any(), draw, lambda: scores_BV))
    logit_B = jnp.take_along_axis(logits_BV, token_B[:, None], axis=1)[:, 0]
    return Chosen(token_B, gap_B, logit_B - jax.nn.logsumexp(logits_BV, axis=1))


def _noise(seed, index, size: int):
    return jax.random.gumbel(jax.random.fold_in(jax.random.key(seed), index), (size,), jnp.float32)


def best(scores_BV):
    """(argmax [B] int32, by how much it is ahead [B]). On CPU six times as quick as argmax, ten times as top_k."""
    V = scores_BV.shape[1]
    places_BV = jnp.broadcast_to(jnp.arange(V, dtype=jnp.int32)[None], scores_BV.shape)
    top_B = scores_BV.max(axis=1)
    token_B = jnp.where(scores_BV == top_B[:, None], places_BV, V - 1).min(axis=1)
    others_BV = jnp.where(places_BV == token_B[:, None], -jnp.inf, scores_BV)
    return token_B, top_B - others_BV.max(axis=1)


def penalise(logits_BV, seen_BV, penalty_B):
    """Logits of seen tokens over the penalty where positive, times it where not."""

    def penalised():
        p_B1 = penalty_B[:, None]
        return jnp.where(seen_BV, jnp.where(logits_BV > 0, logits_BV / p_B1, logits_BV * p_B1), logits_BV)

    return jax.lax.cond((penalty_B != 1).any(), penalised, lambda: logits_BV)


def warp(logits_BV, settings: Settings):
    """Scores [B, V] whose softmax a draw is from: by temperature, with -inf for what the filters leave out.

    Of tokens equally likely all stay or none does (transformers drops some of a tie at top-p, as its sort has them).
    """
    scores_BV = logits_BV / jnp.where(settings.temperature > 0, settings.temperature, 1.0)[:, None]
    V = scores_BV.shape[1]

    def top_k(scores_BV):
        k_B = jnp.where(settings.top_k > 0, settings.top_k, V).clip(max=V)
        return _keep_best(scores_BV, jnp.ones_like(scores_BV), k_B.astype(jnp.float32))

    def top_p(scores_BV):
        p_B = jnp.where(settings.top_p < 1, settings.top_p, OFF)
        return _keep_best(scores_BV, jax.nn.softmax(scores_BV, axis=1), p_B)

    def min_p(scores_BV):
        least_B = scores_BV.max(axis=1) + jnp.log(settings.min_p)
        return jnp.where(scores_BV >= least_B[:, None], scores_BV, -jnp.inf)

    leave = lambda scores_BV: scores_BV  # noqa: E731
    scores_BV = jax.lax.cond((settings.top_k > 0).any(), top_k, leave, scores_BV)
    scores_BV = jax.lax.cond((settings.top_p < 1).any(), top_p, leave, scores_BV)
    return jax.lax.cond((settings.min_p > 0).any(), min_p, leave, scores_BV)


def _keep_best(scores_BV, weights_BV, goal_B):
    """The fewest best tokens whose weights sum to the goal or more; -inf elsewhere. All where the sum never does.

    The threshold is found bit by bit, from the highest, in the scores' own order as integers: exact, and 32 passes
    over the row are twenty times as quick as a sort on CPU.
    """
    bits_BV = jax.lax.bitcast_convert_type(scores_BV, jnp.uint32)
    top = jnp.uint32(1 << 31)
    # IEEE floats compare as integers once negative ones are turned round.
    order_BV = jnp.where(bits_BV >= top, ~bits_BV, bits_BV | top)

    def one(n, threshold_B):
        higher_B = threshold_B | (top >> n.astype(jnp.uint32))
        sum_B = jnp.where(order_BV >= higher_B[:, None], weights_BV, 0.0).sum(axis=1)
        return jnp.where(sum_B >= goal_B, higher_B, threshold_B)

    threshold_B = jax.lax.fori_loop(0, 32, one, jnp.zeros(scores_BV.shape[0], jnp.uint32))
    return jnp.where(order_BV >= threshold_B[:, None], scores_BV, -jnp.inf)
