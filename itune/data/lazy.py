"""Tasks that are registered when they are asked for, so that importing a library of hundreds costs next to nothing.

A provider stands for a name and all that begins with it and "/": "rte" for "rte/zs_opt". Imports neither SeqIO nor
TensorFlow.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Callable, Iterable

Loader = Callable[[], object]

_pending: dict[str, list[Loader]] = {}


def provide(names: Iterable[str], loader: Loader) -> None:
    """Asking for one of `names`, or for a task that begins with one and "/", runs `loader` once, which registers it."""
    for name in names:
        _pending.setdefault(name, []).append(loader)


def provide_module(names: Iterable[str], module: str) -> None:
    """The same with a module, which registers on import."""
    provide(names, functools.partial(importlib.import_module, module))


def load(name: str) -> bool:
    """Runs the loaders that stand for `name`, or for what it begins with; False where there are none (any more)."""
    parts = name.split("/")
    for end in range(len(parts), 0, -1):
        if loaders := _pending.get("/".join(parts[:end])):
            for loader in list(loaders):
                _run(loader)
            return True
    return False


def load_all() -> None:
    """Runs every loader that has not run."""
    while _pending:
        _run(next(iter(_pending.values()))[0])


def pending() -> list[str]:
    """The names that loaders stand for, sorted."""
    return sorted(_pending)


def _run(loader: Loader) -> None:
    # Taken out first: what it loads may ask for names of its own, and a failed one is not tried again and again.
    for name, loaders in list(_pending.items()):
        _pending[name] = [other for other in loaders if other is not loader]
        if not _pending[name]:
            del _pending[name]
    loader()
