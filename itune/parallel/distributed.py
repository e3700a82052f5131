"""Start-up of a run over several processes, and its end. Must come before anything else uses JAX, Orbax included."""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import dataclasses
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from typing import Any

from itune.errors import UserError
from itune.parallel.peers import ALONE, Peers
from itune.parallel.watch import EXIT_PEER_LOST, Watch, reaches

AUTO = "auto"
# What a launcher sets for each of its processes: (the variable that says so, the one that says how many there are).
LAUNCHERS = {
    "Slurm": ("SLURM_STEP_NODELIST", "SLURM_NTASKS"),
    "Open MPI": ("OMPI_COMM_WORLD_RANK", "OMPI_COMM_WORLD_SIZE"),
    "GKE": ("TPU_WORKER_ID", "TPU_WORKER_HOSTNAMES"),
    "multislice": ("MEGASCALE_SLICE_ID", "MEGASCALE_NUM_SLICES"),
}
COLLECTIVES = ("Gloo", "NCCL", "UNAVAILABLE", "ABORTED", "onnection")  # in errors of a device whose peer is gone


class Unreachable(UserError):
    """The others can't be reached now; perhaps they can if all are started again."""

    exit_code = EXIT_PEER_LOST


@dataclasses.dataclass(frozen=True, kw_only=True)
class Processes:
    """Flags of a command. coordinator: HOST:PORT of process 0, or "auto" to have JAX find all three out.

    Timeouts in seconds: heartbeat_timeout without a sign of life before a process counts as gone; step_timeout without
    progress in any before the run counts as stuck (0: never); start_timeout for all to come.
    """

    coordinator: str | None = None
    num_processes: int | None = None
    process_id: int | None = None
    heartbeat_timeout: float = 100.0
    step_timeout: float = 1800.0
    start_timeout: float = 300.0

    def check(self) -> None:
        """Raises: UserError for flags that are incomplete or contradict each other."""
        for name in ("heartbeat_timeout", "start_timeout"):
            if getattr(self, name) <= 0:
                raise UserError(f"--{name}={getattr(self, name):g} must be more than 0")
        if self.step_timeout < 0:
            raise UserError(f"--step_timeout={self.step_timeout:g} must be 0 (never) or more")
        given = {"coordinator": self.coordinator, "num_processes": self.num_processes, "process_id": self.process_id}
        missing = [name for name, value in given.items() if value is None]
        if self.coordinator == AUTO:
            if len(missing) < 2:
                raise UserError("--coordinator=auto finds out --num_processes and --process_id: leave them out")
            return
        if 0 < len(missing) < 3:
            raise UserError(f"--coordinator, --num_processes and --process_id go together; --{missing[0]} is not given")
        if self.coordinator is None or self.num_processes is None or self.process_id is None:
            return
        if not re.fullmatch(r".+:\d+", self.coordinator):
            raise UserError(f"--coordinator={self.coordinator}: must be HOST:PORT, of process 0, or auto")
        if not 0 <= self.process_id < self.num_processes:
            raise UserError(
                f"--process_id={self.process_id} must be 0 to {self.num_processes - 1}, for --num_processes="
                f"{self.num_processes}"
            )


@contextlib.contextmanager
def joined(asked: Processes) -> Iterator[Peers]:
    """This process among the others that the flags or the environment tell of; `ALONE` where there are none.

    Ends together with the others. Raises: UserError for flags; Unreachable where the others can't be reached in time.
    """
    peers = start(asked)
    if peers.watch is None:
        yield peers
        return
    try:
        yield peers
    except BaseException as error:
        if getattr(error, "agreed", False):
            _end(peers)
        else:
            _fail(peers.watch, error, asked.heartbeat_timeout)
        raise
    _end(peers)


def start(asked: Processes, environment: Mapping[str, str] = os.environ) -> Peers:
    """See `joined`."""
    asked.check()
    if asked.coordinator is not None and asked.coordinator != AUTO:
        address, count, index = asked.coordinator, asked.num_processes or 1, asked.process_id or 0
        devices = None
    elif asked.coordinator == AUTO or several(environment):
        address, count, index, devices = _detect(asked, environment)
    else:
        return ALONE
    if count == 1:
        return ALONE
    watch = _connect(asked, address, count, index, devices)
    return Peers(index, count, watch._store, watch)


def several(environment: Mapping[str, str]) -> str | None:
    """The launcher that has started more than one process, by its variables; None if none has."""
    for name, (mine, how_many) in LAUNCHERS.items():
        told = environment.get(how_many, "")
        count = int(told) if told.isdigit() else len(list(filter(None, told.split(","))))
        if mine in environment and count > 1:
            return name
    return None


