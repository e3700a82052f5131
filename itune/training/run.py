"""A run around its steps: all before the first, the evaluation included, and all after the last."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from itune.batch import Batch
from itune.config.run import RunConfig
from itune.data.feed import feed
from itune.data.proportions_text import print_proportions
from itune.evaluation.evaluate import Evaluator, Snapshot
from itune.evaluation.finish import finish_run
from itune.parallel.peers import Peers
from itune.storage.workdir import Workdir
from itune.terminal import say
from itune.training.agreement import agree_on_data, share
from itune.training.checkpoint import Checkpoints
from itune.training.clock import RunClock
from itune.training.data_side import DataSide, data_side, look_over
from itune.training.early import DevLosses
from itune.training.metrics import MetricsWriter, NoMetrics, cut_back
from itune.training.resume import check_same_run, record_proportions, record_run, restore_newest
from itune.training.session import Session
from itune.training.setup import ModelSide
from itune.training.signals import StopRequest
from itune.training.step import TrainState

T = TypeVar("T")


@dataclasses.dataclass(kw_only=True)
class Started:
    """A run that is ready for its first step, or for the one that it stopped before.

    interval, dev: of the restored checkpoint.  timings: {part of the run: seconds}.
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
    dev: DevLosses
    timings: dict[str, float]
    clock: RunClock

    def batches(self, step: int) -> Iterator[Batch]:
        """From that of `step` on."""
        size, norm, start = (
            self.config.train.batch_size,
            self.config.train.loss_norm,
            step * self.config.train.batch_size,
        )
        which: dict[str, Any] = {"batch_size": size, "start_row": start, "pick": self.model.rows}
        batches = feed(self.data.plan, self.data.reader, loss_norm=norm, **which)
        return self.peers.marked(batches, "reads its rows")


def start_run(
    config: RunConfig, session: Session, stop: StopRequest, workdir: Workdir, *, allow_remote_tracker: bool = False
) -> Started:
    """Everything before the first step, the evaluation included."""
    start, model_dir, console, peers = time.perf_counter(), config.folder, session.console, session.peers
    peers.on_main(lambda: check_same_run(config, model_dir))
    clock = RunClock(model_dir, writes=peers.main)
    data = data_side(config, lambda line: say(console, line), peers.main_first)
    peers.on_main(lambda: look_over(config, data, lambda line: say(console, line, "yellow")))
    agree_on_data(peers, data)
    stop.check()
    peers.on_main(lambda: record_run(config, model_dir, data, console))
    share(peers, model_dir)
    timings = {"weights and data": time.perf_counter() - start}

    model = session.model_side(config, data)
    evaluator = session.evaluator(config, data, model)
    checkpoints = Checkpoints(model_dir, config.checkpoint, peers=peers, on_saved=workdir.saved)
    state = model.initial_state(config.seed)
    restored = restore_newest(checkpoints, state, data, console, peers)
    meta: dict = {}
    if restored is not None:
        state, meta = restored
    dev = DevLosses(config.evaluation, meta.get("dev_losses"))
    done = int(state.step) if meta else -1
    over = done >= config.train.steps or dev.over
    lines = peers.on_main(lambda: cut_back(model_dir / "metrics.jsonl", done, over=over))
    clock.keep(lines, meta.get("interval"))
    writer: MetricsWriter | NoMetrics = NoMetrics()
    if peers.main:
        writer = MetricsWriter(
            model_dir,
            config.logging,
            sensitive=data.manifest.sensitive,
            allow_remote=allow_remote_tracker,
            run_config=dataclasses.asdict(config),
        )
    evaluate_before = lambda: _before(evaluator, model, state, model_dir, session, stop, writer)  # noqa: E731
    with clock.part("evaluation"):
        before = timed(timings, "evaluation before", evaluate_before)
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
        before=before,
        state=state,
        interval=meta.get("interval"),
        dev=dev,
        timings=timings,
        clock=clock,
    )


def end_run(run: Started, state: TrainState, code: int, *, show_text: bool = False) -> int:
    """Everything after the last step that was made; returns the exit code. code: why there is no more to do, or 0."""
    config, data, console, model_dir = run.config, run.data, run.console, run.config.folder
    proportions = run.peers.on_main(lambda: record_proportions(config, model_dir, data, int(state.step)))
    run.clock.save()
    if code:
        run.writer.close()
        return code

    if run.peers.main:
        print_proportions(proportions, console, rest=f"in {model_dir / 'proportions.json'}")
    say(console, run.clock.sentence())
    told = run.dev.told(int(state.step), config.train.steps)
    for what, why in told.items():
        say(console, f"{what.capitalize()} {why}")
    say(console, "Evaluating after training ...")
    measure = lambda: run.evaluator.snapshot(run.model.all_params(state), run.stop.check)  # noqa: E731
    after = timed(run.timings, "evaluation after", measure)
    run.writer.write({"step": int(state.step), "eval": after.loss_lines(), "last": True})
    run.writer.close()
    parts = (config, data.manifest, data.folder, run.before, after)
    how: dict[str, Any] = {"told": told, "show_text": show_text, "console": console}
    worst = lambda: run.evaluator.worst(after, run.before)  # noqa: E731
    report = lambda: finish_run(*parts, worst(), run.timings, model_dir, **how)  # noqa: E731
    say(console, f"Report: {run.peers.on_main(lambda: str(report()))}")
    return 0


def _before(
    evaluator: Evaluator,
    model: ModelSide,
    state: TrainState,
    model_dir: Path,
    session: Session,
    stop: StopRequest,
    writer: MetricsWriter | NoMetrics,
) -> Snapshot:
    """The evaluation before step 1: made once, kept beside the run, read back when it resumes."""
    path = model_dir / ".evaluation-before.json"
    peers = session.peers
    if int(state.step) > 0 and peers.on_main(path.is_file):
        return Snapshot.load(path)
    common = session.before / f"{evaluator.before_digest()}.json" if session.before is not None else None
    if common is not None and int(state.step) == 0 and peers.on_main(common.is_file):
        before = Snapshot.load(common)
        before.save(path)
        writer.write({"step": 0, "eval": before.loss_lines()})
        return before
    say(session.console, "Evaluating before training ...")
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
