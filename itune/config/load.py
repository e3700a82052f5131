"""load_run: gin files and command-line bindings in, a checked RunConfig out. Loads neither JAX nor TensorFlow."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Sequence
from pathlib import Path

from itune.config import parse, resolve
from itune.config.parse import Statement
from itune.config.run import RunConfig
from itune.errors import UserError, nearest


def load_run(
    gin_files: Sequence[str | Path],
    bindings: Sequence[str] = (),
    *,
    model_dir: str | os.PathLike[str] | None = None,
    modules: Sequence[str] = (),
) -> RunConfig:
    """The run that the files describe; a later file overrides an earlier one, bindings and `model_dir` override all.

    Args:
      gin_files: paths from the working directory, else from the project's gin_configs/.
      bindings: `NAME=value`, as after --gin. on the command line; a macro or Class.field.
      model_dir: what --workdir gives; it stands for MODEL_DIR.
      modules: what --module_import gives; they join DataConfig.modules.

    Raises:
      UserError: one line with the file and line (or the flag), the binding, and the nearest valid name.
    """
    if isinstance(gin_files, str | Path):
        raise TypeError("load_run takes a sequence of gin files, not one path")
    if not gin_files:
        raise UserError("--gin_file is required, such as --gin_file=gin_configs/recipes/quickstart.gin.")
    command_line = len(gin_files)
    statements = parse.read_files(gin_files)
    given = [parse.read_binding(text, command_line) for text in bindings]
    if model_dir is not None:
        text = os.fspath(model_dir)
        if not text:
            raise UserError("--workdir=: a folder is needed, such as --workdir=runs/first.")
        key = resolve.macro_behind("RunConfig.model_dir", [*statements, *given])
        given.append(Statement(key=key, value=text, where=f"--workdir={text}", source=command_line))
    _check_given_once(given)
    return with_modules(resolve.resolve([*statements, *given], gin_files), modules)


def with_modules(config: RunConfig, modules: Sequence[str]) -> RunConfig:
    """`config` with what --module_import gives. Raises: UserError for what is no module's name."""
    for name in modules:
        if not all(part.isidentifier() for part in name.split(".")):
            meant = name.removesuffix(".py").replace("/", ".").strip(".")
            raise UserError(f"--module_import={name}: not a module's dotted name.{nearest(name, [meant])}")
    named = dict.fromkeys([*config.data.modules, *modules])
    return dataclasses.replace(config, data=dataclasses.replace(config.data, modules=tuple(named)))


def _check_given_once(given: Sequence[Statement]) -> None:
    first: dict[str, Statement] = {}
    for statement in given:
        if statement.key in first:
            earlier = first[statement.key].where
            raise UserError(f"{statement.where}: {statement.key} is given twice, first by {earlier}.")
        first[statement.key] = statement
