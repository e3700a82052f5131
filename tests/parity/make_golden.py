"""The references, computed with transformers and peft in an environment of their own (.venv has no torch).

    .venv-parity/bin/python tests/parity/make_golden.py --out DIR [--golden]

Writes full references to DIR, for run_parity.py; with --golden also the small files in tests/golden/ for `make test`.
"""

from __future__ import annotations

import argparse
import functools
import hashlib
import json
import os
import sys
from pathlib import Path

os.environ.setdefault("HF_HUB_OFFLINE", "1")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import torch  # noqa: E402
from transformers import AutoModelForCausalLM, AutoTokenizer  # noqa: E402
from transformers.utils import logging  # noqa: E402

from itune.cache import cache_dir  # noqa: E402
from itune.weights import resolve  # noqa: E402
from itune.weights.fetch import RELEASES, fetch_gguf  # noqa: E402
from tests.parity import (  # noqa: E402
    chats,
    corpus,
    make_adapters,
    make_chat,
    make_families,
    make_harness,
    make_likelihoods,
    make_metrics,
    make_sampling,
    make_t5,
    tiny,
)
from tests.parity.prompts import GREEDY_PROMPTS, LOGIT_PROMPTS, TOKEN_LINES  # noqa: E402

GOLDEN = ROOT / "tests" / "golden"
MODEL = "smollm2-135m-instruct"
NEW_TOKENS, TOP = 64, 8


def encode(tokenizer, text: str) -> list[int]:
    return declared(tokenizer).encode(text, add_special_tokens=False).ids


def logits(model, tokenizer) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """(full logits by prompt; the golden's summary of them, over all prompts' positions in a row)."""
    full, summary = {}, {name: [] for name in ("tokens", "lengths", "argmax", "top_ids", "top_logits", "logsumexp")}
    for n, text in enumerate(LOGIT_PROMPTS):
        ids = encode(tokenizer, text)
        assert len(ids) >= 64, (n, len(ids))
        with torch.no_grad():
            out = model(torch.tensor([ids])).logits[0].float()
        full |= {f"tokens_{n}": np.array(ids, np.int32), f"logits_{n}": out.numpy()}
        top = out.topk(TOP, dim=-1)
        rows = {
            "tokens": np.array(ids, np.int32),
            "lengths": np.array([len(ids)], np.int32),
            "argmax": out.argmax(-1).numpy().astype(np.int32),
            "top_ids": top.indices.numpy().astype(np.int32),
            "top_logits": top.values.numpy(),
            "logsumexp": out.logsumexp(-1).numpy(),
        }
        for name, array in rows.items():
            summary[name].append(array)
    return full, {name: np.concatenate(arrays) for name, arrays in summary.items()}


def greedy(model, tokenizer) -> list[dict]:
    """Per prompt {"text", "prompt", "new", "gaps"}: greedy tokens up to EOS, and the two best logits' gap at each."""
    out = []
    for text in GREEDY_PROMPTS:
        ids = encode(tokenizer, text)
        feed, cache, new, gaps = torch.tensor([ids]), None, [], []
        with torch.no_grad():
            while len(new) < NEW_TOKENS and tokenizer.eos_token_id not in new:
                step = model(feed, past_key_values=cache, use_cache=True)
                cache = step.past_key_values
                best = step.logits[0, -1].float().topk(2)
                new.append(int(best.indices[0]))
                gaps.append(round(float(best.values[0] - best.values[1]), 4))
                feed = torch.tensor([[new[-1]]])
        out.append({"text": text, "prompt": ids, "new": new, "gaps": gaps})
    return out


def check_generate(model, tokenizer, found: list[dict]) -> None:
    """That the loop above is transformers' own greedy search."""
    for row in found[:3]:
        got = model.generate(
            torch.tensor([row["prompt"]]),
            max_new_tokens=NEW_TOKENS,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )[0, len(row["prompt"]) :].tolist()
        assert got == row["new"], (row["text"], got, row["new"])


@functools.cache
def declared(tokenizer):
    """The same tokenizer, cutting numerals off first, as the file's tokenizer.ggml.pre = "smollm" asks.

    transformers does not know that name and passes over it, so its ids differ in about a text in a hundred: where white
    space stands before a numeral ("\\n\\n1"), say. This spelling is llama.cpp's (split at "\\p{N}", then GPT-2's
    pattern), and its ids were found equal to llama.cpp's on 23,668 texts (xllamacpp 2026.10).
    """
    from tokenizers import Regex, Tokenizer
    from tokenizers.pre_tokenizers import ByteLevel, Sequence, Split

    backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
    cut = Split(Regex(r"\p{N}"), behavior="isolated")
    backend.pre_tokenizer = Sequence([cut, ByteLevel(add_prefix_space=False, use_regex=True)])
    return backend


def token_ids(tokenizer, lines: list[str]) -> dict[str, np.ndarray]:
    """Ids of `lines`, flat with lengths, as AutoTokenizer gives them and with the declared pre-tokenizer."""
    out = {}
    for name, backend in (("loaded", tokenizer.backend_tokenizer), ("declared", declared(tokenizer))):
        ids = [e.ids for e in backend.encode_batch_fast(lines, add_special_tokens=False)]
        out[f"{name}_ids"] = np.concatenate([np.array(row, np.int32) for row in ids])
        out[f"{name}_lengths"] = np.array([len(row) for row in ids], np.int32)
    return out


