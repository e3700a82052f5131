"""From this machine to the bucket, in a thread beside the training: data first, then the commit marker.

Every write names the generation that it replaces. A trainer that was taken for dead and wakes up can therefore not
write over what its successor has written.
"""

from __future__ import annotations

import base64
import functools
import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

import google_crc32c

from itune.errors import UserError
from itune.storage.bucket import Bucket, Changed, Entry
from itune.storage.copy import committed, in_parallel, is_apart, local_steps, marker, step_of
from itune.storage.lease import Lease
from itune.storage.names import CHECKPOINTS

OUTBOX = "outbox"
RECORD = ".digests.json"  # beside a checkpoint's files in there


class Mirror:
    """Pushes a run's folder to its bucket at each checkpoint, and whole at the end.

    listing: what the bucket holds, as this trainer knows it.
    """

    def __init__(
        self,
        bucket: Bucket,
        folder: Path,
        listing: dict[str, Entry],
        lease: Lease,
        echo: Callable[[str], None],
    ):
        self._bucket, self._folder, self._lease, self._echo = bucket, folder, lease, echo
        self._listing = listing
        self._outbox = folder.parent / OUTBOX
        shutil.rmtree(self._outbox, ignore_errors=True)  # of a killed trainer: its checkpoints are in the folder
        self._sent: dict[str, tuple[int, int]] = {}  # name: (size, time of change) of small files that lie there now
        self._waiting: tuple[int, Path | None] | None = None
        self._wake = threading.Condition()
        self._ending = False
        self._thread = threading.Thread(target=self._work, name="itune-mirror", daemon=True)
        self._thread.start()

    def saved(self, step: int) -> None:
        """A checkpoint is whole in the folder. Returns at once: it is kept by hard links until it is pushed."""
        kept = self._keep(step)
        with self._wake:
            before, self._waiting = self._waiting, (step, kept)
            self._wake.notify()
        if before is not None and before[1] is not None:
            shutil.rmtree(before[1])  # it never got its turn

    def finish(self) -> str:
        """Pushes what is left, the last that is pushed. Returns why it failed, "" if it didn't."""
        self.stop()
        return self._try(None)

    def stop(self) -> None:
        """Ends the thread, and waits for the push that it is at."""
        self.end()
        self._thread.join()

    def end(self) -> None:
        """Ends the thread, after the push that it is at."""
        with self._wake:
            self._ending = True
            self._wake.notify()

    def _work(self) -> None:
        while True:
            with self._wake:
                self._wake.wait_for(lambda: self._waiting is not None or self._ending)
                if self._ending or self._waiting is None:
                    return  # `finish` pushes everything
                newest, self._waiting = self._waiting, None
            if (failed := self._try(newest)) and not self._lease.lost:
                self._echo(
                    f"itune: warning: checkpoint {newest[0]} is not in the bucket yet: {failed}; training goes on"
                )

    def _try(self, newest: tuple[int, Path | None] | None) -> str:
        try:
            self.push(newest)
        except (UserError, OSError) as error:
            return " ".join(str(error).split())
        return ""

    def push(self, newest: tuple[int, Path | None] | None = None) -> None:
        """Small files, then the checkpoint `newest` (its step, its links) or (None) all that the bucket lacks; then
        removes those that the folder has given up. Raises: Unreachable, Lost; OSError of this disk."""
        self._lease.renew()
        try:
            self._push_small()
            all_steps = [(step, None) for step in sorted(local_steps(self._folder), reverse=True)]
            done = [step for step, kept in ([newest] if newest else all_steps) if self._push_step(step, kept)]
            if done or newest is None:
                self._prune(keep=local_steps(self._folder) | set(done))
        except Changed:
            self._lease.renew()  # says who, if it is another trainer
            raise UserError(
                f"{self._bucket.url}: something else than a trainer of itune's writes in this folder"
            ) from None

    def _push_small(self) -> None:
        for path in sorted(self._folder.rglob("*")):
            name = path.relative_to(self._folder).as_posix()
            passing = path.suffix != ".json" if path.name.startswith(".") else path.suffix == ".tmp"
            if passing or name.startswith(f"{CHECKPOINTS}/") or is_apart(name) or not path.is_file():
                continue
            about = path.stat()
            now = (about.st_size, about.st_mtime_ns)
            if self._sent.get(name) != now:
                self._write(name, path.read_bytes())  # at once: metrics.jsonl grows meanwhile
                self._sent[name] = now

    def _push_step(self, step: int, kept: Path | None) -> bool:
        """Whether the checkpoint is in the bucket now: one that this folder has given up meanwhile is not."""
        kept = kept or self._keep(step)
        if kept is None:
            return False
        record, there = (kept / RECORD).read_bytes(), marker(step)
        if there not in self._listing or self._listing[there].crc32c != _crc32c(record):
            self._push_files(step, kept, json.loads(record)["files"])
            self._lease.renew()
            self._write(there, record)
        shutil.rmtree(kept)
        return True

    def _push_files(self, step: int, kept: Path, names: Iterable[str]) -> None:
        if marker(step) in self._listing:  # the step was saved anew; it must not count while its files are replaced
            self._delete(marker(step))
        files = {f"{CHECKPOINTS}/{step}/{name}": kept / name for name in names}
        for name in [name for name in self._listing if step_of(name) == step and name not in files]:
            self._delete(name)
        in_parallel(functools.partial(self._upload, name, path) for name, path in files.items())

    def _prune(self, keep: set[int]) -> None:
        """The marker first: a checkpoint of which a part is gone must not count."""
        for step in sorted(committed(self._listing) - keep):
            self._delete(marker(step))
        for name in [n for n in self._listing if (of := step_of(n)) is not None and of not in keep]:
            self._delete(name)

    def _upload(self, name: str, path: Path) -> None:
        known = self._listing.get(name)
        if known is not None and known.size == path.stat().st_size and known.crc32c == _file_crc32c(path):
            return
        self._listing[name] = self._bucket.upload(name, path, replaces=known.generation if known else 0)

    def _write(self, name: str, data: bytes) -> None:
        known = self._listing.get(name)
        if known is None or known.crc32c != _crc32c(data):
            self._listing[name] = self._bucket.write(name, data, replaces=known.generation if known else 0)

    def _delete(self, name: str) -> None:
        self._bucket.delete(name, replaces=self._listing[name].generation)
        del self._listing[name]

    def _keep(self, step: int) -> Path | None:
        """Hard links to a checkpoint's files: the folder may give it up while it is on its way."""
        source, target = self._folder / CHECKPOINTS / str(step), self._outbox / f"{step}-{secrets.token_hex(4)}"
        try:
            record = (self._folder / marker(step)).read_bytes()
            for name in json.loads(record)["files"]:
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                os.link(source / name, target / name)
        except FileNotFoundError:
            shutil.rmtree(target, ignore_errors=True)
            return None  # it has been given up, or its arrays are in the bucket only
        (target / RECORD).write_bytes(record)
        return target


def _crc32c(data: bytes) -> str:
    return base64.b64encode(google_crc32c.Checksum(data).digest()).decode()


def _file_crc32c(path: Path) -> str:
    checksum = google_crc32c.Checksum()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            checksum.update(block)
    return base64.b64encode(checksum.digest()).decode()
