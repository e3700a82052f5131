"""From a RunConfig to everything the loop needs: weights, plan, state, compiled step."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from itune.config.run import RunConfig
from itune.data.proportions import proportions
from itune.errors import UserError
from itune.models.adapters import magnitudes
from itune.models.compute import Compute
from itune.models.config import AnyModelConfig, LoRAConfig
from itune.models.head import Objective
from itune.models.rules import rules_for
from itune.models.spec import ModelSpec, Params, init_params, model_spec
from itune.parallel.arrays import fetch, own_rows, put, put_rows, spans_processes
from itune.parallel.config import Rules
from itune.parallel.mesh import batch_sharding, check_rows, make_mesh, param_sharding, replicated
from itune.training.data_side import DataSide
from itune.training.optim import Optimizer, make_optimizer
from itune.training.step import StepSettings, TrainState, make_train_step
from itune.weights.load import load_base
from itune.weights.peft import read_adapter

SLOTS = 32


@dataclasses.dataclass(frozen=True)
class ModelSide:
    """What learns: specification, frozen parameters on the mesh, and the compiled step."""

    spec: ModelSpec
    mesh: jax.sharding.Mesh
    compute: Compute
    optimizer: Optimizer
    frozen: Params
    base_train: Params
    start: Mapping[str, np.ndarray]
    train_step: Callable[..., Any]
    batch_size: int

    def initial_state(self, seed: int) -> TrainState:
        """Fresh adapters (keyed by seed and path), those of WeightsConfig.adapter or the base's own parameters, and an
        empty optimizer state."""
        missing = [p for p in self.spec.paths if p in self.spec.trainable and p not in self.base_train]
        fresh = init_params(self.spec, seed, [p for p in missing if p not in self.start])
        for path in fresh:
            if path.endswith("/lora_m"):
                fresh[path] = magnitudes(self.spec, path, self.frozen)
        params = {p: self.place(p, np.asarray(a)) for p, a in fetch(fresh).items()}
        # A copy: the step donates its state, and the base must outlive it.
        params |= {p: jnp.array(a, copy=True) for p, a in self.base_train.items()}
        params |= {p: self.place(p, a) for p, a in self.start.items()}
        lie = state_shardings(jax.eval_shape(self.optimizer.init, params), self.spec, self.mesh, self.compute.rules)
        opt_state = jax.jit(self.optimizer.init, out_shardings=lie)(params)
        return TrainState(params, opt_state, put(np.zeros((), np.int32), replicated(self.mesh)))

    def place(self, path: str, array: np.ndarray) -> jax.Array:
        return put(array, param_sharding(self.mesh, self.spec.axes[path], array.shape, self.compute.rules))

    @functools.cached_property
    def rows(self) -> list[int] | None:
        """Which rows of a training batch this process reads; None for all."""
        return own_rows(self.mesh, self.batch_size) if spans_processes(self.mesh) else None

    def put(self, batch):
        """A host batch on the mesh, rows over data x fsdp."""
        return jax.tree.map(lambda array: put(array, batch_sharding(self.mesh)), batch)

    def put_own(self, batch):
        """A training batch of `rows` on the mesh, beside the other processes' rows."""
        return self.put(batch) if self.rows is None else put_rows(batch, self.mesh, self.rows, self.batch_size)

    def all_params(self, state: TrainState) -> Params:
        return {**self.frozen, **state.params}


def state_shardings(opt_state, spec: ModelSpec, mesh: jax.sharding.Mesh, rules: Rules):
    """For an optimizer state: moments lie as their parameters do, everything else is copied."""

    def sharding(keys, leaf):
        names = [str(getattr(k, "key", "")) for k in keys]
        path = next((n for n in reversed(names) if n in spec.axes), None)
        if path is not None and leaf.shape == spec.shapes[path]:
            return param_sharding(mesh, spec.axes[path], leaf.shape, rules)
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(sharding, opt_state)


