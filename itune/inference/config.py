"""How a request is continued. Loads neither JAX nor numpy, so that slips on a command line are told at once."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping
from typing import Any

from itune.errors import UserError, nearest

FILTERS = {"top_k": 0, "top_p": 1.0, "min_p": 0.0}  # what each is when it is off
MAX_SEED = 2**32 - 1


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How the tokens of one request are chosen; in the order and sense of transformers' logits processors.

    repetition_penalty: of what stands in the prompt or was written, positive logits are divided by it and others
      multiplied (Keskar et al. 2019); of an encoder-decoder, only what was written.
    temperature: divides the logits; 0 takes the best token, and no filter applies.
    top_k: the k best tokens stay; 0 is off.
    top_p: the fewest best tokens whose probabilities reach top_p, the one that crosses included (Holtzman et al. 2020).
    min_p: tokens at least min_p times as probable as the best one (Nguyen et al. 2024).
    seed: with the prompt and these settings it decides the tokens, whatever else is generated beside them.
    stop: texts; a completion ends before the first of any.
    beams: of an encoder-decoder; more than 1 is beam search.
    """

    max_new_tokens: int = 128
    temperature: float = 0.0
    top_k: int = 0
    top_p: float = 1.0
    min_p: float = 0.0
    repetition_penalty: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    beams: int = 1

    def __post_init__(self) -> None:
        """Raises: UserError for a value of the wrong type or range, or one that another makes meaningless."""
        for field in dataclasses.fields(self):
            self._check_type(field.name, getattr(self, field.name))
        ranges = {
            "max_new_tokens": (self.max_new_tokens >= 1, "at least 1"),
            "temperature": (self.temperature >= 0, "0 (greedy) or more"),
            "top_k": (self.top_k >= 0, "0 (off) or more"),
            "top_p": (0 < self.top_p <= 1, "above 0 and at most 1 (off)"),
            "min_p": (0 <= self.min_p <= 1, "between 0 (off) and 1"),
            "repetition_penalty": (self.repetition_penalty > 0, "above 0; 1 is off"),
            "seed": (0 <= self.seed <= MAX_SEED, f"between 0 and {MAX_SEED}"),
            "stop": (all(self.stop), "texts that are not empty"),
            "beams": (self.beams >= 1, "at least 1"),
        }
        for name, (good, must) in ranges.items():
            if not good:
                raise UserError(f"{name}={getattr(self, name)!r} must be {must}")
        if self.temperature == 0:
            for name, off in FILTERS.items():
                if getattr(self, name) != off:
                    raise UserError(f"{name}={getattr(self, name)} does nothing at temperature 0 (greedy): set both")
        if self.beams > 1 and self.temperature > 0:
            raise UserError(f"beams={self.beams} goes with temperature 0, not {self.temperature}: it seeks the best")

    def _check_type(self, name: str, value: Any) -> None:
        if name == "stop":
            good, kind = isinstance(value, tuple) and all(isinstance(s, str) for s in value), "texts"
        elif isinstance(getattr(type(self), name), int):
            good, kind = isinstance(value, int) and not isinstance(value, bool), "a whole number"
        else:
            good = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
            kind = "a number"
        if not good:
            raise UserError(f"{name}={value!r} must be {kind}")

    def updated(self, fields: Mapping[str, Any]) -> SamplingConfig:
        """With some fields set otherwise; a stop may be one text or a list. Temperature 0 switches the filters off.

        Raises: UserError, also for a field that there is not.
        """
        names = [field.name for field in dataclasses.fields(self)]
        for name in fields:
            if name not in names:
                raise UserError(f"there is no setting {name!r}.{nearest(name, names)}")
        values = dict(fields)
        if "stop" in values:
            stop = values["stop"]
            values["stop"] = (stop,) if isinstance(stop, str) else tuple(stop) if isinstance(stop, list) else stop
        if values.get("temperature") == 0:
            values = FILTERS | values
        return dataclasses.replace(self, **values)


GREEDY = SamplingConfig()
