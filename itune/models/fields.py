"""The fields of a config.json, each taken with its type checked; errors name the file and the field."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from itune.errors import UserError, nearest
from itune.models.config import Rope, RopeScaling

SCALED = {
    "linear": {"factor"},
    "llama3": {"factor", "low_freq_factor", "high_freq_factor", "original_max_position_embeddings"},
}


class Fields:
    """A config.json over its family's defaults. Every method raises UserError naming the file and the field."""

    def __init__(self, values: Mapping[str, Any], path: Path) -> None:
        self.values, self.path = values, path

    def __getitem__(self, name: str) -> Any:
        return self.values[name]

    def fault(self, name: str, rule: str) -> UserError:
        return UserError(f"{self.path}: {name}={json.dumps(self.values[name])[:80]} {rule}")

    def whole(self, name: str) -> int:
        value = self[name]
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise self.fault(name, "must be a whole number of at least 1")
        return value

    def whole_or(self, name: str, default: int) -> int:
        """`default` where the field is null."""
        return default if self[name] is None else self.whole(name)

    def positive(self, name: str) -> float:
        value = self[name]
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < float("inf"):
            raise self.fault(name, "must be a positive number")
        return float(value)

    def positive_or_off(self, name: str) -> float:
        """0.0 where the field is null or 0."""
        return 0.0 if self[name] in (None, 0, 0.0) else self.positive(name)

    def flag(self, name: str) -> bool:
        value = self[name]
        if not isinstance(value, bool):
            raise self.fault(name, "must be true or false")
        return value

    def flag_or_off(self, name: str) -> bool:
        return False if self[name] is None else self.flag(name)

    def one_of(self, name: str, known: Mapping[str, str]) -> str:
        value = self[name]
        if value not in known:
            hint = nearest(value, known) if isinstance(value, str) else ""
            raise self.fault(name, f"is not supported (only {', '.join(known)}).{hint}")
        return known[value]

    def per_layer(self, name: str, layers: int, known: Sequence[Any]) -> list[Any] | None:
        """A list with one of `known` for each layer; None where the field is null."""
        value = self[name]
        if value is None:
            return None
        if not isinstance(value, list) or len(value) < layers or any(v not in known for v in value):
            raise self.fault(name, f"must be a list of {layers}, each of them one of {', '.join(map(str, known))}")
        return value[:layers]

    def rope(self, given: Any, where: str, base: float) -> Rope:
        """{"rope_type": "llama3", "factor": 8.0, ...} -> Rope; None is plain positions of `base`.

        Raises: UserError for a kind, or an entry of one, that is not computed here.
        """
        if given is None:
            return Rope(base=base)
        if not isinstance(given, dict):
            raise UserError(f"{self.path}: {where}={json.dumps(given)} must be an object")
        part = Fields({f"{where}.{name}": value for name, value in given.items()}, self.path)
        kind = given.get("rope_type", given.get("type", "default"))
        if kind != "default" and kind not in SCALED:
            raise UserError(
                f"{self.path}: {where}: rope type {kind!r} is not supported (only default, {', '.join(SCALED)})"
            )
        base = part.positive(f"{where}.rope_theta") if given.get("rope_theta") is not None else base
        expected = SCALED.get(kind, set())
        for name in expected - given.keys():
            raise UserError(f"{self.path}: {where}: {name} is missing.{nearest(name, given)}")
        if given.get("partial_rotary_factor", 1.0) != 1.0:
            raise part.fault(f"{where}.partial_rotary_factor", "is not supported (only 1.0)")
        known = {"rope_type", "type", "rope_theta", "partial_rotary_factor", *expected}
        if kind == "default":
            known |= {"original_max_position_embeddings"}  # nothing reads it there
        for name in sorted(given.keys() - known):
            if given[name] is not None:
                raise part.fault(f"{where}.{name}", f"is not supported with rope type {kind!r}")
        if kind == "default":
            return Rope(base=base)
        numbers = {name: part.positive(f"{where}.{name}") for name in expected}
        if kind == "llama3" and numbers["high_freq_factor"] <= numbers["low_freq_factor"]:
            raise part.fault(f"{where}.high_freq_factor", "must be above low_freq_factor")
        if "original_max_position_embeddings" in numbers:
            numbers["original_max_positions"] = part.whole(f"{where}.original_max_position_embeddings")
            del numbers["original_max_position_embeddings"]
        return Rope(base=base, scaling=RopeScaling(kind=kind, **numbers))  # type: ignore[arg-type]
