"""The one linear layer: it knows its logical axes, its bias, its adapter and whether its weights are quantised.

Legend: B rows, L tokens, D inputs, F outputs, R adapter rank, A adapters trained side by side (1 unless a study stacks
arms).
Parameters of the scanned layers carry a leading axis N; inside the scan they appear without it.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
from flax import nnx
from jax.ad_checkpoint import checkpoint_name

from itune.models.config import LoRAConfig
from itune.models.layers import NO_DROPOUT, Dropout, parameter
from itune.models.products import low_rank, product
from itune.models.quantise import codes_dtype, dequantise, quantised_product, shapes

PRODUCT = "product"  # what remat policies call a wide product's result


class LoRAParam(nnx.Param):
    """A factor of an adapter: the Variable type says what trains by default."""


class Linear(nnx.Module):
    """y = x W (+ b), plus scale * (x A) B where an adapter sits here (Hu et al. 2021).

    w [D, F], or codes and scales of it (see `itune.models.quantise`); lora_a [A, D, R], normal with variance 1 / (3 D);
    lora_b [A, R, F], zero at the start, so that tuning starts from the base model. With several adapters the rows are A
    equal groups.
    DoRA (Liu et al. 2024): y = m / |W + scale A B| * (x W + scale (x A) B) (+ b) with the norm of each output's column,
    through which no gradient goes (the paper's section 4.3); lora_m [A, F] starts at |W|.
    """

    def __init__(
        self,
        path: str,
        d_in: int,
        d_out: int,
        axes: tuple[str, str],
        lora: LoRAConfig | None,
        *,
        bias: bool = False,
        stack: tuple[int, ...] = (),
        adapters: int = 1,
        quantise: str = "",
        rngs: nnx.Rngs,
    ):
        """path: without layers' numbers, "layers/attention/q_proj": what adapters' patterns are compared with."""
        lead = ("layers",) * len(stack)
        self.quantise = quantise
        if quantise:
            codes, scales = shapes(quantise, d_in, d_out)
            codes_axes = (None, axes[0], axes[1]) if quantise == "int8" else (axes[0], None, axes[1])
            scales_axes = (codes_axes[0], axes[1])
            dtype = codes_dtype(quantise)
            self.codes = nnx.Param(jnp.zeros((*stack, *codes), dtype), logical_axes=(*lead, *codes_axes))
            self.scales = nnx.Param(jnp.zeros((*stack, *scales), jnp.float32), logical_axes=(*lead, *scales_axes))
        else:
            self.w = parameter(nnx.Param, rngs(), (*stack, d_in, d_out), (*lead, *axes), d_in**-0.5)
        self.biased = bias
        if bias:
            self.b = parameter(nnx.Param, rngs(), (*stack, d_out), (*lead, axes[1]), 0)
        self.adapted = lora is not None and lora.adapts(path)
        if lora is not None and self.adapted:
            a_shape, b_shape = (*stack, adapters, d_in, lora.rank), (*stack, adapters, lora.rank, d_out)
            self.lora_a = parameter(LoRAParam, rngs(), a_shape, (*lead, "adapters", axes[0], None), (3 * d_in) ** -0.5)
            self.lora_b = parameter(LoRAParam, rngs(), b_shape, (*lead, "adapters", None, axes[1]), 0)
            if lora.dora:
                m_axes = (*lead, "adapters", axes[1])
                self.lora_m = parameter(LoRAParam, rngs(), (*stack, adapters, d_out), m_axes, 0)
            self.lora_scale, self.dora = lora.scale, lora.dora

    def __call__(self, x_BLD, dtype: str, dropout: Dropout = NO_DROPOUT, site: int = 0):
        """dtype: of the products' operands; the result has x's."""
        x_PD = x_BLD.reshape(-1, x_BLD.shape[-1])
        if self.quantise:
            y_PF = quantised_product(self.quantise, x_PD, self.codes[...], self.scales[...], dtype)
        else:
            y_PF = product(x_PD, self.w[...], dtype)
        y_PF = checkpoint_name(y_PF, PRODUCT)
        if self.adapted:
            y_PF = self._adapt(y_PF, dropout(x_BLD, site).reshape(x_PD.shape), dtype)
        if self.biased:
            y_PF = y_PF + jnp.broadcast_to(self.b[...].astype(y_PF.dtype), y_PF.shape)
        return y_PF.reshape(*x_BLD.shape[:-1], -1)

    def _adapt(self, y_PF, x_PD, dtype: str):
        a_ADR, b_ARF = self.lora_a[...], self.lora_b[...] * self.lora_scale
        adapters = a_ADR.shape[0]
        if adapters == 1:
            y_PF = y_PF + low_rank(x_PD, a_ADR[0], b_ARF[0], dtype)
        else:
            grouped = x_PD.reshape(adapters, -1, x_PD.shape[-1])
            # Not matmul: an adapter rounds where it does alone, in the gradients too, whatever the dtype.
            added = jax.vmap(lambda x_PD, a_DR, b_RF: low_rank(x_PD, a_DR, b_RF, dtype))(grouped, a_ADR, b_ARF)
            y_PF = y_PF + added.reshape(y_PF.shape)
        if not self.dora:
            return y_PF
        norm_AF = jax.lax.stop_gradient(column_norms(self.base_weights() + jnp.matmul(a_ADR, b_ARF)))
        size_AF = (self.lora_m[...] / norm_AF).astype(y_PF.dtype)
        y_APF = y_PF.reshape(adapters, -1, y_PF.shape[-1])
        return (y_APF * jnp.broadcast_to(size_AF[:, None], y_APF.shape)).reshape(y_PF.shape)

    def base_weights(self):
        """w [1, D, F] float32, dequantised if need be."""
        w_DF = dequantise(self.quantise, self.codes[...], self.scales[...]) if self.quantise else self.w[...]
        return w_DF.astype(jnp.float32)[None]


def column_norms(w):
    """[..., D, F] -> [..., F], what DoRA calls the magnitudes."""
    return jnp.sqrt(jnp.square(w).sum(axis=-2))
