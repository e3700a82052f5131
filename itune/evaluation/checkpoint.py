"""One checkpoint of a run, measured again on the run's own examples."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
from rich.console import Console

from itune.config.load import load_run
from itune.config.run import RunConfig
from itune.data.manifest import Manifest
from itune.errors import UserError
from itune.evaluation.console import print_summary, print_worst
from itune.evaluation.evaluate import Evaluator, Snapshot
from itune.evaluation.results import Evaluation, finite, prediction_records, write_text
from itune.evaluation.scoring import facts, predictions, reader_notes, score, state_eval
from itune.evaluation.worst import worst_records
from itune.inference import session
from itune.inference.opening import open_model
from itune.parallel.config import MeshConfig
from itune.parallel.mesh import check_shapes, make_mesh
from itune.terminal import say
from itune.training.data_side import DataSide, data_side

# What may differ from the run: what is measured and where, never the model or the data that it was tuned on.
FREE = ("evaluation", "mesh")


def evaluate_checkpoint(
    run: Path, step: str | None, bindings: Sequence[str], *, show_text: bool, output_format: str
) -> int:
    """Measures the run's checkpoint `step` (a number, "best", None for the newest); 0.

    Prints the results and writes them to <run>/evaluation-step-N.json: evaluation.json's form with the state under
    "after", with "step", "predictions" and "worst" beside it. Trains nothing and takes no lock.

    Args:
      bindings: of EvalConfig and MeshConfig, over the run's own.
      show_text: also write text of sensitive tasks.

    Raises: UserError.
    """
    console = Console(stderr=True)
    config = read_config(run, bindings)
    opened = open_model(str(run), step=step)
    checkpoint = opened.checkpoint
    assert checkpoint is not None  # read_config found the run
    data = data_side(config, lambda line: say(console, line))
    if checkpoint.meta.get("plan") != data.plan.digest:
        warning = f"itune: warning: the data or its tasks have changed since {run} was trained"
        say(console, warning, "yellow")
    model = session.build(opened, mesh=_mesh(config, data, console))
    say(console, f"Evaluating {run} at step {checkpoint.step} ...")
    evaluator = Evaluator(config, data.tokenizer, data.manifest, model)
    snapshot = evaluator.snapshot(model.params, lambda: None)
    evaluation, record = _results(config, data, snapshot, run, console, show_text)
    sensitive = {task.name for task in data.manifest.tasks() if task.sensitive}
    worst = worst_records(evaluator.worst(snapshot), sensitive=sensitive, show_text=show_text)
    record = {"step": checkpoint.step, **record, "worst": worst}
    path = run / f"evaluation-step-{checkpoint.step}.json"
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n", private=data.manifest.sensitive)
    if output_format == "json":
        print(json.dumps(record, ensure_ascii=False))
    else:
        print_summary(evaluation, Console())
        print_worst(worst, Console())
    say(console, f"Written: {path}")
    return 0


def read_config(run: Path, bindings: Sequence[str]) -> RunConfig:
    """The run's saved config.gin under `bindings`, wherever the run has moved to.

    Raises: UserError where there is no run, or for a binding that would make it another.
    """
    path = run / "config.gin"
    if not path.is_file():
        raise UserError(f"--model={run}: no run directory; python -m itune.train writes a config.gin there")
    trained = load_run([path], model_dir=run)
    config = load_run([path], bindings, model_dir=run)
    for field in dataclasses.fields(config):
        if field.name not in FREE and getattr(config, field.name) != getattr(trained, field.name):
            raise UserError(
                f"{', '.join(f'--gin.{b}' for b in bindings)}: would change the run's {field.name}; a checkpoint is "
                "measured as it was trained, and only EvalConfig and MeshConfig may differ"
            )
    return config


def _mesh(config: RunConfig, data: DataSide, console: Console) -> jax.sharding.Mesh:
    """The run's mesh where it fits this machine's devices; else one device, and a line that says so."""
    try:
        mesh = make_mesh(config.mesh)
        # Evaluator fills its rows up to a multiple of the devices.
        check_shapes(mesh, batch_size=mesh.size, accumulation=1, num_kv_heads=data.model.num_kv_heads)
    except ValueError as error:
        say(console, f"{error}: evaluating on one")
        return make_mesh(MeshConfig(data=1), jax.devices()[:1])
    return mesh


def _results(
    config: RunConfig, data: DataSide, snapshot: Snapshot, run: Path, console: Console, show_text: bool
) -> tuple[Evaluation, dict[str, Any]]:
    """What is printed, and what is written: the same and the predictions."""
    manifest: Manifest = data.manifest
    states = {"before": Snapshot(losses=()), "after": snapshot}
    scored = score(config, states, run, console)
    evaluation = Evaluation(
        after=state_eval("after", snapshot, scored),
        notes=reader_notes(data.folder, manifest, snapshot, scored),
        facts=facts("itune.evaluate"),
    )
    sensitive = {task.name for task in manifest.tasks() if task.sensitive}
    found = prediction_records(predictions(states, scored), sensitive=sensitive, show_text=show_text)
    return evaluation, {**finite(dataclasses.asdict(evaluation)), "predictions": found}
