"""transformers' results of the tiny encoder-decoders in families.py. Runs in .venv-parity."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from safetensors.numpy import save_file
from transformers import AutoConfig, AutoModelForSeq2SeqLM

from tests.parity import families
from tests.parity.make_families import greedy

COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")


def write(folder: Path) -> dict[str, np.ndarray]:
    """As make_families.write: config.json and model.safetensors as their owners publish them, and the references."""
    golden = {}
    for name, fields in families.T5S.items():
        save(folder / name, fields)
        model = AutoModelForSeq2SeqLM.from_pretrained(folder / name, dtype=torch.float32).eval()
        untied = not fields.get("tie_word_embeddings", True)
        assert (model.lm_head.weight.data_ptr() != model.shared.weight.data_ptr()) == untied, name
        found = references(model)
        np.savez(folder / name / "refs.npz", **found)
        golden |= {f"{name}/{key}": a for key, a in families.summary(found).items()}
        rows = [greedy(model, prompt) for prompt in families.prompts()]
        (folder / name / "greedy.json").write_text(json.dumps(rows), "utf-8")
    return golden


def save(folder: Path, fields: dict) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(fields), "utf-8")
    settings = {k: v for k, v in fields.items() if k not in ("model_type", "architectures")}
    blank = AutoModelForSeq2SeqLM.from_config(AutoConfig.for_model(fields["model_type"], **settings))
    shapes = {name: tuple(a.shape) for name, a in blank.state_dict().items() if name not in COPIES}
    if fields.get("tie_word_embeddings", True):
        shapes.pop("lm_head.weight", None)
    numbers = {name: families.array(name, shape) for name, shape in shapes.items()}
    save_file(numbers, folder / "model.safetensors", metadata={"format": "pt"})


def references(model: torch.nn.Module) -> dict[str, np.ndarray]:
    tokens, labels = families.encoder_batch()
    inputs = {
        "input_ids": torch.from_numpy(tokens),
        "decoder_input_ids": torch.from_numpy(families.decoder_inputs(labels)),
    }
    logits = model(**inputs).logits
    flat, targets = logits.reshape(-1, logits.shape[-1]), torch.from_numpy(labels).reshape(-1)
    loss = torch.nn.functional.cross_entropy(flat, targets, ignore_index=families.IGNORED)
    loss.backward()
    found = {f"grad/{name}": p.grad.numpy() for name, p in model.named_parameters() if name not in COPIES}
    return found | {"logits": logits.detach().numpy(), "loss": loss.detach().numpy()}
