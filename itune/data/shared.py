"""Prepared splits that machines share through a bucket: whoever prepares one puts it there, the others take it whole.

ArrayRecord reads files and no buckets: what is used is always the copy in this machine's cache. COMPLETED, with every
file's size and digest, is written last and read first. Names hold the fingerprint, so nothing there is ever replaced.
"""

from __future__ import annotations

import concurrent.futures
import json
import os
import secrets
import shutil
import sys
from pathlib import Path
from typing import Any

from itune.data.records import COMPLETED, TEMPORARY, file_sha256, read_completed
from itune.errors import UserError
from itune.storage.bucket import Bucket, Changed
from itune.storage.names import in_bucket

VARIABLE = "ITUNE_SHARED_CACHE"
_WORKERS = 8


class SharedSplits:
    """The splits below gs://BUCKET/FOLDER/prepared.

    A bucket out of reach keeps nobody from preparing: it is said, and the split is prepared here.
    """

    def __init__(self, url: str):
        self._bucket = Bucket(f"{url.rstrip('/')}/prepared")

    @classmethod
    def from_environment(cls) -> SharedSplits | None:
        """That of $ITUNE_SHARED_CACHE; None where it is not set. Raises: UserError for what is no bucket."""
        url = os.environ.get(VARIABLE, "")
        if not url:
            return None
        if not in_bucket(url):
            raise UserError(f"{VARIABLE}={url}: gs://BUCKET/FOLDER is needed; a folder that all see is ITUNE_CACHE_DIR")
        return cls(url)

    def fetch(self, directory: Path, fingerprint: str) -> dict[str, Any] | None:
        """Brings <cache>/prepared/<task>-<fingerprint>/<split>, whole or not at all; its COMPLETED, None if there is
        none. The caller holds the task's lock."""
        name = f"{directory.parent.name}/{directory.name}"
        partial = directory.with_name(f"{TEMPORARY}{directory.name}-{os.getpid()}-{secrets.token_hex(4)}")
        try:
            found = self._bucket.read(f"{name}/{COMPLETED}")
            if found is None:
                return None
            files = json.loads(found[0])["sha256"]
            if json.loads(found[0])["fingerprint"] != fingerprint or any("/" in file for file in files):
                raise UserError(f"{self._bucket.url}/{name}/{COMPLETED}: is not what its name says")
            partial.mkdir(parents=True)
            self._download(name, partial, files)
            (partial / COMPLETED).write_bytes(found[0])
            partial.rename(directory)
            return read_completed(directory)
        except (UserError, ValueError, KeyError, TypeError) as error:
            _tell(f"not taken from the bucket, so it is prepared here: {error}")
            return None
        finally:
            shutil.rmtree(partial, ignore_errors=True)

    def _download(self, name: str, partial: Path, files: dict[str, str]) -> None:
        """Raises: UserError for bytes that are not those of COMPLETED."""
        with concurrent.futures.ThreadPoolExecutor(_WORKERS) as pool:
            for done in [pool.submit(self._bucket.download, f"{name}/{file}", partial / file) for file in files]:
                done.result()
        for file, digest in files.items():
            if file_sha256(partial / file) != digest:
                raise UserError(f"{self._bucket.url}/{name}/{file}: is damaged: its digest is not that of {COMPLETED}")

    def offer(self, directory: Path) -> None:
        """Puts a whole split there, unless it is there already."""
        name = f"{directory.parent.name}/{directory.name}"
        record = (directory / COMPLETED).read_bytes()
        try:
            there = self._bucket.listing(f"{name}/")
            if f"{name}/{COMPLETED}" in there:
                return
            with concurrent.futures.ThreadPoolExecutor(_WORKERS) as pool:
                for done in [pool.submit(self._upload, f"{name}/{f}", directory / f, there) for f in _files(record)]:
                    done.result()
            self._bucket.write(f"{name}/{COMPLETED}", record, replaces=0)
        except Changed:
            return  # another machine, with the same bytes
        except UserError as error:
            _tell(f"prepared, but not in the bucket: {error}")

    def _upload(self, name: str, path: Path, there: dict[str, Any]) -> None:
        """Over what a machine that was killed has left."""
        self._bucket.upload(name, path, replaces=there[name].generation if name in there else 0)


def _files(record: bytes) -> list[str]:
    return list(json.loads(record)["sha256"])


def _tell(line: str) -> None:
    print(f"itune: warning: {VARIABLE}: {' '.join(line.split())}", file=sys.stderr, flush=True)
