"""A decoder-only transformer, scanned over its layers: Llama, and by ModelConfig's fields what descends from it.

Legend: B rows, L tokens, D width, F MLP width, H query heads, G key-value heads, K head width, V vocabulary, N layers,
M cache length.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from itune.batch import Batch
from itune.models.attention import Scores, attend, cached_attention
from itune.models.compute import Compute
from itune.models.config import LoRAConfig, ModelConfig
from itune.models.layers import (
    ACTIVATIONS,
    NO_DROPOUT,
    Dropout,
    RMSNorm,
    embedding_stddev,
    neftune,
    parameter,
    rotate,
    rotation,
)
from itune.models.linear import Linear
from itune.models.lookup import lookup
from itune.models.products import dot


class Position(NamedTuple):
    """Where tokens stand for one layer: what differs between layers is data, so that one compiled layer serves all.

    sin, cos: see `rotation`.  window: int32 scalar, or None where no layer has one.
    """

    sin: jax.Array
    cos: jax.Array
    window: jax.Array | None


class Attention(nnx.Module):
    """Grouped-query attention (Ainslie et al. 2023) with rotary positions, and norms over queries and keys if asked."""

    def __init__(self, c: ModelConfig, lora: LoRAConfig | None, **kw):
        heads, groups = c.num_heads * c.head_dim, c.num_kv_heads * c.head_dim
        self.config = c
        self.scores = Scores(c.attention_scale or c.head_dim**-0.5, c.attention_softcap)
        self.windows = tuple(dict.fromkeys(kind.window for kind in c.layers))
        path, into, outof = "layers/attention", dict(kw, bias=c.qkv_bias), dict(kw, bias=c.o_bias)
        self.q_proj = Linear(f"{path}/q_proj", c.width, heads, ("embed", "heads"), lora, **into)
        self.k_proj = Linear(f"{path}/k_proj", c.width, groups, ("embed", "kv_heads"), lora, **into)
        self.v_proj = Linear(f"{path}/v_proj", c.width, groups, ("embed", "kv_heads"), lora, **into)
        self.o_proj = Linear(f"{path}/o_proj", heads, c.width, ("heads", "embed"), lora, **outof)
        if c.qk_norm:
            norm = functools.partial(RMSNorm, c.head_dim, c.norm_eps, offset=c.norm_offset, axis=None)
            self.q_norm, self.k_norm = norm(stack=kw["stack"]), norm(stack=kw["stack"])

    def qkv(self, x_BLD, at: Position, dtype: str, dropout: Dropout):
        """Rotated queries [B, L, H, K] and keys [B, L, G, K], and values [B, L, G, K]."""
        heads = (*x_BLD.shape[:2], -1, self.config.head_dim)
        q = self.q_proj(x_BLD, dtype, dropout, 0).reshape(heads)
        k = self.k_proj(x_BLD, dtype, dropout, 1).reshape(heads)
        v = self.v_proj(x_BLD, dtype, dropout, 2).reshape(heads)
        if self.config.qk_norm:
            q, k = self.q_norm(q), self.k_norm(k)
        return rotate(q, (at.sin, at.cos)), rotate(k, (at.sin, at.cos)), v

    def output(self, y_BLHK, dtype: str, dropout: Dropout):
        return self.o_proj(y_BLHK.reshape(*y_BLHK.shape[:2], -1), dtype, dropout, 3)


class MLP(nnx.Module):
    """A gated unit (Shazeer 2020): (activation(x W_gate) * x W_up) W_down."""

    def __init__(self, c: ModelConfig, lora: LoRAConfig | None, **kw):
        self.activation = ACTIVATIONS[c.activation]
        kw = dict(kw, bias=c.mlp_bias)
        self.gate_proj = Linear("layers/mlp/gate_proj", c.width, c.mlp_width, ("embed", "mlp"), lora, **kw)
        self.up_proj = Linear("layers/mlp/up_proj", c.width, c.mlp_width, ("embed", "mlp"), lora, **kw)
        self.down_proj = Linear("layers/mlp/down_proj", c.mlp_width, c.width, ("mlp", "embed"), lora, **kw)

    def gate_and_up(self, x_BLD, dtype: str, dropout: Dropout):
        return self.gate_proj(x_BLD, dtype, dropout, 4), self.up_proj(x_BLD, dtype, dropout, 5)

    def down(self, gate_BLF, up_BLF, dtype: str, dropout: Dropout):
        return self.down_proj(self.activation(gate_BLF) * up_BLF, dtype, dropout, 6)

    def __call__(self, x_BLD, dtype: str, dropout: Dropout):
        gate, up = self.gate_and_up(x_BLD, dtype, dropout)
        return self.down(gate, up, dtype, dropout)


class Block(nnx.Module):
    """Attention and MLP, each after a norm (and before another, if asked), each added to the residual stream."""

    def __init__(self, c: ModelConfig, lora: LoRAConfig | None, *, stack, adapters, quantise, rngs):
        kw = dict(stack=stack, adapters=adapters, quantise=quantise, rngs=rngs)
        norm = functools.partial(RMSNorm, c.width, c.norm_eps, offset=c.norm_offset, stack=stack)
        self.attention_norm = norm()
        self.attention = Attention(c, lora, **kw)
        self.mlp_norm = norm()
        self.mlp = MLP(c, lora, **kw)
        if c.post_norms:
            self.post_attention_norm, self.post_mlp_norm = norm(), norm()
        self.post_norms = c.post_norms
        self.adapted = lora is not None

    def _add(self, x_BLD, y_BLD, norm: str, dropout: Dropout, site: int):
        y_BLD = getattr(self, norm)(y_BLD) if self.post_norms else y_BLD
        # With adapters dropout sits on their inputs, as in the LoRA paper; without, on the residual branches, as in T5.
        return x_BLD + (y_BLD if self.adapted else dropout(y_BLD, site))

    def __call__(self, x_BLD, segment_ids_BL, bidirectional_BL, at: Position, compute: Compute, dropout: Dropout):
        dtype, again = compute.dtype, compute.again
        branch = dropout if self.adapted else NO_DROPOUT
        add = again if self.post_norms else lambda function: function
        # What went through a wide product is kept: half the memory, and no wide product made twice.
        q, k, v = again(lambda x: self.attention.qkv(self.attention_norm(x), at, dtype, branch))(x_BLD)
        y_BLHK = attend(
            q,
            k,
            v,
            segment_ids_BL,
            bidirectional_BL,
            window=at.window,
            windows=self.attention.windows,
            scale=self.attention.scores.scale,
            softcap=self.attention.scores.softcap,
            backend=compute.attention,
            mesh=compute.mesh,
            rules=compute.rules,
        )
        y_BLD = self.attention.output(y_BLHK, dtype, branch)
        x_BLD = add(lambda x, y: self._add(x, y, "post_attention_norm", dropout, 7))(x_BLD, y_BLD)
        gate, up = again(lambda x: self.mlp.gate_and_up(self.mlp_norm(x), dtype, branch))(x_BLD)
        y_BLD = again(lambda gate, up: self.mlp.down(gate, up, dtype, branch))(gate, up)
        return add(lambda x, y: self._add(x, y, "post_mlp_norm", dropout, 8))(x_BLD, y_BLD), (k, v)

    def decode(self, x_BD, k_BGMK, v_BGMK, position_B, at: Position, compute: Compute):
        """One token a row against this layer's cache -> (x [B, D], its key and value, two [B, G, K])."""
        x_B1D, dtype = x_BD[:, None], compute.dtype
        q, k, v = self.attention.qkv(self.attention_norm(x_B1D), at, dtype, NO_DROPOUT)
        k, v = k[:, 0].astype(k_BGMK.dtype), v[:, 0].astype(v_BGMK.dtype)
        arguments = (q[:, 0], k, v, k_BGMK, v_BGMK, position_B, at.window, self.attention.scores)
        y = cached_attention(*arguments, mesh=compute.mesh, rules=compute.rules)
        y_B1D = self.attention.output(y[:, None], dtype, NO_DROPOUT)
        x_B1D = self._add(x_B1D, y_B1D, "post_attention_norm", NO_DROPOUT, 7)
        y_B1D = self.mlp(self.mlp_norm(x_B1D), dtype, NO_DROPOUT)
        return self._add(x_B1D, y_B1D, "post_mlp_norm", NO_DROPOUT, 8)[:, 0], (k, v)


