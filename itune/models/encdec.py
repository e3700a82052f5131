"""An encoder-decoder: T5 (Raffel et al. 2020), its versions 1.0 and 1.1, Flan-T5 and mT5. Both stacks scanned.

Legend: B rows, L tokens (of the decoder where both are meant), M keys, D width, H heads, K head width, V vocabulary,
N layers.
Rows are packed: a segment of the decoder sees the encoder's segment of the same number, and nothing else.
"""

from __future__ import annotations

import dataclasses
import functools
import math

import jax
import jax.numpy as jnp
from flax import nnx

from itune.batch import Batch
from itune.models.attention import Scores, masked_attention
from itune.models.compute import Compute
from itune.models.config import EncoderDecoderConfig, LoRAConfig
from itune.models.layers import ACTIVATIONS, NO_DROPOUT, Dropout, RMSNorm, embedding_stddev, neftune, parameter
from itune.models.linear import Linear
from itune.models.lookup import lookup
from itune.models.products import dot

SCORES = Scores(1.0)  # T5 does not scale: its initialisation does
START_ID = 0  # what a decoder reads first: T5's padding


def relative_buckets(distance, buckets: int, max_distance: int, *, both_ways: bool):
    """int32 of `distance` (key's position less query's): one each for small ones, then wider and wider ones.

    The paper's section 2.1; both_ways: half of the buckets are for keys after the query, which a decoder never sees.
    """
    after = jnp.zeros_like(distance)
    if both_ways:
        buckets //= 2
        after = jnp.where(distance > 0, buckets, 0)
        distance = jnp.abs(distance)
    else:
        distance = jnp.maximum(-distance, 0)
    exact = buckets // 2
    share = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / math.log(max_distance / exact)
    wide = jnp.minimum(exact + (share * (buckets - exact)).astype(jnp.int32), buckets - 1)
    return after + jnp.where(distance < exact, distance, wide)


class Attention(nnx.Module):
    """Multi-head attention without scaling or positions of its own."""

    def __init__(self, c: EncoderDecoderConfig, path: str, lora: LoRAConfig | None, **kw):
        inner = c.num_heads * c.head_dim
        self.head_dim = c.head_dim
        self.q_proj = Linear(f"{path}/q_proj", c.width, inner, ("embed", "heads"), lora, **kw)
        self.k_proj = Linear(f"{path}/k_proj", c.width, inner, ("embed", "heads"), lora, **kw)
        self.v_proj = Linear(f"{path}/v_proj", c.width, inner, ("embed", "heads"), lora, **kw)
        self.o_proj = Linear(f"{path}/o_proj", inner, c.width, ("heads", "embed"), lora, **kw)

    def heads(self, name: str, x_BLD, dtype: str, dropout: Dropout, site: int):
        """[B, L, H, K] of one projection."""
        projection: Linear = getattr(self, name)
        return projection(x_BLD, dtype, dropout, site).reshape(*x_BLD.shape[:2], -1, self.head_dim)

    def keys_and_values(self, x_BMD, dtype: str, dropout: Dropout = NO_DROPOUT, site: int = 0):
        return self.heads("k_proj", x_BMD, dtype, dropout, site + 1), self.heads(
            "v_proj", x_BMD, dtype, dropout, site + 2
        )

    def output(self, y_BLHK, dtype: str, dropout: Dropout, site: int):
        return self.o_proj(y_BLHK.reshape(*y_BLHK.shape[:2], -1), dtype, dropout, site + 3)


class MLP(nnx.Module):
    """activation(x W_up) W_down, or gated: (activation(x W_gate) * x W_up) W_down (Shazeer 2020)."""

    def __init__(self, c: EncoderDecoderConfig, path: str, lora: LoRAConfig | None, **kw):
        self.activation, self.gated = ACTIVATIONS[c.activation], c.gated
        if c.gated:
            self.gate_proj = Linear(f"{path}/gate_proj", c.width, c.mlp_width, ("embed", "mlp"), lora, **kw)
        self.up_proj = Linear(f"{path}/up_proj", c.width, c.mlp_width, ("embed", "mlp"), lora, **kw)
        self.down_proj = Linear(f"{path}/down_proj", c.mlp_width, c.width, ("mlp", "embed"), lora, **kw)

    def __call__(self, x_BLD, dtype: str, branch: Dropout, inside: Dropout):
        """inside: the dropout between the two products."""
        up = self.up_proj(x_BLD, dtype, branch, 21)
        hidden = self.activation(self.gate_proj(x_BLD, dtype, branch, 20)) * up if self.gated else self.activation(up)
        return self.down_proj(inside(hidden, 22), dtype, branch, 23)


