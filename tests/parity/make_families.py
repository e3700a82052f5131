"""transformers' logits, losses, gradients and greedy tokens of the tiny models in families.py. Runs in .venv-parity."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from transformers import AutoConfig, AutoModelForCausalLM

from tests.parity import families


def write(folder: Path) -> dict[str, np.ndarray]:
    """Per family `folder`/NAME: config.json and model.safetensors as transformers saves them, refs.npz, greedy.json.

    Returns: the golden's numbers, {"NAME/logits": ..., ...}.
    """
    golden = {}
    for name, fields in families.CONFIGS.items():
        model = build(dict(fields))
        model.save_pretrained(folder / name)
        found = references(model)
        np.savez(folder / name / "refs.npz", **found)
        golden |= {f"{name}/{key}": a for key, a in families.summary(found).items()}
        rows = [greedy(model, prompt) for prompt in families.prompts()]
        (folder / name / "greedy.json").write_text(json.dumps(rows), "utf-8")
    return golden


def build(fields: dict) -> torch.nn.Module:
    config = AutoConfig.for_model(fields.pop("model_type"), **fields)
    # The other implementations leave out soft-caps.
    model = AutoModelForCausalLM.from_config(config, attn_implementation="eager", dtype=torch.float32).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(torch.from_numpy(families.array(name, tuple(parameter.shape))))
    return model


def references(model: torch.nn.Module) -> dict[str, np.ndarray]:
    tokens, labels = (torch.from_numpy(a) for a in families.batch())
    logits = model(tokens).logits
    loss = torch.nn.functional.cross_entropy(
        logits[:, :-1].reshape(-1, logits.shape[-1]), labels[:, 1:].reshape(-1), ignore_index=families.IGNORED
    )
    loss.backward()
    found = {f"grad/{name}": p.grad.numpy() for name, p in model.named_parameters()}
    return found | {"logits": logits.detach().numpy(), "loss": loss.detach().numpy()}


def greedy(model: torch.nn.Module, prompt: list[int]) -> dict:
    """{"prompt", "new", "gaps"}, as transformers' generate has it with its cache."""
    tokens = torch.tensor([prompt])
    out = model.generate(
        tokens,
        attention_mask=torch.ones_like(tokens),
        max_new_tokens=families.NEW_TOKENS,
        do_sample=False,
        output_logits=True,
        return_dict_in_generate=True,
    )
    gaps = [float(-step[0].float().topk(2).values.diff()) for step in out.logits]
    # The last ones are new, be it behind a prompt or behind a decoder's start token.
    return {"prompt": prompt, "new": out.sequences[0, -len(out.logits) :].tolist(), "gaps": gaps}
