"""A model measured: a run's checkpoint on the run's own examples, or any weights on those of a recipe or a mixture."""

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
from itune.evaluation.averages import averages, clusters
from itune.evaluation.console import print_summary, print_worst
from itune.evaluation.evaluate import Evaluator, Snapshot
from itune.evaluation.rank import ranked_records
from itune.evaluation.results import Evaluation, finite, prediction_records, write_text
from itune.evaluation.scoring import facts, predictions, reader_notes, score, state_eval
from itune.evaluation.worst import worst_records
from itune.inference import session
from itune.inference.opening import Opened, open_model
from itune.parallel.config import RULES, Rules
from itune.storage import workdir
from itune.terminal import say
from itune.training.data_side import DataSide, data_side

# What may differ from the run: what is measured and where, never the model or the data that it was tuned on.
FREE = ("evaluation", "mesh")


def evaluate_checkpoint(
    model: str, step: str | None, bindings: Sequence[str], *, show_text: bool, output_format: str
) -> int:
    """Measures the run's checkpoint `step` (a number, "best", None for the newest); 0.

    Prints the results and writes them to <run>/evaluation-step-N.json: evaluation.json's form with the state under
    "after", with "step", "predictions" and "worst" beside it; predictions-step-N.jsonl and
    ranked-step-N.jsonl have a line an example. Trains nothing and takes no lock.

    Args:
      bindings: of EvalConfig and MeshConfig, over the run's own.
      show_text: also write text of sensitive tasks.

    Raises: UserError.
    """
    console = Console(stderr=True)
    run = Path(workdir.local_copy(model)).expanduser()
    config = read_config(run, bindings)
    opened = open_model(str(run), step=step)
    checkpoint = opened.checkpoint
    assert checkpoint is not None  # read_config found the run
    data = data_side(config, lambda line: say(console, line))
    if checkpoint.meta.get("plan") != data.plan.digest:
        warning = f"itune: warning: the data or its tasks have changed since {workdir.shown(run)} was trained"
        say(console, warning, "yellow")
    path = run / f"evaluation-step-{checkpoint.step}.json"
    _measure(config, data, opened, path, console, show_text=show_text, output_format=output_format)
    return 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """What to measure on: a recipe's evaluation tasks, or (gin_files empty) the `split` of a task or mixture."""

    gin_files: Sequence[str] = ()
    mixture: str = ""
    modules: Sequence[str] = ()

    def config(self, opened: Opened, bindings: Sequence[str], output: Path) -> RunConfig:
        """A run's, of which only data and evaluation matter; the weights are those opened. Raises: UserError."""
        given = [f"WeightsConfig.source={opened.source!r}", *bindings]
        if self.mixture:
            given += [f"MIXTURE_OR_TASK_NAME={self.mixture!r}", "TRAIN_STEPS=1"]
        files = self.gin_files or ["base.gin"]
        config = load_run(files, given, model_dir=output, modules=self.modules)
        data = config.data
        if self.mixture and not self.gin_files:
            data = dataclasses.replace(data, split=config.evaluation.split)  # nothing is trained on
        if opened.checkpoint is not None and data.prompt_format != "continued":
            data = dataclasses.replace(data, prompt_format=opened.prompt_format)  # as it was tuned
        return dataclasses.replace(config, data=data, weights=opened.weights)


def evaluate_model(
    model: str,
    step: str | None,
    adapter: str,
    examples: Examples,
    bindings: Sequence[str],
    output: Path | None,
    *,
    show_text: bool,
    output_format: str,
) -> int:
    """Measures any weights, or a run's checkpoint, on `examples`; 0. Writes evaluation.json,
    predictions.jsonl and ranked.jsonl.

    Raises: UserError.
    """
    console = Console(stderr=True)
    opened = open_model(model, step=step, adapter=adapter)
    name = f"{Path(model).name}-{examples.mixture or Path(examples.gin_files[-1]).stem}".replace("/", "_")
    folder = output or Path("runs/evaluations") / name
    config = examples.config(opened, bindings, folder)
    data = data_side(config, lambda line: say(console, line))
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "evaluation.json"
    _measure(config, data, opened, path, console, show_text=show_text, output_format=output_format)
    return 0


