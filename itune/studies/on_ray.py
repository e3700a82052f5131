"""A study's runs on a Ray cluster whose nodes see the study's folder, the prepared data and this code.

Ray places the runs and starts one again whose node was lost; it goes on from its checkpoint.
"""

from __future__ import annotations

import math
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from itune.errors import UserError
from itune.studies.arms import Study
from itune.studies.outcomes import DIVERGED, DONE, state_of
from itune.studies.record import code_digest
from itune.studies.runner import Numbered, finish, grouped, opened, run_group, say_states
from itune.terminal import say
from itune.training.session import Session
from itune.training.signals import Stopped, StopRequest, stop_on_signals

# Of the environment here, what a run there reads.
ENVIRONMENT = ("ITUNE_", "JAX_", "XLA_", "HF_", "PYTHONPATH")
EVERY = 1.0  # seconds between looks at the signals


def run_on_ray(study: Study, address: str, resources: str) -> int:
    """Runs what has not been run, and writes the answers; exit codes as `run_study`.

    address: "host:port", or "auto" for RAY_ADDRESS's or this machine's.  resources: of a run, such as "GPU=1,CPU=8".
    Raises: UserError where Ray or the cluster is not there, where no node has so much, and of a run, which it names.
    """
    ray = _ray()
    wanted = read_resources(resources)
    console = Console(stderr=True)
    study, every = opened(study, console)
    groups = list(grouped(every, study.config.together))
    open_groups = [group for group in groups if _left(group)]
    say_states([run for group in groups if not _left(group) for run in group], len(every), console)
    if not open_groups:
        return finish(study, console)
    _connect(ray, address)
    try:
        _check_room(ray, wanted)
        with stop_on_signals() as stop:
            _run(ray, study, open_groups, wanted, len(every), console, stop)
    except Stopped as stopped:
        return stopped.exit_code
    finally:
        ray.shutdown()
    return finish(study, console)


def read_resources(text: str) -> dict[str, float]:
    """ "GPU=1,CPU=8" -> {"GPU": 1.0, "CPU": 8.0}. Raises: UserError."""
    found = {}
    for part in text.split(","):
        name, _, amount = part.strip().partition("=")
        try:
            found[name] = float(amount)
        except ValueError:
            found[name] = math.nan
        if not name or not (math.isfinite(found[name]) and found[name] >= 0):
            raise UserError(f"--ray_resources={text}: {part!r} must be NAME=AMOUNT, such as GPU=1")
    return found


def _ray() -> Any:
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # a run that takes no GPU sees what there is
    try:
        import ray
    except ImportError:
        raise UserError("--executor=ray needs Ray, which isn't installed: pip install 'itune[ray]'") from None
    return ray


def _connect(ray: Any, address: str) -> None:
    variables = {name: text for name, text in os.environ.items() if name.startswith(ENVIRONMENT)}
    try:
        ray.init(address=address, runtime_env={"env_vars": variables}, log_to_driver=False, logging_level="error")
    except (ConnectionError, ValueError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise UserError(f"--ray_address={address}: there is no Ray cluster to be reached ({reason})") from None


def _check_room(ray: Any, wanted: Mapping[str, float]) -> None:
    """Ray would wait for a node with so much, for ever and without a word."""
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(all(node.get(name, 0.0) >= amount for name, amount in wanted.items()) for node in nodes):
        there = "; ".join(", ".join(f"{n}={node.get(n, 0.0):g}" for n in wanted) for node in nodes)
        asked = ",".join(f"{name}={amount:g}" for name, amount in wanted.items())
        raise UserError(f"--ray_resources={asked}: no node of the cluster has so much (they have {there})")


def _left(group: Sequence[Numbered]) -> bool:
    return any(state_of(Path(config.model_dir)) not in (DONE, DIVERGED) for _, _, _, config in group)


def _run(
    ray: Any,
    study: Study,
    groups: Sequence[Sequence[Numbered]],
    wanted: Mapping[str, float],
    count: int,
    console: Console,
    stop: StopRequest,
) -> None:
    """Raises Stopped after a signal here or on a node, once the runs there have saved; UserError of a run."""
    others = {name: amount for name, amount in wanted.items() if name not in ("CPU", "GPU")}
    # Retried where its node was lost, not where it failed. One process a group: JAX keeps the devices it has seen.
    remote = ray.remote(
        num_cpus=wanted.get("CPU", 0.0),
        num_gpus=wanted.get("GPU", 0.0),
        resources=others,
        max_retries=3,
        max_calls=1,
    )(_run_there)
    where = str(Path.cwd())
    started = {remote.remote(study, group, where, code_digest()): group for group in groups}
    say(console, f"study: {len(started)} of {count} runs or groups wait for the cluster", "bold")
    waiting, failed = list(started), ""
    while waiting:
        done, waiting = ray.wait(waiting, timeout=EVERY)
        for result in done:
            code, error = _result(ray, result)
            failed = failed or error
            say_states(started[result], count, console)
            if code and stop.exit_code is None:
                stop.exit_code = code
        if (stop.exit_code is not None or failed) and waiting:
            for result in waiting:
                ray.cancel(result)  # an interrupt: what runs saves first
            ray.wait(waiting, num_returns=len(waiting), timeout=600)
            waiting = []
    if failed:
        raise UserError(failed)
    stop.check()


def _result(ray: Any, result: Any) -> tuple[int, str]:
    """(exit code, "") or (0, what is wrong)."""
    try:
        code, error = ray.get(result)
        return code, error
    except ray.exceptions.RayError as error:
        return 0, f"a run on the cluster failed: {' '.join(str(error).split())[-500:]}"


def _run_there(study: Study, group: Sequence[Numbered], folder: str, code: str) -> tuple[int, str]:
    """On a node: (the exit code of `run_group`, what was wrong)."""
    host = os.uname().nodename
    try:
        os.chdir(folder)
        sys.path.insert(0, folder)  # where the modules of tasks are looked up
        if code_digest() != code:
            return 0, f"node {host}: its code of itune's is another ({code_digest()}, here {code})"
        # Ray interrupts what is cancelled; a run saves on either signal.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return run_group(group, Session(before=study.folder / "before")), ""
    except (UserError, OSError) as error:
        return 0, f"node {host}: {error}"
