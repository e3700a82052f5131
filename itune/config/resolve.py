"""Statements -> one frozen RunConfig, or one line that says what is wrong and where.

The rules (tests/config/test_faults.py shows each):
  - The last statement of a name wins; in one file a name may be bound once.
  - Every value has its field's type; every macro used is defined; %gin.REQUIRED is replaced by somebody.
  - What a file given by --gin_file (or the command line) binds has an effect, once that file or a later one is read. So
    the command line may put another class into a slot that the recipe has bound fields for. An included file is a
    library: it may bind fields of classes that no slot holds. A macro that no statement mentions is always an error.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from itune.config import schema
from itune.config.parse import Statement
from itune.config.run import RunConfig
from itune.config.schema import ClassRef, MacroRef
from itune.errors import UserError, nearest

Table = Mapping[str, Statement]  # name -> the statement that wins


def resolve(statements: Sequence[Statement], gin_files: Sequence[str | Path]) -> RunConfig:
    """Check all statements, then build. Source i is gin_files[i]; the command line comes last. Raises UserError."""
    table = {statement.key: statement for statement in statements}
    _check_references(statements, table)
    _check_cycles(table)
    for statement in statements:
        if not statement.is_macro:
            _typed(statement, table)
    _check_effect(statements, len(gin_files))
    return _build(RunConfig, table, None, str(gin_files[-1]))


def build(cls: type, statements: Sequence[Statement], gin_files: Sequence[str | Path]) -> Any:
    """An instance of a config that is no part of a run (schema.APART). Raises UserError."""
    table = {statement.key: statement for statement in statements}
    for statement in statements:
        for ref in _references(statement.value):
            if isinstance(ref, MacroRef) and not ref.required and ref.name not in table:
                raise UserError(f"{statement.where}: {statement.key}: there is no macro {ref.name!r}.")
    return _build(cls, table, None, str(gin_files[-1]))


def macro_behind(key: str, statements: Sequence[Statement]) -> str:
    """The macro that the binding `key` takes its value from, or `key` itself."""
    table = {statement.key: statement for statement in statements}
    value = table[key].value if key in table else None
    return value.name if isinstance(value, MacroRef) and value.name in table else key


def _references(value: Any) -> Iterator[ClassRef | MacroRef]:
    if isinstance(value, ClassRef | MacroRef):
        yield value
    elif isinstance(value, dict):
        for key, item in value.items():
            yield from _references(key)
            yield from _references(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _references(item)


def _macros_in(value: Any) -> set[str]:
    return {ref.name for ref in _references(value) if isinstance(ref, MacroRef) and not ref.required}


def _check_references(statements: Sequence[Statement], table: Table) -> None:
    macros = [key for key, statement in table.items() if statement.is_macro]
    mentioned = {name for statement in statements for name in _macros_in(statement.value)}
    for statement in statements:
        at = f"{statement.where}: {statement.key}={schema.show(statement.value)}:"
        for ref in _references(statement.value):
            if isinstance(ref, MacroRef) and not ref.required and ref.name not in macros:
                raise UserError(f"{at} there is no macro {ref.name!r}.{nearest(ref.name, macros)}")
            if isinstance(ref, ClassRef) and schema.find_class(ref.name) is None:
                raise UserError(f"{at} there is no config {ref.name!r}.{schema.nearest_class(ref.name)}")
    for statement in statements:
        if statement.is_macro and statement.key not in mentioned:
            hint = _meant(statement.key, mentioned)
            raise UserError(f"{statement.where}: no binding uses the macro {statement.key}.{hint}")


def _meant(macro: str, mentioned: set[str]) -> str:
    if homes := schema.bindings_called(macro):
        return f" Did you mean {homes[0]!r}?"
    return nearest(macro, sorted(mentioned)) or nearest(macro.upper(), sorted(mentioned))


def _check_cycles(table: Table) -> None:
    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in path:
            chain = " -> ".join((*path[path.index(name) :], name))
            raise UserError(f"{table[name].where}: the macro {name} is defined by itself: {chain}.")
        for following in sorted(_macros_in(table[name].value)):
            visit(following, (*path, name))

    for name, statement in table.items():
        if statement.is_macro:
            visit(name, ())


def _expand(value: Any, table: Table) -> Any:
    """`value` with its macros replaced; %gin.REQUIRED stays."""
    if isinstance(value, MacroRef) and not value.required:
        return _expand(table[value.name].value, table)
    if isinstance(value, dict):
        return {_expand(key, table): _expand(item, table) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(_expand(item, table) for item in value)
    return value


def _origin(statement: Statement, table: Table) -> Statement:
    """Where the value was written: the statement, or the macro that stands for all of it."""
    while isinstance(statement.value, MacroRef) and not statement.value.required:
        statement = table[statement.value.name]
    return statement


def _blame(statement: Statement, table: Table) -> str:
    """`file:line: NAME=value`, with the field that a macro sets in brackets."""
    origin = _origin(statement, table)
    field = f" ({statement.key})" if origin.key != statement.key else ""
    return f"{origin.where}: {origin.key}={schema.show(origin.value)}{field}"


def _typed(statement: Statement, table: Table) -> Any:
    """The binding's value in its field's type; a ClassRef for a slot."""
    owner, _, field = statement.key.partition(".")
    hint = schema.fields_of(schema.CLASSES[owner])[field]
    value = _expand(statement.value, table)
    if any(isinstance(ref, MacroRef) for ref in _references(value)):
        return value  # required: reported if it is reached
    if classes := schema.slot_classes(hint):
        return _typed_slot(statement, value, classes, table)
    if statement.key in schema.ONE_OR_MORE and isinstance(value, str):
        value = (value,)
    try:
        return schema.conform(value, hint)
    except schema.Mismatch as mismatch:
        raise UserError(f"{_blame(statement, table)} {mismatch}") from None


def _typed_slot(statement: Statement, value: Any, classes: tuple[type, ...], table: Table) -> ClassRef:
    names = " or ".join(f"@{cls.__name__}()" for cls in classes)
    cls = schema.find_class(value.name) if isinstance(value, ClassRef) else None
    if cls not in classes:
        meant = nearest(f"@{value}()", names.split(" or ")) if isinstance(value, str) else ""
        raise UserError(f"{_blame(statement, table)} must be {names}, not {schema.a_kind(value)}.{meant}")
    if not value.called:
        raise UserError(f"{_blame(statement, table)} needs brackets. Did you mean @{cls.__name__}()?")
    return ClassRef(cls.__name__, True)


def _reached(table: Table) -> set[str]:
    """The names that building a RunConfig from `table` would read."""
    reached: set[str] = set()

    def visit(key: str) -> None:
        if key in reached or key not in table:
            return
        reached.add(key)
        for ref in _references(table[key].value):
            if isinstance(ref, ClassRef):
                visit_class(schema.find_class(ref.name))
            elif not ref.required:
                visit(ref.name)

    def visit_class(cls: type | None) -> None:
        if cls is not None:  # an unknown name has been reported
            for field in schema.fields_of(cls):
                visit(f"{cls.__name__}.{field}")

    visit_class(RunConfig)
    return reached


def _check_effect(statements: Sequence[Statement], last_source: int) -> None:
    later: set[str] = set()  # reached once this source or a later one is read
    for source in range(last_source, -1, -1):
        table = {s.key: s for s in statements if s.source <= source}
        later |= _reached(table)
        for statement in statements:
            if statement.source == source and not statement.included and statement.key not in later:
                why = _why_unused(statement, table, statements)
                raise UserError(f"{statement.where}: {statement.key} has no effect: {why}")


def _why_unused(statement: Statement, table: Table, statements: Sequence[Statement]) -> str:
    if statement.is_macro:
        user = next(s for s in statements if statement.key in _macros_in(s.value))
        if table.get(user.key, user) is not user:
            return f"{user.key} is bound at {table[user.key].where} instead."
        return f"{user.key} at {user.where}, which uses it, has none."
    owner = statement.key.partition(".")[0]
    if schema.CLASSES[owner] in schema.APART:
        return "it describes a study: python -m itune.ablate runs that."
    slot = schema.slots_for(schema.CLASSES[owner])[0]
    if slot not in table:
        return f"nothing binds {slot}. Did you mean to add {slot} = @{owner}()?"
    held = schema.show(_expand(table[slot].value, table))
    return f"{slot} is {held} (at {_origin(table[slot], table).where})."


def _build(cls: type, table: Table, slot: Statement | None, where: str) -> Any:
    """An instance of `cls` from its bindings. `slot` is the binding that asked for it."""
    keys = {field: f"{cls.__name__}.{field}" for field in schema.fields_of(cls)}
    bound = {field: table[key] for field, key in keys.items() if key in table}
    values = {}
    for field in dataclasses.fields(cls):
        if field.name not in bound:
            if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
                include = " Is include 'gin_configs/base.gin' missing?" if cls is RunConfig else ""
                at = slot.where if slot else where
                raise UserError(f"{at}: {keys[field.name]} is required, and nothing binds it.{include}")
            continue
        value = _typed(bound[field.name], table)
        _check_required(bound[field.name], value, table)
        if isinstance(value, ClassRef):
            value = _build(schema.CLASSES[value.name], table, bound[field.name], where)
        values[field.name] = value
    try:
        return cls(**values)
    except (ValueError, TypeError) as error:
        raise UserError(_invalid(error, bound, slot, table)) from None


def _check_required(statement: Statement, value: Any, table: Table) -> None:
    if any(isinstance(ref, MacroRef) for ref in _references(value)):
        origin = _origin(statement, table)
        field = f" ({statement.key})" if origin.key != statement.key else ""
        flag = f"--gin.{origin.key}=VALUE"
        raise UserError(f"{origin.where}: {origin.key}{field} is required: bind it in your gin file, or give {flag}.")


def _invalid(error: Exception, bound: Mapping[str, Statement], slot: Statement | None, table: Table) -> str:
    """A __post_init__ error, placed at the newest binding of a field that it names; else of any; else the slot."""
    message = " ".join(str(error).split())
    named = [s for field, s in bound.items() if re.search(rf"\b{field}\b", message)]
    order = {key: i for i, key in enumerate(table)}
    newest = max(named or bound.values(), key=lambda s: _newness(_origin(s, table), order), default=slot)
    if newest is None:
        return message
    return f"{_blame(newest, table)}: {message}.{_nearest_option(_expand(newest.value, table), message)}"


def _newness(statement: Statement, order: Mapping[str, int]) -> tuple[int, bool, int]:
    return statement.source, not statement.included, order[statement.key]


def _nearest_option(value: Any, message: str) -> str:
    """The option nearest to a bad word, among those the message lists after it."""
    words = [*value, *value.values()] if isinstance(value, dict) else value
    for word in words if isinstance(words, list | tuple) else (words,):
        if isinstance(word, str) and repr(str(word)) in message:
            options = re.findall(r"\w+", message.partition(repr(str(word)))[2])
            return nearest(word, options)
    return ""
