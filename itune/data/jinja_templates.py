"""promptsource's templates: Jinja in which ||| separates the inputs from the targets. Imports no SeqIO.

Renders as promptsource does (Bach et al. 2022, arXiv 2202.01279), but for three things: templates run in Jinja's
sandbox; what they choose at random ("choice", "random") is keyed by the row; a missing field is an error.
"""

from __future__ import annotations

import collections
import dataclasses
import functools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jinja2
import jinja2.filters
import jinja2.meta
import jinja2.sandbox

from itune.data.keyed import key64
from itune.data.templates import check_fields
from itune.errors import UserError

SEPARATOR = "|||"
# Of a row: which of its fields hold JSON ("label,answers"); all other fields are text as it stands.
JSON_FIELDS = "json_fields"
OPTIONS = "answer_choices"

_CHOOSER = "_keyed_choice"
# Stands for a ||| of the data's own while a rendering is split: what changes of case, repr() and JSON leave as it is.
_GUARD = "~|_|~"


@dataclasses.dataclass(frozen=True, kw_only=True)
class JinjaTemplate:
    """A template of promptsource. Beside the row's fields it sees `answer_choices`, a list.

    Attributes:
      id: the template's name. jinja: "{{question}} ||| {{answer}}".
      answer_choices: Jinja for the possible answers, "Yes ||| No"; or None.
      max_field_chars: longer values are cut at a word and end in "...", as promptsource does at 2,048; None for never.
      metrics, original_task, choices_in_prompt, languages: what the file says of it; nothing here depends on them.
    """

    id: str
    jinja: str
    answer_choices: str | None = None
    max_field_chars: int | None = None
    metrics: tuple[str, ...] = ()
    original_task: bool | None = None
    choices_in_prompt: bool | None = None
    languages: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.id:
            raise UserError("a template needs an id")
        for name, text in (("jinja", self.jinja), (OPTIONS, self.answer_choices or "")):
            try:
                _compile(text, self.max_field_chars)
            except jinja2.TemplateError as error:
                line = getattr(error, "lineno", None) or 1
                raise UserError(f"template {self.id!r}: {name}, line {line}: {error}") from None

    @property
    def fields(self) -> tuple[str, ...]:
        """The row's fields that it looks up, sorted."""
        return tuple(sorted(_names(self.jinja) | _names(self.answer_choices or "")))

    def check(self, available: Iterable[str], where: str) -> None:
        """UserError unless every field is one of `available`; `where` names the task."""
        check_fields(self, available, where)

    def render(self, row: Mapping[str, str], key: int = 0) -> tuple[str, str] | None:
        """(inputs, targets), white space around them cut off; None unless there are two parts and both say something.

        Raises UserError, with Jinja's reason, for a row on which the template fails; the reason may quote the row.
        """
        values = self._values(row, key)
        text = self._run(self.jinja, self.max_field_chars, values | {OPTIONS: self._choices(values)})
        parts = [part.strip() for part in text.split(SEPARATOR)]
        return (_unguarded(parts[0]), _unguarded(parts[1])) if len(parts) == 2 and all(parts) else None

    def options(self, row: Mapping[str, str], key: int = 0) -> list[str] | None:
        """The row's possible answers, for rank classification; None for a template without answer_choices."""
        choices = self._choices(self._values(row, key))
        return None if choices is None else [_unguarded(choice) for choice in choices]

    def _values(self, row: Mapping[str, str], key: int) -> dict[str, Any]:
        return _guarded(decode_row(row, self.fields)) | {_CHOOSER: _chooser(key)}

    def _choices(self, values: Mapping[str, Any]) -> list[str] | None:
        if self.answer_choices is None:
            return None
        text = self.answer_choices if "{" not in self.answer_choices else self._run(self.answer_choices, None, values)
        return [choice.strip() for choice in text.split(SEPARATOR)]

    def _run(self, text: str, max_field_chars: int | None, values: Mapping[str, Any]) -> str:
        try:
            return _compile(text, max_field_chars).render(values)
        except Exception as error:  # a template is code: it may fail in any way
            reason = " ".join(str(error).split())
            raise UserError(f"template {self.id!r} cannot be rendered: {type(error).__name__}: {reason}") from None


