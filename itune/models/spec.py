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

from itune.models.config import FullConfig, LoRAConfig, ModelConfig
from itune.models.decoder import Decoder
from itune.models.layers import LoRAParam

Params = dict[str, jax.Array]


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """What a model is, without its numbers.

    paths: parameter paths in the graph's order.  shapes, axes: {path: shape}, {path: logical axes}.
    trainable: the paths that train.
    """

    config: ModelConfig
    tuning: LoRAConfig | FullConfig | None
    graphdef: Any
    treedef: Any
    paths: tuple[str, ...]
    shapes: dict[str, tuple[int, ...]]
    axes: dict[str, tuple[str | None, ...]]
    trainable: frozenset[str]

    def merge(self, params: Params) -> Decoder:
        """The module over these parameters. Cheap, and safe inside jit."""
        leaves = [params[path] for path in self.paths]
        return nnx.merge(self.graphdef, jax.tree.unflatten(self.treedef, leaves))

    def partition(self, params: Params) -> tuple[Params, Params]:
        """(what trains, what is frozen)."""
        train = {p: a for p, a in params.items() if p in self.trainable}
        return train, {p: a for p, a in params.items() if p not in self.trainable}

    def adapter_paths(self) -> tuple[str, ...]:
        return tuple(p for p in self.paths if p.endswith(("/lora_a", "/lora_b")))

    def count(self, paths=None) -> int:
        """Parameters in all, or in `paths`."""
        total = 0
        for path in self.paths if paths is None else paths:
            n = 1
            for size in self.shapes[path]:
                n *= size
            total += n
        return total


def model_spec(config: ModelConfig, tuning: LoRAConfig | FullConfig | None = None, *, adapters: int = 1) -> ModelSpec:
    """Traces the model's construction; no array is made.

    Raises: ValueError if FullConfig's patterns match no parameter.
    """
    lora = tuning if isinstance(tuning, LoRAConfig) else None
    abstract = nnx.eval_shape(lambda: Decoder(config, lora, adapters=adapters, rngs=nnx.Rngs(0)))
    graphdef, state = nnx.split(abstract)
    # The pytree's leaf order need not be the flat state's: take paths from the leaves themselves.
    is_variable = lambda x: isinstance(x, nnx.Variable)  # noqa: E731
    leaves = jax.tree.leaves_with_path(state, is_leaf=is_variable)
    names = {"/".join(str(key.key) for key in path): variable for path, variable in leaves}
    paths = tuple(names)
    shapes = {p: tuple(names[p].shape) for p in paths}
    axes = {p: names[p].get_metadata("logical_axes") for p in paths}
    return ModelSpec(
        config, tuning, graphdef, jax.tree.structure(state), paths, shapes, axes, _trainable(names, tuning)
    )


def _trainable(names: dict[str, nnx.Variable], tuning) -> frozenset[str]:
    if tuning is None:
        return frozenset()
    if isinstance(tuning, LoRAConfig):
        return frozenset(p for p, v in names.items() if isinstance(v, LoRAParam))
    chosen = frozenset(p for p in names if any(re.fullmatch(pattern, p) for pattern in tuning.patterns))
    if not chosen:
        raise ValueError(
            f"FullConfig.patterns={tuning.patterns} match no parameter; paths look like {sorted(names)[:3]}"
        )
    return chosen


def init_params(spec: ModelSpec, seed: int, paths=None) -> Params:
    """Fresh parameters for `paths` (default: the adapters).

    Keyed by (seed, path): independent of order, of devices and of each other.
    lora_b and biases are zero, norms multiply by one, everything else is normal with the layer's own scale (see
    `itune.models.layers`).
    """
    import zlib

    import jax.numpy as jnp

    out = {}
    for path in spec.adapter_paths() if paths is None else paths:
        shape, leaf = spec.shapes[path], path.rsplit("/", 1)[-1]
        key = jax.random.fold_in(jax.random.key(seed), zlib.crc32(path.encode()))
        if leaf == "lora_b":
            out[path] = jnp.zeros(shape, jnp.float32)
        elif leaf == "scale":
            out[path] = jnp.full(shape, 1.0 - spec.config.norm_offset, jnp.float32)
        elif leaf == "b":
            out[path] = jnp.zeros(shape, jnp.float32)
        else:
            fan_in = shape[-1] if leaf in ("embed", "head") else shape[-2]
            # peft draws A uniformly with this variance; with the same, learning rates carry over.
            variance = 1 / (3 * fan_in) if leaf == "lora_a" else 1 / fan_in
            out[path] = jax.random.normal(key, shape, jnp.float32) * variance**0.5
    return out