class Decoder(nnx.Module):
    """Embedding, N blocks, a final norm; the head is the embedding where they are tied.

    `hidden` is what losses and samplers build on.
    """

    def __init__(
        self,
        c: ModelConfig,
        lora: LoRAConfig | None = None,
        *,
        adapters: int = 1,
        quantise: str = "",
        rngs: nnx.Rngs,
    ):
        self.config = c
        self.embed = parameter(
            nnx.Param, rngs(), (c.vocab_size, c.width), ("vocab", "embed"), embedding_stddev(c.width)
        )
        self.layers = Block(c, lora, stack=(c.num_layers,), adapters=adapters, quantise=quantise, rngs=rngs)
        self.final_norm = RMSNorm(c.width, c.norm_eps, offset=c.norm_offset)
        if not c.tied_embeddings:
            self.head = parameter(nnx.Param, rngs(), (c.vocab_size, c.width), ("vocab", "embed"), c.width**-0.5)

    def head_weights(self):
        """[V, D]: logits are hidden @ head_weights.T."""
        return self.embed[...] if self.config.tied_embeddings else self.head[...]

    def _positions(self, positions_BL) -> Callable[[Any], Position]:
        """The layers' positions: angles are made once for each kind of layer, and picked by the layer's number."""
        c = self.config
        ropes = list(dict.fromkeys(kind.rope for kind in c.layers))
        tables = [rotation(positions_BL, c.head_dim, rope) for rope in ropes]
        windows = [kind.window or jnp.iinfo(jnp.int32).max // 2 for kind in c.layers]
        window_N = jnp.array(windows, jnp.int32) if any(kind.window for kind in c.layers) else None
        rope_N = jnp.array([ropes.index(kind.rope) for kind in c.layers])
        stacked = jax.tree.map(lambda *x: jnp.stack(x), *tables)

        def at(layer) -> Position:
            sin, cos = tables[0] if len(ropes) == 1 else jax.tree.map(lambda x: x[rope_N[layer]], stacked)
            return Position(sin, cos, None if window_N is None else window_N[layer])

        return at

    def _embed(self, tokens, compute: Compute):
        x = lookup(self.embed[...], tokens, compute.activations, compute.mesh, compute.rules)
        return x * self.config.embed_scale if self.config.embed_scale != 1 else x

    def head_logits(self, hidden_PD, compute: Compute):
        """[P, V] float32."""
        logits_PV = dot(hidden_PD, self.head_weights(), (1, 1), compute.dtype)
        cap = self.config.final_softcap
        return cap * jnp.tanh(logits_PV / cap) if cap else logits_PV

    def _loop(self, body, carry, xs, compute: Compute):
        """Runs `body(block, carry, x)` over the layers; scanned or unrolled, with the same numbers."""
        graphdef, stacked = nnx.split(self.layers)

        def step(carry, inputs):
            state, x = inputs
            return body(nnx.merge(graphdef, compute.layer_weights(state)), carry, x)

        if compute.scan:
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
        x_BLD = compute.rows(self._embed(tokens_BL, compute))
        if dropout.neftune and dropout.keys_B is not None:
            x_BLD = neftune(x_BLD, segment_ids_BL, dropout.neftune, dropout.keys_B)
        at = self._positions(positions_BL)

        def body(block, x, layer):
            keys = None if dropout.keys_B is None else jax.vmap(jax.random.fold_in, (0, None))(dropout.keys_B, layer)
            # The block is an argument: what jax.checkpoint closes over it would keep.
            run = lambda block, x: block(  # noqa: E731
                x, segment_ids_BL, bidirectional_BL, at(layer), compute, dataclasses.replace(dropout, keys_B=keys)
            )
            x, cache = compute.layer(run)(block, compute.rows(x))
            return compute.rows(x), cache if keep_cache else None

        x_BLD, cache = self._loop(body, x_BLD, jnp.arange(self.config.num_layers), compute)
        x_BLD = self.final_norm(x_BLD)
        return (x_BLD, cache) if keep_cache else x_BLD

    def batch_hidden(self, batch: Batch, compute: Compute, dropout: Dropout = NO_DROPOUT):
        """`hidden` of a packed batch."""
        return self.hidden(
            batch.tokens,
            batch.segment_ids,
            batch.positions,
            compute,
            dropout,
            bidirectional_BL=batch.bidirectional,
        )

    def decode(self, token_B, cache, position_B, compute: Compute):
        """One token a row -> (hidden [B, D], cache): cache is two [N, B, G, M, K], written at `position_B`.

        The layers only read the cache and return the new keys and values, written once at the end: carrying the cache
        through the layers' loop copied it at every layer (three times slower on CPU).
        """
        x_BD = self._embed(token_B, compute)
        at = self._positions(position_B[:, None])
        one = lambda block, x, xs: block.decode(x, *xs[1], position_B, at(xs[0]), compute)  # noqa: E731
        x_BD, new = self._loop(one, x_BD, (jnp.arange(self.config.num_layers), cache), compute)
        rows = jnp.arange(token_B.shape[0])
        write = lambda all_NBGMK, new_NBGK: all_NBGMK.at[:, rows, :, position_B].set(new_NBGK.swapaxes(0, 1))  # noqa: E731
        return self.final_norm(x_BD), jax.tree.map(write, cache, new)


def logits(model: Decoder, tokens_BL, segment_ids_BL, positions_BL, compute: Compute | None = None):
    """All logits [B, L, V] in float32: for parity tests and scoring a few tokens, never for training."""
    compute = compute or Compute()
    hidden = model.hidden(tokens_BL, segment_ids_BL, positions_BL, compute)
    return model.head_logits(hidden.reshape(-1, hidden.shape[-1]), compute).reshape(*tokens_BL.shape, -1)
