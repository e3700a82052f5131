"""Measures a small run's checkpoint, here or on a mesh of 8 CPU devices in a process of its own.

python -m tests.evaluation.measuring RECIPE RUN OUT DATA FSDP TENSOR    # a Snapshot, as JSON
"""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import jax

from itune.config.load import load_run
from itune.evaluation.evaluate import Evaluator, Snapshot
from itune.inference import session
from itune.inference.opening import open_model
from itune.parallel.config import MeshConfig
from itune.parallel.mesh import make_mesh
from itune.training.data_side import data_side
from tests.world import ROOT, World

BINDINGS = (
    "BATCH_SIZE=8",
    "EvalConfig.held_in=('toy/add', 'toy/echo')",
    "EvalConfig.generate_per_task=4",
    "EvalConfig.rank_per_task=4",
    "EvalConfig.generate_batch=8",
    "EvalConfig.batch_size=1",
)


def measurer(recipe: Path, run: Path) -> Callable[..., Snapshot]:
    """measure(mesh, reverse, **fields): on one device or a mesh; reverse: the tasks' order; fields: of EvalConfig."""
    config = load_run([recipe], BINDINGS, model_dir=run.parent / "unused")
    data = data_side(config, print)
    opened = open_model(str(run))

    def measure(mesh: MeshConfig | None = None, reverse: bool = False, **fields) -> Snapshot:
        changed = dataclasses.replace(config, evaluation=dataclasses.replace(config.evaluation, **fields))
        manifest = data.manifest
        if reverse:
            manifest = dataclasses.replace(manifest, held_in=manifest.held_in[::-1])
        devices = make_mesh(mesh) if mesh else make_mesh(MeshConfig(data=1), jax.devices()[:1])
        model = session.build(opened, mesh=devices)
        return Evaluator(changed, data.tokenizer, manifest, model).snapshot(model.params, lambda: None)

    return measure


def measured_apart(world: World, run: Path, mesh: MeshConfig, timeout: float = 500) -> Snapshot:
    """Eight programs at once on few cores: XLA's CPU devices may wait for each other until it gives up, which ends the
    process by SIGABRT. It is not that of the other tests."""
    out = world.folder / f"measured-{mesh.data}-{mesh.fsdp}-{mesh.tensor}.json"
    words = [world.recipe, run, out, mesh.data, mesh.fsdp, mesh.tensor]
    flags = {"XLA_FLAGS": "--xla_force_host_platform_device_count=8"}
    done = subprocess.run(
        [sys.executable, "-m", "tests.evaluation.measuring", *map(str, words)],
        cwd=ROOT,
        env=os.environ | world.environment() | flags,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, f"ended with {done.returncode}: {done.stderr[-3000:]}"
    return Snapshot.load(out)


def main() -> None:
    recipe, run, out = map(Path, sys.argv[1:4])
    sizes = dict(zip(("data", "fsdp", "tensor"), map(int, sys.argv[4:7]), strict=True))
    measurer(recipe, run)(MeshConfig(**sizes)).save(out)


if __name__ == "__main__":
    main()