class Block(nnx.Module):
    """Attention to its own, in a decoder to the encoder's, and an MLP, each after a norm, each added."""

    def __init__(self, c: EncoderDecoderConfig, path: str, lora: LoRAConfig | None, *, cross: bool, stack, **kw):
        norm = functools.partial(RMSNorm, c.width, c.norm_eps, stack=stack)
        kw = dict(kw, stack=stack)
        self.attention_norm, self.attention = norm(), Attention(c, f"{path}/attention", lora, **kw)
        self.cross = cross
        if cross:
            self.cross_norm, self.cross_attention = norm(), Attention(c, f"{path}/cross_attention", lora, **kw)
        self.mlp_norm, self.mlp = norm(), MLP(c, f"{path}/mlp", lora, **kw)
        self.adapted = lora is not None

    def __call__(self, x_BLD, mask_BLL, bias_HLL, memory, compute: Compute, dropout: Dropout):
        """memory: (the encoder's hidden states [B, M, D], mask [B, L, M]) for a decoder's block."""
        # With adapters dropout sits on their inputs, as in the LoRA paper; without, where T5 has it.
        branch, recipe = (dropout, NO_DROPOUT) if self.adapted else (NO_DROPOUT, dropout)
        own = compute.again(
            lambda x: self._attend(
                self.attention, self.attention_norm(x), None, mask_BLL, bias_HLL, compute, branch, recipe, 0
            )
        )
        x_BLD = x_BLD + recipe(own(x_BLD), 8)
        if self.cross:
            hidden_BMD, mask_BLM = memory
            other = compute.again(
                lambda x, m: self._attend(
                    self.cross_attention, self.cross_norm(x), m, mask_BLM, None, compute, branch, recipe, 10
                )
            )
            x_BLD = x_BLD + recipe(other(x_BLD, hidden_BMD), 18)
        mlp = compute.again(lambda x: self.mlp(self.mlp_norm(x), compute.dtype, branch, recipe))
        return x_BLD + recipe(mlp(x_BLD), 28)

    def _attend(self, attention, x_BLD, memory_BMD, mask, bias, compute: Compute, branch, recipe, site: int):
        q = attention.heads("q_proj", x_BLD, compute.dtype, branch, site)
        k, v = attention.keys_and_values(x_BLD if memory_BMD is None else memory_BMD, compute.dtype, branch, site)
        y = masked_attention(q, k, v, mask, SCORES, bias, weigh=lambda probs: recipe(probs, site + 4))
        return attention.output(y, compute.dtype, branch, site)

    def decode(self, x_B1D, cache, mask_B1M, bias_BH1M, newest_BM, memory_mask, dtype: str):
        """One token a row: (x [B, 1, D], its key and value). cache: own keys and values [B, M, H, K], the encoder's.

        newest_BM: where the token stands.
        """
        k_own, v_own, k_memory, v_memory = cache
        x = self.attention_norm(x_B1D)
        q = self.attention.heads("q_proj", x, dtype, NO_DROPOUT, 0)
        k, v = self.attention.keys_and_values(x, dtype)
        place = lambda old, new: jnp.where(newest_BM[:, :, None, None], new.astype(old.dtype), old)  # noqa: E731
        y = masked_attention(q, place(k_own, k), place(v_own, v), mask_B1M, SCORES, bias_BH1M)
        x_B1D = x_B1D + self.attention.output(y, dtype, NO_DROPOUT, 0)
        q = self.cross_attention.heads("q_proj", self.cross_norm(x_B1D), dtype, NO_DROPOUT, 10)
        y = masked_attention(q, k_memory, v_memory, memory_mask, SCORES)
        x_B1D = x_B1D + self.cross_attention.output(y, dtype, NO_DROPOUT, 10)
        return x_B1D + self.mlp(self.mlp_norm(x_B1D), dtype, NO_DROPOUT, NO_DROPOUT), (k, v)


