"""SIGTERM and Ctrl-C: finish the step, save, leave with a code that says so."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

from itune.parallel.watch import Watch

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: saved; the same command goes on from here
EXIT_INTERRUPTED = 130
EXIT_REFUSED = 2  # another trainer has taken the run over


class Stopped(Exception):
    """Raised at a safe place after a signal asked the run to stop."""

    def __init__(self, exit_code: int):
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class StopRequest:
    """Set by the signal handler, read by the loop between steps.

    A signal to one of several processes asks all; `exit_code` changes in the same call of `look` or `check` of each.
    """

    def __init__(self, watch: Watch | None = None) -> None:
        self.exit_code: int | None = None
        self.asked = False
        self._watch = watch

    def ask(self, exit_code: int) -> None:
        """From a signal handler."""
        self.asked = True
        if self._watch is None:
            self.exit_code = exit_code
        else:
            self._watch.ask(exit_code)

    def look(self) -> None:
        """Where all processes may stop, or none."""
        if self._watch is not None and self.exit_code is None:
            self.exit_code = self._watch.look()

    def check(self) -> None:
        """Raises Stopped if a signal has come."""
        self.look()
        if self.exit_code is not None:
            raise Stopped(self.exit_code)


@contextlib.contextmanager
def stop_on_signals(watch: Watch | None = None) -> Iterator[StopRequest]:
    """Turns the first SIGTERM or Ctrl-C into a request; a second Ctrl-C interrupts at once.

    watch: that of this process among several.
    """
    request = StopRequest(watch)

    def handler(number: int, frame: object) -> None:
        if number == signal.SIGINT and request.asked:
            raise KeyboardInterrupt
        request.ask(EXIT_PREEMPTED if number == signal.SIGTERM else EXIT_INTERRUPTED)

    old = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
