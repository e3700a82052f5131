"""The page to read first: a run from its config to its report."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
from rich.console import Console

from itune.batch import Batch
from itune.config.run import RunConfig
from itune.config.save import config_digest, to_gin
from itune.data.feed import feed
from itune.data.proportions_text import print_proportions
from itune.evaluation.evaluate import Evaluator, Snapshot
from itune.evaluation.finish import finish_run
from itune.parallel.peers import ALONE, Peers
from itune.terminal import say
from itune.training.agreement import agree_on_data, agree_on_run, share
from itune.training.checkpoint import Checkpoints
from itune.training.data_side import DataSide, data_side, look_over
from itune.training.lock import lock
from itune.training.metrics import MetricsWriter, NoMetrics, cut_back, progress_bar
from itune.training.optim import learning_rate
from itune.training.reading import MetricsReader
from itune.training.resume import (
    check_same_run,
    checkpoint_meta,
    record_proportions,
    record_run,
    restore_newest,
    set_aside,
)
from itune.training.setup import ModelSide, model_side, plan_record
from itune.training.signals import Stopped, StopRequest, stop_on_signals
from itune.training.step import TrainState

T = TypeVar("T")
EXIT_NONFINITE = 3


def train(
    config: RunConfig,
    *,
    resume: bool = True,
    show_text: bool = False,
    allow_remote_tracker: bool = False,
    before: Path | None = None,
    peers: Peers = ALONE,
) -> int:
    """Runs `config` to its end, or on from its newest checkpoint; returns the exit code.

    before: a folder in which runs that start from the same model and evaluate alike share the evaluation before step 1.
    peers: the processes of the run; all call this alike, and process 0 writes what is written once.

    0 done; 75 stopped by SIGTERM after saving; 130 interrupted after saving; 3 a non-finite loss or gradient.
    Raises: UserError for what a user can mend.
    """
    console = Console(stderr=True, quiet=not peers.main)
    model_dir = Path(config.model_dir)
    agree_on_run(peers, config, resume=resume)
    with peers.main_within(lock(model_dir)), stop_on_signals(peers.watch) as stop:
        try:
            return _run(config, model_dir, resume, show_text, allow_remote_tracker, before, console, stop, peers)
        except Stopped as stopped:
            say(console, "Stopped. The same command goes on from the newest checkpoint.")
            return stopped.exit_code


def _run(
    config: RunConfig,
    model_dir: Path,
    resume: bool,
    show_text: bool,
    allow_remote_tracker: bool,
    shared: Path | None,
    console: Console,
    stop: StopRequest,
    peers: Peers,
) -> int:
    if not resume:
        peers.on_main(lambda: set_aside(model_dir, console))
    run = start_run(config, shared, console, stop, allow_remote_tracker=allow_remote_tracker, peers=peers)
    try:
        batches = run.batches(int(run.state.step))
        state, code = timed(run.timings, "training", lambda: run.steps.run(run.state, batches, run.interval))
    finally:
        run.checkpoints.close()
    return end_run(run, state, code, show_text=show_text)


@dataclasses.dataclass(kw_only=True)
class Started:
    """A run that is ready for its first step, or for the one that it stopped before.

    interval: of the restored checkpoint.  timings: {part of the run: seconds}.
    """

    config: RunConfig
    data: DataSide
    model: ModelSide
    evaluator: Evaluator
    checkpoints: Checkpoints
    writer: MetricsWriter | NoMetrics
    console: Console
    stop: StopRequest
    peers: Peers
    before: Snapshot
    state: TrainState
    interval: dict | None
    timings: dict[str, float]

    @property
    def steps(self) -> TrainingSteps:
        parts = (self.config, self.data, self.model, self.evaluator, self.checkpoints, self.writer)
        return TrainingSteps(*parts, self.console, self.stop)

    def batches(self, step: int) -> Iterator[Batch]:
        """From that of `step` on."""
        size, norm, rows = self.config.train.batch_size, self.config.train.loss_norm, self.model.rows
        batches = feed(
            self.data.plan, self.data.reader, batch_size=size, start_row=step * size, loss_norm=norm, pick=rows
        )
        return self.peers.marked(batches, "reads its rows")


def start_run(
    config: RunConfig,
    shared: Path | None,
    console: Console,
    stop: StopRequest,
    *,
    allow_remote_tracker: bool = False,
    model_of: Callable[[RunConfig, DataSide], ModelSide] = model_side,
    peers: Peers = ALONE,
) -> Started:
    """Everything before the first step, the evaluation included. shared: `train`'s `before`."""
    start, model_dir = time.perf_counter(), Path(config.model_dir)
    peers.on_main(lambda: check_same_run(config, model_dir))
    data = data_side(config, lambda line: say(console, line), peers.main_first)
    peers.on_main(lambda: look_over(config, data, lambda line: say(console, line, "yellow")))
    agree_on_data(peers, data)
    stop.check()
    peers.on_main(lambda: record_run(config, model_dir, data, console))
    share(peers, model_dir)
    timings = {"weights and data": time.perf_counter() - start}

    model = model_of(config, data)
    evaluator = Evaluator(config, data.tokenizer, data.manifest, model)
    checkpoints = Checkpoints(model_dir, config.checkpoint, peers=peers)
    state = model.initial_state(config.seed)
    restored = restore_newest(checkpoints, state, data, console, peers)
    meta: dict = {}
    if restored is not None:
        state, meta = restored
    peers.on_main(lambda: cut_back(model_dir / "metrics.jsonl", int(state.step) if restored is not None else -1))
    writer: MetricsWriter | NoMetrics = NoMetrics()
    if peers.main:
        writer = MetricsWriter(
            model_dir,
            config.logging,
            sensitive=data.manifest.sensitive,
            allow_remote=allow_remote_tracker,
            run_config=dataclasses.asdict(config),
        )
    evaluate_before = lambda: _before(evaluator, model, state, model_dir, shared, console, stop, writer, peers)  # noqa: E731
    return Started(
        config=config,
        data=data,
        model=model,
        evaluator=evaluator,
        checkpoints=checkpoints,
        writer=writer,
        console=console,
        stop=stop,
        peers=peers,
        before=timed(timings, "evaluation before", evaluate_before),
        state=state,
        interval=meta.get("interval"),
        timings=timings,
    )


