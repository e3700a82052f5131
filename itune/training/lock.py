"""One trainer in a run directory at a time."""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import json
import os
import socket
from collections.abc import Iterator
from pathlib import Path

from itune.errors import UserError


@contextlib.contextmanager
def lock(model_dir: Path) -> Iterator[None]:
    """Holds `<model_dir>/.lock`; the kernel frees it when the process ends, however it ends.

    Raises: UserError naming the holder's process, host and start.
    """
    model_dir.mkdir(parents=True, exist_ok=True)
    with (model_dir / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            file.seek(0)
            raise UserError(
                f"{model_dir}: another trainer is at work here ({_holder(file.read())}); "
                "wait for it, or give --workdir another folder"
            ) from None
        file.seek(0)
        file.truncate()
        json.dump(
            {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": datetime.datetime.now().isoformat(timespec="seconds"),
            },
            file,
        )
        file.flush()
        try:
            yield
        finally:
            file.seek(0)
            file.truncate()


def _holder(text: str) -> str:
    try:
        h = json.loads(text)
        return f"process {h['pid']} on {h['host']}, since {h['since']}"
    except (ValueError, KeyError):
        return "its name is not written yet"
