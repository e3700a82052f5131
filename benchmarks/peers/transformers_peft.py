"""transformers + peft on packed batches: transformers_peft.py JOB.json [--dtype bf16]. Prints JSON, as ours.py does.

Runs in an environment of its own (.venv-parity): nothing of itune is imported, and torch is no dependency of it. What
is measured is a plain training loop with the choices that a careful user makes today: packed rows with a block-diagonal
mask and positions that start anew, SDPA attention, the model's own loss on completions only, fused AdamW, no gradient
checkpointing, all cores, a quantised base by bitsandbytes. f32 is f32 throughout. bf16 is the quicker variant on CPUs
that have it: with LoRA a bfloat16 base under float32 adapters (peft's default), else bfloat16 autocast over float32
parameters (Trainer's bf16=True).
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import contextlib  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402

from benchmarks.measure import measure  # noqa: E402

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def load(job: dict[str, Any], dtype: torch.dtype) -> torch.nn.Module:
    """The model in training mode, adapters on all linear layers if the mode is LoRA."""
    stored = dtype if job["mode"] == "lora" else torch.float32
    quantised = {
        "": None,
        "int8": transformers.BitsAndBytesConfig(load_in_8bit=True),
        "nf4": transformers.BitsAndBytesConfig(
            load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_compute_dtype=dtype
        ),
    }[job.get("quantise", "")]
    model = transformers.AutoModelForCausalLM.from_pretrained(
        job["folder"], dtype=stored, attn_implementation="sdpa", quantization_config=quantised
    )
    if quantised is not None:
        model = peft.prepare_model_for_kbit_training(model, use_gradient_checkpointing=False)
    if job["mode"] == "lora":
        adapters = peft.LoraConfig(
            r=job["rank"], lora_alpha=job["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
        )
        model = peft.get_peft_model(model, adapters)
    return model.train()


def block_mask(segments_BL: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """[B, 1, L, L], to be added to scores: a token sees its own segment up to itself. Padding sees padding: no NaN."""
    length = segments_BL.shape[1]
    same = segments_BL[:, :, None] == segments_BL[:, None, :]
    seen = same & torch.ones(length, length, dtype=torch.bool).tril()
    return torch.zeros(seen.shape, dtype=dtype).masked_fill_(~seen, torch.finfo(dtype).min)[:, None]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    flags = parser.parse_args()
    job = json.loads(flags.job.read_text("utf-8"))
    dtype = DTYPES[flags.dtype]
    torch.manual_seed(0)
    torch.set_num_threads(job["cores"])
    transformers.utils.logging.disable_progress_bar()
    with np.load(job["batches"]) as arrays:
        columns = {n: torch.from_numpy(arrays[n]).long() for n in ("tokens", "labels", "positions", "segment_ids")}

    model = load(job, dtype)
    params = [p for p in model.parameters() if p.requires_grad]
    adamw = job["adamw"]
    optimizer = torch.optim.AdamW(
        params,
        lr=job["learning_rate"],
        betas=(adamw["b1"], adamw["b2"]),
        eps=adamw["eps"],
        weight_decay=adamw["weight_decay"],
        fused=True,
    )
    # peft's preparation of a quantised base leaves the rest of it in float32.
    mixed = dtype is torch.bfloat16 and (job["mode"] == "full" or bool(job.get("quantise")))
    autocast = torch.autocast("cpu", dtype=dtype) if mixed else contextlib.nullcontext()

    def step(n: int) -> tuple[float, float]:
        with autocast:
            loss = model(
                input_ids=columns["tokens"][n],
                attention_mask=block_mask(columns["segment_ids"][n], dtype),
                position_ids=columns["positions"][n],
                labels=columns["labels"][n],
                use_cache=False,
            ).loss
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(params, job["clip_norm"])
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return float(loss.detach()), float(norm)

    found = measure(step, len(columns["tokens"]), STARTED)
    versions = {module.__name__: module.__version__ for module in (torch, transformers, peft)}
    print(json.dumps(found | {"trainable": sum(p.numel() for p in params), "versions": versions}))


if __name__ == "__main__":
    main()
