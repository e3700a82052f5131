"""A folder of one of Google's buckets: list, read, write on a condition, in retries with a limit and one-line errors.

google-cloud-storage and not gcsfs: every write here names the generation that it replaces, which only the former's
public interface can do. STORAGE_EMULATOR_HOST leads to an emulator.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import importlib
import logging
import os
import secrets
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from itune.errors import UserError
from itune.storage import names

RETRY_SECONDS = 60.0  # for one request, 429 and 5xx and broken connections, with growing pauses
REQUEST_SECONDS = 60.0  # without a byte, then it counts as broken


class Unreachable(UserError):
    """The network, the login or the bucket is at fault: it may be back later."""


class Gone(Unreachable):
    """The bucket, or the object asked for, is not there."""


class Changed(Exception):
    """The object is not of the generation that the write was to replace: somebody else has written it."""


@dataclasses.dataclass(frozen=True)
class Entry:
    """What a listing says of an object. crc32c: base64, as Google gives it; updated: by the server's clock."""

    generation: int
    size: int
    crc32c: str
    updated: datetime.datetime


class Bucket:
    """The objects below gs://BUCKET/FOLDER, by their names below it. Safe to use from several threads.

    Every method raises Unreachable, one line, where the bucket is not there, not permitted or out of reach, after
    RETRY_SECONDS of trying where that can pass by itself.
    """

    def __init__(self, url: str, *, retry_seconds: float | None = None):
        self.url = names.url_of(url)
        bucket, folder = names.split(self.url)
        self._prefix = f"{folder}/"
        try:
            storage = importlib.import_module("google.cloud.storage")
            retry = importlib.import_module("google.cloud.storage.retry").DEFAULT_RETRY
        except ImportError:
            raise UserError(f"{url}: needs google-cloud-storage; pip install 'itune[gcs]'") from None
        seconds = RETRY_SECONDS if retry_seconds is None else retry_seconds
        with self._speaking():
            self._client = storage.Client(project=None)
        self._bucket = self._client.bucket(bucket)
        self._how = {"retry": retry.with_timeout(seconds), "timeout": min(REQUEST_SECONDS, max(seconds, 1.0))}

    def listing(self, below: str = "") -> dict[str, Entry]:
        """{name: Entry} of all objects whose name begins with `below`."""
        with self._speaking():
            found = self._client.list_blobs(self._bucket, prefix=self._prefix + below, **self._how)
            return {blob.name.removeprefix(self._prefix): _entry(blob) for blob in found if blob.name[-1] != "/"}

    def read(self, name: str) -> tuple[bytes, Entry] | None:
        """An object's bytes, checked against its checksum, and their entry; None where there is none."""
        from google.api_core.exceptions import NotFound

        while True:
            try:
                with self._speaking():
                    blob = self._bucket.blob(self._prefix + name)
                    try:
                        blob.reload(**self._how)
                        entry = _entry(blob)
                        return blob.download_as_bytes(if_generation_match=entry.generation, **self._how), entry
                    except NotFound:
                        return None
            except Changed:
                continue  # written in between

    def write(self, name: str, data: bytes, *, replaces: int) -> Entry:
        """Writes an object in place of generation `replaces`, 0 for none. Raises: Changed."""
        return self._put(name, replaces, lambda blob, how: blob.upload_from_string(data, **how))

    def upload(self, name: str, path: Path, *, replaces: int) -> Entry:
        """The same from a file. Raises: Changed; FileNotFoundError where the file is gone."""
        return self._put(name, replaces, lambda blob, how: blob.upload_from_filename(str(path), **how))

    def _put(self, name: str, replaces: int, send: Callable[[Any, dict[str, Any]], None]) -> Entry:
        blob = self._bucket.blob(self._prefix + name)
        with self._speaking():
            send(blob, {"if_generation_match": replaces, "checksum": "crc32c", **self._how})
            return _entry(blob)

    def download(self, name: str, path: Path) -> None:
        """An object into a file, which appears whole, its checksum right, or not at all."""
        partial = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with self._speaking():
                blob = self._bucket.blob(self._prefix + name)
                blob.download_to_filename(str(partial), checksum="crc32c", **self._how)
            os.replace(partial, path)
        finally:
            partial.unlink(missing_ok=True)

    def delete(self, name: str, *, replaces: int | None = None) -> None:
        """Removes an object, of that generation only; that it is gone already is well. Raises: Changed."""
        from google.api_core.exceptions import NotFound

        with self._speaking(), contextlib.suppress(NotFound):
            self._bucket.blob(self._prefix + name).delete(if_generation_match=replaces, **self._how)

    def copy(self, name: str, to: str) -> None:
        """Copies an object within the bucket, at the server, over what is there."""
        with self._speaking():
            source, token = self._bucket.blob(self._prefix + name), None
            target = self._bucket.blob(self._prefix + to)
            while True:
                token, *_ = target.rewrite(source, token=token, **self._how)
                if token is None:
                    return

    def now(self) -> datetime.datetime:
        """The server's time, with which `Entry.updated` can be compared, whatever this machine's clock says."""
        name = f".clock-{secrets.token_hex(8)}"
        entry = self.write(name, b"", replaces=0)
        self.delete(name, replaces=entry.generation)
        return entry.updated

    @contextlib.contextmanager
    def _speaking(self) -> Iterator[None]:
        """Failures as Unreachable or Changed; what the libraries log meanwhile is dropped."""
        from google.api_core import exceptions as api
        from google.auth.exceptions import DefaultCredentialsError, RefreshError

        for logger in ("google.auth", "google.cloud.storage", "google.resumable_media", "urllib3"):
            logging.getLogger(logger).setLevel(logging.CRITICAL + 1)
        try:
            yield
        except (UserError, Changed, FileNotFoundError):
            raise
        except api.PreconditionFailed as error:
            raise Changed(str(error)) from error
        except api.NotFound as error:
            raise Gone(f"{self.url}: there is no such bucket, or an object in it is gone") from error
        except (api.Forbidden, api.Unauthorized, DefaultCredentialsError, RefreshError) as error:
            raise Unreachable(
                f"{self.url}: not permitted ({_first_line(error)}); log in (gcloud auth application-default login), or "
                "give this machine's service account roles/storage.objectUser on the bucket"
            ) from error
        except Exception as error:  # requests', urllib3's, RetryError, checksums that differ
            cause = getattr(error, "cause", None) or error
            if type(cause).__name__ == "DataCorruption":
                raise Unreachable(f"{self.url}: what arrived of an object is not what its checksum says") from error
            raise Unreachable(
                f"{self.url}: cannot be reached ({type(cause).__name__}: {_first_line(cause)})"
            ) from error


def _entry(blob: Any) -> Entry:
    return Entry(int(blob.generation), int(blob.size or 0), blob.crc32c or "", blob.updated)


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0][:200]
