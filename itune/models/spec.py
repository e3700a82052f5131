"""The functional boundary: a model as a graph definition plus a flat dict of parameters by path.

`params` is {path: array}, for example "layers/attention/q_proj/lora_a" -> [N, A, D_in, R]. Paths don't know whether
layers are scanned.
"""

from __future__ import annotations

import dataclasses
import re
from typing import Any

import jax
from flax import nnx

from itune.models.config import LINEAR_LAYERS, AnyModelConfig, EncoderDecoderConfig, FullConfig, LoRAConfig
from itune.models.decoder import Decoder
from itune.models.encdec import EncoderDecoder
from itune.models.linear import LoRAParam

Params = dict[str, jax.Array]
Model = Decoder | EncoderDecoder
ADAPTER = ("lora_a", "lora_b", "lora_m")


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """What a model is, without its numbers.

    paths: parameter paths in the graph's order.  shapes, axes: {path: shape}, {path: logical axes}.
    trainable: the paths that train.  quantise: see `WeightsConfig`.
    """

    config: AnyModelConfig
    tuning: LoRAConfig | FullConfig | None
    graphdef: Any
    treedef: Any
    paths: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    axes: dict[str, tuple[str | None, ...]]
    trainable: frozenset[str]
    quantise: str = ""

    def merge(self, params: Params) -> Model:
        """The module over these parameters. Cheap, and safe inside jit."""
        leaves = [params[path] for path in self.paths]
        return nnx.merge(self.graphdef, jax.tree.unflatten(self.treedef, leaves))

    def partition(self, params: Params) -> tuple[Params, Params]:
        """(what trains, what is frozen)."""
        train = {p: a for p, a in params.items() if p in self.trainable}
        return train, {p: a for p, a in params.items() if p not in self.trainable}

    def adapter_paths(self) -> tuple[str, ...]:
        return tuple(p for p in self.paths if p.rpartition("/")[2] in ADAPTER)

    def linear_paths(self) -> tuple[str, ...]:
        """Of the linear layers, quantised or not: "layers/attention/q_proj", ..."""
        return tuple(p.rpartition("/")[0] for p in self.paths if p.rpartition("/")[2] in ("w", "codes"))

    def count(self, paths=None) -> int:
        """Parameters in all, or in `paths`."""
        total = 0
        for path in self.paths if paths is None else paths:
            n = 1
            for size in self.shapes[path]:
                n *= size
            total += n
        return total


def model_spec(
    config: AnyModelConfig,
    tuning: LoRAConfig | FullConfig | None = None,
    *,
    adapters: int = 1,
    quantise: str = "",
) -> ModelSpec:
    """Traces the model's construction; no array is made.

    quantise: see `WeightsConfig`.

    Raises: ValueError if a pattern matches no parameter, or asks for quantised ones to train.
    """
    lora = tuning if isinstance(tuning, LoRAConfig) else None
    if quantise and isinstance(tuning, FullConfig):
        raise ValueError(f"WeightsConfig.quantise={quantise!r} is for frozen weights: tune adapters (LoRAConfig)")
    kind: Any = EncoderDecoder if isinstance(config, EncoderDecoderConfig) else Decoder
    abstract = nnx.eval_shape(lambda: kind(config, lora, adapters=adapters, quantise=quantise, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(abstract)
    # The pytree's leaf order need not be the flat state's: take paths from the leaves themselves.
    is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
    leaves = jax.tree.leaves_with_path(state, is_leaf=is_variable)
    names = {"/".join(str(key.key) for key in path): variable for path, variable in leaves}
    paths = tuple(names)
    shapes = {p: tuple(names[p].shape) for p in paths}
    axes = {p: names[p].get_metadata("logical_axes") for p in paths}
    trainable = _trainable(names, tuning)
    spec = ModelSpec(config, tuning, graphdef, jax.tree.structure(state), paths, shapes, axes, trainable, quantise)
    if lora is not None:
        _check_adapters(spec, lora)
    return spec


def _trainable(names: dict[str, nnx.Variable], tuning) -> frozenset[str]:
    if tuning is None:
        return frozenset()
    if isinstance(tuning, LoRAConfig):
        fully = frozenset(p for p in names if any(re.fullmatch(pattern, p) for pattern in tuning.train))
        return fully | {p for p, v in names.items() if isinstance(v, LoRAParam)}
    chosen = frozenset(p for p in names if any(re.fullmatch(pattern, p) for pattern in tuning.patterns))
    if not chosen:
        raise ValueError(
            f"FullConfig.patterns={tuning.patterns} match no parameter; paths look like {sorted(names)[:3]}"
        )
    return chosen


def _check_adapters(spec: ModelSpec, lora: LoRAConfig) -> None:
    """Every name, pattern and number finds something: a slip must not leave a layer untuned in silence."""
    linear = spec.linear_paths()
    # The default is every linear layer of any family; T5 v1.0 has no gate.
    for pattern in () if lora.layers == LINEAR_LAYERS else lora.layers:
        if not any(pattern == p.rpartition("/")[2] or re.fullmatch(pattern, p) for p in linear):
            raise ValueError(f"LoRAConfig.layers: {pattern!r} fits no linear layer; they are {', '.join(linear)}")
    for pattern in lora.train:
        found = [p for p in spec.paths if re.fullmatch(pattern, p)]
        if not found:
            raise ValueError(f"LoRAConfig.train: {pattern!r} fits no parameter; some are {sorted(spec.paths)[:3]}")
        if kept := [p for p in found if p.rpartition("/")[2] in ("codes", "scales")]:
            raise ValueError(f"LoRAConfig.train: {pattern!r} fits {kept[0]}, which is quantised and can't train")
    for number in lora.at:
        if not 0 <= number < spec.config.num_layers:
            raise ValueError(f"LoRAConfig.at: there is no layer {number}; they are 0 to {spec.config.num_layers - 1}")


def init_params(spec: ModelSpec, seed: int, paths=None) -> Params:
    """Fresh parameters for `paths` (default: the adapters).

    Keyed by (seed, path): independent of order, of devices and of each other.
    lora_b, lora_m (see `itune.models.adapters.magnitudes`) and biases are zero, norms multiply by one, everything else
    is normal with the layer's own scale (see `itune.models.linear`).
    """
    import zlib

    import jax.numpy as jnp

    out = {}
    for path in spec.adapter_paths() if paths is None else paths:
        shape, leaf = spec.shapes[path], path.rsplit("/", 1)[-1]
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(path.encode()))
        if leaf in ("lora_b", "lora_m"):
            out[path] = jnp.zeros(shape, jnp.float32)
        elif leaf == "scale":
            out[path] = jnp.full(shape, 1.0 - getattr(spec.config, "norm_offset", 0.0), jnp.float32)
        elif leaf == "b":
            out[path] = jnp.zeros(shape, jnp.float32)
        else:
            fan_in = shape[-1] if leaf in ("embed", "head") else shape[-2]
            # peft draws A uniformly with this variance; with the same, learning rates carry over.
            variance = 1 / (3 * fan_in) if leaf == "lora_a" else 1 / fan_in
            out[path] = jax.random.normal(key, shape, jnp.float32) * variance**0.5
    return out
