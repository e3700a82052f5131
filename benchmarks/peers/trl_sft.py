"""TRL's SFTTrainer: trl_sft.py JOB.json [--dtype bf16] [--packing bfd|wrapped|none]. Prints JSON, as ours.py does.

Runs in an environment of its own (.venv-parity): nothing of itune is imported. The trainer tokenises and packs the
rows as it does for its users: "bfd" is its default and flattens a batch into one row, whose examples transformers then
keeps apart by their positions; "wrapped" cuts rows of one length from the examples laid end to end, which then see
each other; "none" pads. The batches it made, one array of [batches, rows, tokens] each, are written to job["batches"],
for ours.py to train on: both sides see the same tokens. f32 is f32 throughout. bf16: with LoRA a bfloat16 base (peft
keeps its adapters in float32) and autocast, in full autocast over float32 parameters.
"""

from __future__ import annotations

import time

STARTED = time.perf_counter()

import argparse  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import sys  # noqa: E402
import tempfile  # noqa: E402
from pathlib import Path  # noqa: E402
from typing import Any  # noqa: E402

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import datasets  # noqa: E402
import numpy as np  # noqa: E402
import peft  # noqa: E402
import torch  # noqa: E402
import transformers  # noqa: E402
import trl  # noqa: E402

from benchmarks.measure import peak_memory_gb  # noqa: E402

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


class Clock(transformers.TrainerCallback):
    """Seconds and loss of each step; a step is what the trainer does between the two calls."""

    def __init__(self) -> None:
        self.seconds: list[float] = []
        self.losses: list[float] = []
        self.grad_norms: list[float] = []

    def on_step_begin(self, *_: Any, **__: Any) -> None:
        self.begin = time.perf_counter()

    def on_step_end(self, *_: Any, **__: Any) -> None:
        self.seconds.append(time.perf_counter() - self.begin)

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, Any] | None = None, **__: Any) -> None:
        if logs and "loss" in logs:
            self.losses.append(float(logs["loss"]))
            self.grad_norms.append(float(logs["grad_norm"]))


def make_trainer(job: dict[str, Any], dtype: str, packing: str, clock: Clock) -> trl.SFTTrainer:
    stored = DTYPES[dtype] if job["mode"] == "lora" else torch.float32
    model = transformers.AutoModelForCausalLM.from_pretrained(job["folder"], dtype=stored, attn_implementation="sdpa")
    tokenizer = transformers.AutoTokenizer.from_pretrained(job["folder"])
    adapters = peft.LoraConfig(
        r=job["rank"], lora_alpha=job["alpha"], target_modules="all-linear", task_type="CAUSAL_LM"
    )
    adamw = job["adamw"]
    config = trl.SFTConfig(
        output_dir=tempfile.mkdtemp(),
        max_steps=job["warmup"] + job["steps"],
        per_device_train_batch_size=job["batch"],
        max_length=job["length"],
        packing=packing != "none",
        packing_strategy=packing if packing != "none" else "bfd",
        completion_only_loss=True,
        learning_rate=job["learning_rate"],
        lr_scheduler_type="constant",
        adam_beta1=adamw["b1"],
        adam_beta2=adamw["b2"],
        adam_epsilon=adamw["eps"],
        weight_decay=adamw["weight_decay"],
        max_grad_norm=job["clip_norm"],
        logging_steps=1,
        report_to=[],
        save_strategy="no",
        bf16=dtype == "bf16",
        use_cpu=True,
        gradient_checkpointing=False,
        dataloader_num_workers=0,
        dataloader_pin_memory=False,
        disable_tqdm=True,
        seed=0,
    )
    rows = [json.loads(line) for line in Path(job["rows_out"]).read_text("utf-8").splitlines()]
    return trl.SFTTrainer(
        model,
        args=config,
        train_dataset=datasets.Dataset.from_list(rows),
        processing_class=tokenizer,
        peft_config=adapters if job["mode"] == "lora" else None,
        callbacks=[clock],
    )


def as_rows(inputs: dict[str, torch.Tensor]) -> dict[str, np.ndarray]:
    """A batch of the trainer's: tokens, labels, positions, segment_ids, each [rows, tokens]; segment 0 is padding."""
    tokens = inputs["input_ids"].numpy()
    if "attention_mask" in inputs:
        real = inputs["attention_mask"].numpy()
        positions, segments = np.arange(tokens.shape[1])[None] * real, real
    else:
        positions = inputs["position_ids"].numpy()
        segments = (positions == 0).cumsum(axis=1)
    return {"tokens": tokens, "labels": inputs["labels"].numpy(), "positions": positions, "segment_ids": segments}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("job", type=Path)
    parser.add_argument("--dtype", choices=DTYPES, default="f32")
    parser.add_argument("--packing", choices=("bfd", "wrapped", "none"), default="bfd")
    flags = parser.parse_args()
    job = json.loads(flags.job.read_text("utf-8"))
    torch.set_num_threads(job["cores"])
    clock, batches = Clock(), list[dict[str, np.ndarray]]()
    trainer = make_trainer(job, flags.dtype, flags.packing, clock)
    inner = trainer.training_step

    def training_step(model: Any, inputs: dict[str, torch.Tensor], *rest: Any, **more: Any) -> torch.Tensor:
        batches.append(as_rows(inputs))
        return inner(model, inputs, *rest, **more)

    trainer.training_step = training_step
    ready = time.perf_counter() - STARTED
    trainer.train()
    # Arrays of one shape for all batches, by the widest.
    width = max(batch["tokens"].shape[1] for batch in batches)
    fill = {"labels": -100}
    arrays = {
        name: np.stack(
            [
                np.pad(b[name], ((0, 0), (0, width - b[name].shape[1])), constant_values=fill.get(name, 0))
                for b in batches
            ]
        )
        for name in batches[0]
    }
    np.savez(job["peer_batches"], allow_pickle=False, **arrays)
    versions = {module.__name__: module.__version__ for module in (torch, transformers, trl, peft)}
    found = {
        "ready_seconds": round(ready, 3),
        "step_seconds": [round(s, 4) for s in clock.seconds],
        "losses": clock.losses,
        "grad_norms": clock.grad_norms,
        "peak_memory_gb": round(peak_memory_gb(), 3),
        "trainable": sum(p.numel() for p in trainer.model.parameters() if p.requires_grad),
        "useful": (arrays["segment_ids"] > 0).sum((1, 2)).tolist(),
        "supervised": (arrays["labels"] != -100).sum((1, 2)).tolist(),
        "versions": versions,
    }
    print(json.dumps(found))


if __name__ == "__main__":
    main()
