"""What adapters are outside the forward pass: merged into their layer, their first magnitudes, the layers without one.

Legend: N layers, A adapters side by side, D inputs, F outputs, R rank.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np

from itune.models.config import LoRAConfig
from itune.models.linear import column_norms
from itune.models.quantise import dequantise
from itune.models.spec import ModelSpec, Params


def merged(w_DF: np.ndarray, adapter: dict[str, np.ndarray], lora: LoRAConfig, which: int = 0) -> np.ndarray:
    """One layer's weights with its adapter in them, float32 on the host.

    adapter: {"lora_a": [A, D, R], "lora_b": [A, R, F]} of this layer, and with DoRA "lora_m" [A, F].
    which: of the adapters side by side.
    """
    w_DF = np.asarray(w_DF, np.float32)
    a_DR, b_RF = (np.asarray(adapter[name][which], np.float32) for name in ("lora_a", "lora_b"))
    w_DF = w_DF + (a_DR @ b_RF) * np.float32(lora.scale)
    if lora.dora:
        norm_F = np.sqrt(np.square(w_DF).sum(axis=0))
        w_DF = w_DF * (np.asarray(adapter["lora_m"][which], np.float32) / norm_F)
    return w_DF


def magnitudes(spec: ModelSpec, path: str, base: Params):
    """DoRA's first lora_m [N, A, F] of the adapter `path`: the column norms of what it adapts."""
    linear = path.rpartition("/")[0]
    if f"{linear}/w" in base:
        w_NDF = base[f"{linear}/w"].astype(jnp.float32)
    else:
        codes, scales, kind = base[f"{linear}/codes"], base[f"{linear}/scales"], spec.quantise
        w_NDF = jnp.stack([dequantise(kind, c, s) for c, s in zip(codes, scales, strict=True)])
    return jnp.broadcast_to(column_norms(w_NDF)[:, None], spec.shapes[path])


def layer_mask(spec: ModelSpec, path: str) -> np.ndarray | None:
    """[N, 1, ...] float32: 1 where the layer has an adapter, 0 where LoRAConfig.at leaves it out; None for no mask."""
    at = spec.tuning.at if isinstance(spec.tuning, LoRAConfig) else ()
    if not at or path not in spec.adapter_paths():
        return None
    mask_N = np.isin(np.arange(spec.shapes[path][0]), at).astype(np.float32)
    return mask_N.reshape(-1, *(1,) * (len(spec.shapes[path]) - 1))
