"""From a bucket to this machine: what of a run is whole there, the arrays of a checkpoint only once they are wanted.

<cache>/runs/<digest of the URL>/
  <name>/          the run's folder, as it would be without a bucket
  origin.json      its URL, the name under which this machine holds the lease, and whether the copy is whole
  outbox/          checkpoints on their way to the bucket (itune.storage.mirror)

A checkpoint in the bucket counts once checkpoints/digests/<step>.json is there: written last, removed first.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import functools
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from itune.errors import UserError
from itune.storage.bucket import Bucket, Entry
from itune.storage.names import CHECKPOINTS, DIGESTS, STATE

ORIGIN = "origin.json"
WORKERS = 8  # transfers at a time
_APART = ("previous-", "damaged/", ".lease.json", ".clock-", "wandb/")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Origin:
    """What origin.json says."""

    url: str
    holder: str
    whole: bool

    def save(self, root: Path) -> None:
        temporary = root / f".{ORIGIN}.{os.getpid()}"
        temporary.write_text(json.dumps(dataclasses.asdict(self)))
        os.replace(temporary, root / ORIGIN)


def origin_of(folder: Path) -> Origin | None:
    """Of a run's folder; None where it is no copy."""
    try:
        origin = Origin(**json.loads((folder.absolute().parent / ORIGIN).read_text()))
    except (OSError, ValueError, TypeError):
        return None
    return origin if origin.url.rpartition("/")[2] == folder.name else None


def make_root(folder: Path, url: str) -> Origin:
    """Makes the folder that holds `folder`, readable by this user alone, and its origin if there is none."""
    folder.mkdir(parents=True, exist_ok=True)
    folder.parent.chmod(0o700)
    origin = origin_of(folder)
    if origin is None or origin.url != url:
        origin = Origin(url=url, holder=secrets.token_hex(8), whole=False)
        origin.save(folder.parent)
    return origin


def marker(step: int) -> str:
    """The object that makes a checkpoint count."""
    return f"{CHECKPOINTS}/{DIGESTS}/{step}.json"


def committed(names: Iterable[str]) -> set[int]:
    """The steps whose marker is among the names."""
    stems = [n.removeprefix(f"{CHECKPOINTS}/{DIGESTS}/").removesuffix(".json") for n in names if n == n.strip("/")]
    return {int(stem) for stem in stems if stem.isdecimal()}


def step_of(name: str) -> int | None:
    """8 of "checkpoints/8/state/manifest.ocdbt"."""
    parts = name.split("/")
    return int(parts[1]) if len(parts) > 2 and parts[0] == CHECKPOINTS and parts[1].isdecimal() else None


def is_apart(name: str) -> bool:
    """Whether it is no part of the run as it goes on: what was set aside, leases, others' folders."""
    return name.startswith(_APART)


def is_marker(name: str) -> bool:
    """Whether it is one of those that make checkpoints count."""
    return name.startswith(f"{CHECKPOINTS}/{DIGESTS}/")


def local_steps(folder: Path) -> set[int]:
    """Steps with digests."""
    return committed(f"{CHECKPOINTS}/{DIGESTS}/{p.name}" for p in (folder / CHECKPOINTS / DIGESTS).glob("*.json"))


def in_parallel(calls: Iterable[Callable[[], object]]) -> None:
    """Makes the calls, several at a time. What one raises is raised, and what has not begun by then is not made: a
    bucket out of reach is waited for once."""
    pool = concurrent.futures.ThreadPoolExecutor(WORKERS)
    try:
        for done in [pool.submit(call) for call in calls]:
            done.result()
    finally:
        pool.shutdown(cancel_futures=True)


def pull(bucket: Bucket, folder: Path, listing: Mapping[str, Entry]) -> None:
    """Makes `folder` what the bucket holds, but for the arrays of checkpoints, which `fetch_step` brings.

    Raises: Unreachable. Killed at any moment, the same call again makes it whole.
    """
    wanted = [name for name in listing if step_of(name) is None and not is_apart(name) and not is_marker(name)]
    for path in _files(folder):
        name = path.relative_to(folder).as_posix()
        if name.partition("/")[0] != CHECKPOINTS and name not in listing and name != ".lock":
            path.unlink()
    _download(bucket, folder, wanted)
    steps = committed(listing)
    held = {step for step in steps & local_steps(folder) if _same_marker(bucket, folder, step)}
    _drop_steps(folder, keep=held)
    for step in sorted(steps - held):
        small = [name for name in listing if step_of(name) == step and name.split("/")[2] != STATE]
        _download(bucket, folder, small)
        _download(bucket, folder, [marker(step)])


def ahead(folder: Path, listing: Iterable[str]) -> int | None:
    """This machine's newest checkpoint where it is newer than the bucket's."""
    here, there = max(local_steps(folder), default=-1), max(committed(listing), default=-1)
    return here if here > there else None


def fetch_step(folder: Path, step: int) -> None:
    """Brings what of a checkpoint is not on this machine yet; nothing to do where `folder` is no copy of a bucket's.

    Raises: Unreachable.
    """
    origin, record = origin_of(folder), folder / marker(step)
    if origin is None or not record.is_file():
        return
    files = json.loads(record.read_text())["files"]
    here = folder / CHECKPOINTS / str(step)
    missing = [name for name, (size, _) in files.items() if _size(here / name) != size]
    if missing:
        _download(Bucket(origin.url), folder, [f"{CHECKPOINTS}/{step}/{name}" for name in missing])


def remove_uncommitted(bucket: Bucket, listing: dict[str, Entry]) -> None:
    """Removes from the bucket what a killed trainer left of checkpoints, and from `listing`."""
    steps = committed(listing)
    for name in [name for name in listing if (step := step_of(name)) is not None and step not in steps]:
        bucket.delete(name, replaces=listing.pop(name).generation)


def _same_marker(bucket: Bucket, folder: Path, step: int) -> bool:
    found = bucket.read(marker(step))
    return found is not None and found[0] == (folder / marker(step)).read_bytes()


def _drop_steps(folder: Path, keep: set[int]) -> None:
    """Digests first: without them a step is nobody's."""
    checkpoints = folder / CHECKPOINTS
    for path in (checkpoints / DIGESTS).glob("*.json"):
        if not (path.stem.isdecimal() and int(path.stem) in keep):
            path.unlink()
    for path in checkpoints.iterdir() if checkpoints.is_dir() else ():
        if path.name != DIGESTS and not (path.name.isdecimal() and int(path.name) in keep):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


def _download(bucket: Bucket, folder: Path, wanted: Iterable[str]) -> None:
    root = folder.resolve()
    for name in wanted:
        if not (root / name).resolve().is_relative_to(root):
            raise UserError(f"{bucket.url}: holds an object named {name!r}, which leads out of the run's folder")
    in_parallel(functools.partial(bucket.download, name, folder / name) for name in wanted)


def _files(folder: Path) -> list[Path]:
    return [path for path in folder.rglob("*") if path.is_file()]


def _size(path: Path) -> int | None:
    return path.stat().st_size if path.is_file() else None
