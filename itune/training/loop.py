"""The page to read first: a run from its config to its report."""

from __future__ import annotations

import collections
import contextlib
import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

import jax
import jax.numpy as jnp
from rich.console import Console

from itune.batch import Batch
from itune.config.run import RunConfig
from itune.config.save import config_digest, to_gin
from itune.data.proportions_text import print_proportions
from itune.storage.workdir import Workdir, open_workdir
from itune.terminal import say
from itune.training.agreement import agree_on_run
from itune.training.data_side import data_side
from itune.training.lock import lock
from itune.training.metrics import MetricsWriter, progress_bar
from itune.training.optim import learning_rate
from itune.training.profile import StepProfiler
from itune.training.reading import MetricsReader
from itune.training.resume import (
    checkpoint_meta,
    set_aside,
)
from itune.training.run import Started, end_run, start_run, timed
from itune.training.session import Session
from itune.training.setup import plan_record
from itune.training.signals import EXIT_INTERRUPTED, EXIT_PREEMPTED, EXIT_REFUSED, Stopped, StopRequest, stop_on_signals
from itune.training.step import TrainState

T = TypeVar("T")
EXIT_NONFINITE = 3


def train(
    config: RunConfig,
    *,
    resume: bool = True,
    show_text: bool = False,
    allow_remote_tracker: bool = False,
    session: Session | None = None,
) -> int:
    """Runs `config` to its end, or on from its newest checkpoint; returns the exit code.

    session: what the runs of this process share, if there are others.

    0 done; 75 stopped by SIGTERM after saving; 130 interrupted after saving; 3 a non-finite loss or gradient; 74 done,
    but its bucket could not be reached at the end.
    Raises: UserError for what a user can mend.
    """
    session = session or Session()
    agree_on_run(session.peers, config, resume=resume)
    with _workdir(config, session, resume) as workdir, stop_on_signals(session.peers.watch) as stop:
        workdir.when_lost(lambda: stop.ask(EXIT_REFUSED))
        try:
            code = _run(config, config.folder, resume, show_text, allow_remote_tracker, session, stop, workdir)
        except Stopped as stopped:
            code = stopped.exit_code
        if code in (EXIT_PREEMPTED, EXIT_INTERRUPTED):
            say(session.console, "Stopped. The same command goes on from the newest checkpoint.")
        return session.peers.on_main(lambda: workdir.finish(code))


@contextlib.contextmanager
def _workdir(config: RunConfig, session: Session, resume: bool) -> Iterator[Workdir]:
    """The run's folder, locked; of one in a bucket, its copy and its lease. All of it is process 0's."""
    opened = [Workdir()]

    @contextlib.contextmanager
    def main() -> Iterator[None]:
        echo = lambda line: say(session.console, line)  # noqa: E731
        with lock(config.folder), open_workdir(config.model_dir, resume=resume, echo=echo) as workdir:
            opened.append(workdir)
            yield

    with session.peers.main_within(main()):
        yield opened[-1]


def _run(
    config: RunConfig,
    model_dir: Path,
    resume: bool,
    show_text: bool,
    allow_remote_tracker: bool,
    session: Session,
    stop: StopRequest,
    workdir: Workdir,
) -> int:
    if not resume:
        session.peers.on_main(lambda: set_aside(model_dir, session.console))
    run = start_run(config, session, stop, workdir, allow_remote_tracker=allow_remote_tracker)
    try:
        batches, steps = run.batches(int(run.state.step)), TrainingSteps(run)
        state, code = timed(run.timings, "training", lambda: steps.make(run.state, batches, run.interval))
    finally:
        run.checkpoints.close()
    return end_run(run, state, code, show_text=show_text)