def end_run(run: Started, state: TrainState, code: int, *, show_text: bool = False) -> int:
    """Everything after the last step that was made; returns the exit code. code: why there is no more to do, or 0."""
    config, data, console, model_dir = run.config, run.data, run.console, Path(run.config.model_dir)
    proportions = run.peers.on_main(lambda: record_proportions(config, model_dir, data, int(state.step)))
    if code:
        run.writer.close()
        return code

    print_proportions(proportions, console, rest=f"in {model_dir / 'proportions.json'}")
    say(console, "Evaluating after training ...")
    measure = lambda: run.evaluator.snapshot(run.model.all_params(state), run.stop.check)  # noqa: E731
    after = timed(run.timings, "evaluation after", measure)
    run.writer.write({"step": int(state.step), "eval": after.loss_lines()})
    run.writer.close()
    worst = lambda: run.evaluator.worst(after, run.before)  # noqa: E731
    parts = (config, data.manifest, data.folder, run.before, after)
    report = lambda: finish_run(*parts, worst(), run.timings, model_dir, show_text=show_text, console=console)  # noqa: E731
    say(console, f"Report: {run.peers.on_main(lambda: str(report()))}")
    return 0


@dataclasses.dataclass
class TrainingSteps:
    """The loop proper. It dispatches step n before it reads step n - 1's metrics: devices never wait for the host."""

    config: RunConfig
    data: DataSide
    model: ModelSide
    evaluator: Evaluator
    checkpoints: Checkpoints
    writer: MetricsWriter | NoMetrics
    console: Console
    stop: StopRequest
    _saved: int = -1

    def run(self, state: TrainState, batches: Iterator[Batch], interval: dict | None = None) -> tuple[TrainState, int]:
        """(the last state, an exit code: 0 when every step was made). interval: the restored checkpoint's."""
        total, key = self.config.train.steps, jax.random.key(self.config.seed)
        reader = MetricsReader(self.config, self.data, self.writer, first_step=int(state.step), interval=interval)
        with progress_bar(self.console) as bar:
            line = bar.add_task("training", total=total, completed=int(state.step), status="compiling ...")
            for step in range(int(state.step), total):
                rate = learning_rate(self.config.learning_rate, step, total)
                batch = next(batches)
                hparams = {"learning_rate": jnp.float32(rate)}
                state, metrics = self.model.train_step(
                    state, self.model.frozen, self.model.put_own(batch), hparams, key
                )
                problem = reader.push(step, batch, metrics, rate)
                bar.update(line, completed=step, status=reader.status)
                if not self.console.is_terminal and step and step % max(1, total // 20) == 0:
                    say(self.console, f"step {step}/{total}  {reader.status}")  # a log shows no bar
                self.checkpoints.poll()
                self.stop.look()
                problem = problem or (self.between(state, reader) if self.due(reader.newest) else None)
                if problem and self.config.train.on_nonfinite == "stop":
                    say(self.console, f"itune: error: {problem}", "red")
                    return state, EXIT_NONFINITE
                if problem:
                    say(self.console, f"itune: warning: {problem}", "yellow")
                if self.stop.exit_code is not None:
                    break
            bar.update(line, completed=int(state.step), status=reader.status)
        self.finish(state, reader)
        return state, (self.stop.exit_code or 0) if int(state.step) < total else 0

    def finish(self, state: TrainState, reader: MetricsReader) -> None:
        """After the last step: a signal that came while it was being evaluated found nothing saved."""
        if self.stop.exit_code is not None and self._saved != int(state.step) and not reader.flush():
            self.save(state, reader)
        self.checkpoints.finish()

    def due(self, done: int) -> bool:
        """Whether there is something to do between steps, of which `done` are dispatched."""
        return self._saves(done) or self._evaluates(done)

    def _saves(self, done: int) -> bool:
        stopping = self.stop.exit_code is not None
        return _every(self.config.checkpoint.every, done) or done == self.config.train.steps or stopping

    def _evaluates(self, done: int) -> bool:
        going_on = done < self.config.train.steps and self.stop.exit_code is None
        return _every(self.config.evaluation.every, done) and going_on

    def between(self, state: TrainState, reader: MetricsReader) -> str | None:
        """Between steps: evaluates and saves if either is due. A step that went wrong is not saved but returned."""
        c, done = self.config, reader.newest
        save, evaluate = self._saves(done), self._evaluates(done)
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
            self.save(state, reader, loss=loss)
        return problem

    def save(self, state: TrainState, reader: MetricsReader, *, loss: float | None = None) -> None:
        """`reader` has been flushed: its sums are those of the steps that `state` has made."""
        self._saved = int(state.step)
        meta = checkpoint_meta(self.config, self.data, self._saved, reader.interval())
        self.checkpoints.save(state, meta, loss=loss)


def _every(interval: int, step: int) -> bool:
    return bool(interval) and step % interval == 0


def dry_run(config: RunConfig, *, output_format: str = "text") -> int:
    """Prints the resolved config and the plan (shapes, what each task gives, fill); compiles and trains nothing."""
    data = data_side(config, lambda line: say(Console(stderr=True), line))
    record = plan_record(config, data)
    if output_format == "json":
        resolved = {"config": dataclasses.asdict(config), "digest": config_digest(config)}
        print(json.dumps(resolved | {"plan": record}, indent=1))
    else:
        print(to_gin(config))
        print_proportions(record, Console(), rest="in the output of --format=json")
    return 0


def _before(
    evaluator: Evaluator,
    model: ModelSide,
    state: TrainState,
    model_dir: Path,
    shared: Path | None,
    console: Console,
    stop: StopRequest,
    writer: MetricsWriter | NoMetrics,
    peers: Peers,
) -> Snapshot:
    """The evaluation before step 1: made once, kept beside the run, read back when it resumes."""
    path = model_dir / ".evaluation-before.json"
    if int(state.step) > 0 and peers.on_main(path.is_file):
        return Snapshot.load(path)
    common = shared / f"{evaluator.before_digest()}.json" if shared is not None else None
    if common is not None and int(state.step) == 0 and peers.on_main(common.is_file):
        before = Snapshot.load(common)
        before.save(path)
        writer.write({"step": 0, "eval": before.loss_lines()})
        return before
    say(console, "Evaluating before training ...")
    # A resumed run whose snapshot is gone: adapters are a pure function of the seed, so "before" can be made again.
    fresh = state if int(state.step) == 0 else model.initial_state(evaluator.config.seed)
    before = evaluator.snapshot(model.all_params(fresh), stop.check, chat=evaluator.config.evaluation.chat_baseline)
    if peers.main:
        before.save(path)
    if common is not None and peers.main:
        common.parent.mkdir(parents=True, exist_ok=True)
        before.save(common)
    if int(state.step) == 0:
        writer.write({"step": 0, "eval": before.loss_lines()})
    return before


def timed(timings: dict[str, float], name: str, call: Callable[[], T]) -> T:
    """`call()`, its wall time added to `timings[name]`."""
    start = time.perf_counter()
    result = call()
    timings[name] = time.perf_counter() - start
    return result
