"""A thread beside each process of a run: tells the others that it lives, and finds out who is gone, stuck or stopping.

All of it goes through the coordinator's key-value store, which process 0 keeps. Process 0 judges the others by their
beats; they take its verdict, or its silence. Whoever has to leave does so from this thread: the main one may be waiting
for a device that waits for a process that is no more.
"""

from __future__ import annotations

import json
import os
import socket
import sys
import threading
import time
from typing import Any

EXIT_PEER_LOST = 76  # another process is gone, or never came: the same command goes on from the newest checkpoint
EXIT_STUCK = 77  # no process got any further for --step_timeout seconds
PERIOD = 1.0  # seconds between beats, where the timeouts are not short
NEWS, BEATS, STEPS = "itune/news", "itune/beats", "itune/stopping"


class Watch(threading.Thread):
    """One process' watch. store: JAX's client of the coordinator.

    silence: seconds without a beat after which a process counts as gone.  patience: seconds in which some process must
    get further; 0 waits for ever.
    """

    def __init__(self, store: Any, index: int, count: int, *, coordinator: str, silence: float, patience: float):
        super().__init__(daemon=True, name="watch")
        self._store, self._index, self._count, self._coordinator = store, index, count, coordinator
        self._silence, self._patience = silence, patience
        self.period = min(PERIOD, silence / 10, patience / 10 or PERIOD)
        self._lock, self._decided, self._over = threading.Lock(), threading.Event(), threading.Event()
        self._looks = self._progress = self._beat = self._busy = 0
        self._what, self._armed, self._frozen = "starts", False, False
        self._asked: int | None = None
        self._at: tuple[int, int] | None = None  # (at which look, exit code)
        self._seen: dict[int, tuple[dict, float]] = {}  # process 0: {process: its newest beat, when that came}
        self._moved, self._still = time.monotonic(), ()

    # ---- for the main thread

    def ask(self, exit_code: int) -> None:
        """From a signal handler: all are to stop, with this exit code."""
        self._asked = self._asked or exit_code

    def look(self) -> int | None:
        """The exit code with which to stop here, or None. All processes call it at the same places, equally often: they
        all get it at the same one."""
        with self._lock:
            frozen = self._frozen
            self._looks += not frozen
        if frozen:
            self._decided.wait()
            self._looks += 1
        self._progress += 1
        return self._at[1] if self._at is not None and self._looks >= self._at[0] else None

    def mark(self, what: str) -> None:
        """What this process is about to do, for those who ask why it does not come."""
        self._what, self._progress = what, self._progress + 1

    def arm(self) -> None:
        """From now on a run that gets no further is stuck."""
        self._moved, self._armed = time.monotonic(), True

    def busy(self, more: int) -> None:
        """1 before and -1 after what process 0 does alone, for as long as it takes."""
        self._busy, self._moved = self._busy + more, time.monotonic()

    def failed(self, exit_code: int, line: str) -> None:
        """Tells the others that this process ends, and why; process 0 stays until they can have heard it."""
        self._tell(f"ended/{self._index}", [exit_code, line])
        if self._index == 0:
            time.sleep(3 * self.period)

    def end(self) -> None:
        self._over.set()
        self.join()

    @property
    def over(self) -> bool:
        return self._over.is_set()

    # ---- the thread

    def run(self) -> None:
        while not self._over.wait(0.05 if self._frozen and self._at is None else self.period):
            try:
                self._turn()
            except Exception as error:  # the store's errors have no type of their own
                if self._over.is_set():
                    return
                if not reaches(self._coordinator):
                    self.leave(EXIT_PEER_LOST, f"process 0, the coordinator at {self._coordinator}, is gone")
                print(f"itune: warning: watch: {error}", file=sys.stderr, flush=True)

    def _turn(self) -> None:
        self._beat += 1
        beat = {"beat": self._beat, "progress": self._progress, "what": self._what, "host": socket.gethostname()}
        self._store.key_value_set(f"{BEATS}/{self._index}", json.dumps(beat), allow_overwrite=True)
        news = self._under(NEWS)
        if "verdict" in news:
            self.leave(*news["verdict"])
        for name, said in news.items():
            if name.startswith("ended/") and int(name[6:]) != self._index:
                code, line = said
                self.leave(code, f"process {name[6:]} ended: {line}", quiet=bool(self._index))
        if self._asked is not None and "stop" not in news:
            self._tell("stop", self._asked)
        if "stop" in news and self._at is None:
            self._agree(news)
        if self._index == 0:
            self._judge()

    def _agree(self, news: dict[str, Any]) -> None:
        """All hold still until all have said how often they have looked; they stop one look after the furthest."""
        if not self._frozen:
            with self._lock:
                self._frozen = True
            self._store.key_value_set(f"{STEPS}/{self._index}", json.dumps(self._looks), allow_overwrite=True)
        if "stop_at" in news:
            at, code = news["stop_at"]
            self._at = (at, code)
            self._decided.set()
        elif self._index == 0:
            looks = self._under(STEPS)
            if len(looks) == self._count:
                self._tell("stop_at", [max(looks.values()) + 1, news["stop"]])

    def _judge(self) -> None:
        now = time.monotonic()
        for name, beat in self._under(BEATS).items():
            known = self._seen.get(int(name))
            if known is None or known[0]["beat"] != beat["beat"]:
                self._seen[int(name)] = (beat, now)
            else:
                self._seen[int(name)] = (beat, known[1])
        gone = [i for i, (_, when) in sorted(self._seen.items()) if now - when > self._silence]
        if gone:
            said = f"no sign of life from {self._names(gone)} for {self._silence:g} s"
            self._pronounce(EXIT_PEER_LOST, said)
        still = tuple(beat["progress"] for beat, _ in self._seen.values())
        if still != self._still or self._busy or not self._armed:
            self._moved, self._still = now, still
        elif self._patience and now - self._moved > self._patience:
            least: int = min(still)
            late = [i for i, (beat, _) in sorted(self._seen.items()) if beat["progress"] == least]
            what = "; ".join(sorted({self._seen[i][0]["what"] for i in late}))
            which = self._names(late) if len(late) < self._count else f"all {self._count} processes, none behind"
            self._pronounce(EXIT_STUCK, f"nothing got further for {self._patience:g} s; not arrived: {which} ({what})")

    def _names(self, processes: list[int]) -> str:
        shown = [f"{i} on {self._seen[i][0]['host']}" for i in processes[:8]]
        more = f" and {len(processes) - 8} more" if len(processes) > 8 else ""
        return f"process{'es' if len(processes) > 1 else ''} {', '.join(shown)}{more}"

    def _pronounce(self, exit_code: int, line: str) -> None:
        self._tell("verdict", [exit_code, line])
        time.sleep(3 * self.period)  # the store ends with this process
        self.leave(exit_code, line)

    def leave(self, exit_code: int, line: str, *, quiet: bool = False) -> None:
        """Ends this process at once; nothing else would end a main thread that waits for a device."""
        if not quiet:
            os.write(2, f"itune: error: {line}\n".encode())
        os._exit(exit_code)

    def _tell(self, name: str, value: Any) -> None:
        try:
            self._store.key_value_set(f"{NEWS}/{name}", json.dumps(value))
        except Exception as error:
            if "ALREADY_EXISTS" not in str(error):
                raise

    def _under(self, folder: str) -> dict[str, Any]:
        """{rest of the key: value} of what stands below `folder` in the store."""
        found = self._store.key_value_dir_get(folder)
        return {key.partition(f"{folder}/")[2]: json.loads(value) for key, value in found}


def reaches(address: str, timeout: float = 2.0) -> bool:
    """Whether anything listens at HOST:PORT."""
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=timeout).close()
    except OSError:
        return False
    return True
