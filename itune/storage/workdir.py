"""A run's folder, wherever it is asked to live: on a disk as it is; in a bucket, a copy here that is mirrored there."""

from __future__ import annotations

import contextlib
import dataclasses
import fcntl
import functools
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from itune.errors import UserError
from itune.storage import copy, names
from itune.storage.bucket import Bucket, Entry, Gone
from itune.storage.lease import SECONDS, Lease

EXIT_NOT_PUSHED = 74  # EX_IOERR: done, but what came last is on this machine only
Echo = Callable[[str], None]
_held = contextlib.ExitStack()  # shared locks on copies that this process reads


class Workdir:
    """What a trainer tells of its folder. This one lies on a disk: there is nothing to do."""

    def saved(self, step: int) -> None:
        """A checkpoint is whole in the folder, its digests written."""

    def when_lost(self, stop: Callable[[], None]) -> None:
        """`stop` is called, from a thread, if another trainer has taken the run over."""

    def finish(self, code: int) -> int:
        """After all is written; returns the run's exit code. Raises: UserError if another trainer has the run now."""
        return code


class _InBucket(Workdir):
    """The same of a folder that is mirrored."""

    def __init__(self, bucket: Bucket, folder: Path, lease: Lease, listing: dict[str, Entry], echo: Echo):
        from itune.storage.mirror import Mirror

        self._url, self._folder, self._lease, self._echo = bucket.url, folder, lease, echo
        self._mirror = Mirror(bucket, folder, listing, lease, echo)
        self._ended = self._told = False

    def saved(self, step: int) -> None:
        self._told = True
        self._mirror.saved(step)

    def when_lost(self, stop: Callable[[], None]) -> None:
        self._lease.on_lost = stop
        if self._lease.lost:
            stop()

    def finish(self, code: int) -> int:
        self._ended = True
        failed = self._mirror.finish()
        if self._lease.lost:
            raise UserError(self._lease.lost)
        if not failed:
            self._echo(f"All of it is in {self._url}")
            return code
        self._echo(
            f"itune: warning: {self._url} lacks what came last: {failed}. It is in {self._folder}; the same command on "
            "this machine brings it there"
        )
        return code or EXIT_NOT_PUSHED

    def abandon(self) -> None:
        """After an exception: what was saved shall not be lost for it."""
        if not self._ended:
            self._ended = True
            if self._told:
                self.finish(0)
            else:
                self._mirror.stop()

    def end(self) -> None:
        """However the run ended: pushes no more."""
        self._mirror.end()


@contextlib.contextmanager
def open_workdir(place: str, *, resume: bool, echo: Echo, lease_seconds: float = SECONDS) -> Iterator[Workdir]:
    """For a trainer, which holds the lock of `names.local_folder(place)`: until the end the run in the bucket is its.

    resume: False sets aside what is there, under previous-N.
    Raises: UserError: another trainer is at work there; Unreachable.
    """
    if not names.in_bucket(place):
        yield Workdir()
        return
    bucket, folder = Bucket(place), names.local_folder(place)
    origin = copy.make_root(folder, bucket.url)
    lease = Lease(bucket, origin.holder, seconds=lease_seconds, renew_seconds=lease_seconds / 4)
    ours = lease.take(echo)
    try:
        listing = _up_to_date(bucket, folder, origin, ours, resume, echo)
        with _mirrored(_InBucket(bucket, folder, lease, listing, echo)) as workdir:
            if (step := copy.ahead(folder, listing)) is not None:
                workdir.saved(step)  # of a trainer that was killed before it had pushed it
            yield workdir
    finally:
        lease.release()


@contextlib.contextmanager
def _mirrored(workdir: _InBucket) -> Iterator[_InBucket]:
    try:
        yield workdir
    except KeyboardInterrupt:  # the second: at once
        raise
    except BaseException:
        with contextlib.suppress(UserError):
            workdir.abandon()
        raise
    finally:
        workdir.end()


