"""transformers' generate for generate.py: transformers_generate.py JOB.json, then "f32 16" a line. Prints as ours does.

As a careful user has it: prompts sorted by length, padded on the left, SDPA attention, a cache, no gradients, all
cores.
Runs in an environment of its own (.venv-parity): nothing of itune is imported.
"""

from __future__ import annotations

import json
import sys
import time
from pathlib import Path

import torch
import transformers

DTYPES = {"f32": torch.float32, "bf16": torch.bfloat16}


def complete(model: torch.nn.Module, job: dict, batch: int) -> list[list[int]]:
    prompts, stops = job["prompts"], set(job["stops"])
    order = sorted(range(len(prompts)), key=lambda i: len(prompts[i]))
    found: list[list[int]] = [[] for _ in prompts]
    for start in range(0, len(order), batch):
        chosen = order[start : start + batch]
        longest = max(len(prompts[i]) for i in chosen)
        tokens = torch.full((len(chosen), longest), job["stops"][0])
        mask = torch.zeros_like(tokens)
        for row, i in enumerate(chosen):
            tokens[row, longest - len(prompts[i]) :] = torch.tensor(prompts[i])
            mask[row, longest - len(prompts[i]) :] = 1
        out = model.generate(
            tokens,
            attention_mask=mask,
            max_new_tokens=job["new"],
            do_sample=False,
            eos_token_id=job["stops"],
            pad_token_id=job["stops"][0],
        )
        for i, new in zip(chosen, out[:, longest:].tolist(), strict=True):
            ends = [n for n, token in enumerate(new) if token in stops]
            found[i] = new[: ends[0]] if ends else new
    return found


def main() -> None:
    job = json.loads(Path(sys.argv[1]).read_text("utf-8"))
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    models: dict[str, torch.nn.Module] = {}
    for line in sys.stdin:
        dtype, batch = line.split()
        if dtype not in models:
            models[dtype] = transformers.AutoModelForCausalLM.from_pretrained(
                job["folder"], dtype=DTYPES[dtype], attn_implementation="sdpa"
            ).eval()
        begin = time.perf_counter()
        with torch.no_grad():
            found = complete(models[dtype], job, int(batch))
        print(json.dumps({"seconds": time.perf_counter() - begin, "completions": found}), flush=True)


if __name__ == "__main__":
    main()