def _measure(
    config: RunConfig,
    data: DataSide,
    opened: Opened,
    path: Path,
    console: Console,
    *,
    show_text: bool,
    output_format: str,
) -> None:
    """Prints the results and writes them to `path`."""
    mesh, rules = _mesh(config, data, console)
    model = session.build(opened, mesh=mesh, rules=rules)
    say(console, f"Evaluating {opened.name} ...")
    evaluator = Evaluator(config, data.tokenizer, data.manifest, model)
    snapshot = evaluator.snapshot(model.params, lambda: None)
    evaluation, record = _results(config, data, snapshot, path.parent, console, show_text)
    sensitive = {task.name for task in data.manifest.tasks() if task.sensitive}
    worst = worst_records(evaluator.worst(snapshot), sensitive=sensitive, show_text=show_text)
    record = {"model": opened.name, "step": opened.step, **record, "worst": worst}
    private = data.manifest.sensitive
    write_text(path, json.dumps(record, indent=1, ensure_ascii=False) + "\n", private=private)
    for name in ("predictions", "ranked"):  # a line an example, beside it
        lines = "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in record.get(name, ()))
        write_text(path.with_name(f"{name}{path.stem.removeprefix('evaluation')}.jsonl"), lines, private=private)
    if output_format == "json":
        print(json.dumps(record, ensure_ascii=False))
    else:
        print_summary(evaluation, Console())
        print_worst(worst, Console())
    say(console, f"Written: {workdir.publish(path)}")


def read_config(run: Path, bindings: Sequence[str]) -> RunConfig:
    """The run's saved config.gin under `bindings`, wherever the run has moved to.

    Raises: UserError where there is no run, or for a binding that would make it another.
    """
    path = run / "config.gin"
    if not path.is_file():
        raise UserError(
            f"--model={run}: no run directory, which itune.train writes; other weights need --mixture or --gin_file"
        )
    trained = load_run([path], model_dir=run)
    config = load_run([path], bindings, model_dir=run)
    for field in dataclasses.fields(config):
        if field.name not in FREE and getattr(config, field.name) != getattr(trained, field.name):
            raise UserError(
                f"{', '.join(f'--gin.{b}' for b in bindings)}: would change the run's {field.name}; a checkpoint is "
                "measured as it was trained, and only EvalConfig and MeshConfig may differ"
            )
    return config


def _mesh(config: RunConfig, data: DataSide, console: Console) -> tuple[jax.sharding.Mesh, Rules]:
    """The run's layout where it fits this machine's devices; else one device, and a line that says so."""
    try:
        # Evaluator fills its rows up to a multiple of the devices.
        return session.lay_out(config.mesh, data.model)
    except ValueError as error:
        say(console, f"{error}: evaluating on one")
        return session.one_device(), RULES


def _results(
    config: RunConfig, data: DataSide, snapshot: Snapshot, run: Path, console: Console, show_text: bool
) -> tuple[Evaluation, dict[str, Any]]:
    """What is printed, and what is written: the same and the predictions."""
    manifest: Manifest = data.manifest
    states = {"before": Snapshot(losses=()), "after": snapshot}
    scored = score(config, states, run, console)
    after = state_eval("after", snapshot, scored)
    evaluation = Evaluation(
        after=after,
        averages=averages(after, clusters(manifest), config.evaluation.is_unseen),
        notes=reader_notes(data.folder, manifest, snapshot, scored),
        facts=facts("itune.evaluate"),
    )
    sensitive = {task.name for task in manifest.tasks() if task.sensitive}
    found = prediction_records(predictions(states, scored), sensitive=sensitive, show_text=show_text)
    record = {**finite(dataclasses.asdict(evaluation)), "predictions": found}
    if snapshot.ranked:
        record["ranked"] = ranked_records(snapshot.ranked, sensitive=sensitive, show_text=show_text)
    return evaluation, record
