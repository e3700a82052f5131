"""Adapters in peft's format: adapter_config.json and adapter_model.safetensors, both ways.

Theirs, a layer: lora_A.weight [R, in], lora_B.weight [out, R], lora_magnitude_vector [out].
Ours, stacked:   lora_a [N, A, in, R],  lora_b [N, A, R, out],  lora_m [N, A, out].
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from itune.errors import UserError, nearest
from itune.models.config import AnyModelConfig, EncoderDecoderConfig, LoRAConfig
from itune.models.families import OFF
from itune.models.spec import ModelSpec, model_spec
from itune.weights.adapter_file import CONFIG, WEIGHTS, open_adapter
from itune.weights.export import write_json
from itune.weights.names import TABLES
from itune.weights.safetensors_file import Entry, write_file

PREFIX = "base_model.model."
LEAVES = {"lora_a": ".lora_A.weight", "lora_b": ".lora_B.weight", "lora_m": ".lora_magnitude_vector"}
# peft's fields: read, known not to change what a trained adapter computes, or allowed to say only that they are off.
READ = {"peft_type", "r", "lora_alpha", "use_rslora", "use_dora", "bias", "init_lora_weights", "modules_to_save"}
IGNORED = {
    "auto_mapping",
    "base_model_name_or_path",
    "revision",
    "task_type",
    "inference_mode",
    "lora_dropout",
    "target_modules",  # the file's tensors say it
    "layers_to_transform",
    "layers_pattern",
    "exclude_modules",
    "peft_version",
    "megatron_core",
    "runtime_config",
    "qalora_group_size",
    "corda_config",
    "eva_config",
    "loftq_config",
}
INITS = (True, False, "gaussian", "orthogonal")  # others change the base that the adapter belongs to
NAME = re.compile(r"(?P<layer>.+?)\.(lora_A\.weight|lora_B\.weight|lora_magnitude_vector(\.weight)?)")


def read_adapter(source: str | Path, model: AnyModelConfig) -> tuple[LoRAConfig, dict[str, np.ndarray]]:
    """(the adapter's LoRAConfig, its parameters by path, float32) for a base of this config.

    source: as in `open_adapter`.

    Raises: UserError naming file and field or tensor, for what is not LoRA as we compute it, or not this model's.
    """
    linear, whole = _places(model)
    found: dict[str, dict[int, np.ndarray]] = {}
    with open_adapter(source) as (config, tensors, where):
        lora = _lora(config, where)
        for name in tensors:
            shape = tensors.shape(name)
            array = tensors.read(name, (slice(None),) * len(shape), np.dtype(np.float32))
            match = NAME.fullmatch(name)
            layer = (match["layer"] if match else name).removeprefix(PREFIX)
            if match and layer in linear:
                ours, n = linear[layer]
                leaf = next(leaf for leaf, theirs in LEAVES.items() if theirs.split(".")[1] in name)
                found.setdefault(f"{ours}/{leaf}", {})[n] = array.T if leaf != "lora_m" else array
            elif not match and layer in whole:
                ours, at, transposed = whole[layer]
                found.setdefault(ours, {})[at] = array.T if transposed else array
            else:
                raise UserError(f"{source}: tensor {name!r} has no place in a {model.family} model")
    if "embed" in found and (model.tied_embeddings or isinstance(model, EncoderDecoderConfig)):
        raise UserError(
            f"{source}: holds an embedding, which other parts of a {model.family} model share; merge it first"
        )
    lora = _narrowed(lora, found, model)
    spec = _spec(lora, model, where)
    return lora, {p: _stack(found.get(p, {}), spec, p, source) for p in sorted(spec.trainable)}


def _lora(fields: Mapping[str, Any], path: str) -> LoRAConfig:
    only = {"peft_type": ("LORA",), "bias": ("none", None), "init_lora_weights": INITS}
    for name, allowed in only.items():
        if fields.get(name, allowed[0]) not in allowed:
            raise UserError(f"{path}: {name}={json.dumps(fields[name])} is not supported (only {allowed[0]!r})")
    for name, value in fields.items():
        if name not in READ | IGNORED and value not in OFF:
            raise UserError(
                f"{path}: itune does not know {name}={json.dumps(value)[:80]}, which may change what is computed; take "
                f"it out if it does not.{nearest(name, READ)}"
            )
    try:
        scaling = "rslora" if fields.get("use_rslora") else "lora"
        dora = bool(fields.get("use_dora"))
        return LoRAConfig(rank=int(fields["r"]), alpha=float(fields["lora_alpha"]), scaling=scaling, dora=dora)
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(f"{path}: r and lora_alpha must be numbers ({error})") from None


def _places(model: AnyModelConfig) -> tuple[dict[str, tuple[str, int]], dict[str, tuple[str, int, bool]]]:
    """{their name: (our path, layer)} of linear layers; {their name: (our path, layer, transposed)} of parameters."""
    linear, whole = {}, {}
    shapes = model_spec(model).shapes
    for path, theirs, transposed in TABLES[model.family]:
        if path not in shapes:
            continue
        for n in range(shapes[path][0]) if "{n}" in theirs else [-1]:
            name = theirs.format(n=n)
            whole[name] = (path, n, transposed)
            if path.endswith("/w"):
                linear[name.removesuffix(".weight")] = (path.removesuffix("/w"), n)
    return linear, whole


def _narrowed(lora: LoRAConfig, found: Mapping[str, Mapping[int, Any]], model: AnyModelConfig) -> LoRAConfig:
    """With the layers, and the numbers of layers, that the file has adapters for."""
    adapters = {path.rpartition("/")[0]: set(layers) for path, layers in found.items() if path.endswith("/lora_a")}
    numbers = set().union(*adapters.values()) if adapters else set()
    at = () if numbers == set(range(model.num_layers)) else tuple(sorted(numbers))
    train = tuple(re.escape(path) for path in sorted(found) if path.rpartition("/")[2] not in LEAVES)
    fields = {"rank": lora.rank, "alpha": lora.alpha, "scaling": lora.scaling, "dora": lora.dora}
    return LoRAConfig(**fields, layers=tuple(sorted(adapters)), at=at, train=train)  # type: ignore[arg-type]


def _spec(lora: LoRAConfig, model: AnyModelConfig, path: str) -> ModelSpec:
    try:
        return model_spec(model, lora)
    except ValueError as error:
        raise UserError(f"{path}: {error}") from None


def _stack(layers: Mapping[int, np.ndarray], spec: ModelSpec, path: str, source: str | Path) -> np.ndarray:
    """[N, 1, ...] of an adapter's leaf, zero where the file has none; or a parameter that was trained in full."""
    shape, adapter = spec.shapes[path], path.rpartition("/")[2] in LEAVES
    out = np.zeros(shape, np.float32)
    for n, array in layers.items():
        place = out[n, 0] if adapter else out[n] if n >= 0 else out
        if place.shape != array.shape:
            raise UserError(
                f"{source}: {path} of layer {n} has shape {array.shape}, r and the base ask for {place.shape}"
            )
        place[...] = array
    at = spec.tuning.at if isinstance(spec.tuning, LoRAConfig) else ()
    expected = set(at or range(shape[0])) if adapter or -1 not in layers else {-1}
    if missing := expected - set(layers):
        raise UserError(f"{source}: {path} of layer {min(missing)} is missing ({len(missing)} such)")
    return out


def write_adapter(spec: ModelSpec, trained: Mapping[str, np.ndarray], folder: Path, *, base: str, dtype: str) -> None:
    """Writes what a run trained as an adapter that peft loads over the model `base` (a hub's name, or a path).

    Raises: UserError if the run trained no adapter.
    """
    lora = spec.tuning
    if not isinstance(lora, LoRAConfig):
        raise UserError("this run tuned the model itself and has no adapter; convert it with --adapter=merged")
    _check_separable(spec)
    table = {path: (theirs, transposed) for path, theirs, transposed in TABLES[spec.config.family]}
    entries, modules, whole = [], set(), set()
    for path in sorted(spec.trainable):
        layer, _, leaf = path.rpartition("/")
        if leaf in LEAVES:
            theirs = table[f"{layer}/w"][0].removesuffix(".weight")
            modules.add(theirs.rpartition(".")[2])
            numbers = range(spec.shapes[path][0])
            for n in [n for n in lora.at if n in numbers] if lora.at else numbers:
                name = f"{PREFIX}{theirs.format(n=n)}{LEAVES[leaf]}"
                entries.append(_entry(name, trained[path][n, 0], leaf != "lora_m"))
        else:
            theirs, transposed = table[path]
            layers = range(spec.shapes[path][0]) if "{n}" in theirs else ()
            # Whole names: peft takes every module whose name ends with what it is given.
            module = theirs.rpartition(".")[0]
            whole |= {module.format(n=n) for n in layers} if layers else {module}
            entries += [_entry(PREFIX + theirs.format(n=n), trained[path][n], transposed) for n in layers]
            if not layers:
                entries.append(_entry(PREFIX + theirs, trained[path], transposed))
    write_file(folder / WEIGHTS, entries, dtype)
    write_json(
        folder / CONFIG,
        {
            "peft_type": "LORA",
            "task_type": "SEQ_2_SEQ_LM" if isinstance(spec.config, EncoderDecoderConfig) else "CAUSAL_LM",
            "base_model_name_or_path": base,
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": 0.0,
            "bias": "none",
            "use_rslora": lora.scaling == "rslora",
            "use_dora": lora.dora,
            "target_modules": sorted(modules),
            "layers_to_transform": list(lora.at) or None,
            "modules_to_save": sorted(whole) or None,
            "fan_in_fan_out": False,
            "inference_mode": True,
        },
    )


def _check_separable(spec: ModelSpec) -> None:
    """Raises: UserError where peft would compute something else than the run did."""
    advice = "as an adapter of peft's it would compute something else: convert with --adapter=merged"
    full = {path for path in spec.trainable if path.rpartition("/")[2] not in LEAVES}
    if "embed" in full and (spec.config.tied_embeddings or isinstance(spec.config, EncoderDecoderConfig)):
        raise UserError(f"LoRAConfig.train trained the embedding, which other parts of the model share; {advice}")
    adapted = {path.rpartition("/")[0] for path in spec.adapter_paths()}
    if both := sorted(path for path in full if path.rpartition("/")[0] in adapted):
        raise UserError(f"LoRAConfig.train trained {both[0]} of a layer that has an adapter too; {advice}")


def _entry(name: str, array: np.ndarray, transposed: bool) -> Entry:
    array = np.asarray(array).T if transposed else np.asarray(array)
    return Entry(name=name, shape=array.shape, make=lambda: array)
