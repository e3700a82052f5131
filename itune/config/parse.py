"""gin's grammar, strictly: files and command-line bindings become a list of statements with their places.

gin's own parser reads the text; nothing is registered with gin and its global state is not touched, so that a resolved
run depends on its files and flags alone. A gin file here may hold `include` (first), `NAME = value`, `Class.field =
value` and blocks. Imports and scopes are refused: which code runs is not for a gin file to say.
"""

from __future__ import annotations

import dataclasses
import re
import tokenize
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from gin import config_parser

import itune
from itune.config import schema
from itune.config.schema import BareWord, ClassRef, MacroRef
from itune.errors import UserError, nearest

PROJECT = Path(itune.__file__).resolve().parents[1]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Statement:
    """One binding or macro definition.

    key: `Class.field`, or a macro's name.  where: `file:line`, or the flag.  source: index of the --gin_file it came
    by; the command line counts as one more, the last.  included: it came by an `include`.
    """

    key: str
    value: Any
    where: str
    source: int
    included: bool = False

    @property
    def is_macro(self) -> bool:
        return "." not in self.key


class _References(config_parser.ParserDelegate):
    def configurable_reference(self, scoped_configurable_name: str, evaluate: bool) -> ClassRef:
        return ClassRef(scoped_configurable_name, evaluate)

    def macro(self, macro_name: str) -> MacroRef:
        return MacroRef(macro_name)


def read_files(gin_files: Sequence[str | Path]) -> list[Statement]:
    """The files' statements in the order in which they take effect. A file met twice is read once, the first time."""
    statements: list[Statement] = []
    seen: set[Path] = set()
    for source, name in enumerate(gin_files):
        path = _find(str(name), [Path.cwd(), PROJECT / "gin_configs", PROJECT])
        if path is None:
            raise UserError(f"--gin_file={name}: no such file.{_nearest_file(str(name), PROJECT / 'gin_configs')}")
        statements += _read(path, source=source, parents=(), seen=seen)
    return statements


def read_binding(text: str, source: int) -> Statement:
    """`NAME=value` from the command line. A value that is no gin literal is a string: LOSS_NORM=example."""
    where = f"--gin.{' '.join(text.split())}"
    name, equals, value = (part.strip() for part in text.partition("="))
    if not equals or not re.fullmatch(r"[A-Za-z_][\w./]*", name):
        raise UserError(f"{where}: a binding is --gin.NAME=VALUE, such as --gin.TRAIN_STEPS=100.")
    if not value:
        raise UserError(f"{where}: no value (the empty string is '').")
    try:
        statements = list(_Parser(f"{name} = {value}\n"))
        if len(statements) != 1 or not isinstance(statements[0], config_parser.BindingStatement):
            raise SyntaxError("one value is expected")
        parsed = statements[0].value
    except (SyntaxError, tokenize.TokenError, TypeError) as error:
        if value[0] in "'\"([{@%":
            raise UserError(f"{where}: syntax error: {_reason(error)}") from None
        parsed = BareWord(value)
    scope, selector, field = config_parser.parse_binding_key(name)
    return Statement(key=_key(scope, selector, field, where), value=parsed, where=where, source=source)


class _Parser(config_parser.ConfigParser):
    def __init__(self, text: str):
        super().__init__(text, _References())


def _read(path: Path, *, source: int, parents: tuple[Path, ...], seen: set[Path]) -> Iterator[Statement]:
    if path in seen:
        return
    seen.add(path)
    shown = _shown(path)
    first_line: dict[str, int] = {}
    for node, line in _parse(path):
        where = f"{shown}:{line}"
        if isinstance(node, config_parser.ImportStatement):
            raise UserError(f"{where}: {node.format()!r}: a gin file imports nothing; configs are known by name.")
        if isinstance(node, config_parser.IncludeStatement):
            if first_line:
                raise UserError(f"{where}: include {node.filename!r} must stand before this file's bindings.")
            child = _included(node.filename, where, path)
            if child in (*parents, path):
                raise UserError(f"{where}: include {node.filename!r} goes round in a circle.")
            yield from _read(child, source=source, parents=(*parents, path), seen=seen)
        if isinstance(node, config_parser.BindingStatement):
            key = _key(node.scope, node.selector, node.arg_name, where)
            if key in first_line:
                raise UserError(f"{where}: {key} is bound twice in this file, first on line {first_line[key]}.")
            first_line[key] = line
            yield Statement(key=key, value=node.value, where=where, source=source, included=bool(parents))


