"""What a command is asked to open: a checkpoint of a run, or weights from anywhere, perhaps with an adapter of peft's.

Nothing of it lies on a device yet.
"""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from itune.data.tokenizer import Tokenizer
from itune.errors import UserError, nearest
from itune.models.config import EncoderDecoderConfig, FullConfig, LoRAConfig, WeightsConfig
from itune.models.families import read_config
from itune.models.spec import ModelSpec, model_spec
from itune.storage import workdir
from itune.training.checkpoint import Checkpoints, digests
from itune.training.config import CheckpointConfig
from itune.weights import resolve
from itune.weights.fetch import RELEASES
from itune.weights.hub import PREFIX
from itune.weights.peft import read_adapter
from itune.weights.shards import weights_digest

Tuning = LoRAConfig | FullConfig | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Opened:
    """A model by name and numbers.

    name: for people.  source, folder: the base, as named and as a Hugging Face folder.  weights: how it is computed.
    trained: what stands in place of the base's parameters or beside them, by path.  checkpoint: of a run, or None.
    """

    name: str
    source: str
    folder: Path
    weights: WeightsConfig
    spec: ModelSpec
    trained: Mapping[str, np.ndarray]
    prompt_format: str
    prefix_lm: bool = False
    checkpoint: Checkpoint | None = None

    @property
    def run(self) -> Path | None:
        return None if self.checkpoint is None else self.checkpoint.run

    @property
    def step(self) -> int | None:
        return None if self.checkpoint is None else self.checkpoint.step


@dataclasses.dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """What a run trained, as host arrays by path, and the JSON saved beside it."""

    run: Path
    step: int
    params: dict[str, np.ndarray]
    meta: Mapping[str, Any]


def open_model(source: str, *, step: str | None = None, prompt_format: str | None = None, adapter: str = "") -> Opened:
    """A run directory's checkpoint (`step`: its number or "best"; None is the newest), or weights from anywhere.

    prompt_format: None is the run's own; of other weights, "chat" if their tokenizer has a template, else "plain".
    adapter: a folder that peft saved, for weights that are no run.

    Raises: UserError.
    """
    path = Path(workdir.local_copy(source)).expanduser()
    if is_run(path):
        if adapter:
            raise UserError(f"an adapter ({adapter}) goes over weights; {source} is a run, with what it trained itself")
        return _open_run(path, step, prompt_format)
    if step is not None:
        raise UserError(f"--step={step} picks a checkpoint of a run; {source} is no run directory")
    if source not in RELEASES and not source.startswith(PREFIX) and not path.exists():
        raise UserError(
            f"--model={source}: no such run directory, Hugging Face folder or .gguf file, no hf:ORG/NAME, and no model "
            f"that itune knows ({', '.join(RELEASES)}).{nearest(source, [*RELEASES, *_beside(path)])}"
        )
    folder = resolve(source)
    config = read_config(folder)
    tuning, trained = read_adapter(adapter, config) if adapter else (None, {})
    tokenizer = Tokenizer.from_folder(folder)
    own_format = "plain" if tokenizer.chat_template is None else "chat"
    chosen = prompt_format or ("seq2seq" if isinstance(config, EncoderDecoderConfig) else own_format)
    spec = model_spec(config, tuning)
    _check_format(chosen, spec, source, tokenizer)
    return Opened(
        name=f"{source} with {adapter}" if adapter else source,
        source=source,
        folder=folder,
        weights=WeightsConfig(source=source),
        spec=spec,
        trained=trained,
        prompt_format=chosen,
    )


def _check_format(prompt_format: str, spec: ModelSpec, source: str, tokenizer: Tokenizer) -> None:
    kind = isinstance(spec.config, EncoderDecoderConfig)
    if kind != (prompt_format == "seq2seq"):
        what = (
            "an encoder-decoder, whose prompts are 'seq2seq'"
            if kind
            else "a decoder, whose prompts are never 'seq2seq'"
        )
        raise UserError(f"--prompt_format={prompt_format}: {source} is {what}")
    if prompt_format == "chat":  # before the weights are read
        try:
            tokenizer.render_chat([{"role": "user", "content": "?"}], add_generation_prompt=True)
        except UserError as error:
            raise UserError(f"--prompt_format=chat: {source}: {error}") from None


def _open_run(run: Path, step: str | None, prompt_format: str | None) -> Opened:
    config = _read_config(run / "config.json")
    checkpoint = read_checkpoint(run, step)
    try:
        weights, tuning = WeightsConfig(**config["weights"]), _tuning(config["tuning"])
        own_format = config["data"]["prompt_format"]
        converter = config["data"].get("converter", "causal")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{run / 'config.json'}: not a config.json that this itune wrote ({error})") from None
    folder = resolve(weights.source)
    spec = model_spec(read_config(folder), tuning, quantise=weights.quantise)
    check_fits(checkpoint, spec, folder)
    _check_format(prompt_format or own_format, spec, str(run), Tokenizer.from_folder(folder))
    return Opened(
        name=f"{workdir.shown(run)} at step {checkpoint.step}",
        source=weights.source,
        folder=folder,
        weights=weights,
        spec=spec,
        trained=checkpoint.params,
        prompt_format=prompt_format or own_format,
        prefix_lm=converter == "prefix_lm",
        checkpoint=checkpoint,
    )


def is_run(path: Path) -> bool:
    """Whether it is a MODEL_DIR: a Hugging Face folder has a config.json too, but neither of these."""
    return (path / "config.gin").is_file() or (path / "checkpoints").is_dir()


def _beside(path: Path) -> list[str]:
    with contextlib.suppress(OSError):
        return [str(found) for found in path.parent.iterdir() if found.is_dir()]
    return []


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


def checkpoint_identity(run: Path, step: str | None) -> tuple[int, str]:
    """(the step that `step` chooses, a digest of that checkpoint and of what it was tuned from). Raises: UserError."""
    with contextlib.closing(Checkpoints(run, CheckpointConfig(), read_only=True)) as checkpoints:
        number = _choose(run, step, checkpoints)
        meta = json.dumps([checkpoints.meta(number), digests(run / "checkpoints", number)], sort_keys=True)
    return number, hashlib.sha256(meta.encode()).hexdigest()


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
                f"--step=best: no checkpoint of {run} was saved with a loss (EvalConfig.every evaluates during "
                f"training); there are steps {listed}"
            )
        return best
    if step not in map(str, steps):
        raise UserError(f"--step={step}: {run} has no checkpoint of that step; there are {listed}")
    return int(step)


def check_fits(checkpoint: Checkpoint, spec: ModelSpec, folder: Path) -> None:
    """Raises: UserError if base and checkpoint don't belong together."""
    where = f"{workdir.shown(checkpoint.run)} at step {checkpoint.step}"
    base = checkpoint.meta.get("base")
    if base != folder.name:
        raise UserError(f"{where}: was tuned from {base}, but its WeightsConfig.source now leads to {folder}")
    if checkpoint.meta.get("base_weights", digest := weights_digest(folder)) != digest:
        raise UserError(f"{where}: was tuned from other weights than those now in {folder}; bring those back")
    differ = set(checkpoint.params) ^ spec.trainable
    differ |= {p for p, a in checkpoint.params.items() if p in spec.shapes and a.shape != spec.shapes[p]}
    if differ:
        raise UserError(f"{where}: {min(differ)} is not as config.json describes the run ({len(differ)} such)")
