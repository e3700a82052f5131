"""Our parameters -> a Hugging Face folder, a tensor at a time: the base's, what trained in full, merged adapters."""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from itune.models.adapters import merged
from itune.models.config import LoRAConfig
from itune.models.families import read_raw
from itune.models.spec import ADAPTER, ModelSpec
from itune.weights.names import TABLES
from itune.weights.safetensors_file import Entry, write_shards
from itune.weights.shards import Tensors, open_tensors

FLOAT32 = np.dtype(np.float32)
# Taken over from the base as they are.
TOKENIZER = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "chat_template.jinja",
    "vocab.json",
    "merges.txt",
)


def write_model(
    base: Path,
    spec: ModelSpec,
    trained: Mapping[str, np.ndarray],
    folder: Path,
    *,
    dtype: str = "float32",
    max_bytes: int = 5 * 10**9,
    stop_ids: Sequence[int] = (),
) -> None:
    """Writes model.safetensors (or shards), config.json, generation_config.json and the tokenizer into `folder`.

    Args:
      base: the Hugging Face folder that was tuned.
      trained: a checkpoint's parameters by path: adapters are merged, others replace the base's.
      stop_ids: at which generation stops, before those that the base names.

    Raises: UserError if the base lacks a tensor.
    """
    config = read_raw(base / "config.json")
    names = {"torch_dtype", "dtype"} & config.keys() or {"torch_dtype"}
    architectures = {} if config.get("architectures") else {"architectures": _architectures(config)}
    write_json(folder / "config.json", config | dict.fromkeys(names, dtype) | architectures)
    write_json(folder / "generation_config.json", _generation(base, stop_ids))
    for name in TOKENIZER:
        if (base / name).is_file():
            shutil.copyfile(base / name, folder / name)
    with open_tensors(base) as tensors:
        write_shards(folder, entries(tensors, spec, trained), dtype, max_bytes)


def entries(tensors: Tensors, spec: ModelSpec, trained: Mapping[str, np.ndarray]) -> list[Entry]:
    """Every tensor of the model under its Hugging Face name, layers in order."""
    found = []
    for path, theirs, transposed in TABLES[spec.config.family]:
        layer, _, leaf = path.rpartition("/")
        ours = f"{layer}/codes" if leaf == "w" and spec.quantise and path not in spec.shapes else path
        if ours not in spec.shapes:
            continue
        for n in range(spec.shapes[ours][0]) if "{n}" in theirs else [None]:
            name = theirs if n is None else theirs.format(n=n)
            make = _maker(tensors, spec, trained, path, name, n, transposed)
            found.append(Entry(name=name, shape=tensors.shape(name), make=make))
    return found


def _maker(tensors: Tensors, spec: ModelSpec, trained: Mapping, path: str, name: str, n: int | None, transposed: bool):
    layer = path.rpartition("/")[0]
    adapter = {leaf: trained[f"{layer}/{leaf}"] for leaf in ADAPTER if f"{layer}/{leaf}" in trained}

    def make() -> np.ndarray:
        if path in trained:
            array = trained[path] if n is None else trained[path][n]
        else:
            shape = tensors.shape(name)
            every = (slice(None),) * len(shape)
            array = tensors.read(name, every, FLOAT32, transposed=transposed)
        if path.endswith("/w") and adapter and isinstance(spec.tuning, LoRAConfig) and _at(spec.tuning, n):
            array = merged(array, {leaf: a[n] for leaf, a in adapter.items()}, spec.tuning)
        return array.T if transposed else array

    return make


def _at(lora: LoRAConfig, n: int | None) -> bool:
    return not lora.at or n in lora.at


def _architectures(config: Mapping[str, Any]) -> list[str]:
    from itune.models.families import FAMILIES

    return list(FAMILIES[config["model_type"]].architectures)


def _generation(base: Path, stop_ids: Sequence[int]) -> dict[str, Any]:
    path = base / "generation_config.json"
    config = json.loads(path.read_text("utf-8")) if path.is_file() else {}
    return config | ({"eos_token_id": stop_ids[0] if len(stop_ids) == 1 else list(stop_ids)} if stop_ids else {})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, ensure_ascii=False) + "\n", "utf-8")
