"""What the processes of a run do together on the host's side. Of one process, all of it is nothing."""

from __future__ import annotations

import contextlib
import json
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any, TypeVar

from itune.errors import UserError
from itune.parallel.watch import Watch

T = TypeVar("T")
WAIT_MS = 1_000  # of one look into the store


class Peers:
    """This process among those of the run. index: its number; process 0 writes what is written once.

    All processes make the same calls of `on_main`, `main_first`, `same` and `meet`, in the same order.
    """

    def __init__(self, index: int = 0, count: int = 1, store: Any = None, watch: Watch | None = None):
        self.index, self.count, self.watch = index, count, watch
        self._store, self._calls = store, 0

    @property
    def main(self) -> bool:
        return self.index == 0

    def on_main(self, call: Callable[[], Any]) -> Any:
        """`call()`, made by process 0; all get what it returns (JSON). Its UserError is raised in all, printed once."""
        if self.count == 1:
            return call()
        key = self._next()
        if not self.main:
            return self._answer(self._wait(key))
        assert self.watch is not None
        self.watch.busy(1)
        try:
            value = call()
        except UserError as error:
            error.agreed = True
            self._store.key_value_set(key, json.dumps({"error": str(error)}))
            raise
        finally:
            self.watch.busy(-1)
        self._store.key_value_set(key, json.dumps({"value": value}))
        return value

    def main_first(self, call: Callable[[], T]) -> T:
        """`call()` by process 0, then by the others: they find in the cache what it has put there."""
        done: list[T] = []
        self.on_main(lambda: done.append(call()))
        return done[0] if self.main else call()

    def meet(self) -> None:
        """Waits until all are here."""
        self.same({})

    def same(self, facts: dict[str, Any]) -> None:
        """Raises UserError, in all, naming the first process and field in which `facts` (JSON) differ."""
        if self.count == 1:
            return
        folder = self._next()
        self._store.key_value_set(f"{folder}/{self.index}", json.dumps([socket.gethostname(), facts]))
        self.mark("waits for the others")
        # Before `on_main`, during which process 0 counts as at work: here it may wait for one that never comes.
        found = self._all_said(folder) if self.main else []
        self.on_main(lambda: self._compare(found))

    def _all_said(self, folder: str) -> list[tuple[str, str]]:
        while len(found := self._store.key_value_dir_get(folder)) < self.count:
            time.sleep(0.05)
        return found

    def _compare(self, found: list[tuple[str, str]]) -> None:
        said = {int(key.rpartition("/")[2]): json.loads(value) for key, value in found}
        ours = said[0][1]
        for process in range(1, self.count):
            host, theirs = said[process]
            if theirs != ours:
                name, a, b = difference("", ours, theirs)
                raise UserError(
                    f"process {process} on {host} has {name} = {b!r}, process 0 has {a!r}: start all of them with the "
                    "same command, code and files"
                )

    def _next(self) -> str:
        self._calls += 1
        return f"itune/said/{self._calls}"

    def _wait(self, key: str) -> dict[str, Any]:
        """The watch ends this process if process 0 never says it."""
        while True:
            try:
                return json.loads(self._store.blocking_key_value_get(key, WAIT_MS))
            except Exception as error:  # the store's errors have no type of their own
                if "DEADLINE_EXCEEDED" not in str(error):
                    time.sleep(WAIT_MS / 1000)

    @staticmethod
    def _answer(answer: dict[str, Any]) -> Any:
        if "error" in answer:
            error = UserError(answer["error"])
            error.agreed = error.told = True
            raise error
        return answer["value"]

    def mark(self, what: str) -> None:
        """What this process is about to do, for those who wait for it."""
        if self.watch is not None:
            self.watch.mark(what)

    def marked(self, items: Iterator[T], what: str) -> Iterator[T]:
        """`items`, with a mark while this process waits for the next."""
        if self.watch is None:
            return items
        return self._marked(items, what)

    def _marked(self, items: Iterator[T], what: str) -> Iterator[T]:
        while True:
            self.mark(what)
            try:
                item = next(items)
            except StopIteration:
                return
            self.mark("works on the device")
            yield item

    @contextlib.contextmanager
    def main_within(self, context: contextlib.AbstractContextManager[None]) -> Iterator[None]:
        """`context` around process 0; the others begin once it is entered."""
        with contextlib.ExitStack() as stack:
            self.on_main(lambda: stack.enter_context(context))
            yield


ALONE = Peers()


def difference(name: str, old: Any, new: Any) -> tuple[str, Any, Any]:
    """("train.steps", 8, 9): the first field of nested dicts in which two values differ."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                return difference(f"{name}.{key}".lstrip("."), old.get(key), new.get(key))
    return name, old, new
