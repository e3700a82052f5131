"""Start and resume: a run directory belongs to one run, and goes on from its newest whole checkpoint."""

from __future__ import annotations

import dataclasses
import functools
import json
import shutil
from pathlib import Path
from typing import Any

from rich.console import Console

from itune.config.run import RunConfig
from itune.config.save import config_digest, save_run
from itune.data import decontaminate
from itune.data.proportions import as_csv
from itune.errors import UserError
from itune.parallel.peers import ALONE, Peers, difference
from itune.terminal import say
from itune.training.checkpoint import Checkpoints
from itune.training.data_side import DataSide
from itune.training.setup import plan_record
from itune.training.step import TrainState
from itune.weights.shards import weights_digest


def record_run(config: RunConfig, model_dir: Path, data: DataSide, console: Console) -> None:
    save_run(config, model_dir)
    data.manifest.save(model_dir / "manifest.json")
    if data.contamination is not None and data.contamination.hits:
        decontaminate.write(data.contamination, model_dir, private=data.manifest.sensitive)
    record = plan_record(config, data)
    (model_dir / "plan.json").write_text(json.dumps(record, indent=1))
    fill = record["summary"]["fill"]
    plan, train = data.plan, config.train
    shape = f"{train.steps} steps of {train.batch_size} rows of {plan.L} tokens, {fill['tokens']:.1%} full"
    limits = f"a row takes up to {plan.S} examples, {plan.T} supervised tokens"
    say(console, f"{config.data.mixture}: {len(data.manifest.train)} tasks, {shape} ({limits})")


def record_proportions(config: RunConfig, model_dir: Path, data: DataSide, steps: int) -> dict[str, Any]:
    """proportions.json and .csv: what each task gave in the `steps` that were made; returns the former."""
    record = plan_record(config, data, steps) | {"planned_steps": config.train.steps}
    (model_dir / "proportions.json").write_text(json.dumps(record, indent=1))
    (model_dir / "proportions.csv").write_text(as_csv(record), encoding="utf-8")
    return record


def check_same_run(config: RunConfig, model_dir: Path) -> None:
    """A run directory belongs to one run. What doesn't touch its numbers may change; the rest is refused, by name."""
    path = model_dir / "config.json"
    if not path.is_file() or not (model_dir / "checkpoints").is_dir():
        return
    free = ("model_dir", "checkpoint", "logging", "evaluation")
    old, new = json.loads(path.read_text()), json.loads(json.dumps(dataclasses.asdict(config)))
    for name in set(old) | set(new):
        if name not in free and old.get(name) != new.get(name):
            field, a, b = difference(name, old.get(name), new.get(name))
            raise UserError(
                f"{model_dir}: holds a run with {field} = {a!r}, this one has {b!r}; "
                "give another --workdir, or --no-resume to start over"
            )


def set_aside(model_dir: Path, console: Console) -> None:
    """--no-resume starts over, but loses nothing: what was there moves to previous-1, previous-2, ..."""
    names = [p for p in model_dir.iterdir() if p.name != ".lock" and not p.name.startswith("previous-")]
    if not names:
        return
    n = 1 + len(list(model_dir.glob("previous-*")))
    target = model_dir / f"previous-{n}"
    target.mkdir()
    for path in names:
        shutil.move(str(path), target / path.name)
    say(console, f"The run that was here is now in {target}")


def checkpoint_meta(config: RunConfig, data: DataSide, step: int, interval: dict[str, Any]) -> dict:
    """interval: the sums of a line of metrics.jsonl that is not yet written, `Interval.stored`."""
    window, row = data.plan.locate(step * config.train.batch_size)
    return {
        "step": step,
        "window": window,
        "row": row,
        "interval": interval,
        "plan": data.plan.digest,
        "config": config_digest(config),
        "base": data.folder.name,
        "base_weights": weights_digest(data.folder),
        "quantise": config.weights.quantise,
        "sensitive": data.manifest.sensitive,  # weights can hold what they were trained on: the mark goes with them
    }


def restore_newest(
    checkpoints: Checkpoints, state: TrainState, data: DataSide, console: Console, peers: Peers = ALONE
) -> tuple[TrainState, dict] | None:
    """(state, meta) of the newest checkpoint that is whole, or None.

    A damaged one is named and moved aside, and the one before it taken: the run makes its steps again, bit for bit.
    Raises: UserError if the data behind the run has changed.
    """
    steps = checkpoints.steps()
    for step in reversed(steps):
        try:
            restored, meta = checkpoints.restore(step, state)
        except UserError as error:
            if step == steps[0]:
                raise
            say(console, f"itune: warning: {error}", "yellow")
            checkpoints.forget(step)
            continue
        peers.on_main(functools.partial(_check_origin, checkpoints.folder, meta, data))
        say(console, f"Going on from step {step}")
        return restored, meta
    return None


def _check_origin(folder: Path, meta: dict[str, Any], data: DataSide) -> None:
    if meta.get("base_weights", weights_digest(data.folder)) != weights_digest(data.folder):
        raise UserError(
            f"{folder}: was tuned from other weights than those now in {data.folder}; "
            "bring those back, or give another --workdir, or --no-resume to start over"
        )
    if meta["plan"] != data.plan.digest:
        raise UserError(
            f"{folder}: made with other data (plan {meta['plan'][:12]}, now {data.plan.digest[:12]}): "
            "a task, template, tokenizer or library has changed; "
            "give another --workdir, or --no-resume to start over"
        )