class Stack(nnx.Module):
    """Blocks that share one table of relative positions, and a final norm."""

    def __init__(self, c: EncoderDecoderConfig, path: str, layers: int, lora: LoRAConfig | None, *, cross: bool, **kw):
        self.config, self.both_ways, self.num_layers = c, not cross, layers
        self.layers = Block(c, f"{path}/layers", lora, cross=cross, stack=(layers,), **kw)
        table = (c.relative_buckets, c.num_heads)
        self.relative_bias = parameter(nnx.Param, kw["rngs"](), table, (None, "heads"), c.num_heads**-0.5)
        self.final_norm = RMSNorm(c.width, c.norm_eps)

    def bias(self, queries_L, keys_M):
        """[H, L, M] float32, and [B, H, L, M] of queries [B, L]. In a segment positions and places differ alike."""
        distance_LM = keys_M.reshape(*[1] * queries_L.ndim, -1) - queries_L[..., None]
        c = self.config
        buckets = relative_buckets(distance_LM, c.relative_buckets, c.relative_max_distance, both_ways=self.both_ways)
        return jnp.moveaxis(self.relative_bias[...][buckets], -1, -3)

    def loop(self, body, x, xs, compute: Compute):
        """`body(block, x, xs of its layer) -> (x, out)` over the layers; scanned or unrolled, with the same numbers."""
        graphdef, stacked = nnx.split(self.layers)
        step = lambda x, inputs: body(nnx.merge(graphdef, compute.layer_weights(inputs[0])), x, inputs[1])  # noqa: E731
        if compute.scan:
            return jax.lax.scan(step, x, (stacked, xs))
        outputs = []
        for n in range(self.num_layers):
            x, out = step(x, jax.tree.map(lambda a, n=n: a[n], (stacked, xs)))
            outputs.append(out)
        return x, jax.tree.map(lambda *o: jnp.stack(o), *outputs)

    def __call__(self, x_BLD, mask_BLL, memory, compute: Compute, dropout: Dropout, first_site: int):
        """first_site: of the two stacks' layers, which must not share their masks."""
        places = jnp.arange(x_BLD.shape[1])
        bias_HLL = self.bias(places, places)
        x_BLD = dropout_at(dropout, first_site)(x_BLD, 0) if not self.layers.adapted else x_BLD

        def body(block, x, layer):
            mine = dropout_at(dropout, first_site + 1 + layer)
            run = lambda block, x: block(x, mask_BLL, bias_HLL, memory, compute, mine)  # noqa: E731
            return compute.rows(compute.layer(run)(block, compute.rows(x))), None

        x_BLD, _ = self.loop(body, x_BLD, jnp.arange(self.num_layers), compute)
        x_BLD = self.final_norm(x_BLD)
        return dropout_at(dropout, first_site)(x_BLD, 1) if not self.layers.adapted else x_BLD


def dropout_at(dropout: Dropout, layer) -> Dropout:
    """With keys of its own for a layer."""
    if dropout.keys_B is None:
        return dropout
    return dataclasses.replace(dropout, keys_B=jax.vmap(jax.random.fold_in, (0, None))(dropout.keys_B, layer))


