"""The watch over a run's processes, without processes: threads around a store in memory."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest

from itune.errors import UserError
from itune.parallel.distributed import Processes, several, start, takes_all_devices
from itune.parallel.peers import ALONE, Peers
from itune.parallel.watch import EXIT_PEER_LOST, EXIT_STUCK, Watch


class Store:
    """As JAX's client of the coordinator, of what is used of it."""

    def __init__(self) -> None:
        self._values: dict[str, str] = {}
        self._new = threading.Condition()

    def key_value_set(self, key: str, value: str, allow_overwrite: bool = False) -> None:
        with self._new:
            if key in self._values and not allow_overwrite:
                raise RuntimeError("ALREADY_EXISTS")
            self._values[key] = value
            self._new.notify_all()

    def key_value_dir_get(self, folder: str) -> list[tuple[str, str]]:
        with self._new:
            return [(k, v) for k, v in self._values.items() if k.startswith(f"{folder}/")]

    def blocking_key_value_get(self, key: str, timeout_in_ms: int) -> str:
        with self._new:
            if not self._new.wait_for(lambda: key in self._values, timeout_in_ms / 1000):
                raise RuntimeError("DEADLINE_EXCEEDED")
            return self._values[key]


class Watched(Watch):
    """Says how it would have left, and stops."""

    left: tuple[int, str] | None = None

    def run(self) -> None:
        with contextlib.suppress(SystemExit):
            super().run()

    def leave(self, exit_code: int, line: str, *, quiet: bool = False) -> None:
        self.left = (exit_code, "" if quiet else line)
        self._over.set()
        raise SystemExit

    def wait(self) -> tuple[int, str] | None:
        self.join(20)
        return self.left


@pytest.fixture
def watches():
    made: list[Watched] = []

    def make(count: int, *, started: int | None = None, silence: float = 5.0, patience: float = 0.0) -> list[Watched]:
        store = Store()
        for i in range(count):
            made.append(Watched(store, i, count, coordinator="127.0.0.1:1", silence=silence, patience=patience))
            made[-1].period = 0.02
        for watch in made[: count if started is None else started]:
            watch.start()
        return made

    yield make
    for watch in made:
        watch._over.set()


