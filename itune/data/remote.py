"""Files on other machines, by URL: gs:// through gcsfs, and whatever else fsspec and its add-ons know.

fsspec and not TensorFlow's own file layer: the trainer looks up whether its inputs have changed, and loads no
TensorFlow. Google's buckets need `pip install gcsfs`; its own way to log in is used. An emulator of them is found
through STORAGE_EMULATOR_HOST.
"""

from __future__ import annotations

import contextlib
import glob
import importlib
import logging
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from itune.errors import UserError, nearest

_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):/(/?)(?!/)(.+)", re.DOTALL)
_EMULATOR = "STORAGE_EMULATOR_HOST"
# What tells one content from another, the best first; a time of change is the last resort.
_VERSIONS = ("md5Hash", "crc32c", "ETag", "etag", "generation", "LastModified", "last_modified", "mtime", "created")
_NOISY = ("gcsfs", "google.auth", "asyncio", "fsspec")


def is_remote(path: str | Path) -> bool:
    """Whether `path` is a URL: "gs://bucket/a.jsonl". A Path of one, which has lost a slash, counts too."""
    # hf:/folder is a data set for `datasets`, hf://datasets/org/name/file a file for fsspec.
    return _URL.fullmatch(str(path)) is not None and re.match(r"hf:/(?!/)", str(path)) is None


def url_of(path: str | Path) -> str:
    """Path("gs://bucket/x") is spelt gs:/bucket/x; here it has its slash back."""
    match = _URL.fullmatch(str(path))
    assert match is not None
    return f"{match[1]}://{match[3]}"


def find(path: str | Path) -> list[str]:
    """The URL itself, or those of the files that a pattern fits, sorted; [] where it fits none.

    UserError for a URL that names no file, or cannot be reached.
    """
    url = url_of(path)
    if not glob.has_magic(url):
        information(url)
        return [url]
    with _speaking_of(url):
        system, inner = _open_system(url)
        found = system.glob(inner, detail=True)
        names = sorted(str(name) for name, about in found.items() if about.get("type") == "file")
    return [_unstripped(url, name) for name in names]


def information(url: str) -> dict[str, Any]:
    """What the file's system says of it: at least {"size": bytes or None}. UserError naming it where there is none."""
    try:
        with _speaking_of(url):
            system, inner = _open_system(url)
            about: dict[str, Any] = system.info(inner)
    except FileNotFoundError:
        raise UserError(f"{url}: no such file.{_sibling(url)}") from None
    if about.get("type") == "directory":
        raise UserError(f"{url}: a folder, not a file; name one of its files, or a pattern such as '*.jsonl'")
    return about


def version(url: str) -> tuple[int, str]:
    """(size, a text that changes with the content): a checksum where the file's system has one, else etag,
    generation or time of change.

    Raises:
      FileNotFoundError: it is gone.
      UserError: the network or the login fails, or this system tells no versions apart.
    """
    with _speaking_of(url):
        system, inner = _open_system(url)
        about = system.info(inner)
    for name in _VERSIONS:
        if about.get(name):
            return int(about.get("size") or 0), f"{name}={about[name]}"
    raise UserError(
        f"{url}: its server gives neither checksum, etag nor time of change, so that a change would go unseen; copy it"
    )


@contextlib.contextmanager
def fetched(url: str) -> Iterator[Path]:
    """A copy on this disk, under the same name, that only this user can read; it is removed afterwards."""
    size = information(url).get("size")
    with tempfile.TemporaryDirectory(prefix="itune-fetch-") as folder:
        local = Path(folder) / url.rpartition("/")[2]
        with _speaking_of(url):
            system, inner = _open_system(url)
            system.get_file(inner, str(local))
        if size is not None and local.stat().st_size != size:
            raise UserError(f"{url}: {local.stat().st_size} bytes arrived of {size}; try again")
        yield local


def _open_system(url: str) -> tuple[Any, str]:
    """The file system that a URL names, with nothing remembered of earlier looks, and the file's name in it."""
    scheme = url.partition(":")[0]
    try:
        # Not import statements: see itune.data.arrow_files.library.
        core = importlib.import_module("fsspec.core")
        known = importlib.import_module("fsspec.registry").known_implementations
    except ImportError:
        raise UserError(f"{url}: reading it needs fsspec; pip install fsspec") from None
    try:
        if scheme in ("gs", "gcs") and os.environ.get(_EMULATOR):
            # The class that speaks HTTP alone: newer gcsfs's own choice asks over gRPC what kind of bucket it is,
            # which emulators don't speak, and waits for a minute.
            system = importlib.import_module("gcsfs.core").GCSFileSystem(token="anon")
            inner = system._strip_protocol(url)
        else:
            system, inner = core.url_to_fs(url)
    except ImportError:
        needs = {"gs": "gcsfs", "gcs": "gcsfs", "s3": "s3fs"}.get(scheme, f"what fsspec needs for {scheme}://")
        raise UserError(f"{url}: reading it needs {needs}" + (f"; pip install {needs}" * (" " not in needs))) from None
    except ValueError as error:
        if "rotocol" not in str(error):
            raise
        raise UserError(f"{url}: fsspec knows no {scheme}://.{nearest(scheme, known)}") from None
    system.invalidate_cache()
    return system, inner


@contextlib.contextmanager
def _speaking_of(url: str) -> Iterator[None]:
    """Any failure but a missing file becomes one line; what libraries log meanwhile, with tracebacks, is dropped."""
    before = {name: logging.getLogger(name).level for name in _NOISY}
    for name in _NOISY:
        logging.getLogger(name).setLevel(logging.CRITICAL + 1)
    try:
        yield
    except (UserError, FileNotFoundError):
        raise
    except Exception as error:  # each system has kinds of its own
        said = (str(error).splitlines() or [""])[0][:200]
        raise UserError(f"{url}: cannot be reached: {type(error).__name__}: {said}") from error
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


def _sibling(url: str) -> str:
    folder, _, name = url.rpartition("/")
    with contextlib.suppress(Exception):
        system, inner = _open_system(folder)
        return nearest(name, [str(entry).rpartition("/")[2] for entry in system.ls(inner, detail=False)])
    return ""


def _unstripped(url: str, name: str) -> str:
    """fsspec's names lack the scheme, but for those of http."""
    return name if "://" in name else f"{url.partition('://')[0]}://{name.lstrip('/')}"
