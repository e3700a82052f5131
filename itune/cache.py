"""The one folder for everything that can be made again: downloads, converted weights, prepared data, manifests."""

from __future__ import annotations

import os
from pathlib import Path


def cache_dir() -> Path:
    """$ITUNE_CACHE_DIR, or ~/.cache/itune."""
    return Path(os.environ.get("ITUNE_CACHE_DIR") or Path.home() / ".cache" / "itune").expanduser()
