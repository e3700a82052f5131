"""The one folder for everything that can be made again: downloads, converted weights, prepared data, manifests."""

from __future__ import annotations

import os
from pathlib import Path

from itune.errors import UserError


def cache_dir() -> Path:
    """$ITUNE_CACHE_DIR, or ~/.cache/itune. Raises: UserError for a URL."""
    given = os.environ.get("ITUNE_CACHE_DIR")
    if given and "://" in given:
        raise UserError(
            f"ITUNE_CACHE_DIR={given}: must be a folder on this machine or a mounted one; machines share what they "
            "prepare by ITUNE_SHARED_CACHE=gs://BUCKET/FOLDER"
        )
    return Path(given or Path.home() / ".cache" / "itune").expanduser()
