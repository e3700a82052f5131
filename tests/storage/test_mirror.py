"""A run's folder and its bucket: whatever moment a trainer dies at, a whole checkpoint is there to go on from."""

from __future__ import annotations

import contextlib
import json
import shutil
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from itune.errors import UserError
from itune.storage import copy, names
from itune.storage.lease import NAME
from itune.storage.workdir import EXIT_NOT_PUSHED, Workdir, local_copy, open_workdir, publish, shown
from itune.training.checkpoint import verify, write_digests
from itune.training.lock import lock
from tests.gcs import Emulator
from tests.storage.conftest import ours

KEEP = 2
ITEMS = ("meta/metadata", "state/manifest.ocdbt", "state/d/a1", "state/d/b2")


class Died(BaseException):
    """As SIGKILL: nothing is caught, nothing is cleaned up."""


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """machine("b") is another machine from here on: its cache is empty the first time."""

    def use(name: str) -> None:
        monkeypatch.setenv("ITUNE_CACHE_DIR", str(tmp_path / name))

    use("a")
    return use


@contextlib.contextmanager
def run(url: str, *, resume: bool = True, lines: list[str] | None = None) -> Iterator[tuple[Path, Workdir]]:
    echo = (lines if lines is not None else []).append
    folder = names.local_folder(url)
    with lock(folder), open_workdir(url, resume=resume, echo=echo, lease_seconds=0.4) as workdir:
        yield folder, workdir


def save(folder: Path, step: int, text: str = "") -> None:
    """A checkpoint as Orbax and `Checkpoints` leave it, the older ones given up, and what lies beside it."""
    for name in ITEMS:
        path = folder / "checkpoints" / str(step) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{name} of step {step} {text}" * 9)
    write_digests(folder / "checkpoints", step)
    for old in sorted(copy.local_steps(folder))[:-KEEP]:
        shutil.rmtree(folder / "checkpoints" / str(old))
        (folder / copy.marker(old)).unlink()
    (folder / "config.gin").write_text("x = 1\n")
    (folder / "metrics.jsonl").write_text("".join(f'{{"step": {n}}}\n' for n in range(1, step + 1)))


def newest(folder: Path) -> int:
    """The newest step of a folder, its files fetched and verified."""
    steps = copy.local_steps(folder)
    if not steps:
        return 0
    copy.fetch_step(folder, max(steps))
    assert verify(folder / "checkpoints", max(steps))
    return max(steps)


def in_bucket(gcs: Emulator, folder: str) -> set[int]:
    return copy.committed(gcs.objects(f"{folder}/"))


def test_another_machine_goes_on_from_what_was_pushed(gcs: Emulator, folder: str, machine) -> None:
    url, said = gcs.url(folder), []
    with run(url, lines=said) as (here, workdir):
        for step in (2, 4, 6):
            save(here, step)
            workdir.saved(step)
        (here / "report.html").write_text("<html>")
        (here / "checkpoints" / "7.orbax-checkpoint-tmp").mkdir()
        assert workdir.finish(0) == 0
    assert said == [f"All of it is in {url}"]
    assert in_bucket(gcs, folder) == {4, 6}
    objects = gcs.objects(f"{folder}/")
    assert {copy.step_of(name) for name in objects} == {None, 4, 6}
    assert {"report.html", "metrics.jsonl", "config.gin", NAME} <= set(objects) and ".lock" not in objects
    machine("b")
    with run(url) as (there, workdir):
        assert copy.local_steps(there) == {4, 6} and (there / "report.html").is_file()
        assert not (there / "checkpoints/6/state").exists() and (there / "checkpoints/6/meta/metadata").is_file()
        assert newest(there) == 6
        assert not (there / "checkpoints/4/state").exists(), "only the arrays that are wanted"
        save(there, 8)
        workdir.saved(8)
        assert workdir.finish(75) == 75
    assert in_bucket(gcs, folder) == {6, 8}
    machine("a")
    with run(url, lines=said) as (here, workdir):
        assert newest(here) == 8 and copy.local_steps(here) == {6, 8}
        workdir.finish(0)
    assert not any("warning" in line for line in said), "nothing was here that the bucket lacks"


