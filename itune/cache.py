"""The one folder for everything that can be made again: downloads, converted weights, prepared data, manifests."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import platform
from pathlib import Path

from itune.errors import UserError

COMPILED_BYTES = 4 << 30


def cache_dir() -> Path:
    """$ITUNE_CACHE_DIR, or ~/.cache/itune. Raises: UserError for a URL."""
    given = os.environ.get("ITUNE_CACHE_DIR")
    if given and "://" in given:
        raise UserError(
            f"ITUNE_CACHE_DIR={given}: must be a folder on this machine or a mounted one; machines share what they "
            "prepare by ITUNE_SHARED_CACHE=gs://BUCKET/FOLDER"
        )
    return Path(given or Path.home() / ".cache" / "itune").expanduser()


def keep_compiled_functions() -> None:
    """Tells JAX, before it is imported, to keep what it compiles in the cache folder, the newest 4 GiB.

    What the user has set of JAX's own variables stays; JAX_ENABLE_COMPILATION_CACHE=false turns it off.
    """
    os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(cache_dir() / "compiled" / _machine()))
    os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0.3")
    if importlib.util.find_spec("filelock"):  # JAX asks for it where old entries are to go
        os.environ.setdefault("JAX_COMPILATION_CACHE_MAX_SIZE", str(COMPILED_BYTES))


def _machine() -> str:
    """One folder a kind of CPU: JAX's key does not tell code for one from code that another can't run."""
    try:
        lines = Path("/proc/cpuinfo").read_text("utf-8", errors="replace").splitlines()
        flags = next((line for line in lines if line.startswith(("flags", "Features"))), "")
    except OSError:
        flags = ""
    return f"{platform.machine()}-{hashlib.sha256(flags.encode()).hexdigest()[:12]}"
