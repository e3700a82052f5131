"""A decoder-only transformer of the Llama family, scanned over its layers.

Legend: B rows, L tokens, D width, F MLP width, H query heads, G key-value heads, K head width, V vocabulary, N layers,
M cache length.
"""

from __future__ import annotations

import dataclasses
import functools

import jax
import jax.numpy as jnp
from flax import nnx
from jax.sharding import Mesh

from itune.models.attention import attend, cached_attention
from itune.models.config import LoRAConfig, ModelConfig
from itune.models.layers import NO_DROPOUT, Dropout, Linear, RMSNorm, dot, embedding_stddev, parameter, rotate, rotation


@dataclasses.dataclass(frozen=True, kw_only=True)
class Compute:
    """How a forward pass is computed; none of it changes what is computed.

    dtype: of the operands of wide products.  scan: loop over one compiled layer.  attention: backend.
    mesh: None for one device.
    """

    dtype: str = "float32"
    scan: bool = True
    attention: str = "auto"
    mesh: Mesh | None = None

    @property
    def activations(self) -> str:
        """The dtype of what lies between products. On CPU float32: elementwise bfloat16 is emulated there."""
        return "float32" if jax.default_backend() == "cpu" else self.dtype


class Attention(nnx.Module):
    """Grouped-query attention (Ainslie et al. 2023) with rotary positions."""

    def __init__(self, c: ModelConfig, lora: LoRAConfig | None, **kw):
        heads, groups = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        self.config = c
        self.q_proj = Linear("q_proj", c.width, heads, ("embed", "heads"), lora, **kw)
        self.k_proj = Linear("k_proj", c.width, groups, ("embed", "kv_heads"), lora, **kw)
        self.v_proj = Linear("v_proj", c.width, groups, ("embed", "kv_heads"), lora, **kw)
        self.o_proj = Linear("o_proj", heads, c.width, ("heads", "embed"), lora, **kw)

    def qkv(self, x_BLD, sin_cos, dtype: str, dropout: Dropout):
        """Rotated queries [B, L, H, K] and keys [B, L, G, K], and values [B, L, G, K]."""
        heads = (*x_BLD.shape[:2], -1, self.config.head_dim)
        q = self.q_proj(x_BLD, dtype, dropout, 0).reshape(heads)
        k = self.k_proj(x_BLD, dtype, dropout, 1).reshape(heads)
        v = self.v_proj(x_BLD, dtype, dropout, 2).reshape(heads)
        return rotate(q, sin_cos), rotate(k, sin_cos), v

    def output(self, y_BLHK, dtype: str, dropout: Dropout):
        return self.o_proj(y_BLHK.reshape(*y_BLHK.shape[:2], -1), dtype, dropout, 3)


class MLP(nnx.Module):
    """SwiGLU (Shazeer 2020): (silu(x W_gate) * x W_up) W_down."""

    def __init__(self, c: ModelConfig, lora: LoRAConfig | None, **kw):
        self.gate_proj = Linear("gate_proj", c.width, c.mlp_width, ("embed", "mlp"), lora, **kw)
        self.up_proj = Linear("up_proj", c.width, c.mlp_width, ("embed", "mlp"), lora, **kw)
        self.down_proj = Linear("down_proj", c.mlp_width, c.width, ("mlp", "embed"), lora, **kw)

    def gate_and_up(self, x_BLD, dtype: str, dropout: Dropout):
        return self.gate_proj(x_BLD, dtype, dropout, 4), self.up_proj(x_BLD, dtype, dropout, 5)

    def down(self, gate_BLF, up_BLF, dtype: str, dropout: Dropout):
        return self.down_proj(jax.nn.silu(gate_BLF) * up_BLF, dtype, dropout, 6)

    def __call__(self, x_BLD, dtype: str, dropout: Dropout):
        gate, up = self.gate_and_up(x_BLD, dtype, dropout)
        return self.down(gate, up, dtype, dropout)


class Block(nnx.Module):
    """Pre-norm attention and MLP, each added to the residual stream."""

    def __init__(self, c: ModelConfig, lora: LoRAConfig | None, *, stack, adapters, rngs):
        kw = dict(stack=stack, adapters=adapters, rngs=rngs)
        self.attention_norm = RMSNorm(c.width, c.norm_eps, stack=stack)
        self.attention = Attention(c, lora, **kw)
        self.mlp_norm = RMSNorm(c.width, c.norm_eps, stack=stack)
        self.mlp = MLP(c, lora, **kw)
        self.adapted = lora is not None

    def _residual_dropout(self, y_BLD, dropout: Dropout, site: int):
        # With adapters dropout sits on their inputs, as in the LoRA paper; without, on the residual branches, as in T5.
        return y_BLD if self.adapted else dropout(y_BLD, site)

    def __call__(self, x_BLD, segment_ids_BL, bidirectional_BL, sin_cos, compute: Compute, dropout: Dropout):
        dtype = compute.dtype
        branch = dropout if self.adapted else NO_DROPOUT
        # What is cheap to make again (norms, rotations, activations, thin adapter products) is not kept for the
        # backward pass; what went through a wide product is: half the memory, and no wide product made twice.
        again = functools.partial(jax.checkpoint, prevent_cse=not compute.scan)
        q, k, v = again(lambda x: self.attention.qkv(self.attention_norm(x), sin_cos, dtype, branch))(x_BLD)
        y_BLHK = attend(q, k, v, segment_ids_BL, bidirectional_BL, backend=compute.attention, mesh=compute.mesh)
        x_BLD = x_BLD + self._residual_dropout(self.attention.output(y_BLHK, dtype, branch), dropout, 7)
        gate, up = again(lambda x: self.mlp.gate_and_up(self.mlp_norm(x), dtype, branch))(x_BLD)
        y_BLD = again(lambda gate, up: self.mlp.down(gate, up, dtype, branch))(gate, up)
        return x_BLD + self._residual_dropout(y_BLD, dropout, 8), (k, v)

    def decode(self, x_BD, k_BGMK, v_BGMK, position_B, sin_cos, dtype: str):
        """One token a row against this layer's cache -> (x [B, D], its key and value, two [B, G, K])."""
        x_B1D = x_BD[:, None]
        q, k, v = self.attention.qkv(self.attention_norm(x_B1D), sin_cos, dtype, NO_DROPOUT)
        k, v = k[:, 0].astype(k_BGMK.dtype), v[:, 0].astype(v_BGMK.dtype)
        y = cached_attention(q[:, 0], k, v, k_BGMK, v_BGMK, position_B)
        x_B1D = x_B1D + self.attention.output(y[:, None], dtype, NO_DROPOUT)
        return (x_B1D + self.mlp(self.mlp_norm(x_B1D), dtype, NO_DROPOUT))[:, 0], (k, v)