def test_killed_before_any_write_it_goes_on_from_a_whole_checkpoint(gcs: Emulator, folder: str, machine) -> None:
    """Every request that writes is, once, the last one of a trainer; then another machine takes over."""
    last, deaths = 0, 0
    for moment in range(1, 200):
        url = gcs.url(f"{folder}/{moment}")
        machine(f"a{moment}")
        with run(url) as (here, workdir):
            for step in (2, 4):
                save(here, step)
                workdir._mirror.push((step, None))  # type: ignore[attr-defined]
            save(here, 6)
            left, died = moment, False

            def fault(method: str, name: str) -> int | None:
                nonlocal left, died
                if method != "GET":
                    left -= 1
                    died = died or left <= 0
                return 403 if died else None

            gcs.fault = fault
            with contextlib.suppress(UserError):
                workdir._mirror.push((6, None))  # type: ignore[attr-defined]
            workdir._ended = True  # type: ignore[attr-defined]
            workdir._mirror.stop()  # type: ignore[attr-defined]
        gcs.fault = lambda method, name: None
        gcs.age(f"{folder}/{moment}/{NAME}", 100)
        machine(f"b{moment}")
        with run(url) as (there, workdir):
            found = newest(there)
            assert found in (4, 6) and found >= last, "later deaths lose no more"
            lines = (there / "metrics.jsonl").read_text().splitlines()
            assert json.loads(lines[-1])["step"] >= found, "what the checkpoint needs came before it"
            loose = {copy.step_of(name) for name in gcs.objects(f"{folder}/{moment}/")} - {None}
            assert loose == copy.local_steps(there), "what had no marker is gone"
            workdir.finish(0)
        last, deaths = found, deaths + died
        if not died:
            break
    assert last == 6 and deaths > 10


def test_a_checkpoint_counts_after_its_data_came_and_before_any_goes(gcs: Emulator, folder: str) -> None:
    """4 is saved twice, 2 is given up, and in the end all is set aside."""
    url, data = gcs.url(folder), f"{folder}/checkpoints/{{}}/"
    at = lambda method, start: [n for n, (m, name) in enumerate(gcs.requests) if m == method and start in name]  # noqa: E731
    with run(url) as (here, workdir):
        for step, text in ((2, ""), (4, ""), (4, "anew"), (6, "")):
            save(here, step, text)
            gcs.requests.clear()
            workdir._mirror.push((step, None))  # type: ignore[attr-defined]
            (committed,) = at("POST", f"{folder}/{copy.marker(step)}")
            assert committed > max(at("POST", data.format(step))) and len(at("POST", data.format(step))) == len(ITEMS)
            withdrawn = at("DELETE", f"{folder}/{copy.marker(step)}")
            assert len(withdrawn) == (text == "anew") and all(n < min(at("POST", data.format(step))) for n in withdrawn)
        (gone,) = at("DELETE", f"{folder}/{copy.marker(2)}")
        assert gone < min(at("DELETE", data.format(2))) and len(at("DELETE", data.format(2))) == len(ITEMS)
        workdir.finish(0)
    gcs.requests.clear()
    with run(url, resume=False) as (here, workdir):
        apart = f"{folder}/previous-1/checkpoints/"
        markers, copied = at("POST", f"/{apart}digests/"), at("POST", f"/{apart}")
        assert len(markers) == 2 and copied[-2:] == markers and len(copied) == 2 + 2 * len(ITEMS)
        gone = [name for method, name in gcs.requests if method == "DELETE" and "/checkpoints/" in name]
        assert ["digests" in name for name in gone] == [True] * 2 + [False] * 2 * len(ITEMS)


