"""What gin may bind: the registered dataclasses, their fields, and the types that values must have."""

from __future__ import annotations

import dataclasses
import functools
import math
import types
import typing
from typing import Any

from itune.config.run import RunConfig
from itune.data.config import DataConfig
from itune.errors import nearest
from itune.evaluation.config import EvalConfig
from itune.models.config import FullConfig, LoRAConfig, WeightsConfig
from itune.parallel.config import MeshConfig
from itune.studies.config import StudyConfig
from itune.training.config import (
    AdafactorConfig,
    AdamWConfig,
    CheckpointConfig,
    LearningRateConfig,
    LoggingConfig,
    TrainConfig,
)

# A new component's config is bindable once it stands here (and fills a field of RunConfig).
CLASSES: dict[str, type] = {
    cls.__name__: cls
    for cls in (
        RunConfig,
        DataConfig,
        WeightsConfig,
        LoRAConfig,
        FullConfig,
        TrainConfig,
        AdamWConfig,
        AdafactorConfig,
        LearningRateConfig,
        MeshConfig,
        EvalConfig,
        CheckpointConfig,
        LoggingConfig,
        StudyConfig,
    )
}
# Not of a run: `python -m itune.ablate` reads it beside the recipe that it starts from.
APART = frozenset({StudyConfig})
# T5X's MIXTURE_OR_TASK_MODULE is one string, so one string is enough here. Nowhere else: "abc" for a tuple is a slip.
ONE_OR_MORE = frozenset({"DataConfig.modules"})


class Mismatch(Exception):
    """A value of the wrong type; the text completes "NAME=VALUE ..."."""


class BareWord(str):
    """An unquoted word from the command line: a string where the field is one."""


@dataclasses.dataclass(frozen=True)
class ClassRef:
    """`@name` or, called, `@name()`."""

    name: str
    called: bool

    def __repr__(self) -> str:
        return f"@{self.name}()" if self.called else f"@{self.name}"


@dataclasses.dataclass(frozen=True)
class MacroRef:
    """`%name`."""

    name: str

    @property
    def required(self) -> bool:
        return self.name in ("gin.REQUIRED", "REQUIRED")

    def __repr__(self) -> str:
        return f"%{self.name}"


def find_class(selector: str) -> type | None:
    """`TrainConfig`, or any suffix of its full name such as `training.config.TrainConfig`; None when there is none."""
    cls = CLASSES.get(selector.rpartition(".")[2])
    full = f".{cls.__module__}.{cls.__qualname__}" if cls else ""
    return cls if full.endswith(f".{selector}") else None


@functools.cache
def fields_of(cls: type) -> dict[str, Any]:
    """Field name -> type."""
    hints = typing.get_type_hints(cls)
    return {field.name: hints[field.name] for field in dataclasses.fields(cls)}


def nearest_class(selector: str) -> str:
    """The suffix of an error about an unknown class."""
    return nearest(selector.rpartition(".")[2], CLASSES)


def nearest_field(cls: type, name: str) -> str:
    """The suffix of an error about an unknown field: the same name in another class, else a similar one in `cls`."""
    if homes := bindings_called(name):
        return f" Did you mean {homes[0]!r}?"
    return nearest(name, fields_of(cls))


def bindings_called(field: str) -> list[str]:
    """Every `Class.field` with this field name."""
    return [f"{name}.{field}" for name, cls in CLASSES.items() if field in fields_of(cls)]


def slot_classes(hint: Any) -> tuple[type, ...]:
    """The dataclasses a slot takes; () when the type is no slot."""
    options = typing.get_args(hint) if typing.get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return tuple(cls for cls in options if dataclasses.is_dataclass(cls) and isinstance(cls, type))


def slots_for(cls: type) -> list[str]:
    """The bindings that `cls` can fill, such as `RunConfig.optimizer`."""
    return [
        f"{name}.{field}"
        for name, owner in CLASSES.items()
        for field, hint in fields_of(owner).items()
        if cls in slot_classes(hint)
    ]


