"""Preflights of large models, for TPUs that need not be here.

    make libtpu
    .venv/bin/python benchmarks/preflight.py [--only NAME ...] [--out benchmarks/records/preflight.json]

Each model's `config.json`, as its owners publish it, is compiled for topologies; a row that is in the record already is
made anew only if it is named. Beside an estimate stands what others have published for the same model and topology, and
how far the estimate is off. See docs/preflight.md.
"""

from __future__ import annotations

import argparse
import dataclasses
import datetime
import json
import os
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))
os.environ["JAX_PLATFORMS"] = "cpu"

from itune.config.run import RunConfig, WeightsConfig  # noqa: E402
from itune.costs import report  # noqa: E402
from itune.costs.estimate import estimate, full_rows  # noqa: E402
from itune.data.config import DataConfig  # noqa: E402
from itune.models.config import EncoderDecoderConfig, FullConfig  # noqa: E402
from itune.models.families import read_config  # noqa: E402
from itune.parallel.config import MeshConfig  # noqa: E402
from itune.parallel.topology import topology  # noqa: E402
from itune.training.abstract import Shapes  # noqa: E402
from itune.training.config import TrainConfig  # noqa: E402

LLAMA_3_1_8B = {
    "model_type": "llama",
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "num_hidden_layers": 32,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
        "rope_type": "llama3",
    },
    "hidden_act": "silu",
    "tie_word_embeddings": False,
    "max_position_embeddings": 131072,
    "vocab_size": 128256,
}
GEMMA_2_9B = {
    "model_type": "gemma2",
    "hidden_size": 3584,
    "intermediate_size": 14336,
    "num_attention_heads": 16,
    "num_key_value_heads": 8,
    "num_hidden_layers": 42,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 4096,
    "attn_logit_softcapping": 50.0,
    "final_logit_softcapping": 30.0,
    "rms_norm_eps": 1e-6,
    "rope_theta": 10000.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 8192,
    "vocab_size": 256000,
}
T5_XXL = {
    "model_type": "t5",
    "d_model": 4096,
    "d_ff": 10240,
    "d_kv": 64,
    "num_heads": 64,
    "num_layers": 24,
    "num_decoder_layers": 24,
    "feed_forward_proj": "gated-gelu",
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "layer_norm_epsilon": 1e-6,
    "tie_word_embeddings": False,
    "vocab_size": 32128,
}
GEMMA_3_270M = {
    "model_type": "gemma3_text",
    "hidden_size": 640,
    "intermediate_size": 2048,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
    "num_hidden_layers": 18,
    "head_dim": 256,
    "query_pre_attn_scalar": 256,
    "sliding_window": 512,
    "sliding_window_pattern": 6,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "rope_local_base_freq": 10000.0,
    "hidden_activation": "gelu_pytorch_tanh",
    "max_position_embeddings": 32768,
    "vocab_size": 262144,
}
# name: (config.json, topology, rows, tokens a row, of the encoder, remat).
RUNS: dict[str, tuple[dict[str, Any], str, int, int, int, str]] = {
    "Llama-3.1-8B v5e": (LLAMA_3_1_8B, "v5e:16x16", 256, 8192, 0, "full"),
    "Llama-3.1-8B v6e": (LLAMA_3_1_8B, "v6e:16x16", 256, 8192, 0, "full"),
    "Gemma-2-9B v5e": (GEMMA_2_9B, "v5e:16x16", 256, 8192, 0, "full"),
    "Gemma-2-9B v6e": (GEMMA_2_9B, "v6e:16x16", 256, 8192, 0, "full"),
    "T5-XXL v5e": (T5_XXL, "v5e:16x16", 256, 512, 2048, "full"),
    "T5-XXL v6e": (T5_XXL, "v6e:16x16", 256, 512, 2048, "full"),
    "Gemma-3-270M v5e": (GEMMA_3_270M, "v5e:2x2", 2, 2048, 0, "full"),
}
ONE_CHIP = ("Gemma-3-270M v5e",)  # of the smallest topology that libtpu knows
# MaxText's README: tokens a second and chip, MFU by its own formula (all pairs of a row's scores).
PUBLISHED = {"Llama-3.1-8B v6e": {"of": "MaxText, v6e-256, 8,192 tokens", "tokens_per_s_chip": 7207, "mfu": 0.455}}


def measure(name: str) -> dict[str, Any]:
    content, where, rows, length, encoder_length, remat = RUNS[name]
    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "config.json").write_text(json.dumps(content))
        model = read_config(Path(folder))
    whole = isinstance(model, EncoderDecoderConfig)
    features = {"inputs": encoder_length or length - 256, "targets": length if whole else 256}
    more: dict[str, Any] = {"converter": "encoder_decoder", "encoder_row_length": encoder_length} if whole else {}
    config = RunConfig(
        model_dir="none",
        data=DataConfig(mixture="none", feature_lengths=features, row_length=length, **more),
        train=TrainConfig(steps=1, batch_size=rows),
        tuning=FullConfig(),
        mesh=MeshConfig(data=1, fsdp=-1),
        weights=WeightsConfig(compute_dtype="bfloat16", remat=remat),
    )
    shapes = Shapes(rows=rows, row_length=length, supervised=length, segments=16, encoder_length=encoder_length)
    target = topology(where)
    if name in ONE_CHIP:
        target = dataclasses.replace(target, name=f"one chip of {where}", devices=target.devices[:1])
    found = estimate(config, model, shapes, full_rows(shapes), target)
    tokens = rows * (length + encoder_length)
    return report.as_json(found, steps=1, price=0.0) | {
        "row_length": length,
        "encoder_length": encoder_length,
        "tokens_per_s_chip": tokens / found.expected / found.chips,
        "date": datetime.date.today().isoformat(),
        **_beside(name, tokens / found.expected / found.chips),
    }


def _beside(name: str, rate: float) -> dict[str, Any]:
    if name not in PUBLISHED:
        return {}
    return {"published": PUBLISHED[name], "error": rate / PUBLISHED[name]["tokens_per_s_chip"] - 1}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--only", nargs="*", default=[], choices=list(RUNS))
    parser.add_argument("--out", type=Path, default=HERE / "records" / "preflight.json")
    flags = parser.parse_args()
    record: dict[str, Any] = json.loads(flags.out.read_text()) if flags.out.is_file() else {}
    for name in flags.only or [name for name in RUNS if name not in record]:
        record[name] = measure(name)
        flags.out.write_text(json.dumps(record, indent=1) + "\n")
        one = record[name]
        print(name, "fits" if one["fits"] else "DOES NOT FIT", f"{one['used'] / 2**30:.2f} GiB", flush=True)
    head = ["Model", "Topology", "Fits", "FLOPs by formula (executed)", "Least", "Expected", "MFU", "Tokens/s a chip"]
    print(f"| {' | '.join([*head, 'Compiled in'])} |")
    for name, one in record.items():
        fits = f"{'yes' if one['fits'] else 'NO'}, {one['used'] / 2**30:.1f} of {one['limit'] / 2**30:.0f} GiB"
        flops = f"{one['flops']:.3g} ({one['executed']:.3g})"
        times = f"{one['bound']:.3g} s | {one['expected']:.3g} s | {one['mfu']:.1%} | {one['tokens_per_s_chip']:,.0f}"
        model = name.rpartition(" ")[0]
        print(f"| {model} | {one['topology']} | {fits} | {flops} | {times} | {one['compile_seconds']:.0f} s |")
    print(json.dumps({"name": "preflight", "rows": len(record)}))


if __name__ == "__main__":
    main()
