"""A model loaded for inference: a checkpoint of a run, or any weights as they are."""

from __future__ import annotations

import contextlib
import dataclasses
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from itune.data.prompt import render_prompt, stop_id
from itune.data.tokenizer import Tokenizer
from itune.errors import UserError, nearest
from itune.inference.generate import Generator
from itune.models.config import FullConfig, LoRAConfig, WeightsConfig
from itune.models.decoder import Compute
from itune.models.families import read_config
from itune.models.spec import ModelSpec, Params, model_spec
from itune.parallel.config import MeshConfig
from itune.parallel.mesh import batch_sharding, make_mesh, param_sharding
from itune.training.checkpoint import Checkpoints
from itune.training.config import CheckpointConfig
from itune.weights import resolve
from itune.weights.fetch import RELEASES
from itune.weights.load import load_base

Tuning = LoRAConfig | FullConfig | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Session:
    """A model on its devices, with what it takes to talk to it.

    name: what was loaded, for people.  params: every parameter by path.  prompt_format: "plain" or "chat".
    prefix_lm: whether its prompts were bidirectional in training.
    """

    name: str
    tokenizer: Tokenizer
    spec: ModelSpec
    params: Params
    compute: Compute
    mesh: jax.sharding.Mesh
    prompt_format: str
    prefix_lm: bool = False

    def generator(self, batch_size: int) -> Generator:
        return Generator(self.spec, self.params, self.compute, batch_size=batch_size, prefix_lm=self.prefix_lm)

    @property
    def stop_id(self) -> int:
        """The token at which a reply ends: EOS, or in the chat format what the model's template closes a turn with."""
        return stop_id(self.tokenizer, self.prompt_format)

    def encode(self, text: str) -> list[int]:
        """The ids of a single question, in the session's prompt format."""
        return render_prompt(self.tokenizer, text, self.prompt_format)

    def decode(self, ids: list[int]) -> str:
        return self.tokenizer.decode(ids).strip()

    def put(self, batch: Any) -> Any:
        """A host batch on the mesh, rows over data x fsdp."""
        return jax.device_put(batch, batch_sharding(self.mesh))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a run trained, as host arrays by path, and the JSON saved beside it."""

    run: Path
    step: int
    params: dict[str, np.ndarray]
    meta: Mapping[str, Any]


def load(source: str, *, step: str | None = None, prompt_format: str | None = None) -> Session:
    """A run directory's checkpoint (`step`: its number or "best"; None is the newest), or weights from anywhere.

    prompt_format: None is the run's own; of other weights, "chat" if their tokenizer has a template, else "plain".

    Raises: UserError.
    """
    path = Path(source).expanduser()
    if is_run(path):
        return _load_run(path, step, prompt_format)
    if step is not None:
        raise UserError(f"--step={step} picks a checkpoint of a run; {source} is no run directory")
    if source not in RELEASES and not path.exists():
        raise UserError(
            f"--model={source}: no such run directory, Hugging Face folder or .gguf file, and no model that itune "
            f"knows ({', '.join(RELEASES)}).{nearest(source, [*RELEASES, *_beside(path)])}"
        )
    folder = resolve(source)
    chosen = prompt_format or ("plain" if Tokenizer.from_folder(folder).chat_template is None else "chat")
    return build(folder, WeightsConfig(source=source), prompt_format=chosen, name=source)


def is_run(path: Path) -> bool:
    """Whether it is a MODEL_DIR: a Hugging Face folder has a config.json too, but neither of these."""
    return (path / "config.gin").is_file() or (path / "checkpoints").is_dir()


def _beside(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return [str(found) for found in path.parent.iterdir() if found.is_dir()]
    return []


def _load_run(run: Path, step: str | None, prompt_format: str | None) -> Session:
    config = _read_config(run / "config.json")
    checkpoint = read_checkpoint(run, step)
    try:
        weights, tuning = WeightsConfig(**config["weights"]), _tuning(config["tuning"])
        own_format = config["data"]["prompt_format"]
        converter = config["data"].get("converter", "causal")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run / 'config.json'}: not a config.json that this itune wrote ({error})") from None
    return build(
        resolve(weights.source),
        weights,
        tuning=tuning,
        checkpoint=checkpoint,
        prompt_format=prompt_format or own_format,
        prefix_lm=converter == "prefix_lm",
        name=f"{run} at step {checkpoint.step}",
    )


def _read_config(path: Path) -> dict[str, Any]:
    try:
        config = json.loads(path.read_text(encoding="utf-8"))
    except OSError:
        raise UserError(f"{path.parent}: a run without config.json; nothing says what it was tuned from") from None
    except ValueError as error:
        raise UserError(f"{path}: not JSON ({error})") from None
    if not isinstance(config, dict):
        raise UserError(f"{path}: expected a JSON object, found {type(config).__name__}")
    return config


def _tuning(fields: Mapping[str, Any]) -> Tuning:
    """config.json holds the fields of one of two classes, and not its name."""
    values: dict[str, Any] = {name: tuple(v) if isinstance(v, list) else v for name, v in fields.items()}
    return FullConfig(**values) if "patterns" in fields else LoRAConfig(**values)


def read_checkpoint(run: Path, step: str | None) -> Checkpoint:
    """The run's checkpoint of that step, of its "best" one, or (None) of the newest. Takes no lock.

    Raises: UserError that lists the steps there are; or that names a damaged file.
    """
    if not (run / "checkpoints").is_dir():
        raise UserError(f"{run}: the run has no checkpoint yet")
    with contextlib.closing(Checkpoints(run, CheckpointConfig(), read_only=True)) as checkpoints:
        number = _choose(run, step, checkpoints)
        return Checkpoint(
            run=run, step=number, params=checkpoints.restore_params(number), meta=checkpoints.meta(number)
        )


def _choose(run: Path, step: str | None, checkpoints: Checkpoints) -> int:
    steps = checkpoints.steps()
    if not steps:
        raise UserError(f"{run}: the run has no checkpoint yet")
    if step is None:
        return steps[-1]
    listed = ", ".join(map(str, steps))
    if step == "best":
        best = checkpoints.best()
        if best is None:
            raise UserError(
                f"--step=best: no checkpoint of {run} was saved with a held-in loss (EvalConfig.every evaluates during "
                f"training); there are steps {listed}"
            )
        return best
    if step not in map(str, steps):
        raise UserError(f"--step={step}: {run} has no checkpoint of that step; there are {listed}")
    return int(step)


def build(
    folder: Path,
    weights: WeightsConfig,
    *,
    tuning: Tuning = None,
    checkpoint: Checkpoint | None = None,
    prompt_format: str,
    prefix_lm: bool = False,
    name: str,
    mesh: jax.sharding.Mesh | None = None,
) -> Session:
    """The base in `folder`, with `checkpoint`'s parameters in place of its own or beside them.

    Args:
      mesh: where parameters lie; None is one device.

    Raises: UserError if base and checkpoint don't belong together.
    """
    mesh = mesh or make_mesh(MeshConfig(data=1), jax.devices()[:1])
    tokenizer = Tokenizer.from_folder(folder)
    spec = model_spec(read_config(folder), tuning, quantise=weights.quantise)
    if tokenizer.vocab_size > spec.config.vocab_size:
        raise UserError(
            f"{folder}: the tokenizer has {tokenizer.vocab_size} ids, the model {spec.config.vocab_size} embeddings"
        )
    trained = {} if checkpoint is None else checkpoint.params
    if checkpoint is not None:
        _check_fits(checkpoint, spec, folder)
    compute = Compute(
        dtype=weights.compute_dtype,
        scan=weights.scan_layers,
        attention=weights.attention,
        remat=weights.remat,
        mesh=mesh if mesh.size > 1 else None,
    )
    place = lambda path: param_sharding(mesh, spec.axes[path], spec.shapes[path])  # noqa: E731
    base = load_base(folder, spec, place, frozen_dtype=compute.activations, instead=trained)
    adapters = {path: jax.device_put(trained[path], place(path)) for path in spec.adapter_paths()}
    return Session(
        name=name,
        tokenizer=tokenizer,
        spec=spec,
        params={**base, **adapters},
        compute=compute,
        mesh=mesh,
        prompt_format=prompt_format,
        prefix_lm=prefix_lm,
    )


def _check_fits(checkpoint: Checkpoint, spec: ModelSpec, folder: Path) -> None:
    where = f"{checkpoint.run} at step {checkpoint.step}"
    base = checkpoint.meta.get("base")
    if base != folder.name:
        raise UserError(f"{where}: was tuned from {base}, but its WeightsConfig.source now leads to {folder}")
    differ = set(checkpoint.params) ^ spec.trainable
    differ |= {p for p, a in checkpoint.params.items() if p in spec.shapes and a.shape != spec.shapes[p]}
    if differ:
        raise UserError(f"{where}: {min(differ)} is not as config.json describes the run ({len(differ)} such)")
