"""Several adapters in one safetensors file: each under a name, in peft's layout.

Tensors are called NAME/<peft's name>; the file's metadata hold {NAME: adapter_config.json} as JSON.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from itune.errors import UserError, nearest
from itune.weights.safetensors_file import Entry, write_file
from itune.weights.shards import Tensors, open_tensors

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
KEY = "itune_adapters"
SUFFIX = ".safetensors"
_NAME = re.compile(r"[A-Za-z0-9_.-]+")


@contextmanager
def open_adapter(source: str | Path) -> Iterator[tuple[dict[str, Any], Tensors, str]]:
    """(adapter_config.json, the adapter's tensors, what to call it) of peft's folder, or of FILE.safetensors:NAME.

    Raises: UserError naming what is missing, and the adapters that there are.
    """
    path, name = _split(source)
    if path.suffix != SUFFIX:
        config = _read_config(path / CONFIG)
        with open_tensors(path) as tensors:
            yield config, tensors, str(path / CONFIG)
        return
    configs = list_adapters(path)
    if name not in configs:
        which = f"has no adapter {name!r}" if name else "holds adapters by name"
        raise UserError(
            f"{path}: {which}: {', '.join(configs)}; name one as {path.name}:{next(iter(configs))}"
            + (nearest(name, configs) if name else "")
        )
    with safe_open(path, framework="numpy") as file:
        names = [stored for stored in file.keys() if stored.startswith(f"{name}/")]  # noqa: SIM118 - it is no dict
        files = {stored.removeprefix(f"{name}/"): (path, file) for stored in names}
        yield configs[name], Tensors(path, files, prefix=f"{name}/"), f"{path}:{name}"


def list_adapters(path: Path) -> dict[str, dict[str, Any]]:
    """{name: adapter_config.json} of a file that `pack` wrote. Raises: UserError if it is none."""
    try:
        with safe_open(path, framework="numpy") as file:
            configs = json.loads((file.metadata() or {})[KEY])
    except (SafetensorError, OSError, KeyError, ValueError) as error:
        reason = f"its metadata have no {KEY}" if isinstance(error, KeyError) else error
        raise UserError(f"{path}: not a file of adapters that itune.convert --pack wrote ({reason})") from None
    return configs


def pack(pairs: Sequence[str], target: Path) -> Path:
    """Writes adapters, each NAME=SOURCE (as in `open_adapter`), into the file `target`, in float32; returns it.

    Raises: UserError for a bad name or source, a target that is there, and adapters of different bases.
    """
    if target.suffix != SUFFIX:
        raise UserError(f"--to={target}: a file of adapters is called *{SUFFIX}")
    if target.exists():
        raise UserError(f"--to={target}: is there already; another name, or remove it")
    configs: dict[str, dict[str, Any]] = {}
    entries: list[Entry] = []
    for pair in pairs:
        name, equals, source = pair.partition("=")
        if not (_NAME.fullmatch(name) and equals and source):
            raise UserError(f"--pack {pair}: NAME=FOLDER is needed, a name of letters, digits and . _ -")
        if name in configs:
            raise UserError(f"--pack: {name!r} comes twice")
        with open_adapter(source) as (config, tensors, _):
            configs[name] = config
            entries += [_entry(f"{name}/{tensor}", _read(tensors, tensor)) for tensor in sorted(tensors)]
    bases = {name: config.get("base_model_name_or_path") for name, config in configs.items()}
    if len({base for base in bases.values() if base}) > 1:
        raise UserError(f"--pack: adapters of different bases: {', '.join(f'{n} of {b}' for n, b in bases.items())}")
    partial = target.with_name(f".{target.name}.partial")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        write_file(partial, entries, metadata={KEY: json.dumps(configs)})
        partial.rename(target)
    except OSError as error:
        raise UserError(f"--to={target}: {error.strerror or error}") from None
    finally:
        partial.unlink(missing_ok=True)
    return target


def _split(source: str | Path) -> tuple[Path, str]:
    """ "a/b.safetensors:clinic" -> (a/b.safetensors, "clinic")."""
    text = str(source)
    head, colon, name = text.rpartition(":")
    if colon and head.endswith(SUFFIX):
        text = head
    else:
        name = ""
    return Path(text).expanduser(), name


def _read(tensors: Tensors, name: str) -> np.ndarray:
    return tensors.read(name, (slice(None),) * len(tensors.shape(name)), np.dtype(np.float32))


def _entry(name: str, array: np.ndarray) -> Entry:
    return Entry(name=name, shape=array.shape, make=lambda: array)


def _read_config(path: Path) -> dict[str, Any]:
    try:
        fields = json.loads(path.read_text("utf-8"))
    except OSError:
        # peft saves further adapters of a model into folders of their own, beside the first or below it.
        named = sorted(found.parent.name for found in path.parent.glob(f"*/{CONFIG}"))
        which = f"; it holds adapters by name: {', '.join(named)}; name one of these folders" if named else ""
        raise UserError(f"{path.parent}: no {CONFIG} here (a folder that peft saved has one){which}") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(fields, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(fields).__name__}")
    return fields