def _parse(path: Path) -> Iterator[tuple[Any, int]]:
    """gin's statements and their lines."""
    shown = _shown(path)
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{shown}: cannot be read as a gin file: {_reason(error)}") from None
    lines = [*text.splitlines(), ""]
    begun = 1
    try:
        parser = _Parser(text)
        while True:
            begun = _statement_line(lines, parser.current_token.start[0])
            node = parser.parse_statement()
            if node is None:
                return
            yield node, node.location.line_num
    except (SyntaxError, tokenize.TokenError, TypeError) as error:
        line = (error.lineno if isinstance(error, SyntaxError) else None) or begun
        if isinstance(error, tokenize.TokenError):
            line = begun
        binding = re.match(r"\s*([\w./]+)\s*=", lines[begun - 1])
        subject = f" in {binding[1]}" if binding else ""
        since = f" (begun on line {begun}; is a bracket open?)" if binding and line != begun else ""
        raise UserError(f"{shown}:{line}: syntax error{subject}{since}: {_reason(error)}") from None


def _statement_line(lines: list[str], start: int) -> int:
    """The first line from `start` on that holds more than a comment."""
    for number in range(start, len(lines) + 1):
        content = lines[number - 1].strip()
        if content and not content.startswith("#"):
            return number
    return min(start, len(lines))


def _key(scope: str, selector: str, field: str, where: str) -> str:
    """`Class.field` with the class's plain name, or the macro's name."""
    if scope:
        raise UserError(f"{where}: {scope}/{selector}: scopes are not supported; bind {selector} itself.")
    if not field:
        return selector
    cls = schema.find_class(selector)
    if cls is None:
        hint = schema.nearest_class(selector)
        raise UserError(f"{where}: {selector}.{field}: there is no config {selector!r}.{hint}")
    if field not in schema.fields_of(cls):
        hint = schema.nearest_field(cls, field)
        raise UserError(f"{where}: {cls.__name__}.{field}: {cls.__name__} has no field {field!r}.{hint}")
    return f"{cls.__name__}.{field}"


def _included(name: str, where: str, path: Path) -> Path:
    found = _find(name, [Path.cwd(), path.parent, PROJECT, PROJECT / "gin_configs"])
    if found is None:
        raise UserError(f"{where}: include {name!r}: no such file.{_nearest_file(name, path.parent)}")
    return found


def _find(name: str, folders: Sequence[Path]) -> Path | None:
    candidates = (folder / Path(name).expanduser() for folder in folders)
    return next((path.resolve() for path in candidates if path.is_file()), None)


def _nearest_file(name: str, folder: Path) -> str:
    """A similar path, written as the user wrote theirs: beside the file, or below the project's gin_configs."""
    parent = Path(name).expanduser().parent
    roots = (Path.cwd(), folder, PROJECT)
    valid = {str(parent / path.name) for root in roots for path in (root / parent).glob("*.gin")}
    valid |= {str(path.relative_to(PROJECT)) for path in (PROJECT / "gin_configs").rglob("*.gin")}
    return nearest(name, sorted(valid))


def _shown(path: Path) -> str:
    cwd = Path.cwd().resolve()
    return str(path.relative_to(cwd)) if path.is_relative_to(cwd) else str(path)


def _reason(error: Exception) -> str:
    """gin's message in one line of plain words."""
    if isinstance(error, UnicodeDecodeError):
        return "it is not UTF-8 text."
    text = str(error.args[0]) if error.args else str(error)
    if word := re.search(r"Failed to parse token '(.*)'", text, re.DOTALL):
        literal = word[1].capitalize()
        meant = literal if literal in ("True", "False", "None") else repr(word[1])
        return f"{word[1]} is no value. Did you mean {meant}?"
    if isinstance(error, tokenize.TokenError):
        return "a bracket or a string is not closed."
    return " ".join(str(error.strerror if isinstance(error, OSError) else text).split())