def state_digests(model) -> dict[str, str]:
    """Hugging Face name -> SHA-256 of the float32 bytes of transformers' dequantised tensor."""
    out = {}
    for name, tensor in model.state_dict().items():
        if name == "lm_head.weight" and model.config.tie_word_embeddings:
            continue
        out[name] = hashlib.sha256(np.ascontiguousarray(tensor.float().numpy()).tobytes()).hexdigest()
    return out


def tiny_references(folder: Path) -> dict[str, np.ndarray]:
    """Logits, loss and every gradient of the tiny model; then the same with peft's LoRA."""
    from peft import LoraConfig, get_peft_model

    tokens, labels = (torch.tensor(a) for a in tiny.batch())
    load = lambda: AutoModelForCausalLM.from_pretrained(tiny.write_folder(folder), dtype=torch.float32)  # noqa: E731
    out = {"digest": np.array(tiny.digest())}
    model = load()
    answer = model(tokens, labels=labels)
    answer.loss.backward()
    out |= {"logits": answer.logits.detach().numpy(), "loss": answer.loss.detach().numpy()}
    out |= {f"grad/{name}": p.grad.numpy() for name, p in model.named_parameters()}

    config = LoraConfig(r=tiny.RANK, lora_alpha=tiny.ALPHA, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(load(), config)
    params = dict(model.named_parameters())
    names = {}
    for path, pair in tiny.lora().items():
        for kind, array in zip("AB", pair, strict=True):
            name = f"base_model.model.{path}.lora_{kind}.default.weight"
            names[f"lora_grad/{path}.{kind}"] = name
            with torch.no_grad():
                params[name].copy_(torch.tensor(array))
    assert len(names) == sum(p.requires_grad for p in params.values())
    answer = model(tokens, labels=labels)
    answer.loss.backward()
    out |= {"lora_logits": answer.logits.detach().numpy(), "lora_loss": answer.loss.detach().numpy()}
    return out | {key: params[name].grad.numpy() for key, name in names.items()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder for the full references")
    parser.add_argument("--golden", action="store_true", help="write tests/golden/ anew as well")
    flags = parser.parse_args()
    flags.out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    logging.disable_progress_bar()

    folder = resolve(MODEL)  # fetches on a fresh machine; most references below read the GGUF file itself
    gguf = fetch_gguf(RELEASES[MODEL], cache_dir() / "downloads", print)
    source = {"pretrained_model_name_or_path": str(gguf.parent), "gguf_file": gguf.name}
    tokenizer = AutoTokenizer.from_pretrained(**source)
    model = AutoModelForCausalLM.from_pretrained(**source, dtype=torch.float32).eval()

    full, summary = logits(model, tokenizer)
    np.savez(flags.out / "logits.npz", **full)
    generations = greedy(model, tokenizer)
    check_generate(model, tokenizer, generations)
    write_json(flags.out / "greedy.json", generations)
    write_json(flags.out / "state.json", state_digests(model))
    small = tiny_references(flags.out / "tiny")
    family_golden = make_families.write(flags.out / "families")
    family_golden |= make_t5.write(flags.out / "families")
    searches, probabilities = make_sampling.searches(flags.out / "families"), make_sampling.probabilities()
    write_json(flags.out / "searches.json", searches)
    write_json(flags.out / "probabilities.json", probabilities)
    make_adapters.write(flags.out / "adapters", flags.out / "families")
    likelihoods = make_likelihoods.tiny(flags.out / "families")
    write_json(flags.out / "likelihoods.json", likelihoods)
    metrics = make_metrics.references()
    write_json(flags.out / "metrics.json", metrics)
    write_json(flags.out / "smollm2_likelihoods.json", make_likelihoods.real(model, declared(tokenizer)))
    ranks = make_likelihoods.ranking(model, declared(tokenizer), tokenizer.eos_token_id)
    write_json(flags.out / "ranking.json", ranks)
    make_harness.write(flags.out / "harness", flags.out / "families", folder)
    np.savez(flags.out / "tiny.npz", **small)
    root = corpus.data_dir()
    if root is not None:
        np.savez(flags.out / "tokens.npz", **token_ids(tokenizer, corpus.texts(root)))
    else:
        (flags.out / "tokens.npz").unlink(missing_ok=True)
    make_chat.write(flags.out / "chat.json", make_chat.references(folder, chats.conversations()))
    backend = declared(tokenizer)
    lines = [{"text": t, "ids": backend.encode(t, add_special_tokens=False).ids} for t in TOKEN_LINES]
    write_json(flags.out / "token_lines.json", lines)
    if flags.golden:
        np.savez_compressed(GOLDEN / "smollm2_logits.npz", **summary)
        np.savez_compressed(GOLDEN / "tiny_llama.npz", **small)
        np.savez_compressed(GOLDEN / "families.npz", **family_golden)
        write_json(GOLDEN / "smollm2_greedy.json", generations)
        write_json(GOLDEN / "searches.json", searches)
        write_json(GOLDEN / "probabilities.json", probabilities)
        write_json(GOLDEN / "likelihoods.json", likelihoods)
        write_json(GOLDEN / "metrics.json", metrics)
        write_json(GOLDEN / "smollm2_tokens.json", lines)
        make_chat.write(GOLDEN / "chat.json", make_chat.references(folder, chats.CONVERSATIONS))
    print(f"References are in {flags.out}.")


def write_json(path: Path, value: object) -> None:
    """One row a line, so that a changed golden reads well as a diff."""
    if isinstance(value, list):
        rows = ",\n".join(json.dumps(row, ensure_ascii=True) for row in value)
        path.write_text(f"[\n{rows}\n]\n", "utf-8")
    else:
        path.write_text(json.dumps(value, indent=1) + "\n", "utf-8")


if __name__ == "__main__":
    main()
