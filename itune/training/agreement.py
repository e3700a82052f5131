"""What the processes of a run must have alike before it begins: version, config, data and the run's folder."""

from __future__ import annotations

import dataclasses
import secrets
import time
from pathlib import Path

import jax

import itune
from itune.config.run import RunConfig
from itune.errors import UserError
from itune.parallel.peers import Peers
from itune.storage.copy import origin_of
from itune.training.data_side import DataSide
from itune.weights.shards import weights_digest

SHARED = ".shared-by"
WAIT_SECONDS = 30.0  # network file systems show a new file late


def agree_on_run(peers: Peers, config: RunConfig, *, resume: bool) -> None:
    """Raises: UserError naming the process and the field."""
    versions = {"itune": itune.__version__, "jax": jax.__version__, "resume": resume}
    peers.same(versions | dataclasses.asdict(config))


def agree_on_data(peers: Peers, data: DataSide) -> None:
    """From now on waiting is watched. Raises: UserError naming the process and what differs: the plan, the weights."""
    if peers.watch is not None:
        peers.same({"plan": data.plan.digest, "weights": weights_digest(data.folder)})
        peers.watch.arm()


def share(peers: Peers, model_dir: Path) -> None:
    """Raises: UserError naming a process that does not see process 0's files in `model_dir`."""
    if peers.watch is None:
        return
    mark = model_dir / SHARED
    word = peers.on_main(lambda: _write(mark))
    seen = _sees(mark, word)
    try:
        peers.same({f"the files of process 0 in {model_dir}": seen})
    except UserError as error:
        give = "a --workdir" if origin_of(model_dir) is None else "for a run in a bucket, an ITUNE_CACHE_DIR"
        error.args = (f"{error.args[0].partition(': start all')[0]}: give {give} that all processes share",)
        raise
    peers.on_main(mark.unlink)


def _write(mark: Path) -> str:
    word = secrets.token_hex(8)
    mark.write_text(word)
    return word


def _sees(mark: Path, word: str) -> bool:
    until = time.monotonic() + WAIT_SECONDS
    while time.monotonic() < until:
        try:
            if mark.read_text() == word:
                return True
        except OSError:
            pass
        time.sleep(0.05)
    return False
