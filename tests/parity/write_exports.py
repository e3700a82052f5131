"""Exports for check_exports.py: every family with a random adapter, merged and by itself. Runs in .venv.

.venv/bin/python tests/parity/write_exports.py --refs DIR
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402

from itune.data.tokenizer import Tokenizer  # noqa: E402
from itune.inference.convert import convert  # noqa: E402
from itune.models.compute import Compute  # noqa: E402
from itune.models.config import EncoderDecoderConfig, LoRAConfig  # noqa: E402
from itune.models.families import read_config  # noqa: E402
from itune.models.spec import model_spec  # noqa: E402
from itune.weights import resolve  # noqa: E402
from itune.weights.export import write_json, write_model  # noqa: E402
from itune.weights.load import load_base  # noqa: E402
from itune.weights.peft import write_adapter  # noqa: E402
from tests.parity import families, our_families  # noqa: E402
from tests.parity.prompts import TOKEN_LINES  # noqa: E402

MODEL = "smollm2-135m-instruct"
REAL = "smollm2 and an adapter"
LORAS = (
    LoRAConfig(rank=4, alpha=6.0),
    LoRAConfig(rank=4, alpha=6.0, scaling="rslora"),
    LoRAConfig(rank=4, alpha=6.0, dora=True),
    LoRAConfig(rank=4, alpha=6.0, at=(1,), train=(".*norm.*/scale",)),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refs", type=Path, required=True, help="what make_golden.py --out wrote")
    refs = parser.parse_args().refs
    for number, name in enumerate(families.CONFIGS | families.T5S):
        random_adapter(refs / "families" / name, refs / "exports" / name, LORAS[number % len(LORAS)])
    random_adapter(resolve(MODEL), refs / "exports" / REAL, LORAS[1])
    out = refs / "exports" / MODEL
    convert(MODEL, out, dtype="float32", overwrite=True, echo=lambda line: None)
    tokenizer = Tokenizer.from_folder(out)
    messages = [{"role": "user", "content": "What is a fever?"}]
    lines = [{"text": text, "ids": tokenizer.encode(text)} for text in TOKEN_LINES]
    write_json(out / "expected.json", {"lines": lines, "chat": tokenizer.render_chat(messages, True)})


def random_adapter(base: Path, folder: Path, lora: LoRAConfig) -> None:
    """`folder`/merged, `folder`/adapter and our logits of the unmerged model."""
    spec = model_spec(read_config(base), lora)
    params = load_base(base, spec)
    trained = {path: 0.3 * families.array(path, spec.shapes[path]) for path in sorted(spec.trainable)}
    for path in spec.adapter_paths():
        if lora.at:
            trained[path][[n for n in range(len(trained[path])) if n not in lora.at]] = 0
    for path in trained:
        if path.endswith("lora_m"):
            w_NDF = np.asarray(params[path.replace("lora_m", "w")])
            trained[path] = np.sqrt(np.square(w_NDF).sum(axis=1))[:, None] * (1 + 0.3 * trained[path])
    seq2seq = isinstance(spec.config, EncoderDecoderConfig)
    batch = our_families.encoder_decoder_batch() if seq2seq else our_families.packed()
    tuned = {**params, **{path: jnp.asarray(a) for path, a in trained.items()}}
    found = our_families.logits(spec, tuned, batch, Compute())
    for part in ("merged", "adapter"):
        (folder / part).mkdir(parents=True, exist_ok=True)
    write_model(base, spec, trained, folder / "merged")
    write_adapter(spec, trained, folder / "adapter", base=str(base), dtype="float32")
    np.save(folder / "logits.npy", found)


if __name__ == "__main__":
    main()