class Decoder(nnx.Module):
    """Embedding, N blocks, a final norm; the head is the embedding where they are tied.

    `hidden` is what losses and samplers build on.
    """

    def __init__(self, c: ModelConfig, lora: LoRAConfig | None = None, *, adapters: int = 1, rngs: nnx.Rngs):
        self.config = c
        self.embed = parameter(
            nnx.Param, rngs(), (c.vocab_size, c.width), ("vocab", "embed"), embedding_stddev(c.width)
        )
        self.layers = Block(c, lora, stack=(c.num_layers,), adapters=adapters, rngs=rngs)
        self.final_norm = RMSNorm(c.width, c.norm_eps)
        if not c.tied_embeddings:
            self.head = parameter(nnx.Param, rngs(), (c.vocab_size, c.width), ("vocab", "embed"), c.width**-0.5)

    def head_weights(self):
        """[V, D]: logits are hidden @ head_weights.T."""
        return self.embed[...] if self.config.tied_embeddings else self.head[...]

    def _rotation(self, positions_BL):
        """Once for all layers, not in each."""
        return rotation(positions_BL, self.config.head_dim, self.config.rope_base)

    def head_logits(self, hidden_PD, compute: Compute):
        """[P, V] float32."""
        return dot(hidden_PD, self.head_weights(), (1, 1), compute.dtype)

    def _loop(self, body, carry, xs, scan: bool):
        """Runs `body(block, carry, x)` over the layers; scanned or unrolled, with the same numbers."""
        graphdef, stacked = nnx.split(self.layers)

        def step(carry, inputs):
            state, x = inputs
            return body(nnx.merge(graphdef, state), carry, x)

        if scan:
            return jax.lax.scan(step, carry, (stacked, xs))
        outputs = []
        for n in range(self.config.num_layers):
            carry, out = step(carry, jax.tree.map(lambda a, n=n: a[n], (stacked, xs)))
            outputs.append(out)
        return carry, jax.tree.map(lambda *o: jnp.stack(o), *outputs)

    def hidden(
        self,
        tokens_BL,
        segment_ids_BL,
        positions_BL,
        compute: Compute,
        dropout: Dropout = NO_DROPOUT,
        *,
        bidirectional_BL=None,
        keep_cache: bool = False,
    ):
        """Final hidden states [B, L, D]; with `keep_cache` also every layer's keys and values, two [N, B, L, G, K].

        bidirectional_BL: a prefix-LM's prompts; None for a causal model.
        """
        x_BLD = self.embed[...][tokens_BL].astype(compute.activations)
        sin_cos = self._rotation(positions_BL)

        def body(block, x, layer):
            keys = None if dropout.keys_B is None else jax.vmap(jax.random.fold_in, (0, None))(dropout.keys_B, layer)
            x, cache = block(x, segment_ids_BL, bidirectional_BL, sin_cos, compute, Dropout(dropout.rate, keys))
            return x, cache if keep_cache else None

        x_BLD, cache = self._loop(body, x_BLD, jnp.arange(self.config.num_layers), compute.scan)
        x_BLD = self.final_norm(x_BLD)
        return (x_BLD, cache) if keep_cache else x_BLD

    def decode(self, token_B, cache, position_B, compute: Compute):
        """One token a row -> (hidden [B, D], cache): cache is two [N, B, G, M, K], written at `position_B`.

        The layers only read the cache and return the new keys and values, written once at the end: carrying the cache
        through the layers' loop copied it at every layer (three times slower on CPU).
        """
        x_BD = self.embed[...][token_B].astype(compute.activations)
        sin_cos = self._rotation(position_B[:, None])
        one = lambda block, x, kv: block.decode(x, *kv, position_B, sin_cos, compute.dtype)  # noqa: E731
        x_BD, new = self._loop(one, x_BD, cache, compute.scan)
        rows = jnp.arange(token_B.shape[0])
        write = lambda all_NBGMK, new_NBGK: all_NBGMK.at[:, rows, :, position_B].set(new_NBGK.swapaxes(0, 1))  # noqa: E731
        return self.final_norm(x_BD), jax.tree.map(write, cache, new)


def logits(model: Decoder, tokens_BL, segment_ids_BL, positions_BL, compute: Compute | None = None):
    """All logits [B, L, V] in float32: for parity tests and scoring a few tokens, never for training."""
    compute = compute or Compute()
    hidden = model.hidden(tokens_BL, segment_ids_BL, positions_BL, compute)
    return model.head_logits(hidden.reshape(-1, hidden.shape[-1]), compute).reshape(*tokens_BL.shape, -1)