@dataclasses.dataclass(frozen=True)
class StepParts:
    """What a step is made of, without an array: on the devices of `compute.mesh`, which need not be here."""

    spec: ModelSpec
    compute: Compute
    optimizer: Optimizer
    settings: StepSettings

    def jitted(self) -> Any:
        """The step; its first argument's buffers are taken over."""
        mesh, out = self.compute.mesh, None
        if mesh is not None and spans_processes(mesh):
            out = (None, replicated(mesh))  # every process reads all sums
        return jax.jit(make_train_step(self.spec, self.optimizer, self.settings), donate_argnums=0, out_shardings=out)


def step_parts(
    config: RunConfig, model: AnyModelConfig, mesh: jax.sharding.Mesh | None, *, num_tasks: int, num_segments: int
) -> StepParts:
    """mesh: None for the default device. Raises: ValueError, as `model_spec` and `rules_for`."""
    w, t = config.weights, config.train
    compute = Compute(
        dtype=w.compute_dtype,
        scan=w.scan_layers,
        attention=w.attention,
        remat=w.remat,
        mesh=mesh,
        rules=rules_for(model, mesh.shape["tensor"] if mesh is not None else 1, config.mesh.rules),
    )
    settings = StepSettings(
        num_tasks=num_tasks,
        num_segments=num_segments,
        accumulation=t.accumulation,
        dropout_rate=t.dropout_rate,
        neftune_alpha=t.neftune_alpha,
        objective=Objective(model.final_softcap, label_smoothing=t.label_smoothing, z_loss=t.z_loss),
        compute=compute,
    )
    optimizer = make_optimizer(config.optimizer, b_rate=getattr(config.tuning, "b_rate", 1.0))
    return StepParts(model_spec(model, config.tuning, quantise=w.quantise), compute, optimizer, settings)


def slots(segments: int) -> int:
    """Of a row's sums by example: in steps, so that mixtures whose rows hold other numbers share a compiled step."""
    return -(-segments // SLOTS) * SLOTS


def model_side(config: RunConfig, data: DataSide, load: Callable[..., Params] = load_base) -> ModelSide:
    """Loads the weights onto the mesh and builds the jitted step (compiled at its first call).

    load: `load_base`, or what knows the base already.
    """
    try:
        mesh = make_mesh(config.mesh)
        check_rows(mesh, batch_size=config.train.batch_size, accumulation=config.train.accumulation)
        parts = step_parts(
            config,
            data.model,
            mesh if mesh.size > 1 else None,
            num_tasks=len(data.manifest.train),
            num_segments=slots(data.plan.S),
        )
    except ValueError as error:
        raise UserError(str(error)) from None
    spec, compute = parts.spec, parts.compute
    place = lambda path: param_sharding(mesh, spec.axes[path], spec.shapes[path], compute.rules)  # noqa: E731
    start = _start(config, spec)
    base = load(data.folder, spec, place, frozen_dtype=compute.activations)
    base_train, frozen = spec.partition(base)
    size = config.train.batch_size
    return ModelSide(spec, mesh, compute, parts.optimizer, frozen, base_train, start, parts.jitted(), size)


def _start(config: RunConfig, spec: ModelSpec) -> Mapping[str, np.ndarray]:
    """The parameters of WeightsConfig.adapter, which must be of the kind that the run trains."""
    if not config.weights.adapter:
        return {}
    lora, start = read_adapter(config.weights.adapter, spec.config)
    asked = config.tuning
    if not isinstance(asked, LoRAConfig):
        raise UserError("WeightsConfig.adapter is where adapters' training goes on from; this run trains no adapter")
    for name in ("rank", "alpha", "scaling", "dora", "at"):
        if getattr(asked, name) != getattr(lora, name):
            raise UserError(
                f"LoRAConfig.{name}={getattr(asked, name)!r}, but {config.weights.adapter} has {getattr(lora, name)!r}"
            )
    if differ := set(start) ^ spec.trainable:
        raise UserError(
            f"{config.weights.adapter}: {min(differ)} is in it or in what LoRAConfig trains, and not in both"
        )
    return start


def plan_record(config: RunConfig, data: DataSide, steps: int | None = None) -> dict[str, Any]:
    """Shapes, digest, fill, and what each task gives: over the whole run (plan.json), or over its first `steps`."""
    return proportions(
        data.plan,
        data.manifest,
        config.data.split,
        steps=config.train.steps if steps is None else steps,
        batch_size=config.train.batch_size,
    )
