"""A resolved run on disk: config.gin (reads back to an equal RunConfig), config.json, and the digest that names it."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import itune
from itune.config import schema
from itune.config.macros import MACROS
from itune.config.run import RunConfig


def save_run(config: RunConfig, model_dir: str | os.PathLike[str]) -> None:
    """Write config.gin and config.json (dataclasses.asdict) into `model_dir`, each whole or not at all."""
    folder = Path(model_dir)
    folder.mkdir(parents=True, exist_ok=True)
    _write(folder / "config.gin", to_gin(config))
    _write(folder / "config.json", json.dumps(dataclasses.asdict(config), indent=2) + "\n")


def to_gin(config: RunConfig) -> str:
    """Every field of `config` as a gin file, the macros first: --gin.TRAIN_STEPS=... works on it as on a recipe."""
    parts = {type(part).__name__: part for part in _parts(config)}
    macro_of = {macro.binding: macro.name for macro in MACROS}
    lines = [
        f"# A resolved run, written by itune {itune.__version__}. To run it again elsewhere:",
        "#   python -m itune.train --gin_file=config.gin --workdir=DIR",
        "",
    ]
    for macro in MACROS:
        owner, _, name = macro.binding.partition(".")
        lines.append(f"{macro.name} = {getattr(parts[owner], name)!r}")
    for owner, part in parts.items():
        lines.append("")
        for field in dataclasses.fields(part):
            key = f"{owner}.{field.name}"
            value = f"%{macro_of[key]}" if key in macro_of else _literal(getattr(part, field.name))
            lines.append(f"{key} = {value}")
    return "\n".join(lines) + "\n"


def config_digest(config: RunConfig) -> str:
    """sha256 (hex) over every class and field but model_dir: equal for equal runs, wherever they live."""
    parts = {type(part).__name__: _plain_fields(part) for part in _parts(config)}
    del parts["RunConfig"]["model_dir"]
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()


def _parts(config: RunConfig) -> list[Any]:
    """The run and its components. gin binds classes, so no class may come twice."""
    values = [getattr(config, field.name) for field in dataclasses.fields(config)]
    parts = [config, *filter(_is_part, values)]
    assert len({type(part) for part in parts}) == len(parts), "two slots of RunConfig hold the same class"
    assert all(type(part) is schema.CLASSES.get(type(part).__name__) for part in parts), "a class is not registered"
    return parts


def _is_part(value: Any) -> bool:
    return dataclasses.is_dataclass(value)


def _plain_fields(part: Any) -> dict[str, Any]:
    """Slots as class names: their fields stand beside, under the class."""
    values = {f.name: getattr(part, f.name) for f in dataclasses.fields(part)}
    return {name: _literal(value) if _is_part(value) else value for name, value in values.items()}


def _literal(value: Any) -> str:
    return f"@{type(value).__name__}()" if _is_part(value) else repr(value)


def _write(path: Path, text: str) -> None:
    scratch = path.with_name(f".{path.name}.{os.getpid()}")
    scratch.write_text(text, encoding="utf-8")
    os.replace(scratch, path)
