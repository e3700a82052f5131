"""google-tunix's PeftTrainer: tunix_sft.py JOB.json [--dtype bf16]. Prints JSON, as ours.py does, but for losses.

Runs in an environment of its own (.venv-tunix): nothing of itune is imported. The model has the dimensions of
job["folder"]'s config and random weights, the rows are random tokens without padding (tunix packs no rows for
fine-tuning), of which a quarter carries loss: seconds are what it says, its losses mean nothing. LoRA is qwix's, on all
linear layers. bf16: parameters in bfloat16.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import importlib.metadata  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from collections.abc import Iterator  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

os.environ.setdefault("JAX_PLATFORMS", "cpu")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import optax  # noqa: E402
import qwix  # noqa: E402
from flax import nnx  # noqa: E402
from tunix.models.llama3 import model as llama  # noqa: E402
from tunix.sft import peft_trainer, utils  # noqa: E402

from benchmarks.measure import peak_memory_gb  # noqa: E402

ADAPTED = ".*q_proj|.*k_proj|.*v_proj|.*o_proj|.*gate_proj|.*up_proj|.*down_proj"
SUPERVISED = 0.25


def make_model(job: dict[str, Any], dtype: str) -> nnx.Module:
    c = json.loads((Path(job["folder"]) / "config.json").read_text("utf-8"))
    config = llama.ModelConfig(
        num_layers=c["num_hidden_layers"],
        vocab_size=c["vocab_size"],
        embed_dim=c["hidden_size"],
        hidden_dim=c["intermediate_size"],
        num_heads=c["num_attention_heads"],
        head_dim=c["hidden_size"] // c["num_attention_heads"],
        num_kv_heads=c["num_key_value_heads"],
        rope_theta=int(c["rope_parameters"]["rope_theta"] if "rope_parameters" in c else c["rope_theta"]),
        norm_eps=c["rms_norm_eps"],
        weight_tying=c["tie_word_embeddings"],
    )
    model = llama.Llama3(config, rngs=nnx.Rngs(0))
    stored = jnp.bfloat16 if dtype == "bf16" else jnp.float32
    nnx.update(model, jax.tree.map(lambda x: x.astype(stored), nnx.state(model, nnx.Param)))
    if job["mode"] == "lora":
        provider = qwix.LoraProvider(module_path=ADAPTED, rank=job["rank"], alpha=job["alpha"])
        inputs = {
            "input_tokens": jnp.ones((1, 8), jnp.int32),
            "positions": jnp.arange(8)[None],
            "cache": None,
            "attention_mask": jnp.ones((1, 8, 8), bool),
        }
        model = qwix.apply_lora_to_model(model, provider, rngs=nnx.Rngs(1), **inputs)
    return model


class Rows:
    """The trainer's data; the time at which it asks for each batch is when the step before it was done."""

    def __init__(self, job: dict[str, Any], vocabulary: int):
        self.job, self.vocabulary, self.asked = job, vocabulary, list[float]()

    def __iter__(self) -> Iterator[peft_trainer.TrainingInput]:
        shape, random = (self.job["batch"], self.job["length"]), np.random.default_rng(0)
        for _ in range(self.job["warmup"] + self.job["steps"]):
            mask = np.zeros(shape, np.int32)
            mask[:, -int(shape[1] * SUPERVISED) :] = 1
            self.asked.append(time.perf_counter())
            tokens = random.integers(1, self.vocabulary, shape, dtype=np.int32)
            yield peft_trainer.TrainingInput(input_tokens=tokens, input_mask=mask)


def model_input(batch: peft_trainer.TrainingInput) -> dict[str, jax.Array]:
    real = jnp.ones_like(batch.input_mask, bool)
    return {
        "input_tokens": batch.input_tokens,
        "input_mask": batch.input_mask,
        "positions": utils.build_positions_from_mask(real),
        "attention_mask": utils.make_causal_attn_mask(real),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("--dtype", choices=("f32", "bf16"), default="f32")
    flags = parser.parse_args()
    job = json.loads(flags.job.read_text("utf-8"))
    steps, adamw = job["warmup"] + job["steps"], job["adamw"]
    mesh = jax.make_mesh((1, 1), ("fsdp", "tp"), axis_types=(jax.sharding.AxisType.Auto,) * 2)
    with jax.set_mesh(mesh):
        model = make_model(job, flags.dtype)
        optimizer = optax.chain(optax.clip_by_global_norm(job["clip_norm"]), optax.adamw(job["learning_rate"], **adamw))
        # Of one computation in flight the next batch is asked for when the step is done.
        config = peft_trainer.TrainingConfig(eval_every_n_steps=10**6, max_steps=steps, max_inflight_computations=1)
        trainer = peft_trainer.PeftTrainer(model, optimizer, config).with_gen_model_input_fn(model_input)
        rows = Rows(job, model.config.vocab_size)
        ready = time.perf_counter() - STARTED
        trainer.train(rows)
        jax.block_until_ready(nnx.state(model))
        end = time.perf_counter()
    trains = nnx.LoRAParam if job["mode"] == "lora" else nnx.Param
    tokens = job["batch"] * job["length"]
    found = {
        "ready_seconds": round(ready, 3),
        "step_seconds": [round(float(s), 4) for s in np.diff([*rows.asked, end])],
        "losses": [],
        "grad_norms": [],
        "peak_memory_gb": round(peak_memory_gb(), 3),
        "trainable": sum(x.size for x in jax.tree.leaves(nnx.state(model, trains))),
        "useful": [tokens] * steps,
        "supervised": [int(tokens * SUPERVISED)] * steps,
        "versions": {name: importlib.metadata.version(name) for name in ("google-tunix", "qwix")},
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