class EncoderDecoder(nnx.Module):
    """One embedding for both sides; T5 1.0 ties the head to it and scales hidden states before."""

    def __init__(
        self,
        c: EncoderDecoderConfig,
        lora: LoRAConfig | None = None,
        *,
        adapters: int = 1,
        quantise: str = "",
        rngs: nnx.Rngs,
    ):
        kw = dict(adapters=adapters, quantise=quantise, rngs=rngs)
        shape, axes = (c.vocab_size, c.width), ("vocab", "embed")
        self.config = c
        self.embed = parameter(nnx.Param, rngs(), shape, axes, embedding_stddev(c.width))
        self.encoder = Stack(c, "encoder", c.encoder_layers, lora, cross=False, **kw)
        self.decoder = Stack(c, "decoder", c.decoder_layers, lora, cross=True, **kw)
        if not c.tied_embeddings:
            self.head = parameter(nnx.Param, rngs(), shape, axes, c.width**-0.5)

    def head_weights(self):
        """[V, D]: logits are hidden @ head_weights.T."""
        return self.embed[...] if self.config.tied_embeddings else self.head[...]

    def head_logits(self, hidden_PD, compute: Compute):
        """[P, V] float32."""
        return dot(hidden_PD, self.head_weights(), (1, 1), compute.dtype)

    def _embed(self, tokens, compute: Compute):
        return lookup(self.embed[...], tokens, compute.activations, compute.mesh, compute.rules)

    def encode(self, tokens_BM, segments_BM, compute: Compute, dropout: Dropout = NO_DROPOUT):
        """[B, M, D]. Tokens of a segment see each other in both directions."""
        if compute.attention in ("blockwise", "splash", "triton"):
            raise ValueError(
                f"attention={compute.attention!r} can't add T5's relative positions; 'reference' or 'auto' can"
            )
        x_BMD = compute.rows(self._embed(tokens_BM, compute))
        if dropout.neftune and dropout.keys_B is not None:
            x_BMD = neftune(x_BMD, segments_BM, dropout.neftune, dropout.keys_B)
        return self.encoder(x_BMD, same_segment(segments_BM, segments_BM), None, compute, dropout, 0)

    def batch_hidden(self, batch: Batch, compute: Compute, dropout: Dropout = NO_DROPOUT):
        """The decoder's final hidden states [B, L, D] of a packed batch."""
        memory_BMD = self.encode(batch.encoder_tokens, batch.encoder_segment_ids, compute, dropout)
        places = jnp.arange(batch.tokens.shape[1])
        causal_LL = places[:, None] >= places[None, :]
        own_BLL = same_segment(batch.segment_ids, batch.segment_ids) & causal_LL[None]
        memory = (memory_BMD, same_segment(batch.segment_ids, batch.encoder_segment_ids))
        x_BLD = compute.rows(self._embed(batch.tokens, compute))
        return self._scaled(self.decoder(x_BLD, own_BLL, memory, compute, dropout, 1 + self.config.encoder_layers))

    def _scaled(self, x):
        return x * self.config.width**-0.5 if self.config.scaled_outputs else x

    def memory(self, tokens_BM, segments_BM, compute: Compute):
        """What the decoder's layers read of the encoder: keys and values, two [N, B, M, H, K]."""
        memory_BMD = self.encode(tokens_BM, segments_BM, compute)
        keys = lambda block, x, _: (x, block.cross_attention.keys_and_values(memory_BMD, compute.dtype))  # noqa: E731
        return self.decoder.loop(keys, (), jnp.arange(self.config.decoder_layers), compute)[1]

    def prefill(self, tokens_BM, length_B, room: int, compute: Compute):
        """(hidden of the first prediction [B, D], cache with room for `room` more tokens, positions of the next [B]).

        The encoder runs once; its keys and values are kept for every decoder layer.
        """
        B, M = tokens_BM.shape
        segments_BM = (jnp.arange(M)[None] < length_B[:, None]).astype(jnp.int32)
        k_NBMHK, v_NBMHK = self.memory(tokens_BM, segments_BM, compute)
        shape = (self.config.decoder_layers, B, room + 1, *k_NBMHK.shape[3:])
        own = (jnp.zeros(shape, k_NBMHK.dtype),) * 2
        start_B = jnp.full(B, START_ID, jnp.int32)
        cache = (*own, k_NBMHK, v_NBMHK, segments_BM > 0)
        hidden_BD, cache = self.decode(start_B, cache, jnp.zeros(B, jnp.int32), compute)
        return hidden_BD, cache, jnp.ones(B, jnp.int32)

    def repeat(self, cache, times: int):
        """The cache with each row `times` over, one after another."""
        *stacked, seen_BM = cache
        return (*(jnp.repeat(x, times, axis=1) for x in stacked), jnp.repeat(seen_BM, times, axis=0))

    def pick(self, cache, rows_B):
        """The cache with the decoder's own keys and values of other rows, which read the same encoder states."""
        k, v, *encoders = cache
        return (k[:, rows_B], v[:, rows_B], *encoders)

    def decode(self, token_B, cache, position_B, compute: Compute):
        """One token a row, at its position -> (hidden [B, D], cache)."""
        *stacked, seen_BM = cache
        places = jnp.arange(stacked[0].shape[2])
        bias_BH1M = self.decoder.bias(position_B[:, None], places)
        newest_BM = places[None] == position_B[:, None]
        mask_B1M = (places[None] <= position_B[:, None])[:, None]
        one = lambda block, x, kv: block.decode(x, kv, mask_B1M, bias_BH1M, newest_BM, seen_BM[:, None], compute.dtype)  # noqa: E731
        x_B1D, new = self.decoder.loop(one, self._embed(token_B, compute)[:, None], tuple(stacked), compute)
        rows = jnp.arange(token_B.shape[0])
        place = lambda old, n: old.at[:, rows, position_B].set(n[:, :, 0].astype(old.dtype))  # noqa: E731
        own = tuple(place(old, n) for old, n in zip(stacked[:2], new, strict=True))
        return self._scaled(self.decoder.final_norm(x_B1D))[:, 0], (*own, *stacked[2:], seen_BM)


def same_segment(queries_BL, keys_BM):
    """bool [B, L, M]: of one segment, and no padding."""
    return (queries_BL[:, :, None] == keys_BM[:, None, :]) & (queries_BL[:, :, None] > 0)
