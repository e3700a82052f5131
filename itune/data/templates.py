"""Prompt templates, and which of a task's templates an example gets. Pure Python: no SeqIO, no TensorFlow."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import string
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

import yaml

from itune.data.keyed import key64
from itune.data.tokenizer import Tokenizer
from itune.errors import UserError, nearest

_KEYS = ("id", "inputs", "targets")


class RowTemplate(Protocol):
    """What `add_task` takes as a template: `Template`, or one made from a collection's own prompts.

    A frozen dataclass of plain values, so that the fingerprint sees all that it renders from.
    """

    @property
    def id(self) -> str: ...
    @property
    def fields(self) -> tuple[str, ...]: ...
    def check(self, available: Iterable[str], where: str) -> None: ...

    def render(self, row: Mapping[str, str], key: int = 0) -> tuple[str, str] | None:
        """(inputs, targets); None where the template has nothing to say of this row.

        key: 64 bits that differ by row, variant and prepare_seed; all that a rendering chooses is a function of it.
        """


@dataclasses.dataclass(frozen=True)
class Template:
    """How a source row becomes a prompt and its answer.

    `Template("ask", "{question}\\nAnswer:", "{answer}")`: named fields in braces, literal braces doubled ({{ and }}).
    Fields are plain names; no attributes, indices, conversions or format specs, so that a template file can run
    nothing.

    Attributes:
      id: names the rendering in prepared data and reports; unique within a task. Renaming one deals examples anew.
      inputs, targets: the two sides. Line breaks around them and blanks at their ends are cut off when rendered.
    """

    id: str
    inputs: str
    targets: str

    def __post_init__(self) -> None:
        if not self.id:
            raise UserError("a template needs an id")
        for side in ("inputs", "targets"):
            _parse(self, side)

    @property
    def fields(self) -> tuple[str, ...]:
        """Names of the fields that the two sides use, in order of first use."""
        pieces = _parse(self, "inputs") + _parse(self, "targets")
        return tuple(dict.fromkeys(name for _, name in pieces if name is not None))

    def check(self, available: Iterable[str], where: str) -> None:
        """UserError unless every field is one of `available`; `where` names the task."""
        check_fields(self, available, where)

    def render(self, row: Mapping[str, str], key: int = 0) -> tuple[str, str]:
        """{"question": "2+2?", "answer": "4"} -> ("2+2?\\nAnswer:", "4")."""
        return tuple(self._side(side, row) for side in ("inputs", "targets"))  # type: ignore[return-value]

    def _side(self, side: str, row: Mapping[str, str]) -> str:
        text = "".join(literal + (row[name] if name is not None else "") for literal, name in _parse(self, side))
        # What separates the two sides is the prompt format's business, and EOS follows the last visible character.
        return text.strip("\n").rstrip()


@functools.lru_cache(maxsize=8192)
def _parse(template: Template, side: str) -> tuple[tuple[str, str | None], ...]:
    """ "Q: {q}?" -> (("Q: ", "q"), ("?", None))."""
    pieces: list[tuple[str, str | None]] = []
    try:
        parsed = list(string.Formatter().parse(getattr(template, side)))
    except ValueError as error:
        raise UserError(
            f"template {template.id!r}, {side}: {error} (a literal brace is written twice: {{{{ or }}}})"
        ) from None
    for literal, name, spec, conversion in parsed:
        if name is not None and (spec or conversion or not name.isidentifier()):
            raise UserError(
                f"template {template.id!r}, {side}: {{{name}}} must be a plain field name (a literal brace is doubled)"
            )
        pieces.append((literal, name))
    return tuple(pieces)


def load_templates(path: str | Path) -> tuple[Template, ...]:
    """Reads a YAML list of {id, inputs, targets}. UserError, naming file and entry, for anything else in it."""
    try:
        entries = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise UserError(f"{path}: cannot read templates: {' '.join(str(error).split())}") from None
    if not isinstance(entries, list) or not entries:
        raise UserError(f"{path}: expected a YAML list of {{id, inputs, targets}}")
    templates = []
    for number, entry in enumerate(entries, 1):
        if not isinstance(entry, dict):
            raise UserError(f"{path}: entry {number} is not a mapping of id, inputs, targets")
        for key in entry:
            if key not in _KEYS:
                raise UserError(f"{path}: entry {number} has an unknown key {key!r}.{nearest(str(key), _KEYS)}")
        for key in _KEYS:
            if not isinstance(entry.get(key), str):
                raise UserError(f"{path}: entry {number} needs {key!r}, as a string")
        try:
            templates.append(Template(**entry))
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
    check_unique(templates, str(path))
    return tuple(templates)


def check_fields(template: RowTemplate, available: Iterable[str], where: str) -> None:
    """UserError unless every field of the template is one of `available`; `where` names the task."""
    known = list(available)
    for name in template.fields:
        if name not in known:
            hint = nearest(name, known) or f" The fields are {', '.join(sorted(known))}."
            raise UserError(f"{where}: template {template.id!r} uses field {{{name}}}, which the source lacks.{hint}")


def check_unique(templates: Sequence[RowTemplate], where: str) -> None:
    """UserError where two templates share an id: provenance could not tell them apart."""
    seen: set[str] = set()
    for template in templates:
        if template.id in seen:
            raise UserError(f"{where}: two templates are called {template.id!r}")
        seen.add(template.id)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Room:
    """What a prompt may take of a model's inputs; templates with a method `within` are given it by `bind`."""

    tokenizer: Tokenizer
    tokens: int

    def has(self, text: str) -> bool:
        return len(self.tokenizer.encode(text)) <= self.tokens


