"""Prepared splits in a bucket: one machine prepares, another takes them whole; a bucket out of reach stops nobody."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from itune.data.prepare_task import PreparableTask
from itune.data.records import COMPLETED
from itune.errors import UserError
from itune.storage.bucket import Bucket
from tests.data.toy import Toy
from tests.gcs import Emulator, emulator


@pytest.fixture(scope="module")
def served() -> Iterator[Emulator]:
    with emulator() as found:
        yield found


@pytest.fixture
def shared(served: Emulator, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A folder of the bucket that machines share."""
    folder = f"cache-{uuid.uuid4().hex[:8]}"
    monkeypatch.setenv("ITUNE_SHARED_CACHE", served.url(folder))
    monkeypatch.setattr("itune.storage.bucket.RETRY_SECONDS", 0.5)
    yield folder
    served.fault = lambda method, name: None


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The splits that are prepared here, and not taken from elsewhere."""
    found: list[str] = []
    write = PreparableTask._write

    def noted(self, split, directory, progress):
        found.append(f"{self.info.name} {split}")
        return write(self, split, directory, progress)

    monkeypatch.setattr(PreparableTask, "_write", noted)
    return found


def another_machine(toy: Toy) -> Path:
    """Its cache is empty; returns where the first one's is now."""
    moved = toy.folder / f"cache-{uuid.uuid4().hex[:8]}"
    (toy.folder / "cache").rename(moved)
    return moved


def contents(cache: Path) -> dict[str, bytes]:
    files = (path for path in (cache / "prepared").glob("*/*/*") if path.is_file())
    return {path.relative_to(cache).as_posix(): path.read_bytes() for path in files}


def test_another_machine_takes_what_one_has_prepared(toy: Toy, shared: str, served: Emulator, written: list) -> None:
    first = toy.prepare(eval_split="train")
    assert sorted(written) == ["sums/one train", "sums/two train"]
    before = another_machine(toy)
    written.clear()
    second = toy.prepare(eval_split="train")
    assert written == [] and second.still_valid() is None
    assert second.train == first.train
    assert contents(toy.folder / "cache") == contents(before)


def test_what_is_damaged_or_half_there_is_prepared_anew(
    toy: Toy, shared: str, served: Emulator, written: list, capsys: pytest.CaptureFixture
) -> None:
    toy.prepare(eval_split="train")
    before = another_machine(toy)
    names = [name for name in served.objects() if name.startswith(shared)]
    (gone,) = (name for name in names if "/sums.one" in name and name.endswith(COMPLETED))
    served._storage.delete_file(served.bucket, gone)  # as a machine that was killed leaves it
    (flipped,) = (name for name in names if "/sums.two" in name and name.endswith(".array_record"))
    bucket, inside = Bucket(served.url(shared)), flipped.removeprefix(f"{shared}/")
    bucket.write(inside, bytes(9), replaces=served.generation(flipped))
    written.clear()
    toy.prepare(eval_split="train")
    assert sorted(written) == ["sums/one train", "sums/two train"]
    assert contents(toy.folder / "cache") == contents(before)
    assert gone in served.objects(), "offered again"
    assert f"{inside}: is damaged" in capsys.readouterr().err


def test_a_bucket_out_of_reach_stops_nobody(
    toy: Toy, shared: str, served: Emulator, written: list, capsys: pytest.CaptureFixture
) -> None:
    served.fault = lambda method, name: 403
    toy.prepare(eval_split="train")
    assert len(written) == 2
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 4 and all(line.startswith("itune: warning: ITUNE_SHARED_CACHE: ") for line in said)


def test_sensitive_tasks_stay_here(toy: Toy, shared: str, served: Emulator, written: list) -> None:
    toy.prepare(mixture="secret", eval_split="train")
    assert written == ["secret train"]
    assert not [name for name in served.objects() if name.startswith(shared)]


def test_what_is_no_bucket_is_refused(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ITUNE_SHARED_CACHE", "s3://b/cache")
    with pytest.raises(UserError, match="ITUNE_SHARED_CACHE=s3://b/cache: gs://BUCKET/FOLDER is needed"):
        toy.prepare(eval_split="train")
    monkeypatch.setenv("ITUNE_CACHE_DIR", "gs://b/cache")
    from itune.cache import cache_dir

    with pytest.raises(UserError, match="machines share what they prepare by ITUNE_SHARED_CACHE"):
        cache_dir()
