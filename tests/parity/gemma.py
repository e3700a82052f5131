"""Gemma 3 270M, where its owner's terms were accepted and it is in the cache: both sides of its comparison.

.venv-parity/bin/python tests/parity/gemma.py --out DIR     transformers' reading of the same GGUF file
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import numpy as np

from itune.cache import cache_dir
from itune.weights.fetch import RELEASES

RELEASE = RELEASES["gemma3-270m"]
# Token ids, BOS first; the longest is past the local layers' window of 512.
LENGTHS = (12, 70, 600)
NEW_TOKENS = 24


def gguf() -> Path | None:
    path = cache_dir() / "downloads" / RELEASE.file_name
    return path if path.is_file() else None


def prompts() -> list[list[int]]:
    rng = np.random.default_rng(4)
    return [[2, *rng.integers(1000, 50_000, n - 1).tolist()] for n in LENGTHS]


def summary(logits: np.ndarray) -> dict[str, np.ndarray]:
    """Of [L, V] what tells: the last position whole, and of each position the largest and the sum."""
    top = logits.max(axis=-1)
    total = np.log(np.exp(logits - top[:, None]).sum(axis=-1)) + top
    return {"last": logits[-1], "argmax": logits.argmax(-1), "logsumexp": total}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    out, path = parser.parse_args().out, gguf()
    if path is None:
        print("Gemma 3 270M is not in the cache; not compared.")
        return
    import torch
    from transformers import AutoModelForCausalLM

    source = {"pretrained_model_name_or_path": str(path.parent), "gguf_file": path.name}
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32, attn_implementation="eager").eval()
    found = {}
    for n, ids in enumerate(prompts()):
        with torch.no_grad():
            found |= {f"{n}/{k}": a for k, a in summary(model(torch.tensor([ids])).logits[0].numpy()).items()}
    np.savez(out / "gemma.npz", **found)


if __name__ == "__main__":
    main()
