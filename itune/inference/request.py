"""What is asked of a generator, what comes back, and where a stop string ends it. Host side."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Sequence

from itune.inference.config import GREEDY, SamplingConfig

Decode = Callable[[list[int]], str]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """A prompt as token ids, and how to continue it."""

    ids: Sequence[int]
    settings: SamplingConfig = GREEDY

    @property
    def room(self) -> int:
        """Positions that it takes: its own and those of the new tokens."""
        return len(self.ids) + self.settings.max_new_tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completion:
    """New tokens, without the stop token that ended them, and between the two best scores at each the gap.

    logprob: of the tokens and of the stop token, if one ended them, in nats, by the model itself: before penalty,
      temperature and filters; None of a beam.
    text: of the tokens, up to a stop string; None where the generator was given no `decode`.
    ended: "token", "string" or "length".
    """

    tokens: list[int]
    gaps: list[float]
    text: str | None = None
    ended: str = "length"
    logprob: float | None = None


class Reply:
    """A completion as it grows. The outcome does not depend on how many tokens come at a time."""

    def __init__(self, request: Request, stop_ids: Sequence[int], decode: Decode | None):
        if request.settings.stop and decode is None:
            raise ValueError("stop strings need `decode`")
        self.request, self._stop_ids, self._decode = request, frozenset(stop_ids), decode
        self._tokens: list[int] = []
        self._gaps: list[float] = []
        self._logprobs: list[float] = []
        self._cut: str | None = None
        self.ended = ""

    def add(self, tokens: Sequence[int], gaps: Sequence[float], logprobs: Sequence[float] = ()) -> None:
        """Takes the next tokens, up to where the reply ends."""
        before = len(self._tokens)
        for n, (token, gap) in enumerate(zip(tokens, gaps, strict=True)):
            if self.ended:
                break
            self._logprobs += map(float, logprobs[n : n + 1])
            if int(token) in self._stop_ids:
                self.ended = "token"
                break
            self._tokens.append(int(token))
            self._gaps.append(float(gap))
            if len(self._tokens) >= self.request.settings.max_new_tokens:
                self.ended = "length"
        if self.request.settings.stop and len(self._tokens) > before:
            self._find_string(before)

    def _find_string(self, before: int) -> None:
        """Cuts behind the token that completes the first stop string, which may have begun in an earlier one."""
        if self._before_stop(self._tokens) is None:
            return
        for n in range(before + 1, len(self._tokens) + 1):
            if (text := self._before_stop(self._tokens[:n])) is not None:
                self._cut, self.ended = text, "string"
                self._tokens, self._gaps, self._logprobs = self._tokens[:n], self._gaps[:n], self._logprobs[:n]
                return

    def _before_stop(self, tokens: list[int]) -> str | None:
        assert self._decode is not None
        text = self._decode(tokens)
        places = [place for stop in self.request.settings.stop if (place := text.find(stop)) >= 0]
        return text[: min(places)] if places else None

    def completion(self) -> Completion:
        text = self._cut
        if text is None and self._decode is not None:
            text = self._decode(self._tokens)
        logprob = math.fsum(self._logprobs) if self._logprobs else None
        ended = self.ended or "length"
        return Completion(tokens=self._tokens, gaps=self._gaps, text=text, ended=ended, logprob=logprob)
