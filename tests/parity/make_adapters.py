"""peft's logits, gradients, merged logits and LoRA+ steps over the tiny models. Runs in .venv-parity."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from peft import LoraConfig, get_peft_model
from peft.optimizers import create_loraplus_optimizer
from transformers import AutoModelForCausalLM

from tests.parity import families


def write(folder: Path, models: Path) -> None:
    """Per adapter `folder`/NAME: the folder that peft saves, and refs.npz."""
    for name, (base, settings) in families.ADAPTERS.items():
        model = build(models / base, settings)
        model.save_pretrained(folder / name)
        found = references(model)
        if name == "lora":
            found |= lora_plus(model)
        else:
            found["merged"] = model.merge_and_unload()(tokens()).logits.detach().numpy()
        np.savez(folder / name / "refs.npz", **found)


def tokens() -> torch.Tensor:
    return torch.from_numpy(families.batch()[0])


def saved_name(name: str) -> str:
    """As peft writes it to adapter_model.safetensors."""
    name = name.replace(".modules_to_save.default", "").replace(".default.weight", ".weight").replace(".default", "")
    return name.replace("lora_magnitude_vector.weight", "lora_magnitude_vector")


def build(base: Path, settings: dict) -> torch.nn.Module:
    model = AutoModelForCausalLM.from_pretrained(base, attn_implementation="eager", dtype=torch.float32)
    config = LoraConfig(r=families.RANK, lora_alpha=families.ALPHA, task_type="CAUSAL_LM", **settings)
    model = get_peft_model(model, config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            numbers = torch.from_numpy(families.array(saved_name(name), tuple(parameter.shape)))
            # Magnitudes begin at the columns' norms, and what trains in full at the base's numbers.
            small = {"lora_A": 1.0, "lora_B": 0.2}
            scale = next((scale for part, scale in small.items() if part in name), None)
            parameter.copy_(scale * numbers if scale else parameter * (1 + 0.1 * numbers))
    return model


def loss_of(model: torch.nn.Module) -> tuple[torch.Tensor, torch.Tensor]:
    logits = model(tokens()).logits
    labels = torch.from_numpy(families.batch()[1])[:, 1:].reshape(-1)
    flat = logits[:, :-1].reshape(-1, logits.shape[-1])
    return torch.nn.functional.cross_entropy(flat, labels, ignore_index=families.IGNORED), logits


def references(model: torch.nn.Module) -> dict[str, np.ndarray]:
    loss, logits = loss_of(model)
    loss.backward()
    grads = {f"grad/{saved_name(n)}": p.grad.numpy().copy() for n, p in model.named_parameters() if p.requires_grad}
    return grads | {"logits": logits.detach().numpy(), "loss": loss.detach().numpy()}


def lora_plus(model: torch.nn.Module) -> dict[str, np.ndarray]:
    s = families.LORA_PLUS
    optimizer = create_loraplus_optimizer(
        model,
        torch.optim.AdamW,
        lr=s["lr"],
        loraplus_lr_ratio=s["ratio"],
        loraplus_weight_decay=s["weight_decay"],
        weight_decay=s["weight_decay"],
        eps=s["eps"],
    )
    for _ in range(s["steps"]):
        optimizer.zero_grad()
        loss_of(model)[0].backward()
        optimizer.step()
    return {f"plus/{saved_name(n)}": p.detach().numpy() for n, p in model.named_parameters() if p.requires_grad}
