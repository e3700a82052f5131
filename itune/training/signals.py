"""SIGTERM and Ctrl-C: finish the step, save, leave with a code that says so."""

from __future__ import annotations

import contextlib
import signal
from collections.abc import Iterator

EXIT_PREEMPTED = 75  # EX_TEMPFAIL: saved; the same command goes on from here
EXIT_INTERRUPTED = 130
EXIT_REFUSED = 2


class Stopped(Exception):
    """Raised at a safe place after a signal asked the run to stop."""

    def __init__(self, exit_code: int):
        super().__init__(f"exit code {exit_code}")
        self.exit_code = exit_code


class StopRequest:
    """Set by the signal handler, read by the loop between steps."""

    def __init__(self) -> None:
        self.exit_code: int | None = None

    def give_up(self) -> None:
        """Another trainer has the run now: this one ends as one that was refused."""
        self.exit_code = EXIT_REFUSED

    def check(self) -> None:
        """Raises Stopped if a signal has come."""
        if self.exit_code is not None:
            raise Stopped(self.exit_code)


@contextlib.contextmanager
def stop_on_signals() -> Iterator[StopRequest]:
    """Turns the first SIGTERM or Ctrl-C into a request; a second Ctrl-C interrupts at once."""
    request = StopRequest()

    def handler(number: int, frame: object) -> None:
        if number == signal.SIGINT and request.exit_code is not None:
            raise KeyboardInterrupt
        request.exit_code = EXIT_PREEMPTED if number == signal.SIGTERM else EXIT_INTERRUPTED

    old = {number: signal.signal(number, handler) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield request
    finally:
        for number, previous in old.items():
            signal.signal(number, previous)
