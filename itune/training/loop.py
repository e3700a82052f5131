"""The page to read first: a run from its config to its report."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from rich.console import Console

from itune.batch import Batch
from itune.config.run import RunConfig
from itune.config.save import config_digest, save_run
from itune.data.feed import feed
from itune.errors import UserError
from itune.evaluation.evaluate import Evaluator, Snapshot
from itune.evaluation.finish import finish_run
from itune.training.checkpoint import Checkpoints
from itune.training.lock import lock
from itune.training.metrics import MetricsWriter, cut_back, progress_bar
from itune.training.optim import learning_rate
from itune.training.setup import DataSide, ModelSide, data_side, model_side, plan_record
from itune.training.signals import Stopped, StopRequest, stop_on_signals
from itune.training.step import StepMetrics, TrainState

EXIT_NONFINITE = 3


def train(
    config: RunConfig, *, resume: bool = True, show_text: bool = False, allow_remote_tracker: bool = False
) -> int:
    """Runs `config` to its end, or on from its newest checkpoint; returns the exit code.

    0 done; 75 stopped by SIGTERM after saving; 130 interrupted after saving; 3 a non-finite loss or gradient.
    Raises: UserError for what a user can mend.
    """
    console = Console(stderr=True)
    model_dir = Path(config.model_dir)
    with lock(model_dir), stop_on_signals() as stop:
        try:
            return _run(config, model_dir, resume, show_text, allow_remote_tracker, console, stop)
        except Stopped as stopped:
            console.print("Stopped. The same command goes on from the newest checkpoint.")
            return stopped.exit_code


def _run(config, model_dir: Path, resume, show_text, allow_remote_tracker, console: Console, stop: StopRequest) -> int:
    start_of_run = time.perf_counter()
    if not resume:
        _set_aside(model_dir, console)
    _check_same_run(config, model_dir)
    data = data_side(config, lambda line: console.print(line, markup=False, highlight=False))
    stop.check()
    _record_run(config, model_dir, data, console)
    timings = {"weights and data": time.perf_counter() - start_of_run}

    model = model_side(config, data)
    evaluator = Evaluator(config, data.tokenizer, data.manifest, model)
    checkpoints = Checkpoints(model_dir, config.checkpoint)
    state = model.initial_state(config.seed)
    restored = _restore(checkpoints, state, data, console)
    if restored is not None:
        state = restored
    cut_back(model_dir / "metrics.jsonl", int(state.step))
    writer = MetricsWriter(
        model_dir,
        config.logging,
        sensitive=data.manifest.sensitive,
        allow_remote=allow_remote_tracker,
        run_config=dataclasses.asdict(config),
    )

    before = timed(
        timings, "evaluation before", lambda: _before(evaluator, model, state, model_dir, console, stop, writer)
    )
    try:
        start = int(state.step)
        size = config.train.batch_size
        batches = feed(
            data.plan, data.reader, batch_size=size, start_row=start * size, loss_norm=config.train.loss_norm
        )
        steps = TrainingSteps(config, data, model, evaluator, checkpoints, writer, console, stop)
        state, code = timed(timings, "training", lambda: steps.run(state, batches))
    finally:
        checkpoints.close()
    if code:
        writer.close()
        return code

    console.print("Evaluating after training ...")
    after = timed(timings, "evaluation after", lambda: evaluator.snapshot(model.all_params(state), stop.check))
    writer.write({"step": int(state.step), "eval": after.loss_lines()})
    writer.close()
    report = finish_run(
        config, data.manifest, data.folder, before, after, timings, model_dir, show_text=show_text, console=console
    )
    console.print(f"Report: {report}", markup=False, highlight=False)
    return 0


@dataclasses.dataclass
class TrainingSteps:
    """The loop proper. Dispatches step n before it reads step n - 1's metrics, so the devices never wait for the host."""

    config: RunConfig
    data: DataSide
    model: ModelSide
    evaluator: Evaluator
    checkpoints: Checkpoints
    writer: MetricsWriter
    console: Console
    stop: StopRequest
    _saved: int = -1

    def run(self, state: TrainState, batches: Iterator[Batch]) -> tuple[TrainState, int]:
        """(the last state, an exit code: 0 when every step was made)."""
        total, key = self.config.train.steps, jax.random.key(self.config.seed)
        reader = MetricsReader(self.config, self.data, self.writer)
        with progress_bar(self.console) as bar:
            line = bar.add_task("training", total=total, completed=int(state.step), status="compiling ...")
            for step in range(int(state.step), total):
                rate = learning_rate(self.config.learning_rate, step, total)
                batch = next(batches)
                hparams = {"learning_rate": jnp.float32(rate)}
                state, metrics = self.model.train_step(state, self.model.frozen, self.model.put(batch), hparams, key)
                problem = reader.push(step, batch, metrics, rate)
                bar.update(line, completed=step, status=reader.status)
                self.checkpoints.poll()
                problem = problem or self._between(state, reader)
                if problem and self.config.train.on_nonfinite == "stop":
                    self.console.print(f"itune: error: {problem}", style="red", markup=False)
                    return state, EXIT_NONFINITE
                if self.stop.exit_code is not None:
                    break
            bar.update(line, completed=int(state.step), status=reader.status)
        # A signal that came while the last step was being evaluated found nothing saved.
        if self.stop.exit_code is not None and self._saved != int(state.step) and not reader.flush():
            self.save(state)
        self.checkpoints.finish()
        return state, (self.stop.exit_code or 0) if int(state.step) < total else 0

    def _between(self, state: TrainState, reader: MetricsReader) -> str | None:
        """Between steps: evaluates and saves if either is due. Returns what was wrong with the newest step, which is then not saved."""
        c, total = self.config, self.config.train.steps
        done = reader.newest
        stopping = self.stop.exit_code is not None
        save = _every(c.checkpoint.every, done) or done == total or stopping
        evaluate = _every(c.evaluation.every, done) and done < total and not stopping
        if not (save or evaluate):
            return None
        problem = reader.flush()
        if problem and c.train.on_nonfinite == "stop":
            return problem
        loss = None
        if evaluate:
            snapshot = self.evaluator.snapshot(self.model.all_params(state), lambda: None, generate=False)
            self.writer.write({"step": done, "eval": snapshot.loss_lines()})
            loss = snapshot.pooled_loss("held_in")
            reader.restart_clock()
        if save:
            self.save(state, loss=loss)
        return problem

    def save(self, state: TrainState, *, loss: float | None = None) -> None:
        self._saved = int(state.step)
        self.checkpoints.save(state, _meta(self.config, self.data, self._saved), loss=loss)


