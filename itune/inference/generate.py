"""Generation: lists of token ids in, completions out; prefill and a cache of keys and values, in compiled loops.

Requests run in slots that waiting ones refill (`slots`), those for beams batch by batch (`beams`).
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from itune.errors import UserError
from itune.inference.beams import BeamBatches
from itune.inference.config import GREEDY
from itune.inference.request import Completion, Decode, Request
from itune.inference.slots import Slots
from itune.models.compute import Compute
from itune.models.config import EncoderDecoderConfig
from itune.models.spec import ModelSpec, Params
from itune.parallel.mesh import BATCH_AXES

Check = Callable[[], Any]


class Generator:
    """Completions for lists of token ids."""

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
        """batch_size: requests decoded together.  max_length: of prompt and new tokens (default: the model's own).
        prefix_lm: a decoder's prompt tokens see each other in both directions."""
        self.spec, self.params, self.batch_size = spec, params, batch_size
        self.max_length = max_length or spec.config.max_positions
        # Over a mesh every device takes as many rows as the next.
        self._rows = math.prod(compute.mesh.shape[axis] for axis in BATCH_AXES) if compute.mesh is not None else 1
        self._encodes = isinstance(spec.config, EncoderDecoderConfig)
        self._slots = Slots(spec, compute, rows=self._rows, prefix_lm=prefix_lm)
        self._beams = BeamBatches(spec, compute)

    def complete(
        self,
        requests: Sequence[Request],
        stop_ids: Sequence[int],
        *,
        decode: Decode | None = None,
        check: Check = lambda: None,
    ) -> list[Completion]:
        """One completion a request, in order; what it is depends on that request alone, up to rounding.

        stop_ids: the tokens that end a completion, each.  decode: tokens to text, for stop strings and `text`.
        `check` is called every few tokens and may raise to stop.
        Raises: UserError for an empty prompt, one too long for the model's positions, or beams for a decoder.
        """
        found = dict(self.stream(requests, stop_ids, decode=decode, check=check))
        return [found[i] for i in range(len(requests))]

    def stream(
        self,
        requests: Sequence[Request],
        stop_ids: Sequence[int],
        *,
        decode: Decode | None = None,
        check: Check = lambda: None,
    ) -> Iterator[tuple[int, Completion]]:
        """As `complete`, but (number of the request, completion) as they end."""
        for i, request in enumerate(requests):
            self.check(f"prompt {i}", request)
        return self._both(requests, stop_ids, decode, check)

    def _both(
        self, requests: Sequence[Request], stop_ids: Sequence[int], decode: Decode | None, check: Check
    ) -> Iterator[tuple[int, Completion]]:
        """Those in slots, then those for beams."""
        searched = [i for i, request in enumerate(requests) if request.settings.beams > 1]
        others = [i for i, request in enumerate(requests) if request.settings.beams <= 1]
        for engine, which in ((self._slots, others), (self._beams, searched)):
            chosen = [requests[i] for i in which]
            for n, completion in engine.run(self.params, chosen, self._size(len(which)), stop_ids, decode, check):
                yield which[n], completion

    def lower(self, request: Request) -> tuple[dict[str, Any], Any]:
        """(its programs by name, lowered; what lies on the devices between their calls) for `batch_size` such requests.

        `params` may be ShapeDtypeStructs, on devices that need not be here. Raises: UserError, as `complete`.
        """
        self.check("the prompt", request)
        return self._slots.lower(self.params, request, self._size(self.batch_size))

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        *,
        check: Check = lambda: None,
    ) -> list[list[int]]:
        """The greedy completion of each prompt, in order, without the one of `stop_ids` that ended it.

        Raises: as `complete`.
        """
        return [tokens for tokens, _ in self.generate_with_gaps(prompts, max_new_tokens, stop_ids, check=check)]

    def generate_with_gaps(
        self,
        prompts: Sequence[Sequence[int]],
        max_new_tokens: int,
        stop_ids: Sequence[int],
        *,
        check: Check = lambda: None,
    ) -> list[tuple[list[int], list[float]]]:
        """As `generate`, with the gap between the two best logits at each token (a near tie explains a difference)."""
        if max_new_tokens < 1:
            raise UserError(f"{max_new_tokens} new tokens: at least 1 is needed")
        settings = dataclasses.replace(GREEDY, max_new_tokens=max_new_tokens)
        requests = [Request(ids=prompt, settings=settings) for prompt in prompts]
        return [(c.tokens, c.gaps) for c in self.complete(requests, stop_ids, check=check)]

    def check(self, what: str, request: Request) -> None:
        """Raises: UserError if `what` is empty or too long, or asks a decoder for beams."""
        self.check_length(what, len(request.ids), request.settings.max_new_tokens)
        if request.settings.beams > 1 and not self._encodes:
            raise UserError(f"{what} asks for beams={request.settings.beams}: beam search is for encoder-decoders")

    def check_length(self, what: str, length: int, max_new_tokens: int) -> None:
        """Raises: UserError if `what`, a prompt of `length` tokens, is empty or too long."""
        if not length:
            raise UserError(f"{what} is empty: there is nothing to continue")
        if length + max_new_tokens > self.max_length:
            raise UserError(
                f"{what} has {length} tokens; with {max_new_tokens} new ones it exceeds the model's "
                f"{self.max_length} positions"
            )

    def _size(self, n: int) -> int:
        """Rows for n requests: up to a power of two, and over a mesh a multiple of what takes rows."""
        size = min(self.batch_size, 1 << max(n - 1, 0).bit_length())
        return -(-size // self._rows) * self._rows
