"""Checkpoints: Orbax holds the bytes, this file the promises.

Rename before delete (a kill during garbage collection never leaves a listed step half there), a digest per file
(Orbax checks its index, not its data: most flipped bits restore silently), asynchronous errors polled each step, and
the base's identity beside an adapter.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
from flax import serialization
from orbax.checkpoint.checkpoint_managers import preservation_policy as keep_policy

from itune.errors import UserError
from itune.parallel.peers import ALONE, Peers
from itune.storage.copy import fetch_step
from itune.storage.names import DIGESTS
from itune.training.config import CheckpointConfig
from itune.training.step import TrainState

DELETED = "deleted"  # Orbax renames what it drops into here; emptied once nothing is being saved
# Orbax narrates every save at INFO and warns about sharding files it doesn't need here.
logging.getLogger("absl").setLevel(logging.ERROR)


class Checkpoints:
    """The checkpoints of one run, under `<model_dir>/checkpoints/<step>`.

    A checkpoint holds {"state": TrainState as nested dicts, "meta": JSON}. Never the frozen base: an adapter's
    checkpoint is a few MB.

    on_saved: process 0 calls it with a step once that checkpoint is whole on disk, its digests written.
    """

    def __init__(
        self,
        model_dir: Path,
        config: CheckpointConfig,
        *,
        read_only: bool = False,
        peers: Peers = ALONE,
        on_saved: Callable[[int], None] = lambda step: None,
    ):
        self.folder = model_dir / "checkpoints"
        policies: list[Any] = [keep_policy.LatestN(config.keep)]
        if config.keep_best:
            policies.append(
                keep_policy.BestN(get_metric_fn=lambda m: -m["loss"], n=1, keep_checkpoints_without_metrics=False)
            )
        options = ocp.CheckpointManagerOptions(
            preservation_policy=None if read_only else keep_policy.AnyPreservationPolicy(policies),
            todelete_subdir=None if read_only else DELETED,
            read_only=read_only,
            create=not read_only,
            cleanup_tmp_directories=not read_only,
            # Without it Orbax doesn't write the loss down, and a resumed run forgets which checkpoint was best.
            best_fn=lambda m: m["loss"],
            best_mode="min",
        )
        self._manager = ocp.CheckpointManager(self.folder.absolute(), options=options)
        # A trainer that was killed right after a save had not digested it.
        self._unverified = (
            set() if read_only else {s for s in self._manager.all_steps() if not self._record(s).is_file()}
        )
        self._peers, self._on_saved = peers, on_saved

    def _record(self, step: int) -> Path:
        return self.folder / DIGESTS / f"{step}.json"

    def steps(self) -> list[int]:
        return self._peers.on_main(lambda: sorted(self._manager.all_steps()))

    def best(self) -> int | None:
        """The step with the lowest dev loss of those that were saved with one; None if there is none."""
        return self._manager.best_step()

    def save(self, state: TrainState, meta: dict, *, loss: float | None = None) -> None:
        """Starts an asynchronous save of `state` at its own step; `loss` (of dev tasks) ranks it among the best.

        A step that was saved before is saved anew: then without a loss.
        """
        step = int(state.step)
        if self._unverified:
            self.finish()  # Orbax waits here anyway; where steps are quick, no poll finds it idle
        if step in self._manager.all_steps():
            self._manager.delete(step)  # killed in between, the run makes its last steps again
        items = ocp.args.Composite(
            state=ocp.args.StandardSave(serialization.to_state_dict(_as_dict(state))), meta=ocp.args.JsonSave(meta)
        )
        self._manager.save(step, args=items, metrics=None if loss is None else {"loss": loss}, force=True)
        self._unverified.add(step)

    def poll(self) -> None:
        """Raises what a background save failed with (a full disk shows nowhere else); digests the finished saves."""
        self._manager.check_for_errors()
        if self._unverified and not self._manager.is_saving_in_progress():
            if self._peers.main:  # it commits a checkpoint once all processes have written theirs
                self._digest()
            self._unverified.clear()

    def _digest(self) -> None:
        steps = sorted(self._manager.all_steps())
        whole = sorted(self._unverified & set(steps))
        for step in whole:
            write_digests(self.folder, step)
        prune_digests(self.folder, steps)
        if whole:
            self._on_saved(whole[-1])
        shutil.rmtree(self.folder / DELETED, ignore_errors=True)

    def finish(self) -> None:
        """Waits until every save is on disk."""
        self._manager.wait_until_finished()
        self.poll()

    def close(self) -> None:
        """Of several processes one that fails, and closes on its way out, must not wait here for the others."""
        if self._peers.count == 1 or sys.exc_info()[0] is None:
            self._manager.close()

    def restore(self, step: int, like: TrainState) -> tuple[TrainState, dict]:
        """(state with the shardings of `like`, meta).

        Raises: UserError if a file's digest differs, or if the checkpoint holds other parameters than this run trains.
        """
        self._peers.on_main(lambda: self._check(step, like))
        target = serialization.to_state_dict(_as_dict(like))
        abstract = jax.tree.map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype, sharding=a.sharding), target)
        try:
            items = self._manager.restore(
                step, args=ocp.args.Composite(state=ocp.args.StandardRestore(abstract), meta=ocp.args.JsonRestore())
            )
        except (ValueError, KeyError, TypeError) as e:
            raise UserError(
                f"{self.folder / str(step)}: does not fit what this run trains ({str(e).splitlines()[0][:200]})"
            ) from None
        restored = serialization.from_state_dict(_as_dict(like), items["state"])
        return TrainState(restored["params"], restored["opt_state"], jnp.asarray(restored["step"])), items["meta"]

    def _check(self, step: int, like: TrainState) -> None:
        fetch_step(self.folder.parent, step)
        verify(self.folder, step)
        self._check_params(step, like)

    def _check_params(self, step: int, like: TrainState) -> None:
        """Before Orbax reads anything: where one of its reads fails, it abandons the others in mid-air."""
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            path = (self.folder / str(step) / "state").absolute()
            stored = {n: tuple(a.shape) for n, a in reader.metadata(path).item_metadata.tree["params"].items()}
        trains = {name: tuple(array.shape) for name, array in like.params.items()}
        for name in sorted(stored.keys() | trains.keys()):
            if stored.get(name) != trains.get(name):
                raise UserError(
                    f"{self.folder / str(step)}: does not fit what this run trains ({name} is {stored.get(name)} there "
                    f"and {trains.get(name)} here)"
                )

    def forget(self, step: int) -> None:
        """Moves a damaged checkpoint out of the way, beside the others, so that the step can be saved again."""
        self._peers.on_main(lambda: self._set_aside(step))
        self._manager.reload()

    def _set_aside(self, step: int) -> None:
        damaged = self.folder.parent / "damaged" / str(step)
        damaged.parent.mkdir(exist_ok=True)
        shutil.rmtree(damaged, ignore_errors=True)
        (self.folder / str(step)).rename(damaged)
        self._record(step).unlink(missing_ok=True)
        self._unverified.discard(step)

    def meta(self, step: int) -> dict:
        return self._manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]

    def restore_params(self, step: int) -> dict[str, Any]:
        """Only the trained parameters, by path, as host arrays: on any devices, whatever devices trained them."""
        fetch_step(self.folder.parent, step)
        verify(self.folder, step)
        with ocp.Checkpointer(ocp.PyTreeCheckpointHandler()) as reader:
            path = (self.folder / str(step) / "state").absolute()
            stored = reader.metadata(path).item_metadata.tree["params"]
            args = ocp.args.PyTreeRestore(
                item={"params": dict.fromkeys(stored, 0)},
                restore_args={"params": {name: ocp.RestoreArgs(restore_type=np.ndarray) for name in stored}},
                partial_restore=True,
            )
            return dict(reader.restore(path, args=args)["params"])


def _as_dict(state: TrainState) -> dict:
    return {"params": state.params, "opt_state": state.opt_state, "step": state.step}


def write_digests(folder: Path, step: int) -> None:
    """Records sha256 and size of each file of a finished step, in `<folder>/digests/<step>.json`."""
    root = folder / str(step)
    files = {str(p.relative_to(root)): [p.stat().st_size, _sha256(p)] for p in sorted(root.rglob("*")) if p.is_file()}
    target = folder / DIGESTS / f"{step}.json"
    target.parent.mkdir(exist_ok=True)
    temporary = target.with_suffix(".tmp")
    temporary.write_text(json.dumps({"files": files}, indent=1))
    os.replace(temporary, target)


def digests(folder: Path, step: int) -> dict[str, Any]:
    """What `write_digests` recorded of a step, or would have: of one that was killed right after its save."""
    if not (folder / DIGESTS / f"{step}.json").is_file():
        write_digests(folder, step)
    return json.loads((folder / DIGESTS / f"{step}.json").read_text())


def prune_digests(folder: Path, steps: list[int]) -> None:
    for path in (folder / DIGESTS).glob("*.json"):
        if int(path.stem) not in steps:
            path.unlink()


def verify(folder: Path, step: int) -> bool:
    """True if every recorded file of the step is there and unchanged.

    False if no digests were recorded (killed right after the save).
    Raises: UserError naming the first file that differs.
    """
    record = folder / DIGESTS / f"{step}.json"
    if not record.is_file():
        return False
    for name, (size, digest) in json.loads(record.read_text())["files"].items():
        path = folder / str(step) / name
        if not path.is_file() or path.stat().st_size != size or _sha256(path) != digest:
            raise UserError(
                f"{path}: is damaged (its digest differs from the one recorded when it was saved); "
                f"remove {folder / str(step)} to continue from an older checkpoint"
            )
    return True


def _sha256(path: Path) -> str:
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()
