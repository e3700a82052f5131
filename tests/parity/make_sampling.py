"""transformers' probabilities behind its logits processors, and what its generate finds. Runs in .venv-parity."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, GenerationConfig, LogitsProcessorList
from transformers.generation.logits_process import (
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from tests.parity import families

VOCABULARY, ROWS = 40, 4
# SamplingConfig's fields.
SETTINGS: list[dict[str, Any]] = [
    {"temperature": 0.7},
    {"temperature": 1.0, "top_k": 7},
    {"temperature": 1.4, "top_p": 0.8},
    {"temperature": 0.8, "min_p": 0.15},
    {"temperature": 1.0, "repetition_penalty": 1.7},
    {"temperature": 1.6, "top_k": 20, "top_p": 0.9, "min_p": 0.05, "repetition_penalty": 1.3},
]
# (model, beams, repetition penalty, whether a token that it would write ends it too; or many tokens, so that ended
# beams crowd the candidates)
SEARCHES = [
    ("t5", 4, 1.0, False),
    ("t5", 3, 1.0, True),
    ("flan_t5", 4, 1.0, True),
    ("flan_t5", 2, 1.4, True),
    ("mt5", 5, 1.0, True),
    ("t5", 2, 1.0, "many"),
    ("flan_t5", 3, 1.0, "many"),
    ("mt5", 4, 1.0, "many"),
    ("flan_t5", 1, 1.4, False),
    ("llama", 1, 1.3, False),
]


def probabilities() -> list[dict]:
    """{"settings", "logits", "seen" (token ids), "probabilities"} of rows at random."""
    out, rng = [], np.random.default_rng(11)
    for settings in SETTINGS:
        for _ in range(ROWS):
            logits = (2.5 * rng.standard_normal(VOCABULARY)).astype(np.float32)
            seen = rng.integers(0, VOCABULARY, 9).tolist()
            scores = processors(settings)(torch.tensor([seen]), torch.from_numpy(logits)[None])
            found = scores.softmax(-1)[0].tolist()
            out.append({"settings": settings, "logits": logits.tolist(), "seen": seen, "probabilities": found})
    return out


def processors(settings: dict[str, Any]) -> LogitsProcessorList:
    """In the order of transformers' own generate."""
    makers = {
        "repetition_penalty": RepetitionPenaltyLogitsProcessor,
        "temperature": TemperatureLogitsWarper,
        "top_k": TopKLogitsWarper,
        "top_p": TopPLogitsWarper,
        "min_p": MinPLogitsWarper,
    }
    return LogitsProcessorList(make(settings[name]) for name, make in makers.items() if name in settings)


def searches(folder: Path) -> list[dict]:
    """{"model", "prompt", "settings", "stops", "new" (up to the first stop)}, of the models in `folder`."""
    out = []
    for name, beams, penalty, early in SEARCHES:
        kind = AutoModelForSeq2SeqLM if name in families.T5S else AutoModelForCausalLM
        model = kind.from_pretrained(folder / name, dtype=torch.float32, attn_implementation="eager").eval()
        fields = (families.T5S | families.CONFIGS)[name]
        for prompt in families.prompts():
            stops = [fields["eos_token_id"]]
            if early == "many":
                stops += range(5, fields["vocab_size"], 4)
            elif early:
                stops.append(generate(model, prompt, beams, penalty, stops)[-3])
            settings = {"beams": beams, "repetition_penalty": penalty, "max_new_tokens": families.NEW_TOKENS}
            new = generate(model, prompt, beams, penalty, stops)
            out.append({"model": name, "prompt": prompt, "settings": settings, "stops": stops, "new": new})
    return out


def generate(model: torch.nn.Module, prompt: list[int], beams: int, penalty: float, stops: list[int]) -> list[int]:
    tokens = torch.tensor([prompt])
    config = GenerationConfig(
        max_new_tokens=families.NEW_TOKENS,
        do_sample=False,
        num_beams=beams,
        repetition_penalty=penalty,
        length_penalty=1.0,
        early_stopping=False,
        eos_token_id=stops,
        pad_token_id=0,
        decoder_start_token_id=0,
    )
    with torch.no_grad():
        found = model.generate(tokens, attention_mask=torch.ones_like(tokens), generation_config=config)[0].tolist()
    new = found[1:] if model.config.is_encoder_decoder else found[len(prompt) :]
    ends = [n for n, token in enumerate(new) if token in stops]
    return new[: ends[0]] if ends else new