@dataclasses.dataclass(frozen=True, kw_only=True)
class RenderContext:
    """What a rendering is keyed by, beside the row itself. Set by prepare; the run's seed never enters."""

    prepare_seed: int = 0
    variant: int = 0


def choose_template(
    templates: Sequence[RowTemplate], *, identity: str, source_id: str, context: RenderContext
) -> RowTemplate:
    """The template of one rendering: a keyed hash of (prepare_seed, identity, source id, variant), never a position.

    Rendezvous hashing: each template gets a keyed score for this row, and variant v takes the v-th best (mod their
    number). So the first len(templates) variants of a row are all different, and adding a template moves only the rows
    that it wins.
    """
    ranked = _ranked(templates, identity, source_id, context)
    return ranked[context.variant % len(ranked)]


def render_row(
    templates: Sequence[RowTemplate],
    row: Mapping[str, str],
    *,
    identity: str,
    source_id: str,
    context: RenderContext,
) -> tuple[str, str, str]:
    """(inputs, targets, the template's id): what `choose_template` takes of the templates that render this row.

    Raises UserError if none does.
    """
    key = key64("render", context.prepare_seed, identity, source_id, context.variant)
    rendered: list[tuple[str, str, str]] = []
    for template in _ranked(templates, identity, source_id, context):
        sides = template.render(row, key)
        if sides is not None:
            rendered.append((*sides, template.id))
        if len(rendered) > context.variant:
            break
    if not rendered:
        raise UserError("none of its templates renders this row")
    return rendered[context.variant % len(rendered)]


def _ranked(
    templates: Sequence[RowTemplate], identity: str, source_id: str, context: RenderContext
) -> Sequence[RowTemplate]:
    if len(templates) == 1:
        return templates
    row = _frame(str(context.prepare_seed), identity, source_id)
    return sorted(templates, key=lambda t: hashlib.blake2b(row + _frame(t.id), digest_size=16).digest())


def _frame(*parts: str) -> bytes:
    """Length-prefixed UTF-8, so that ("ab", "c") and ("a", "bc") differ."""
    encoded = [part.encode("utf-8") for part in parts]
    return b"".join(len(data).to_bytes(4, "little") + data for data in encoded)
