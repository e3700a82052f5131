"""An emulator for all tests of a module; each has a folder of its own in its bucket."""

from __future__ import annotations

import threading
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.gcs import Emulator, emulator


@pytest.fixture(scope="module")
def served() -> Iterator[Emulator]:
    with emulator() as found:
        yield found


def ours() -> list[threading.Thread]:
    """The threads of leases and mirrors."""
    return [thread for thread in threading.enumerate() if thread.name.startswith("itune-")]


@pytest.fixture(autouse=True)
def _no_thread_is_left() -> Iterator[None]:
    """One would go on speaking to the emulator of another test, or to none."""
    before = ours()
    yield
    left = [thread for thread in ours() if thread not in before]
    for thread in left:
        thread.join(10)
    assert not any(thread.is_alive() for thread in left)


@pytest.fixture
def gcs(served: Emulator, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Emulator]:
    """With no requests counted and no faults, a cache of the test's own, and no patience."""
    monkeypatch.setenv("ITUNE_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr("itune.storage.bucket.RETRY_SECONDS", 1.0)
    served.requests.clear()
    yield served
    served.fault = lambda method, name: None


@pytest.fixture
def folder() -> str:
    return f"run-{uuid.uuid4().hex[:8]}"
