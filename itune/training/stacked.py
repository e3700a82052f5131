"""Runs that share base, lengths and batch shape, trained in one step: their adapters lie side by side over one base.

Every run keeps its own data stream, seed, learning rate, optimizer state, checkpoints and reports; what it computes is
what it would compute alone, up to the order of floating-point sums.

Legend: K runs, B rows of each, L tokens, T supervised positions a row.
"""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from itune.batch import FIELDS, Batch
from itune.config.run import RunConfig
from itune.errors import UserError
from itune.models.adapters import layer_mask
from itune.models.config import LoRAConfig
from itune.models.head import Objective
from itune.models.layers import NO_DROPOUT, Dropout
from itune.models.spec import ModelSpec, Params, model_spec
from itune.storage.workdir import Workdir
from itune.terminal import say
from itune.training.lock import lock
from itune.training.loop import EXIT_NONFINITE, TrainingSteps
from itune.training.metrics import progress_bar
from itune.training.optim import Optimizer, learning_rate
from itune.training.run import Started, end_run, start_run, timed
from itune.training.session import Session, step_key
from itune.training.setup import slots
from itune.training.signals import Stopped, StopRequest, stop_on_signals
from itune.training.step import StepMetrics, StepSettings, TrainState, batch_loss, row_keys, step_metrics, updated

LOSS = ("loss_index", "loss_targets", "loss_weights", "loss_task")  # of a batch, [B, T]
# What may differ between runs of one step: which rows they draw, and how fast they learn.
FREE_DATA: dict[str, Any] = {"mixture": "", "rates": {}, "rate_factors": {}, "curriculum": (), "task_epochs": {}}
FREE_COUNTS = ("rate_cap", "max_epochs", "max_tasks", "max_clusters", "max_examples", "max_templates", "window")


def shape_of(config: RunConfig) -> Any:
    """Equal for runs that may share a step; None for one that trains alone."""
    tuning, train = config.tuning, config.train
    if not isinstance(tuning, LoRAConfig) or tuning.train:
        return None  # what trains beside adapters would need a copy of its own, too
    if train.accumulation > 1 or train.label_smoothing or train.z_loss or config.weights.adapter:
        return None
    if config.evaluation.patience:
        return None  # it may end before the others
    free: dict[str, Any] = FREE_DATA | dict.fromkeys(FREE_COUNTS, 1)
    data = dataclasses.replace(config.data, **free)
    rate = dataclasses.replace(config.learning_rate, peak=1.0)
    return dataclasses.replace(config, seed=0, model_dir="", data=data, learning_rate=rate)


def train_together(configs: Sequence[RunConfig], *, session: Session | None = None) -> list[int]:
    """Runs of one shape (`shape_of`), none begun, to their end; the exit code of each: see `itune.training.loop.train`.

    session: as of `train`.  A signal saves all of them; each goes on alone. Raises: UserError.
    """
    shapes = [shape_of(config) for config in configs]
    if None in shapes or any(shape != shapes[0] for shape in shapes):
        raise UserError("these runs can't share a step: they differ in more than data, seed and learning rate")
    session = session or Session()
    with contextlib.ExitStack() as stack:
        for config in configs:
            stack.enter_context(lock(config.folder))
        stop = stack.enter_context(stop_on_signals())
        try:
            return _run(configs, session, stop)
        except Stopped as stopped:
            say(session.console, "Stopped. The same command goes on from the newest checkpoints.")
            return [stopped.exit_code] * len(configs)


def _run(configs: Sequence[RunConfig], session: Session, stop: StopRequest) -> list[int]:
    runs = [start_run(config, session, stop, Workdir()) for config in configs]
    if any(int(run.state.step) for run in runs):
        raise UserError("a run that has begun goes on alone")
    try:
        states, codes = _train(runs, session, stop)
    finally:
        for run in runs:
            run.checkpoints.close()
    return [end_run(run, state, code) for run, state, code in zip(runs, states, codes, strict=True)]


