"""How likely a model finds a text after another: what rank classification, perplexity and lm-eval's harness ask for.

Legend: B rows, L tokens a row, M encoder tokens a row, P predictions, C predictions a chunk, D width, V vocabulary.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from itune.batch import Batch
from itune.data.packing import pack
from itune.errors import UserError
from itune.models.compute import Compute
from itune.models.config import EncoderDecoderConfig
from itune.models.encdec import START_ID
from itune.models.spec import ModelSpec, Params
from itune.parallel.arrays import fetch
from itune.parallel.mesh import BATCH_AXES

CHUNK = 256  # predictions whose logits exist at a time
SHORTEST = 64  # tokens of the shortest row: what blockwise attention takes

Pair = tuple[Sequence[int], Sequence[int]]  # (context, continuation)


class Scored(NamedTuple):
    """A continuation after its context.

    logprob: the sum over its tokens of log p(token | what stands before), in nats.  greedy: whether each token is the
    likeliest, so that greedy decoding would write it.  cut: tokens of the context that had no room.
    """

    logprob: float
    greedy: bool
    cut: int = 0


class _Segment(NamedTuple):
    """What a model reads for a prediction: pairs that need the same share it.

    encoder: () of a decoder-only model.  prompt: tokens at the beginning that see each other both ways.
    """

    encoder: tuple[int, ...]
    tokens: tuple[int, ...]
    prompt: int


class Scorer:
    """Log-probabilities of continuations, many to a row."""

    def __init__(
        self,
        spec: ModelSpec,
        params: Params,
        compute: Compute,
        *,
        batch_size: int = 4,
        row_length: int = 512,
        max_length: int | None = None,
        prefix_lm: bool = False,
    ):
        """batch_size: rows computed together.  row_length: tokens a row; longer pairs get rows of twice that, and on.
        max_length: of a context with its continuation (an encoder-decoder's: of each; default: the model's own).
        prefix_lm: contexts are bidirectional, as such a model's prompts were in training."""
        self.spec, self.params, self.batch_size, self.row_length = spec, params, batch_size, row_length
        self.max_length = max_length or spec.config.max_positions
        self.prefix_lm = prefix_lm
        self.encoder = isinstance(spec.config, EncoderDecoderConfig)
        # Over a mesh every device takes as many rows as the next.
        self._devices = math.prod(compute.mesh.shape[axis] for axis in BATCH_AXES) if compute.mesh is not None else 1

        @jax.jit
        def run(params, rows, row_P, column_P, target_P):
            model = spec.merge(params)
            batch = Batch(**rows, loss_index=None, loss_targets=None, loss_weights=None, loss_task=None, row_ids=None)
            hidden_PD = model.batch_hidden(batch, compute)[row_P, column_P]

            def chunk(x):
                hidden_CD, target_C = x
                logits_CV = model.head_logits(hidden_CD, compute)
                chosen_C = jnp.take_along_axis(logits_CV, target_C[:, None], axis=-1)[:, 0]
                return chosen_C - jax.nn.logsumexp(logits_CV, axis=-1), logits_CV.argmax(axis=-1) == target_C

            chunks = (hidden_PD.reshape(-1, CHUNK, hidden_PD.shape[-1]), target_P.reshape(-1, CHUNK))
            return jax.tree.map(lambda x: x.reshape(-1), jax.lax.map(chunk, chunks))

        self._run = run

    def score(self, pairs: Sequence[Pair], *, check: Callable[[], Any] = lambda: None) -> list[Scored]:
        """One `Scored` a pair, in order; in which order the pairs come changes no bit of any.

        A context too long for the model loses its beginning. `check` is called between batches and may raise to stop.
        Raises: UserError for a continuation that is too long itself, or (of a decoder-only model) an empty context.
        """
        found = [self._segment(number, *pair) for number, pair in enumerate(pairs)]
        asked: dict[_Segment, dict[tuple[int, int], None]] = {}  # predictions by segment: (place, token), each once
        for (segment, first, _), (_, continuation) in zip(found, pairs, strict=True):
            if continuation:
                asked.setdefault(segment, {}).update({(first + n, t): None for n, t in enumerate(continuation)})
        answers: dict[_Segment, dict[tuple[int, int], tuple[float, bool]]] = {}
        for segments, length, encoder_length in self._groups(sorted(asked)):
            self._compute(segments, length, encoder_length, asked, answers, check)
        scored = []
        for (segment, first, cut), (_, continuation) in zip(found, pairs, strict=True):
            parts = [answers[segment][first + n, t] for n, t in enumerate(continuation)]
            scored.append(Scored(math.fsum(logprob for logprob, _ in parts), all(best for _, best in parts), cut))
        return scored

    def _segment(self, number: int, context: Sequence[int], continuation: Sequence[int]) -> tuple[_Segment, int, int]:
        """(what is read, where the first prediction is made, tokens cut). The last token is predicted, never read."""
        room = self.max_length if self.encoder else self.max_length - len(continuation) + 1
        if len(continuation) > self.max_length or room < 1:
            raise UserError(
                f"pair {number}: the continuation's {len(continuation)} tokens leave no room for a context in the "
                f"model's {self.max_length} positions"
            )
        kept = tuple(context[max(0, len(context) - room) :])
        cut = len(context) - len(kept)
        if self.encoder:
            return _Segment(kept, (START_ID, *continuation[:-1]), 0), 0, cut
        if not kept:
            raise UserError(f"pair {number}: the context is empty, so that nothing predicts the first token")
        prompt = len(kept) if self.prefix_lm else 0
        return _Segment((), (*kept, *continuation[:-1]), prompt), len(kept) - 1, cut

    def _groups(self, segments: Sequence[_Segment]) -> list[tuple[list[_Segment], int, int]]:
        """(segments, tokens a row, encoder tokens a row): of like length, so that there are few shapes."""
        base = max(SHORTEST, self.row_length // 4) if self.encoder else self.row_length
        groups: dict[tuple[int, int], list[_Segment]] = {}
        for s in segments:
            sizes = (_rung(len(s.tokens), base), _rung(len(s.encoder), self.row_length) if self.encoder else 0)
            groups.setdefault(sizes, []).append(s)
        out = []
        for (length, encoder_length), chosen in sorted(groups.items()):
            # All of a few short texts may fit into less than a row.
            length = min(length, _rung(sum(len(s.tokens) for s in chosen), SHORTEST))
            if self.encoder:
                encoder_length = min(encoder_length, _rung(sum(len(s.encoder) for s in chosen), SHORTEST))
            out.append((chosen, length, encoder_length))
        return out

    def _compute(self, segments, length, encoder_length, asked, answers, check) -> None:
        tokens = np.array([len(s.tokens) for s in segments], np.int64)
        sizes, others = (np.array([len(s.encoder) for s in segments], np.int64), tokens)
        budgets = {"row_length": encoder_length, "supervised": length}
        if not self.encoder:
            sizes, others, budgets = tokens, np.zeros_like(tokens), {"row_length": length, "supervised": 1}
        packed = pack(sizes, others, **budgets, segments=len(segments))
        rows = [packed.order[a:b].tolist() for a, b in zip(packed.start[:-1], packed.start[1:], strict=True)]
        for first in range(0, len(rows), self.batch_size):
            check()
            chosen = [[segments[i] for i in row] for row in rows[first : first + self.batch_size]]
            where = self._predict(chosen, length, encoder_length, asked)
            for (segment, place, token), logprob, best in zip(*where, strict=True):
                answers.setdefault(segment, {})[place, token] = (float(logprob), bool(best))

    def _predict(self, rows: Sequence[Sequence[_Segment]], length: int, encoder_length: int, asked):
        """([(segment, place in it, token)], their log-probabilities, whether each is the likeliest)."""
        B = min(self.batch_size, 1 << (len(rows) - 1).bit_length())
        B = -(-B // self._devices) * self._devices
        names = ("tokens", "segment_ids", "positions")
        arrays: dict[str, np.ndarray] = {name: np.zeros((B, length), np.int32) for name in names}
        if self.prefix_lm and not self.encoder:
            arrays["bidirectional"] = np.zeros((B, length), bool)
        if self.encoder:
            arrays |= {f"encoder_{name}": np.zeros((B, encoder_length), np.int32) for name in names}
        wanted, at = [], []
        for b, row in enumerate(rows):
            start = encoder_start = 0
            for number, s in enumerate(row, 1):
                _fill(arrays, "", b, start, s.tokens, number)
                if "bidirectional" in arrays:
                    arrays["bidirectional"][b, start : start + s.prompt] = True
                if self.encoder:
                    _fill(arrays, "encoder_", b, encoder_start, s.encoder, number)
                for place, token in sorted(asked[s]):
                    wanted.append((s, place, token))
                    at.append((b, start + place, token))
                start, encoder_start = start + len(s.tokens), encoder_start + len(s.encoder)
        P = len(at)
        padded = np.zeros((3, _rung(P, CHUNK)), np.int32)
        padded[:, :P] = np.array(at, np.int32).T
        logprob_P, best_P = fetch(self._run(self.params, arrays, *padded))
        return wanted, logprob_P[:P], best_P[:P]


def _fill(arrays: dict[str, np.ndarray], side: str, row: int, start: int, ids: Sequence[int], number: int) -> None:
    span = slice(start, start + len(ids))
    arrays[f"{side}tokens"][row, span] = ids
    arrays[f"{side}segment_ids"][row, span] = number
    arrays[f"{side}positions"][row, span] = np.arange(len(ids))


def _rung(size: int, base: int) -> int:
    """The first of base, 2 base, 4 base, ... that is at least `size`."""
    return base << max(0, (-(-size // base) - 1).bit_length())