def _every(interval: int, step: int) -> bool:
    return bool(interval) and step % interval == 0


class MetricsReader:
    """Reads metrics one step late and writes them; keeps what the progress bar shows."""

    def __init__(self, config: RunConfig, data: DataSide, writer: MetricsWriter):
        self.config, self.data, self.writer = config, data, writer
        self._pending: tuple[int, Batch, StepMetrics, float] | None = None
        self._last = time.perf_counter()
        self.newest = 0  # steps dispatched
        self.status = ""

    def push(self, step: int, batch: Batch, metrics: StepMetrics, rate: float) -> str | None:
        """Takes step n's metrics (still being computed) and reads step n - 1's; returns what was wrong with that one."""
        problem = self.flush()
        self._pending = (step, batch, metrics, rate)
        self.newest = step + 1
        return problem

    def restart_clock(self) -> None:
        """After something that wasn't a step."""
        self._last = time.perf_counter()

    def flush(self) -> str | None:
        if self._pending is None:
            return None
        (step, batch, metrics, rate), self._pending = self._pending, None
        m = jax.device_get(metrics)
        now = time.perf_counter()
        seconds, self._last = now - self._last, now
        if (step + 1) % self.config.train.log_every == 0 or not m.finite:
            self.writer.write(self._record(step, m, rate, seconds, batch))
        supervised = float(m.task_tokens.sum())
        self.status = f"loss {m.loss_sum / max(m.weight, 1e-9):.3f}  {m.tokens / seconds:.0f} tok/s  {supervised / seconds:.0f} supervised/s"
        return None if m.finite else self._blame(step, m)

    def _record(self, step: int, m, rate: float, seconds: float, batch: Batch) -> dict:
        names = self.data.task_names
        present = [n for n in range(len(names)) if m.task_tokens[n] > 0]
        supervised = int(m.task_tokens.sum())
        return {
            "step": step + 1,
            "loss": _finite(m.loss_sum / max(m.weight, 1e-9)),
            "task_loss": {names[n]: _finite(m.task_nll[n] / m.task_tokens[n]) for n in present},
            "task_tokens": {names[n]: int(m.task_tokens[n]) for n in present},
            "tokens": int(m.tokens),
            "supervised_tokens": supervised,
            "tokens_per_s": round(float(m.tokens) / seconds, 2),
            "supervised_tokens_per_s": round(supervised / seconds, 2),
            "fill": round(float(m.tokens) / batch.tokens.size, 4),
            "learning_rate": rate,
            "grad_norm": _finite(m.grad_norm),
            "finite": bool(m.finite),
            "seconds": round(seconds, 4),
            "row": (step + 1) * self.config.train.batch_size,
        }

    def _blame(self, step: int, m) -> str:
        """One line: the examples whose own loss is not finite, or else all of the step's."""
        first = step * self.config.train.batch_size
        guilty, everyone = [], []
        for b in range(self.config.train.batch_size):
            for s, segment in enumerate(self.data.plan.row(first + b).segments):
                name = (
                    f"{self.data.task_names[segment.task]}:{self.data.reader.record(segment.task, segment.record).id}"
                )
                everyone.append(name)
                if not np.isfinite(m.example_nll[b, s]):
                    guilty.append(name)
        names = guilty or everyone
        what = "loss of" if guilty else "gradient is not finite; the step's examples are"
        shown = ", ".join(names[:8]) + (f" and {len(names) - 8} more" if len(names) > 8 else "")
        tail = " is not finite" if guilty else ""
        return f"step {step + 1}: {what} {shown}{tail}; the update was not applied"