def _train(runs: Sequence[Started], session: Session, stop: StopRequest) -> tuple[list[TrainState], list[int]]:
    """(the last state of each, its exit code: 0 when every step was made)."""
    model, first, console = runs[0].model, runs[0].config, session.console
    settings = StepSettings(
        num_tasks=max(len(run.data.manifest.train) for run in runs),
        num_segments=slots(max(run.data.plan.S for run in runs)),
        dropout_rate=first.train.dropout_rate,
        neftune_alpha=first.train.neftune_alpha,
        objective=Objective(model.spec.config.final_softcap),
        compute=model.compute,
    )
    key = (step_key(first, runs[0].data), settings.num_tasks, settings.num_segments, len(runs))
    make = lambda: make_stacked_step(model.spec, model.optimizer, settings, len(runs))  # noqa: E731
    step_fn = session.kept("stacked", key, lambda: jax.jit(make(), donate_argnums=0))
    states = jax.tree.map(lambda *leaves: jnp.stack(leaves), *(run.state for run in runs))
    keys = jnp.stack([jax.random.key(run.config.seed) for run in runs])
    steps = [TrainingSteps(run) for run in runs]
    feeds = [run.batches(0) for run in runs]
    readers = [one.reader(0) for one in steps]
    positions = max(run.data.plan.T for run in runs)
    codes = [0] * len(runs)
    stopped: dict[int, TrainState] = {}  # of runs that went wrong, when they did: the step goes on for the others
    state_of = lambda k: jax.tree.map(lambda leaf: leaf[k], states)  # noqa: E731

    def advance() -> None:
        nonlocal states
        total = first.train.steps
        with progress_bar(console) as bar:
            line = bar.add_task(f"training {len(runs)} runs", total=total, completed=0, status="compiling ...")
            for step in range(total):
                rates = [learning_rate(run.config.learning_rate, step, total) for run in runs]
                batches = [next(own) for own in feeds]
                hparams = {"learning_rate": jnp.array(rates, jnp.float32)}
                rows = model.put(stacked(batches, positions))
                with contextlib.ExitStack() as dispatch:
                    for one, reader in zip(steps, readers, strict=True):
                        dispatch.enter_context(one.compiling(reader, first=step == 0))
                    states, metrics = step_fn(states, model.frozen, rows, hparams, keys)
                for k, run in enumerate(runs):
                    if codes[k]:
                        continue
                    problem = readers[k].push(step, batches[k], _own(metrics, k, run), rates[k])
                    if steps[k].due(step + 1):
                        problem = problem or steps[k].between(state_of(k), readers[k])
                    if problem:
                        folder = run.config.folder
                        say(console, f"itune: {folder.parent.name}/{folder.name}: {problem}", "red")
                        if run.config.train.on_nonfinite == "stop":
                            codes[k], stopped[k] = EXIT_NONFINITE, state_of(k)
                bar.update(line, completed=step + 1, status=readers[0].status)
                if not console.is_terminal and step and step % max(1, total // 20) == 0:
                    say(console, f"step {step}/{total}  {len(runs)} runs, the first: {readers[0].status}")
                for one in steps:
                    one.run.checkpoints.poll()
                if stop.exit_code is not None or all(codes):
                    break
        for k, one in enumerate(steps):
            if codes[k]:
                one.run.checkpoints.finish()
            else:
                one.finish(state_of(k), readers[k])

    timed(runs[0].timings, "training", advance)
    for run in runs:  # each had a share of it
        run.timings["training"] = runs[0].timings["training"] / len(runs)
    ended = [stopped[k] if k in stopped else state_of(k) for k in range(len(runs))]
    if stop.exit_code is not None:
        going_on = [int(state.step) < first.train.steps for state in ended]
        codes = [code or (stop.exit_code if more else 0) for code, more in zip(codes, going_on, strict=True)]
    return ended, codes


def make_stacked_step(spec: ModelSpec, optimizer: Optimizer, settings: StepSettings, runs: int) -> Callable:
    """`step(states, frozen, batch, hparams, keys) -> (states, StepMetrics)` of K runs, to be jitted, `states` donated.

    states, keys and what comes back have a leading axis K, the batch has K * B rows; hparams: {"learning_rate": [K]}.
    `spec` is that of one run, whose adapters it trains; the objective is plain cross-entropy.
    """
    together = model_spec(spec.config, spec.tuning, adapters=runs, quantise=spec.quantise)
    masks = {path: layer_mask(spec, path) for path in spec.trainable}
    axes = {path: spec.axes[path].index("adapters") for path in spec.trainable}

    def beside(path: str, stacked_K):
        """[K, N, 1, ...] -> [N, K, ...], as the model of K adapters has them."""
        axis = axes[path]
        return jnp.moveaxis(jnp.squeeze(stacked_K, axis=axis + 1), 0, axis)

    def loss(params: Params, frozen: Params, rows: Batch, keys_KB):
        noisy = settings.dropout_rate or settings.neftune_alpha
        keys = keys_KB.reshape(-1)
        dropout = Dropout(settings.dropout_rate, keys, settings.neftune_alpha) if noisy else NO_DROPOUT
        adapters = {path: beside(path, array) for path, array in params.items()}
        total, nll = batch_loss(together, {**frozen, **adapters}, rows, settings.compute, dropout, settings.objective)
        return total, nll

    def one(state: TrainState, grads: Params, batch: Batch, nll_BT, rate):
        weight = batch.loss_weights.sum()
        total = jnp.where(batch.loss_weights > 0, batch.loss_weights * nll_BT, 0.0).sum()
        new, grad_norm, finite = updated(optimizer, masks, state, grads, total, weight, rate)
        return new, step_metrics(settings, batch, total, weight, nll_BT, grad_norm, finite)

    def step(states: TrainState, frozen: Params, batch: Batch, hparams: dict, keys_K):
        by_run = lambda a: a.reshape(runs, -1, *a.shape[1:])  # noqa: E731
        keys_KB = jax.vmap(row_keys)(keys_K, states.step, by_run(batch.row_ids))
        # The sum over runs: no run's loss depends on another's adapter, so each gets its own gradient.
        (_, nll), grads = jax.value_and_grad(loss, has_aux=True)(states.params, frozen, batch, keys_KB)
        return jax.vmap(one)(states, grads, jax.tree.map(by_run, batch), by_run(nll), hparams["learning_rate"])

    return step


def stacked(batches: Sequence[Batch], positions: int) -> Batch:
    """[K * B, ...] of each field; supervised positions are filled up to `positions`, without weight."""

    def field(name: str):
        arrays = [getattr(batch, name) for batch in batches]
        if arrays[0] is None:
            return None
        if name in LOSS:
            arrays = [np.pad(a, ((0, 0), (0, positions - a.shape[1]))) for a in arrays]
        return np.concatenate(arrays)

    return Batch(**{name: field(name) for name in FIELDS})


def _own(metrics: StepMetrics, k: int, run: Started) -> StepMetrics:
    """Run k's, with as many tasks and segments as it has."""
    tasks, segments = len(run.data.manifest.train), run.data.plan.S
    own = jax.tree.map(lambda leaf: leaf[k], metrics)
    return dataclasses.replace(
        own,
        task_nll=own.task_nll[:tasks],
        task_tokens=own.task_tokens[:tasks],
        example_nll=own.example_nll[:, :segments],
        example_tokens=own.example_tokens[:, :segments],
    )