@pytest.mark.parametrize("how", ["finished", "interrupted", "failed", "forgotten"])
def test_no_thread_outlives_a_run_whose_bucket_is_dead(gcs: Emulator, folder: str, how: str) -> None:
    """The fixture looks for them, too: here they are gone before the bucket comes back."""
    raised = {"interrupted": KeyboardInterrupt, "failed": ValueError}.get(how)
    with contextlib.nullcontext() if raised is None else pytest.raises(raised), run(gcs.url(folder)) as (here, workdir):
        gcs.fault = lambda method, name: 503
        save(here, 2)
        workdir.saved(2)
        if raised is not None:
            raise raised
        if how == "finished":
            assert workdir.finish(75) == 75
    for thread in ours():
        thread.join(30)
    assert not ours()


def test_a_dead_bucket_is_waited_for_once_and_not_for_each_file(gcs: Emulator, folder: str) -> None:
    begun = threading.Semaphore(0)

    def fails() -> None:
        begun.release()
        time.sleep(0.02)
        raise UserError("out of reach")

    with pytest.raises(UserError, match="out of reach"):
        copy.in_parallel([fails] * 1000)
    assert sum(begun.acquire(blocking=False) for _ in range(1000)) < 1000


def test_the_same_machine_goes_on_from_what_it_had_not_pushed(gcs: Emulator, folder: str, machine) -> None:
    url = gcs.url(folder)
    with run(url) as (here, workdir):
        save(here, 2)
        workdir.saved(2)
        workdir.finish(0)
    with pytest.raises(KeyboardInterrupt), run(url) as (here, workdir):
        save(here, 4)
        raise KeyboardInterrupt
    assert in_bucket(gcs, folder) == {2}
    with run(url) as (here, workdir):
        assert newest(here) == 4
        workdir.finish(0)
    assert in_bucket(gcs, folder) == {2, 4}
    # Unless somebody else has gone on meanwhile.
    with pytest.raises(KeyboardInterrupt), run(url) as (here, workdir):
        save(here, 6)
        raise KeyboardInterrupt
    machine("b")
    with run(url) as (there, workdir):
        save(there, 5)
        workdir.saved(5)
        workdir.finish(0)
    machine("a")
    said: list[str] = []
    with run(url, lines=said) as (here, workdir):
        assert newest(here) == 5
        workdir.finish(0)
    (line,) = (line for line in said if "warning" in line)
    kept = Path(line.rpartition(" now in ")[2])
    assert "holds no checkpoint 6, which was saved here" in line and verify(kept / "checkpoints", 6)


def test_a_bucket_out_of_reach_at_the_end_is_an_exit_code_and_loses_nothing(gcs: Emulator, folder: str) -> None:
    url, said = gcs.url(folder), []
    with run(url, lines=said) as (here, workdir):
        gcs.fault = lambda method, name: 503
        save(here, 2)
        workdir.saved(2)
        assert workdir.finish(0) == EXIT_NOT_PUSHED
        gcs.fault = lambda method, name: None
    (line,) = (line for line in said if "lacks what came last" in line)
    assert str(here) in line and "cannot be reached" in line
    with run(url, lines=said) as (here, workdir):
        assert newest(here) == 2
        assert workdir.finish(0) == 0
    assert in_bucket(gcs, folder) == {2}


def test_a_push_that_fails_is_told_and_the_next_one_brings_it(gcs: Emulator, folder: str) -> None:
    url, said = gcs.url(folder), []
    with run(url, lines=said) as (here, workdir):
        gcs.fault = lambda method, name: 403 if "checkpoints" in name else None
        save(here, 2)
        workdir.saved(2)
        while not said:
            pass
        gcs.fault = lambda method, name: None
        save(here, 4)
        workdir.saved(4)
        assert workdir.finish(0) == 0
    assert said[0].startswith("itune: warning: checkpoint 2 is not in the bucket yet:") and len(said) == 2
    assert in_bucket(gcs, folder) == {2, 4}


