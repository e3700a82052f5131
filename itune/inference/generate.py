"""Greedy generation: prefill, then one token at a time from a KV cache, in one compiled loop.

Legend: B prompts, P prefill length, M cache length (P + new tokens), D width, V vocabulary, S stop tokens, N layers,
G key-value heads, K head width.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from itune.errors import UserError
from itune.models.compute import Compute
from itune.models.spec import Model, ModelSpec, Params
from itune.parallel.mesh import BATCH_AXES

BUCKET = 128  # prompts are padded to a multiple of this: few shapes, few compilations


def greedy(
    model: Model,
    tokens_BP,
    length_B,
    stop_ids: tuple[int, ...],
    max_new: int,
    compute: Compute,
    prefix_lm: bool = False,
):
    """New tokens [B, max_new] int32 and the gap between the two best logits at each.

    A row ends with the first of `stop_ids` that it writes, which is among its tokens; behind it stands stop_ids[0].

    The prompt runs through the model once, every new token but the last once; nothing runs once all rows have ended.
    """

    stops_S = jnp.asarray(stop_ids, jnp.int32)

    def pick(hidden_BD, done_B):
        best_B2, token_B2 = jax.lax.top_k(model.head_logits(hidden_BD, compute), 2)
        token_B = jnp.where(done_B, stop_ids[0], token_B2[:, 0].astype(jnp.int32))
        ended_B = done_B | jnp.isin(token_B, stops_S)
        return token_B, jnp.where(done_B, jnp.inf, best_B2[:, 0] - best_B2[:, 1]), ended_B

    def more(carry):
        step, done_B = carry[:2]
        return (step < max_new) & ~done_B.all()

    def one(carry):
        step, done_B, token_B, cache, out, gaps = carry
        hidden_BD, cache = model.decode(token_B, cache, next_B + step - 1, compute)
        token_B, gap_B, done_B = pick(hidden_BD, done_B)
        return step + 1, done_B, token_B, cache, out.at[:, step].set(token_B), gaps.at[:, step].set(gap_B)

    hidden_BD, cache, next_B = model.prefill(tokens_BP, length_B, max_new - 1, compute, prefix_lm)
    # A prompt of length 0 is a filler row: done before it starts.
    token_B, gap_B, done_B = pick(hidden_BD, length_B <= 0)
    B = tokens_BP.shape[0]
    out = jnp.full((B, max_new), stop_ids[0], jnp.int32).at[:, 0].set(token_B)
    gaps = jnp.full((B, max_new), jnp.inf, jnp.float32).at[:, 0].set(gap_B)
    return jax.lax.while_loop(more, one, (jnp.ones((), jnp.int32), done_B, token_B, cache, out, gaps))[4:]


class Generator:
    """Greedy completions for lists of token ids."""

    def __init__(
        self,
        spec: ModelSpec,
        params: Params,
        compute: Compute,
        *,
        batch_size: int = 32,
        max_length: int | None = None,
        prefix_lm: bool = False,
    ):
        """batch_size: prompts decoded together.  max_length: of prompt and new tokens (default: the model's own).
        prefix_lm: see `Decoder.prefill`."""
        self.spec, self.params, self.batch_size = spec, params, batch_size
        self.max_length = max_length or spec.config.max_positions
        # Over a mesh every device takes as many rows as the next.
        self._rows = math.prod(compute.mesh.shape[axis] for axis in BATCH_AXES) if compute.mesh is not None else 1

        @functools.partial(jax.jit, static_argnames=("stop_ids", "max_new"))
        def run(params, tokens_BP, length_B, stop_ids, max_new):
            return greedy(spec.merge(params), tokens_BP, length_B, stop_ids, max_new, compute, prefix_lm)

        self._run = run

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        *,
        check: Callable[[], Any] = lambda: None,
    ) -> list[list[int]]:
        """One completion a prompt, in order, without the one of `stop_ids` that ended it.

        Prompts of like length are decoded together.
        `check` is called between batches and may raise to stop.
        Raises: UserError for an empty prompt, or one too long for the model's positions.
        """
        return [tokens for tokens, _ in self.generate_with_gaps(prompts, max_new_tokens, stop_ids, check=check)]

    def generate_with_gaps(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        *,
        check: Callable[[], Any] = lambda: None,
    ) -> list[tuple[list[int], list[float]]]:
        """As `generate`, with the gap between the two best logits at each token (a near tie explains a difference)."""
        if max_new_tokens < 1:
            raise UserError(f"{max_new_tokens} new tokens: at least 1 is needed")
        for i, prompt in enumerate(prompts):
            self.check_length(f"prompt {i}", len(prompt), max_new_tokens)
        results: list[Any] = [None] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), self.batch_size):
            check()
            chosen = order[start : start + self.batch_size]
            tokens, gaps = self._batch([prompts[i] for i in chosen], max_new_tokens, tuple(stop_ids))
            for row, i in enumerate(chosen):
                ended = np.flatnonzero(np.isin(tokens[row], stop_ids))
                n = int(ended[0]) if len(ended) else max_new_tokens
                results[i] = (tokens[row, :n].tolist(), gaps[row, :n].tolist())
        return results

    def check_length(self, what: str, length: int, max_new_tokens: int) -> None:
        """Raises: UserError if `what`, a prompt of `length` tokens, is empty or too long."""
        if not length:
            raise UserError(f"{what} is empty: there is nothing to continue")
        if length + max_new_tokens > self.max_length:
            raise UserError(
                f"{what} has {length} tokens; with {max_new_tokens} new ones it exceeds the model's "
                f"{self.max_length} positions"
            )

    def _batch(self, prompts: Sequence[Sequence[int]], max_new: int, stop_ids: tuple[int, ...]):
        """Of two host arrays [batch, max_new], the first rows are the prompts'; the rest fill up to a power of two."""
        size = min(self.batch_size, 1 << (len(prompts) - 1).bit_length())
        size = -(-size // self._rows) * self._rows
        longest = max(map(len, prompts))
        tokens_BP = np.zeros((size, -(-longest // BUCKET) * BUCKET), np.int32)
        length_B = np.zeros(size, np.int32)
        for row, prompt in enumerate(prompts):
            tokens_BP[row, : len(prompt)] = prompt
            length_B[row] = len(prompt)
        return jax.device_get(self._run(self.params, tokens_BP, length_B, stop_ids, max_new))
