"""transformers and peft load what write_exports.py wrote, and compute the same. Runs in .venv-parity.

.venv-parity/bin/python tests/parity/check_exports.py --refs DIR
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from peft import PeftModel  # noqa: E402
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoTokenizer  # noqa: E402
from transformers.utils import logging  # noqa: E402

from tests.parity import families  # noqa: E402

MODEL = "smollm2-135m-instruct"
REAL = "smollm2 and an adapter"
TOLERANCE = 2e-5  # of the largest logit: unmerged here, merged there


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refs", type=Path, required=True, help="what write_exports.py read")
    exports = parser.parse_args().refs / "exports"
    logging.disable_progress_bar()
    faults, largest = [], 0.0
    names = [*families.CONFIGS, *families.T5S, REAL]
    for name in names:
        ours = np.load(exports / name / "logits.npy")
        for part, model in (("merged", load(exports / name / "merged")), ("adapter", adapted(exports / name))):
            theirs = logits(model)
            difference = float(np.abs(theirs - ours).max() / np.abs(ours).max())
            largest = max(largest, difference)
            if difference > TOLERANCE:
                faults.append(f"{name}, {part}: logits differ by {difference:.1e}")
    faults += tokenizer_faults(exports / MODEL)
    for fault in faults:
        print(f"  FAIL  exports      {fault}")
    if not faults:
        print(
            f"  ok    exports      {len(names)} models, merged and as peft's adapters: logits at most "
            f"{largest:.1e} apart; {MODEL}'s tokenizer and chat template the same"
        )
    return 1 if faults else 0


def load(folder: Path) -> torch.nn.Module:
    seq2seq = AutoConfig.from_pretrained(folder).is_encoder_decoder
    kind = AutoModelForSeq2SeqLM if seq2seq else AutoModelForCausalLM
    return kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32).eval()


def logits(model: torch.nn.Module) -> np.ndarray:
    if model.config.is_encoder_decoder:
        tokens, labels = families.encoder_batch()
        given = {"input_ids": tokens, "decoder_input_ids": families.decoder_inputs(labels)}
    else:
        given = {"input_ids": families.batch()[0]}
    with torch.no_grad():
        return model(**{name: torch.from_numpy(array) for name, array in given.items()}).logits.numpy()


def adapted(folder: Path) -> torch.nn.Module:
    base = json.loads((folder / "adapter" / "adapter_config.json").read_text())["base_model_name_or_path"]
    return PeftModel.from_pretrained(load(Path(base)), folder / "adapter").eval()


def tokenizer_faults(folder: Path) -> list[str]:
    tokenizer = AutoTokenizer.from_pretrained(folder)
    expected = json.loads((folder / "expected.json").read_text())
    differ = [
        row["text"]
        for row in expected["lines"]
        if tokenizer.encode(row["text"], add_special_tokens=False) != row["ids"]
        # transformers passes over the file's pre-tokenizer; where it matters there is a numeral.
        and not any(character.isnumeric() for character in row["text"])
    ]
    messages = [{"role": "user", "content": "What is a fever?"}]
    chat = tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return [f"token ids of {differ[:2]}"] * bool(differ) + ["the chat template's text"] * (chat != expected["chat"])


if __name__ == "__main__":
    sys.exit(main())