def dry_run(config: RunConfig, *, output_format: str = "text") -> int:
    """Prints the resolved config and the plan (shapes, what each task gives, fill); compiles and trains nothing."""
    from itune.config.save import to_gin
    from itune.evaluation.finish import print_plan

    data = data_side(config, lambda line: Console(stderr=True).print(line, markup=False, highlight=False))
    record = plan_record(config, data)
    if output_format == "json":
        print(
            json.dumps(
                {"config": dataclasses.asdict(config), "digest": config_digest(config), "plan": record}, indent=1
            )
        )
    else:
        print(to_gin(config))
        print_plan(record, Console())
    return 0


# ---- start, resume, stop ---------------------------------------------------------------------------------------------------


def _record_run(config: RunConfig, model_dir: Path, data: DataSide, console: Console) -> None:
    save_run(config, model_dir)
    data.manifest.save(model_dir / "manifest.json")
    record = plan_record(config, data)
    (model_dir / "plan.json").write_text(json.dumps(record, indent=1))
    fill = record["summary"]["fill"]
    console.print(
        f"{config.data.mixture}: {len(data.manifest.train)} tasks, {config.train.steps} steps of {config.train.batch_size} x {data.plan.L} tokens "
        f"(T={data.plan.T}, S={data.plan.S}), {fill['tokens']:.1%} of them real",
        highlight=False,
    )