def _up_to_date(
    bucket: Bucket, folder: Path, origin: copy.Origin, ours: bool, resume: bool, echo: Echo
) -> dict[str, Entry]:
    """Makes the folder what the bucket holds, unless it is ahead of it: nobody else has written there since."""
    listing = bucket.listing()
    copy.remove_uncommitted(bucket, listing)
    trusted = ours and origin.whole
    if trusted and resume:
        return listing
    if (step := copy.ahead(folder, listing)) is not None:
        kept = _keep_apart(folder)
        echo(f"itune: warning: {bucket.url} holds no checkpoint {step}, which was saved here; it is now in {kept}")
    if not resume:
        _set_aside(bucket, listing, echo)
    origin = dataclasses.replace(origin, whole=False)
    origin.save(folder.parent)
    copy.pull(bucket, folder, listing)
    dataclasses.replace(origin, whole=True).save(folder.parent)
    return listing


def _keep_apart(folder: Path) -> Path:
    """Moves all but the lock, which is held, into unpushed-N beside the folder."""
    target = folder.parent / f"unpushed-{1 + len(list(folder.parent.glob('unpushed-*')))}"
    target.mkdir()
    for path in list(folder.iterdir()):
        if path.name != ".lock":
            shutil.move(str(path), target / path.name)
    return target


def _set_aside(bucket: Bucket, listing: dict[str, Entry], echo: Echo) -> None:
    """--no-resume: what was there is copied to previous-N, then removed, the markers first. There is no rename."""
    wanted = [name for name in listing if not copy.is_apart(name)]
    if not wanted:
        return
    taken = {name.partition("/")[0] for name in listing if name.startswith("previous-")}
    numbers = [int(number) for name in taken if (number := name.removeprefix("previous-")).isdecimal()]
    target = f"previous-{1 + max(numbers, default=0)}"
    for markers in (False, True):  # what is set aside does not count before it is whole, either
        now = [name for name in wanted if copy.is_marker(name) == markers]
        copy.in_parallel(functools.partial(bucket.copy, name, f"{target}/{name}") for name in now)
    for name in sorted(wanted, key=lambda name: (not copy.is_marker(name), name)):
        bucket.delete(name, replaces=listing.pop(name).generation)
    echo(f"The run that was there is now in {bucket.url}/{target}")


def local_copy(source: str) -> str:
    """`source` itself; of a run in a bucket ("gs://b/run", "gs://b/run@120") its copy here, brought up to date.

    Takes no lease: a trainer may be at work there. The arrays come with `copy.fetch_step`.
    Raises: UserError where there is no run.
    """
    if not names.in_bucket(source):
        return source
    url, at, step = source.rpartition("@")
    if not at or not (step.isdecimal() or step == "best"):
        url, at, step = source, "", ""
    bucket, folder = Bucket(url), names.local_folder(url, reading=True)
    copy.make_root(folder, bucket.url)
    with contextlib.ExitStack() as stack:
        lock = stack.enter_context((folder.parent / ".lock").open("a"))
        with contextlib.suppress(BlockingIOError):  # while another process reads it, it stays as it is
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _update(bucket, folder)
        fcntl.flock(lock, fcntl.LOCK_SH)
        _held.enter_context(stack.pop_all())
    return f"{folder}{at}{step}"


def _update(bucket: Bucket, folder: Path) -> None:
    """Pulls; once more if a trainer gave up a checkpoint meanwhile."""
    for last in (False, True):
        listing = bucket.listing()
        if "config.gin" not in listing:
            raise UserError(
                f"{bucket.url}: no run is there; weights are read from a disk: copy them, or mount the bucket"
            )
        try:
            return copy.pull(bucket, folder, listing)
        except Gone:
            if last:
                raise


def shown(folder: Path) -> str:
    """For people: the URL of what is a copy, else the folder."""
    origin = copy.origin_of(folder)
    return str(folder) if origin is None else origin.url


def publish(path: Path) -> str:
    """Puts a file of a copy into the bucket, too. Returns where it is, for people."""
    origin = copy.origin_of(path.parent)
    if origin is None:
        return str(path)
    bucket = Bucket(origin.url)
    there = bucket.read(path.name)
    bucket.write(path.name, path.read_bytes(), replaces=0 if there is None else there[1].generation)
    return f"{origin.url}/{path.name}"