def test_one_that_was_taken_over_writes_no_more(gcs: Emulator, folder: str, machine) -> None:
    url, stopped = gcs.url(folder), []
    with pytest.raises(UserError, match="was taken over by process"), run(url) as (here, workdir):
        workdir.when_lost(lambda: stopped.append(True))
        workdir._lease._end.set()  # type: ignore[attr-defined]  # it hangs, and renews nothing
        save(here, 2)
        gcs.age(f"{folder}/{NAME}", 100)
        machine("b")
        with run(url) as (there, heir):
            save(there, 3)
            heir.saved(3)
            heir.finish(0)
            before = {name: about["generation"] for name, about in gcs.objects(f"{folder}/").items()}
            workdir.finish(0)
    assert stopped == [True] and in_bucket(gcs, folder) == {3}
    after = {name: about["generation"] for name, about in gcs.objects(f"{folder}/").items()}
    assert {n: g for n, g in before.items() if n != NAME} == {n: g for n, g in after.items() if n != NAME}


def test_starting_over_sets_aside(gcs: Emulator, folder: str) -> None:
    url, said = gcs.url(folder), []
    for _ in range(2):
        with run(url, resume=False, lines=said) as (here, workdir):
            assert copy.local_steps(here) == set() and not (here / "metrics.jsonl").exists()
            save(here, 2)
            workdir.saved(2)
            workdir.finish(0)
    assert said[1] == f"The run that was there is now in {url}/previous-1"
    assert {f"previous-1/{copy.marker(2)}", "previous-1/checkpoints/2/state/d/a1"} <= set(gcs.objects(f"{folder}/"))


def test_readers_take_no_lease_and_bring_what_they_need(gcs: Emulator, folder: str, machine) -> None:
    url = gcs.url(folder)
    with pytest.raises(UserError, match=f"{url}: no run is there; weights are read from a disk"):
        local_copy(url)
    with run(url) as (here, workdir):
        for step in (2, 4):
            save(here, step)
            workdir.saved(step)
        workdir._mirror.finish()  # type: ignore[attr-defined]
        reading = local_copy(f"{url}@2")
        assert reading.endswith("@2") and Path(reading[:-2]) != here
        there = Path(reading[:-2])
        assert copy.local_steps(there) == {2, 4} and not list(there.glob("checkpoints/*/state"))
        copy.fetch_step(there, 2)
        assert verify(there / "checkpoints", 2) and not (there / "checkpoints/4/state").exists()
        assert shown(there) == url and shown(here.parent) == str(here.parent)
        (there / "evaluation-step-2.json").write_text("{}")
        assert publish(there / "evaluation-step-2.json") == f"{url}/evaluation-step-2.json"
        workdir.finish(0)
    assert local_copy("runs/mine@2") == "runs/mine@2"
    assert json.loads(gcs.read(f"{folder}/evaluation-step-2.json")) == {}


def test_an_object_that_leads_out_of_the_folder_is_refused(folder: str, tmp_path: Path) -> None:
    """The emulator takes no such name; Google's does."""

    class Evil:
        url = "gs://b/x"

        def download(self, name: str, path: Path) -> None:
            raise AssertionError(path)

    with pytest.raises(UserError, match="leads out of the run's folder"):
        copy.pull(Evil(), tmp_path, {"a/../../evil": None})  # type: ignore[arg-type,dict-item]


@pytest.mark.parametrize(
    ("place", "said"),
    [
        ("s3://b/run", "mount s3:// and give the folder"),
        ("gs://bucket", "gs://BUCKET/FOLDER is needed"),
        ("gs://B/run", "gs://BUCKET/FOLDER is needed"),
        ("gs://bucket/a/../b", "gs://BUCKET/FOLDER is needed"),
    ],
)
def test_where_a_run_can_live(place: str, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        names.check_place(place)
    names.check_place("gs://bucket/a//b/")
    assert names.url_of("gs://bucket/a//b/") == "gs://bucket/a/b"
