"""One trainer a run, where there are no locks: an object that its holder renews, and that nobody else may write then.

Each write names the generation that it replaces, so that of two who write at once one fails. How old the last renewal
is is told by the server's clock alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from typing import Any

from itune.errors import UserError
from itune.storage.bucket import Bucket, Changed, Entry

NAME = ".lease.json"
SECONDS = 60.0  # after which one that was not renewed may be taken over
RENEW_SECONDS = 15.0


class Lost(UserError):
    """Another trainer has taken the lease."""


@dataclasses.dataclass(frozen=True)
class _Found:
    """A lease as it lies in the bucket; `said` is its JSON, {} if it is not ours to read."""

    said: dict[str, Any]
    entry: Entry

    @property
    def who(self) -> str:
        said = self.said
        return f"process {said.get('pid')} on {said.get('host')}, since {said.get('since')}"


class Lease:
    """Held from `take` to `release`; a thread renews it.

    holder: a name of the folder that the holder works in; the caller holds that folder's own lock, so that a lease
      under this name is a dead process's.
    on_lost: called once, from the thread, if somebody else takes the lease; `lost` is then a line that says who.
    """

    def __init__(
        self,
        bucket: Bucket,
        holder: str,
        *,
        seconds: float = SECONDS,
        renew_seconds: float = RENEW_SECONDS,
    ):
        self._bucket, self._holder = bucket, holder
        self.on_lost: Callable[[], None] = lambda: None
        self._seconds, self._renew_seconds = seconds, renew_seconds
        self._generation, self._count = 0, 0
        self._session = secrets.token_hex(8)
        self._since = datetime.datetime.now().isoformat(timespec="seconds")
        self._writing = threading.Lock()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._keep_renewing, name="itune-lease", daemon=True)
        self.lost = ""
        self._released = self._out_of_reach = False

    def take(self, echo: Callable[[str], None]) -> bool:
        """Waits at most `seconds`, to see whether a holder who says nothing is alive.

        Returns: whether the last holder was this one.
        Raises: UserError naming the holder, if he is.
        """
        ours = False
        while True:
            found = self._read()
            if found is None or found.said.get("session") != self._session:  # else: written just now, answer lost
                ours = found is not None and found.said.get("holder") == self._holder
                if found is not None and not ours and not found.said.get("released"):
                    found = self._outwaited(found, echo)
            try:
                self._write(found.entry.generation if found is not None else 0)
            except Changed:
                continue  # somebody was quicker; look again
            self._thread.start()
            return ours

    def _outwaited(self, found: _Found, echo: Callable[[str], None]) -> _Found:
        """The lease, once it may be taken. Raises: UserError if it is renewed meanwhile."""
        left = self._seconds - (self._bucket.now() - found.entry.updated).total_seconds()
        if left > 0:
            echo(f"{self._bucket.url} is held by {found.who}; waiting up to {left:.0f} s to see whether it is alive")
        deadline = time.monotonic() + left
        while time.monotonic() < deadline:
            time.sleep(min(1.0, self._renew_seconds / 4))
            now = self._read()
            if now is None or now.said.get("released"):
                return now or _Found({}, dataclasses.replace(found.entry, generation=0))
            if now.entry.generation != found.entry.generation:
                raise UserError(
                    f"{self._bucket.url}: another trainer is at work here ({now.who}); wait for it, or give --workdir "
                    "another folder"
                )
        echo(f"taking {self._bucket.url} over from {found.who}, which has not been heard of for {self._seconds:.0f} s")
        return found

    def renew(self) -> None:
        """Raises: Lost if somebody else has it, or it was released; Unreachable."""
        with self._writing:
            if self.lost or self._released:
                raise Lost(self.lost or f"{self._bucket.url}: this trainer has let go of it")
            try:
                self._out_of_reach = True
                self._write(self._generation)
                self._out_of_reach = False
            except Changed:
                self._out_of_reach = False
                found = self._read()
                if found is not None and found.said.get("session") == self._session:
                    self._generation = found.entry.generation  # the answer to our own write had not arrived
                    return
                who = found.who if found is not None else "nobody: its lease was deleted"
                self.lost = f"{self._bucket.url}: the run was taken over by {who}; this trainer stops"
                self.on_lost()
                raise Lost(self.lost) from None

    def release(self) -> None:
        """Ends the renewals and, unless the last one found the bucket out of reach, lets the next one in at once."""
        self._end.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._writing:
            self._released = True
            if not self.lost and not self._out_of_reach:
                with contextlib.suppress(UserError, Changed):  # then it expires
                    self._write(self._generation, released=True)

    def _keep_renewing(self) -> None:
        while not self._end.wait(self._renew_seconds):
            try:
                self.renew()
            except Lost:
                return
            except UserError:
                continue  # out of reach; while nobody else takes it, it stays ours

    def _write(self, replaces: int, *, released: bool = False) -> None:
        self._count += 1
        said = {
            "holder": self._holder,
            "session": self._session,
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "since": self._since,
            "renewals": self._count,
            "released": released,
        }
        data = json.dumps(said, indent=1).encode()
        self._generation = self._bucket.write(NAME, data, replaces=replaces).generation

    def _read(self) -> _Found | None:
        found = self._bucket.read(NAME)
        if found is None:
            return None
        try:
            said = json.loads(found[0])
        except ValueError:
            said = {}
        return _Found(said if isinstance(said, dict) else {}, found[1])