def conform(value: Any, hint: Any) -> Any:
    """`value` as `hint` has it: lists become tuples and ints floats where those are asked for, nothing else changes.

    Raises Mismatch otherwise: '128' and 1e4 are no ints, True is no int, "a" is no tuple.
    """
    try:
        return _convert(value, hint)
    except _Wrong as wrong:
        got = f": {wrong.path} is {a_kind(wrong.value)}" if wrong.path else f", not {a_kind(value)}"
        raise Mismatch(f"must be {describe(hint)}{got}.{_suggest(wrong.value, wrong.hint)}") from None


def describe(hint: Any, *, article: bool = True) -> str:
    """A type in words: `an int`, `a tuple of str`, `@AdamWConfig() or @AdafactorConfig()`."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if slots := slot_classes(hint):
        return " or ".join(f"@{cls.__name__}()" for cls in slots)
    if origin is tuple and Ellipsis not in args:
        words = f"({', '.join(describe(part, article=False) for part in args)})"
    elif origin is tuple:
        words = f"tuple of {describe(args[0], article=False)}"
    elif origin is dict:
        words = f"dict of {describe(args[0], article=False)} to {describe(args[1], article=False)}"
    else:
        words = getattr(hint, "__name__", str(hint).replace(" | ", " or "))
    return _with_article(words) if article and words[0] != "(" else words


def a_kind(value: Any) -> str:
    """What a value is, in words: `a str`, `None`, `@LoRAConfig()`."""
    if value is None or isinstance(value, ClassRef | MacroRef):
        return repr(value)
    if isinstance(value, float) and not math.isfinite(value):
        return repr(value)
    return _with_article("str" if isinstance(value, str) else type(value).__name__)


def show(value: Any) -> str:
    """A value in gin's syntax (Python literals, @references, %macros)."""
    return repr(str(value)) if isinstance(value, BareWord) else repr(value)


def _with_article(words: str) -> str:
    return f"{'an' if words[0] in 'aeiou' else 'a'} {words}"


class _Wrong(Exception):
    """`value` is no `hint`; `path` leads to it from the whole: `['inputs']`, `item 1`."""

    def __init__(self, value: Any, hint: Any, path: str = ""):
        super().__init__(path)
        self.value, self.hint, self.path = value, hint, path


def _convert(value: Any, hint: Any) -> Any:
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType and type(None) in args:
        return None if value is None else _convert(value, args[0])
    if hint is str and isinstance(value, str):
        return str(value)
    if hint in (int, bool) and type(value) is hint:
        return value
    if hint is float and type(value) in (int, float) and math.isfinite(value):
        return float(value)
    if origin is tuple and Ellipsis not in args and isinstance(value, list | tuple) and len(value) == len(args):
        return tuple(_inside(item, hint, f"[{i}]") for i, (item, hint) in enumerate(zip(value, args, strict=True)))
    if origin is tuple and Ellipsis in args and isinstance(value, list | tuple):
        return tuple(_inside(item, args[0], f"item {i}") for i, item in enumerate(value))
    if origin is dict and isinstance(value, dict):
        return {_inside(k, args[0], f"key {k!r}"): _inside(v, args[1], f"[{k!r}]") for k, v in value.items()}
    raise _Wrong(value, hint)


def _inside(value: Any, hint: Any, path: str) -> Any:
    try:
        return _convert(value, hint)
    except _Wrong as wrong:
        raise _Wrong(wrong.value, wrong.hint, path + wrong.path) from None


def _suggest(value: Any, hint: Any) -> str:
    """The suffix ` Did you mean 128?` when one obvious value of the right type was meant."""
    meant: Any = None
    if typing.get_origin(hint) is tuple:
        item = typing.get_args(hint)[0]
        meant = (str(value) if isinstance(value, BareWord) else value,) if _is(value, item) else None
    elif hint is bool:
        meant = {"true": True, "false": False, "1": True, "0": False}.get(str(value).lower())
    elif isinstance(value, str) and hint in (int, float):
        meant = _number(value, hint)
    elif type(value) is float and hint is int and math.isfinite(value):
        meant = int(value) if value == int(value) else None
    elif type(value) in (int, float) and hint is str:
        meant = str(value)
    return f" Did you mean {meant!r}?" if meant is not None else ""


def _is(value: Any, hint: Any) -> bool:
    try:
        _convert(value, hint)
    except _Wrong:
        return False
    return True


def _number(text: str, hint: type) -> Any:
    try:
        number = hint(text)
    except ValueError:
        return None
    return number if math.isfinite(number) else None