# Rows: the types that a template needs, in the text that rows are made of


def encode_row(record: Mapping[str, Any], fields: Sequence[str]) -> dict[str, str]:
    """{"text": "Ja", "label": 1}, ("text", "label") -> {"text": "Ja", "label": "1", "json_fields": "label"}.

    Raises KeyError for a field that the record lacks, TypeError for a value that JSON cannot hold.
    """
    row = {f: v if isinstance(v := record[f], str) else json.dumps(v, ensure_ascii=False) for f in fields}
    return row | {JSON_FIELDS: ",".join(f for f in fields if not isinstance(record[f], str))}


def decode_row(row: Mapping[str, str], fields: Iterable[str]) -> dict[str, Any]:
    """The inverse of `encode_row`: values with their types, made anew at each call."""
    coded = row.get(JSON_FIELDS, "").split(",")
    return {field: json.loads(row[field]) if field in coded else row[field] for field in fields}


def _guarded(value: Any) -> Any:
    if isinstance(value, str):
        return value.replace(SEPARATOR, _GUARD)
    if isinstance(value, list):
        return [_guarded(item) for item in value]
    return {key: _guarded(item) for key, item in value.items()} if isinstance(value, dict) else value


def _unguarded(text: str) -> str:
    return text.replace(_GUARD, SEPARATOR)


# Jinja


@functools.lru_cache(maxsize=8192)
def _compile(source: str, max_field_chars: int | None) -> jinja2.Template:
    return _environment(max_field_chars).from_string(source)


@functools.lru_cache(maxsize=8192)
def _names(source: str) -> frozenset[str]:
    environment = _environment(None)
    names = jinja2.meta.find_undeclared_variables(environment.parse(source))
    return frozenset(names - set(environment.globals) - {OPTIONS})


@functools.lru_cache(maxsize=16)
def _environment(max_field_chars: int | None) -> jinja2.Environment:
    """promptsource's environment (its filters, and zip), sandboxed. Lists may be changed: rows are made anew."""
    environment = jinja2.sandbox.SandboxedEnvironment()
    environment.globals["zip"] = zip
    del environment.globals["lipsum"]  # made of random words
    environment.filters |= {
        "choice": _choice,
        "random": _random,
        "most_frequent": _most_frequent,
        "highlight": str,  # marks text in promptsource's viewer
    }
    if max_field_chars is not None:
        environment.finalize = lambda value: jinja2.filters.do_truncate(environment, str(value), max_field_chars)
    return environment


def _chooser(key: int) -> Callable[[int], int]:
    """n -> a number under n, another at each call: a function of the key and of how often it was called."""
    calls = 0

    def choose(n: int) -> int:
        nonlocal calls
        calls += 1
        return key64("choice", key, calls) % n

    return choose


@jinja2.pass_context
def _choice(context: jinja2.runtime.Context, items: Iterable[Any]) -> Any:
    items = list(items)
    if not items:
        raise ValueError("'choice' of nothing")
    return items[context[_CHOOSER](len(items))]


@jinja2.pass_context
def _random(context: jinja2.runtime.Context, items: Iterable[Any]) -> Any:
    """Jinja's own filter draws from global random state."""
    items = list(items)
    return items[context[_CHOOSER](len(items))] if items else context.environment.undefined("'random' of nothing")


def _most_frequent(items: Sequence[Any]) -> list[Any] | None:
    """All items that come most often, in order of first occurrence; None for no items."""
    counts = collections.Counter(items)
    return [item for item, count in counts.items() if count == max(counts.values())] or None
