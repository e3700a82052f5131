"""Greedy generation: prefill, then one token at a time from a KV cache, in one compiled loop.

Legend: B prompts, P prefill length, M cache length (P + new tokens), D width, V vocabulary, N layers, G key-value heads, K head width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

from itune.errors import UserError
from itune.models.decoder import Compute, Decoder
from itune.models.spec import ModelSpec, Params

BUCKET = 128  # prompts are padded to a multiple of this: few shapes, few compilations


def next_logits(model: Decoder, hidden_BD):
    """[B, V] float32."""
    head = model.head_weights().astype(hidden_BD.dtype)
    return jax.lax.dot_general(hidden_BD, head, (((1,), (1,)), ((), ())), preferred_element_type=jnp.float32)


def prefill(model: Decoder, tokens_BP, length_B, max_new: int, compute: Compute):
    """(hidden of each prompt's last token [B, D], cache with room for `max_new` more). Prompts are padded on the right."""
    B, P = tokens_BP.shape
    positions = jnp.broadcast_to(jnp.arange(P), (B, P))
    segments = (positions < length_B[:, None]).astype(jnp.int32)
    hidden, (k, v) = model.hidden(tokens_BP, segments, positions, compute, keep_cache=True)
    # [N, B, P, G, K] -> [N, B, G, M, K]; what padding left behind is overwritten before it is ever seen.
    room = lambda x: jnp.pad(x.transpose(0, 1, 3, 2, 4), ((0, 0), (0, 0), (0, 0), (0, max_new), (0, 0)))  # noqa: E731
    return hidden[jnp.arange(B), length_B - 1], (room(k), room(v))


def greedy(model: Decoder, tokens_BP, length_B, eos_id: int, max_new: int, compute: Compute):
    """New tokens [B, max_new] int32, EOS included, EOS ever after; and the gap between the two best logits at each [B, max_new]."""
    hidden_BD, cache = prefill(model, tokens_BP, length_B, max_new, compute)

    def pick(hidden_BD):
        best, token = jax.lax.top_k(next_logits(model, hidden_BD), 2)
        return token[:, 0].astype(jnp.int32), best[:, 0] - best[:, 1]

    def more(carry):
        step, done_B = carry[0], carry[1]
        return (step < max_new) & ~done_B.all()

    def one(carry):
        step, done_B, hidden_BD, cache, out, gaps = carry
        token_B, gap_B = pick(hidden_BD)
        token_B = jnp.where(done_B, eos_id, token_B)
        out, gaps = out.at[:, step].set(token_B), gaps.at[:, step].set(jnp.where(done_B, jnp.inf, gap_B))
        done_B = done_B | (token_B == eos_id)
        hidden_BD, cache = model.decode(token_B, cache, jnp.minimum(length_B + step, cache[0].shape[3] - 1), compute)
        return step + 1, done_B, hidden_BD, cache, out, gaps

    B = tokens_BP.shape[0]
    out, gaps = jnp.full((B, max_new), eos_id, jnp.int32), jnp.full((B, max_new), jnp.inf, jnp.float32)
    # A prompt of length 0 is a filler row: done before it starts.
    start = (jnp.zeros((), jnp.int32), length_B <= 0, hidden_BD, cache, out, gaps)
    return jax.lax.while_loop(more, one, start)[4:]


class Generator:
    """Greedy completions for lists of token ids."""

    def __init__(
        self, spec: ModelSpec, params: Params, compute: Compute, *, batch_size: int = 32, max_length: int | None = None
    ):
        self.spec, self.params, self.batch_size = spec, params, batch_size
        self.max_length = max_length or spec.config.max_positions

        @functools.partial(jax.jit, static_argnames=("eos_id", "max_new"))
        def run(params, tokens_BP, length_B, eos_id, max_new):
            return greedy(spec.merge(params), tokens_BP, length_B, eos_id, max_new, compute)

        self._run = run

    def generate(
        self, prompts: Sequence[Sequence[int]], max_new_tokens: int, eos_id: int, *, check=lambda: None
    ) -> list[list[int]]:
        """One completion a prompt, in order, without EOS. Prompts of like length are decoded together.

        `check` is called between batches and may raise to stop.
        Raises: UserError for an empty prompt, or one too long for the model's positions.
        """
        return [tokens for tokens, _ in self.generate_with_gaps(prompts, max_new_tokens, eos_id, check=check)]

    def generate_with_gaps(
        self, prompts, max_new_tokens: int, eos_id: int, *, check=lambda: None
    ) -> list[tuple[list[int], list[float]]]:
        """As `generate`, with the gap between the two best logits at each new token (a near tie explains a difference)."""
        for i, prompt in enumerate(prompts):
            if not prompt:
                raise UserError(f"prompt {i} is empty: there is nothing to continue")
            if len(prompt) + max_new_tokens > self.max_length:
                raise UserError(
                    f"prompt {i} has {len(prompt)} tokens; with {max_new_tokens} new ones it exceeds the model's {self.max_length} positions"
                )
        results: list = [None] * len(prompts)
        order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
        for start in range(0, len(order), self.batch_size):
            check()
            chosen = order[start : start + self.batch_size]
            tokens, gaps = self._batch([prompts[i] for i in chosen], max_new_tokens, eos_id)
            for row, i in enumerate(chosen):
                ended = np.flatnonzero(tokens[row] == eos_id)
                n = int(ended[0]) if len(ended) else max_new_tokens
                results[i] = (tokens[row, :n].tolist(), gaps[row, :n].tolist())
        return results

    def _batch(self, prompts, max_new: int, eos_id: int):
        size = min(self.batch_size, 1 << (len(prompts) - 1).bit_length())
        longest = max(map(len, prompts))
        tokens = np.zeros((size, -(-longest // BUCKET) * BUCKET), np.int32)
        length = np.zeros(size, np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt)] = prompt
            length[row] = len(prompt)
        return jax.device_get(self._run(self.params, tokens, length, eos_id, max_new))