@dataclasses.dataclass
class TrainingSteps:
    """The loop proper. It dispatches step n before it reads those before it: devices never wait for the host."""

    run: Started
    _saved: int = -1

    def make(self, state: TrainState, batches: Iterator[Batch], interval: dict | None = None) -> tuple[TrainState, int]:
        """(the last state, an exit code: 0 when every step was made). interval: the restored checkpoint's."""
        run, config = self.run, self.run.config
        total, start, key = config.train.steps, int(state.step), jax.random.key(config.seed)
        reader = self.reader(start, interval)
        on_devices = ahead(batches, run.model.put_own)
        traces = StepProfiler(config.logging, config.folder, on=isinstance(run.writer, MetricsWriter))
        with progress_bar(run.console) as bar, traces as profiler:
            line = bar.add_task("training", total=total, completed=start, status="compiling ...")
            self.catch_up(state, reader)
            for step in range(start, start if run.dev.over else total):
                rate = learning_rate(config.learning_rate, step, total)
                with run.clock.part("input"):
                    batch, placed = next(on_devices)
                with self.compiling(reader, first=step == start), profiler.step(step):
                    hparams = {"learning_rate": jnp.float32(rate)}
                    state, metrics = run.model.train_step(state, run.model.frozen, placed, hparams, key)
                problem = reader.push(step, batch, metrics, rate)
                self.tell(profiler.after(step, metrics.finite))
                bar.update(line, completed=step, status=reader.status)
                if not run.console.is_terminal and step and step % max(1, total // 20) == 0:
                    say(run.console, f"step {step}/{total}  {reader.status}")  # a log shows no bar
                run.checkpoints.poll()
                run.stop.look()
                problem = problem or (self.between(state, reader) if self.due(reader.newest) else None)
                if problem and config.train.on_nonfinite == "stop":
                    say(run.console, f"itune: error: {problem}", "red")
                    return state, EXIT_NONFINITE
                if problem:
                    say(run.console, f"itune: warning: {problem}", "yellow")
                if run.stop.exit_code is not None or run.dev.over:
                    break
            bar.update(line, completed=int(state.step), status=reader.status)
        self.finish(state, reader)
        return state, (run.stop.exit_code or 0) if int(state.step) < total else 0

    def reader(self, first_step: int, interval: dict | None = None) -> MetricsReader:
        parts = (self.run.config, self.run.data, self.run.writer)
        return MetricsReader(*parts, first_step=first_step, interval=interval, clock=self.run.clock)

    @contextlib.contextmanager
    def compiling(self, reader: MetricsReader, *, first: bool) -> Iterator[None]:
        """Around a dispatch: the first waits until the step is compiled, which is none of the step's own time."""
        if not first:
            yield
            return
        with self.run.clock.part("compile"):
            yield
        reader.restart_clock()

    def tell(self, line: str | None) -> None:
        if line:
            say(self.run.console, line)

    def finish(self, state: TrainState, reader: MetricsReader) -> None:
        """After the last step: a signal that came while it was being evaluated found nothing saved."""
        if self.run.stop.exit_code is not None and self._saved != int(state.step) and not reader.flush():
            self.save(state, reader)
        self.run.checkpoints.finish()

    def due(self, done: int) -> bool:
        """Whether there is something to do between steps, of which `done` are dispatched."""
        return self._saves(done) or self._evaluates(done)

    def _saves(self, done: int) -> bool:
        stopping = self.run.stop.exit_code is not None
        return _every(self.run.config.checkpoint.every, done) or done == self.run.config.train.steps or stopping

    def _evaluates(self, done: int) -> bool:
        going_on = done < self.run.config.train.steps and self.run.stop.exit_code is None
        return _every(self.run.config.evaluation.every, done) and going_on

    def between(self, state: TrainState, reader: MetricsReader) -> str | None:
        """Between steps: evaluates and saves if either is due. A step that went wrong is not saved but returned."""
        c, done = self.run.config, reader.newest
        save, evaluate = self._saves(done), self._evaluates(done)
        problem = reader.flush()
        if problem and c.train.on_nonfinite == "stop":
            return problem
        loss = self.evaluate(state, done, reader) if evaluate else None
        if save or (evaluate and self.run.dev.patience and (self.run.dev.best == done or self.run.dev.over)):
            self.save(state, reader, loss=loss)
        return problem

    def evaluate(self, state: TrainState, done: int, reader: MetricsReader) -> float | None:
        """The loss that the run is judged by, of the tasks that are not unseen."""
        with self.run.clock.part("evaluation"):
            snapshot = self.run.evaluator.snapshot(
                self.run.model.all_params(state), lambda: None, generate=False, unseen=False
            )
        loss = snapshot.pooled_loss(self.run.config.evaluation.choose_by)
        self.run.dev.add(done, loss)
        self.run.writer.write({"step": done, "eval": snapshot.loss_lines(), **self.run.dev.line()})
        reader.restart_clock()
        return loss

    def catch_up(self, state: TrainState, reader: MetricsReader) -> None:
        """The evaluation that a run stopped by a signal went without, so that its dev losses are those of any other."""
        done = int(state.step)
        if done and self._evaluates(done) and done not in self.run.dev.losses:
            self.save(state, reader, loss=self.evaluate(state, done, reader))

    def save(self, state: TrainState, reader: MetricsReader, *, loss: float | None = None) -> None:
        """`reader` has been flushed: its sums are those of the steps that `state` has made."""
        self._saved = int(state.step)
        meta = checkpoint_meta(self.run.config, self.run.data, self._saved, reader.interval())
        meta["dev_losses"] = self.run.dev.stored()
        with self.run.clock.part("checkpoint"):
            self.run.checkpoints.save(state, meta, loss=loss)
        reader.restart_clock()
        self.run.clock.save()


def ahead(batches: Iterator[Batch], put: Callable[[Batch], Batch], size: int = 2) -> Iterator[tuple[Batch, Batch]]:
    """(batch on the host, on the devices), `size` of them under way: a step finds its batch there."""
    waiting: collections.deque[tuple[Batch, Batch]] = collections.deque()
    for batch in batches:
        waiting.append((batch, put(batch)))
        if len(waiting) > size:
            yield waiting.popleft()
    yield from waiting


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