def _detect(asked: Processes, environment: Mapping[str, str]) -> tuple[str, int, int, list[int] | None]:
    """(coordinator, how many, which, the devices that it takes) as JAX reads the launcher's variables."""
    from jax._src.clusters import ClusterEnv

    timeout = int(asked.start_timeout)
    try:
        found = ClusterEnv.auto_detect_unset_distributed_params(None, None, None, None, None, timeout)
    except Exception as error:
        raise Unreachable(
            f"what {several(environment) or 'this machine'} says of processes is no good: {error}"
        ) from None
    address, count, index, devices = found
    if address is None or count is None or index is None:
        raise UserError(
            f"{several(environment) or 'nothing here'}: JAX finds no coordinator by it; "
            "give --coordinator=HOST:PORT --num_processes=N --process_id=I"
        )
    return address, count, index, [] if takes_all_devices(environment) else list(devices or []) or None


def takes_all_devices(environment: Mapping[str, str]) -> bool:
    """Whether a Slurm task takes all GPUs that it sees. JAX would take one, the SLURM_LOCALID-th: right where the tasks
    of a node see all of its GPUs, wrong for one task a node, or where Slurm shows each task its own alone."""
    tasks = {int(n) for n in re.findall(r"(?:^|,)(\d+)", environment.get("SLURM_STEP_TASKS_PER_NODE", ""))}
    seen = environment.get("CUDA_VISIBLE_DEVICES", "")
    return tasks == {1} or (bool(tasks) and len(list(filter(None, seen.split(",")))) == 1)


def _connect(asked: Processes, address: str, count: int, index: int, devices: list[int] | None) -> Watch:
    import jax
    from jax._src import distributed

    started = time.monotonic()
    _find_coordinator(address, index, asked.start_timeout)
    arrived = threading.Event()
    left = max(1.0, asked.start_timeout - (time.monotonic() - started))
    threading.Thread(target=_give_up, args=(arrived, left, asked.start_timeout, count, address), daemon=True).start()
    jax.distributed.initialize(
        address,
        count,
        index,
        local_device_ids=devices,
        cluster_detection_method="deactivate",
        # Ours come first, and say who; JAX's own would end the process by SIGABRT.
        initialization_timeout=int(asked.start_timeout) + 60,
        heartbeat_timeout_seconds=int(2 * asked.heartbeat_timeout) + 60,
        shutdown_timeout_seconds=60,
    )
    arrived.set()
    store = distributed.global_state.client
    silence, patience = asked.heartbeat_timeout, asked.step_timeout
    watch = Watch(store, index, count, coordinator=address, silence=silence, patience=patience)
    _on_abort(watch, index, address)
    watch.start()
    return watch


def _find_coordinator(address: str, index: int, timeout: float) -> None:
    """Raises Unreachable: JAX would end the process without an exception."""
    if index == 0:
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("", int(address.rpartition(":")[2])))
            except OSError as error:
                raise Unreachable(f"process 0 can't listen at {address}: {error.strerror}") from None
        return
    until = time.monotonic() + timeout
    while not reaches(address):
        if time.monotonic() > until:
            raise Unreachable(
                f"the coordinator at {address} can't be reached within {timeout:g} s: is process 0 started there, and "
                "its port open?"
            )
        time.sleep(0.2)


def _give_up(arrived: threading.Event, left: float, timeout: float, count: int, address: str) -> None:
    if not arrived.wait(left):
        line = f"itune: error: not all of {count} processes came to {address} within {timeout:g} s\n"
        os.write(2, line.encode())
        os._exit(EXIT_PEER_LOST)


_HANDLER = ctypes.CFUNCTYPE(None, ctypes.c_int)
_handlers: list[Any] = []  # C holds no reference


def _on_abort(watch: Watch, index: int, address: str) -> None:
    """JAX ends a process by abort() as soon as the coordinator's connection breaks: turns that into a line and a code.

    Python's own signal handlers run between two instructions of the main thread, and abort() does not wait for one.
    """
    libc = ctypes.CDLL(None)
    libc.signal.argtypes, libc.signal.restype = [ctypes.c_int, ctypes.c_void_p], ctypes.c_void_p

    def handler(number: int) -> None:
        if index and not watch.over and not reaches(address):
            watch.leave(EXIT_PEER_LOST, f"process 0, the coordinator at {address}, is gone")
        libc.signal(signal.SIGABRT, None)  # anything else aborts as it would have

    _handlers.append(_HANDLER(handler))
    libc.signal(signal.SIGABRT, ctypes.cast(_handlers[-1], ctypes.c_void_p))


def _end(peers: Peers) -> None:
    import jax

    assert peers.watch is not None
    peers.meet()
    peers.watch.end()
    jax.distributed.shutdown()


def _fail(watch: Watch, error: BaseException, silence: float) -> None:
    """This process ends and the others don't yet: tells them, and does not wait for them at exit."""
    if any(word in str(error) for word in COLLECTIVES) and not isinstance(error, UserError):
        time.sleep(
            silence + 10 * watch.period
        )  # a peer that is gone breaks the others' collectives: the watch says who
    code = getattr(error, "exit_code", 130 if isinstance(error, KeyboardInterrupt) else 1)
    line = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
    watch.failed(code, " ".join(line.split())[:500])
    atexit.register(_leave, code)  # before JAX's own, which waits for the others


def _leave(code: int) -> None:
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)
