"""gs:// URLs, and where on this machine the copy of a run lies."""

from __future__ import annotations

import hashlib
import re
from pathlib import Path

from itune.cache import cache_dir
from itune.errors import UserError

CHECKPOINTS = "checkpoints"
DIGESTS = "digests"
STATE = "state"  # of a checkpoint, the item with the arrays
_BUCKET = re.compile(r"gs://([a-z0-9][-a-z0-9._]{1,221}[a-z0-9])(?:/+(.*))?", re.DOTALL)
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+)://")


def in_bucket(place: object) -> bool:
    """Whether `place` is a gs:// URL."""
    return str(place).startswith("gs://")


def check_place(place: str) -> None:
    """Raises: ValueError unless a run can live there: in a folder, or in a bucket's."""
    scheme = _SCHEME.match(place)
    if scheme is None:
        return
    if scheme[1] != "gs":
        raise ValueError(f"runs live in folders and in gs://BUCKET/FOLDER; mount {scheme[0]} and give the folder")
    split(place)


def split(url: str) -> tuple[str, str]:
    """ "gs://bucket/a/b/" -> ("bucket", "a/b"). Raises: ValueError."""
    match = _BUCKET.fullmatch(url)
    folder = "/".join(part for part in (match[2] or "").split("/") if part) if match else ""
    if match is None or not folder or ".." in folder.split("/"):
        raise ValueError(f"{url} is no folder of a bucket; gs://BUCKET/FOLDER is needed")
    return match[1], folder


def url_of(place: str) -> str:
    """The one spelling of a bucket's folder. Raises: UserError."""
    try:
        bucket, folder = split(place)
    except ValueError as error:
        raise UserError(str(error)) from None
    return f"gs://{bucket}/{folder}"


def on_disk(flag: str, place: str | None) -> None:
    """Raises: UserError for a URL where only a folder on this machine will do."""
    if place and _SCHEME.match(place):
        raise UserError(f"{flag}={place}: must be a folder on this machine or a mounted one")


def local_folder(place: str, *, reading: bool = False) -> Path:
    """The folder itself; of a bucket's, <cache>/runs/<digest of the URL>/<its last name>.

    reading: the copy of those who only read, beside that of a trainer.
    """
    if not in_bucket(place):
        return Path(place)
    url = url_of(place)
    root = hashlib.sha256(url.encode()).hexdigest()[:16] + ("-read" if reading else "")
    return cache_dir() / "runs" / root / url.rpartition("/")[2]