def _check_same_run(config: RunConfig, model_dir: Path) -> None:
    """A run directory belongs to one run. What doesn't touch its numbers may change; anything else is refused, by name."""
    path = model_dir / "config.json"
    if not path.is_file() or not (model_dir / "checkpoints").is_dir():
        return
    free = ("model_dir", "checkpoint", "logging", "evaluation")
    old, new = json.loads(path.read_text()), json.loads(json.dumps(dataclasses.asdict(config)))
    for name in set(old) | set(new):
        if name not in free and old.get(name) != new.get(name):
            field, a, b = _first_difference(name, old.get(name), new.get(name))
            raise UserError(
                f"{model_dir}: holds a run with {field} = {a!r}, this one has {b!r}; give another --workdir, or --no-resume to start over"
            )


def _first_difference(name: str, old, new) -> tuple[str, object, object]:
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted(set(old) | set(new)):
            if old.get(key) != new.get(key):
                return _first_difference(f"{name}.{key}", old.get(key), new.get(key))
    return name, old, new


def _set_aside(model_dir: Path, console: Console) -> None:
    """--no-resume starts over, but loses nothing: what was there moves to previous-1, previous-2, ..."""
    names = [p for p in model_dir.iterdir() if p.name != ".lock" and not p.name.startswith("previous-")]
    if not names:
        return
    n = 1 + len(list(model_dir.glob("previous-*")))
    target = model_dir / f"previous-{n}"
    target.mkdir()
    for path in names:
        shutil.move(str(path), target / path.name)
    console.print(f"The run that was here is now in {target}", markup=False, highlight=False)


def _meta(config: RunConfig, data: DataSide, step: int) -> dict:
    window, row = data.plan.locate(step * config.train.batch_size)
    return {
        "step": step,
        "window": window,
        "row": row,
        "plan": data.plan.digest,
        "config": config_digest(config),
        "base": data.folder.name,
    }


def _restore(checkpoints: Checkpoints, state: TrainState, data: DataSide, console: Console) -> TrainState | None:
    """The newest checkpoint that is whole, or None. A damaged one is named, and the one before it taken: the run makes the steps again."""
    steps = checkpoints.steps()
    for step in reversed(steps):
        try:
            restored, meta = checkpoints.restore(step, state)
        except UserError as error:
            if step == steps[0]:
                raise
            console.print(f"itune: warning: {error}", style="yellow", markup=False)
            checkpoints.forget(step)
            continue
        if meta["plan"] != data.plan.digest:
            raise UserError(
                f"{checkpoints.folder}: was made with other data (plan {meta['plan'][:12]}, now {data.plan.digest[:12]}): a task, template, tokenizer or "
                "library has changed; give another --workdir, or --no-resume to start over"
            )
        console.print(f"Going on from step {step}", highlight=False)
        return restored
    return None


def _before(
    evaluator: Evaluator, model: ModelSide, state: TrainState, model_dir: Path, console, stop: StopRequest, writer
) -> Snapshot:
    """The evaluation before step 1: made once, kept beside the run, read back when it resumes."""
    path = model_dir / ".evaluation-before.json"
    if int(state.step) > 0 and path.is_file():
        return Snapshot.load(path)
    console.print("Evaluating before training ...")
    # A resumed run whose snapshot is gone: adapters are a pure function of the seed, so "before" can be made again.
    fresh = state if int(state.step) == 0 else model.initial_state(evaluator.config.seed)
    before = evaluator.snapshot(model.all_params(fresh), stop.check, chat=evaluator.config.evaluation.chat_baseline)
    before.save(path)
    if int(state.step) == 0:
        writer.write({"step": 0, "eval": before.loss_lines()})
    return before


def timed(timings: dict, name: str, call):
    """`call()`, its wall time added to `timings[name]`."""
    start = time.perf_counter()
    result = call()
    timings[name] = time.perf_counter() - start
    return result


def _finite(x) -> float | None:
    return float(x) if np.isfinite(x) else None
