"""One trainer a run: who holds it, who is refused, who may take over, and what one that lost it may still do."""

from __future__ import annotations

import json
import threading
import time

import pytest

from itune.errors import UserError
from itune.storage.bucket import Bucket, Changed, Unreachable
from itune.storage.lease import NAME, Lease, Lost
from tests.gcs import Emulator

LONG = {"seconds": 60.0, "renew_seconds": 15.0}
ALIVE = {"seconds": 60.0, "renew_seconds": 0.1}


def quiet(line: str) -> None:
    pass


def lease(gcs: Emulator, folder: str, holder: str, **how: float) -> Lease:
    return Lease(Bucket(gcs.url(folder)), holder, **(how or LONG))


def test_a_second_trainer_is_refused_while_the_first_renews(gcs: Emulator, folder: str) -> None:
    first = lease(gcs, folder, "a", **ALIVE)
    assert first.take(quiet) is False
    said: list[str] = []
    with pytest.raises(UserError, match=r"another trainer is at work here \(process \d+ on .*, since .*\)"):
        lease(gcs, folder, "b", **ALIVE).take(said.append)
    assert len(said) == 1 and "waiting up to" in said[0]
    first.release()
    second = lease(gcs, folder, "b")
    assert second.take(said.append) is False, "released: at once"
    second.release()
    assert len(said) == 1


def test_who_asks_at_the_same_time_gets_one_lease(gcs: Emulator, folder: str) -> None:
    got: list[Lease] = []
    refused: list[str] = []

    def ask(holder: str) -> None:
        try:
            asked = lease(gcs, folder, holder, **ALIVE)
            asked.take(quiet)
            got.append(asked)
        except UserError:
            refused.append(holder)

    threads = [threading.Thread(target=ask, args=(f"h{i}",)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(got) == 1 and len(refused) == 3
    got[0].release()


def test_one_that_says_nothing_is_taken_over_by_the_servers_clock(gcs: Emulator, folder: str) -> None:
    dead = lease(gcs, folder, "a")
    dead.take(quiet)
    gcs.age(f"{folder}/{NAME}", 61)
    heir, said = lease(gcs, folder, "b"), []
    assert heir.take(said.append) is False
    assert len(said) == 1 and "over from process" in said[0] and "not been heard of for 60 s" in said[0]
    lost: list[bool] = []
    dead.on_lost = lambda: lost.append(True)
    with pytest.raises(Lost, match=r"taken over by process \d+ on .*; this trainer stops"):
        dead.renew()
    assert lost == [True] and dead.lost
    dead.release()
    heir.renew()
    heir.release()


def test_the_same_folder_goes_on_at_once(gcs: Emulator, folder: str) -> None:
    """Its own lock tells that whoever held the lease under that name is dead."""
    dead, again = lease(gcs, folder, "a"), lease(gcs, folder, "a")
    dead.take(quiet)
    assert again.take(quiet) is True
    again.release()
    dead.release()
    assert json.loads(gcs.read(f"{folder}/{NAME}"))["session"] == again._session


def test_one_that_was_released_is_not_taken_again(gcs: Emulator, folder: str) -> None:
    """By a push that is still under way."""
    held = lease(gcs, folder, "a", **ALIVE)
    held.take(quiet)
    held.release()
    with pytest.raises(Lost, match=f"{gcs.url(folder)}: this trainer has let go of it"):
        held.renew()
    assert json.loads(gcs.read(f"{folder}/{NAME}"))["released"] and not held._thread.is_alive()


def test_a_dead_bucket_keeps_no_renewal_alive(gcs: Emulator, folder: str) -> None:
    held = lease(gcs, folder, "a", **ALIVE)
    held.take(quiet)
    gcs.fault = lambda method, name: 503
    gcs.requests.clear()
    deadline = time.monotonic() + 30
    while not held._out_of_reach and time.monotonic() < deadline:
        time.sleep(0.01)
    held.release()
    assert gcs.requests and not held._thread.is_alive()
    gcs.requests.clear()
    held.release()
    assert not gcs.requests, "what could not be renewed is not written once more: it expires"


def test_an_answer_that_was_lost_is_no_loss(gcs: Emulator, folder: str) -> None:
    held = lease(gcs, folder, "a")
    held.take(quiet)
    held._write(held._generation)
    held._generation -= 1  # as if the answer had not come
    held.renew()
    held.renew()
    assert not held.lost
    held.release()


def test_transient_errors_are_tried_again_up_to_a_limit(gcs: Emulator, folder: str) -> None:
    answers = iter([503, 429])
    gcs.fault = lambda method, name: next(answers, None)
    patient = Bucket(gcs.url(folder), retry_seconds=20)
    patient.write("a", b"1", replaces=0)
    gcs.fault = lambda method, name: 503
    with pytest.raises(Unreachable, match=f"{gcs.url(folder)}: cannot be reached"):
        Bucket(gcs.url(folder), retry_seconds=0.5).write("b", b"1", replaces=0)
    gcs.fault = lambda method, name: 403
    with pytest.raises(Unreachable, match="not permitted"):
        patient.listing()
    gcs.fault = lambda method, name: None
    with pytest.raises(Unreachable, match="gs://no-such-bucket/x: there is no such bucket"):
        Bucket("gs://no-such-bucket/x").listing()
    with pytest.raises(Changed):
        patient.write("a", b"2", replaces=1)
    assert patient.read("a")[0] == b"1" and patient.read("z") is None  # type: ignore[index]
