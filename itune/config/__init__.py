"""The only package that imports gin: files and flags in, one frozen RunConfig out.

`load_run` parses, checks and resolves; `save_run` writes the result next to the run; `config_digest` names it. Names
load on first use, so that `--help` and the config dataclasses do not wait for gin.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itune.config.load import load_run as load_run
    from itune.config.run import RunConfig as RunConfig
    from itune.config.save import config_digest as config_digest
    from itune.config.save import save_run as save_run
    from itune.config.save import to_gin as to_gin

_HOME = {
    "RunConfig": "itune.config.run",
    "config_digest": "itune.config.save",
    "load_run": "itune.config.load",
    "save_run": "itune.config.save",
    "to_gin": "itune.config.save",
}
__all__ = ["RunConfig", "config_digest", "load_run", "save_run", "to_gin"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(_HOME[name]), name)