def test_a_signal_to_one_stops_all_at_the_same_look(watches: Callable[..., list[Watched]]) -> None:
    """Two processes at unlike paces, neither more than a few steps ahead, as the steps' sums keep them."""
    three, stopped = watches(3), [0, 0, 0]

    def steps(i: int) -> None:
        while three[i].look() is None:
            stopped[i] += 1
            time.sleep(0.002 * (i + 1))
            if i == 1 and stopped[i] == 10:
                three[1].ask(75)

    threads = [threading.Thread(target=steps, args=(i,)) for i in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert stopped[0] == stopped[1] == stopped[2] >= 10


def test_who_is_silent_is_gone_and_all_others_are_told(watches: Callable[..., list[Watched]]) -> None:
    three = watches(3, silence=0.5)
    time.sleep(0.2)
    three[2]._over.set()
    for watch in three[:2]:
        code, line = watch.wait() or (0, "")
        assert code == EXIT_PEER_LOST and "no sign of life from process 2 on " in line


def test_who_keeps_the_others_waiting_is_named(watches: Callable[..., list[Watched]]) -> None:
    two = watches(2, patience=0.5)
    for watch in two:
        watch.look()
    two[0].look()
    two[1].mark("reads its rows")  # as many as the other: its own mark counts, too
    two[0].mark("works on the device")
    two[0].arm()
    for watch in two:
        code, line = watch.wait() or (0, "")
        assert code == EXIT_STUCK and "not arrived: process 1 on " in line and "(reads its rows)" in line


def test_who_does_not_come_to_a_meeting_is_named(watches: Callable[..., list[Watched]]) -> None:
    """At the end of a run, say: process 0 waits there for all and is not at work meanwhile."""
    two = watches(2, patience=0.5)
    for watch in two:
        watch.mark("works on the device")
    two[0].arm()
    first, second = (Peers(i, 2, two[i]._store, two[i]) for i in (0, 1))
    waits = threading.Thread(target=first.meet, daemon=True)
    waits.start()
    for watch in two:
        code, line = watch.wait() or (0, "")
        assert code == EXIT_STUCK and "not arrived: process 1 on " in line and "(works on the device)" in line
    second.meet()
    waits.join(20)
    assert not waits.is_alive()


def test_who_fails_takes_the_others_along(watches: Callable[..., list[Watched]]) -> None:
    two = watches(2)
    two[1].failed(2, "no such file")
    assert two[0].wait() == (2, "process 1 ended: no such file")


def _both(call: Callable[[Peers], Any]) -> list[Any]:
    """What `call` gives in each of two processes; an error in its place."""
    store, out = Store(), [None, None]
    peers = [Peers(i, 2, store, Watch(store, i, 2, coordinator="", silence=9, patience=0)) for i in range(2)]

    def run(i: int) -> None:
        try:
            out[i] = call(peers[i])
        except UserError as error:
            out[i] = error  # type: ignore[call-overload]

    threads = [threading.Thread(target=run, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    return out


def test_process_0_calls_and_all_know() -> None:
    calls: list[int] = []
    assert _both(lambda peers: peers.on_main(lambda: calls.append(peers.index) or [1, "a"])) == [[1, "a"]] * 2
    assert calls == [0]
    first: list[int] = []
    assert _both(lambda peers: peers.main_first(lambda: first.append(peers.index))) == [None, None]
    assert first == [0, 1]


def test_an_error_of_process_0_is_everyones_and_told_once() -> None:
    def fails() -> None:
        raise UserError("no")

    ours, theirs = _both(lambda peers: peers.on_main(fails))
    assert str(ours) == str(theirs) == "no" and ours.agreed and theirs.agreed and theirs.told and not ours.told


def test_a_difference_names_process_and_field() -> None:
    for error in _both(lambda peers: peers.same({"a": 1, "train": {"steps": 8 + peers.index}})):
        assert "process 1 on " in str(error) and "train.steps = 9, process 0 has 8" in str(error)
    assert _both(lambda peers: peers.same({"a": (1, 2)})) == [None, None]


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ({"coordinator": "a:1", "num_processes": 2}, "--process_id is not given"),
        ({"process_id": 0}, "--coordinator is not given"),
        ({"coordinator": "a", "num_processes": 2, "process_id": 0}, "must be HOST:PORT"),
        ({"coordinator": "a:1", "num_processes": 2, "process_id": 2}, "must be 0 to 1"),
        ({"coordinator": "auto", "num_processes": 2}, "leave them out"),
        ({"heartbeat_timeout": 0.0}, "--heartbeat_timeout=0 must be"),
    ],
)
def test_flags_that_do_not_go_together(flags: dict[str, Any], said: str) -> None:
    with pytest.raises(UserError) as error:
        start(Processes(**flags))
    assert said in str(error.value) and "\n" not in str(error.value)


def test_a_coordinator_that_is_not_there() -> None:
    with pytest.raises(UserError) as error:
        start(Processes(coordinator="127.0.0.1:9", num_processes=2, process_id=1, start_timeout=0.3))
    assert "127.0.0.1:9 can't be reached within 0.3 s" in str(error.value) and error.value.exit_code == EXIT_PEER_LOST


def test_one_process_stays_as_it_is() -> None:
    assert start(Processes(), {}) is ALONE
    assert start(Processes(coordinator="127.0.0.1:9", num_processes=1, process_id=0)) is ALONE
    assert start(Processes(), {"SLURM_STEP_NODELIST": "a", "SLURM_NTASKS": "1"}) is ALONE
    assert start(Processes(), {"SLURM_NTASKS": "4"}) is ALONE, "a batch script's, outside of a step"
    assert start(Processes(), {"TPU_WORKER_ID": "0", "TPU_WORKER_HOSTNAMES": "a"}) is ALONE


def test_launchers_are_known_by_their_variables() -> None:
    assert several({"SLURM_STEP_NODELIST": "a[1-2]", "SLURM_NTASKS": "2"}) == "Slurm"
    assert several({"OMPI_COMM_WORLD_RANK": "1", "OMPI_COMM_WORLD_SIZE": "2"}) == "Open MPI"
    assert several({"TPU_WORKER_ID": "1", "TPU_WORKER_HOSTNAMES": "a,b"}) == "GKE"
    assert several({"MEGASCALE_SLICE_ID": "0", "MEGASCALE_NUM_SLICES": "2"}) == "multislice"


def test_a_slurm_task_takes_what_it_is_given() -> None:
    assert takes_all_devices({"SLURM_STEP_TASKS_PER_NODE": "1(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    assert takes_all_devices({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "0"})
    assert not takes_all_devices({"SLURM_STEP_TASKS_PER_NODE": "4(x2)", "CUDA_VISIBLE_DEVICES": "0,1,2,3"})
    assert not takes_all_devices({})
