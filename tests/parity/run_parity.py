"""Compares us with the references of make_golden.py, on the real weights; the second half of `make parity`.

    .venv/bin/python tests/parity/run_parity.py --refs DIR

Prints a line per comparison; exits 1 if one fails.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

os.environ.setdefault("JAX_PLATFORMS", "cpu")
ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import numpy as np  # noqa: E402
import tokenizers  # noqa: E402
from safetensors import safe_open  # noqa: E402

from itune.data.tokenizer import Tokenizer  # noqa: E402
from itune.inference.generate import Generator  # noqa: E402
from itune.inference.loglikelihood import Scorer  # noqa: E402
from itune.models.compute import Compute  # noqa: E402
from itune.weights import resolve  # noqa: E402
from itune.weights.fetch import ACCEPTED  # noqa: E402
from tests.parity import (  # noqa: E402
    chats,
    corpus,
    families,
    gemma,
    harness_tasks,
    likelihoods,
    our_adapters,
    our_chats,
    our_families,
    our_gemma,
    our_harness,
    our_likelihoods,
    our_metrics,
    our_sampling,
    ours,
    tiny,
)

MODEL = "smollm2-135m-instruct"
MIN_LINES = 10_000


class Failed(Exception):
    """What differs."""


def require(good: bool, message: str) -> None:
    if not good:
        raise Failed(message)


def tensors(folder: Path, refs: Path) -> str:
    """Bitwise."""
    theirs = json.loads((refs / "state.json").read_text())
    found = {}
    with safe_open(folder / "model.safetensors", framework="numpy") as file:
        for name in file.keys():  # noqa: SIM118 - it is no dict
            found[name] = hashlib.sha256(np.ascontiguousarray(file.get_tensor(name)).tobytes()).hexdigest()
    require(set(found) == set(theirs), f"names differ: {sorted(set(found) ^ set(theirs))[:4]}")
    differ = [name for name in found if found[name] != theirs[name]]
    require(not differ, f"{len(differ)} of {len(found)} differ, {differ[:3]} among them")
    return f"{len(found)} tensors, each bit as transformers dequantises it"


def real_logits(folder: Path, refs: Path) -> str:
    theirs = np.load(refs / "logits.npz")
    count = sum(name.startswith("tokens_") for name in theirs.files)
    prompts = [theirs[f"tokens_{n}"] for n in range(count)]
    require(count >= 5 and min(map(len, prompts)) >= 64, "too few or too short prompts")
    largest = 0.0
    for n, found in enumerate(ours.prompt_logits(*ours.load(folder), prompts)):
        other = theirs[f"logits_{n}"]
        largest = max(largest, float(np.abs(found - other).max()))
        wrong = np.flatnonzero(found.argmax(-1) != other.argmax(-1))
        require(len(wrong) == 0, f"prompt {n}: argmax differs at positions {wrong[:5].tolist()}")
    require(largest <= ours.LOGIT_TOLERANCE, f"max abs diff {largest:.2e} > {ours.LOGIT_TOLERANCE}")
    return f"{count} prompts, {sum(map(len, prompts))} positions: max abs diff {largest:.2e}, same argmax everywhere"


def greedy(folder: Path, refs: Path) -> str:
    rows = json.loads((refs / "greedy.json").read_text())
    tokenizer = Tokenizer.from_folder(folder)
    found = Generator(*ours.load(folder), Compute()).generate([row["prompt"] for row in rows], 64, [tokenizer.eos_id])
    faults = []
    for row, new in zip(rows, found, strict=True):
        if fault := ours.greedy_difference(new, row, tokenizer.eos_id):
            faults.append(f"{row['text'][:30]!r} {fault}")
    require(not faults, "; ".join(faults[:3]))
    exact = sum(new == [t for t in row["new"] if t != tokenizer.eos_id] for row, new in zip(rows, found, strict=True))
    return f"{len(rows)} prompts, {sum(map(len, found))} tokens: {exact} the same, {len(rows) - exact} up to a tie"


def token_ids(folder: Path, refs: Path) -> str:
    root = corpus.data_dir()
    if root is None or not (refs / "tokens.npz").is_file():
        return "skipped: set ITUNE_DATA_DIR to a folder of real data"
    lines = corpus.texts(root)
    tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    found = [e.ids for e in tokenizer.encode_batch_fast(lines, add_special_tokens=False)]
    arrays = np.load(refs / "tokens.npz")
    differ = {}
    for name in ("declared", "loaded"):
        theirs = np.split(arrays[f"{name}_ids"], np.cumsum(arrays[f"{name}_lengths"])[:-1])
        require(len(theirs) == len(lines), "the data changed since the references were made")
        differ[name] = [i for i, ids in enumerate(found) if ids != theirs[i].tolist()]
    require(len(lines) >= MIN_LINES, f"only {len(lines)} lines in {root}")
    require(not differ["declared"], f"{len(differ['declared'])} of {len(lines)} lines differ")
    # transformers passes over the file's pre-tokenizer; a difference without a numeral would be of another kind.
    other = [i for i in differ["loaded"] if not any(c.isnumeric() for c in lines[i])]
    require(not other, f"line {other[:1]} differs from transformers' ids and holds no numeral")
    same = len(lines) - len(differ["loaded"])
    require(same >= MIN_LINES, f"only {same} lines have transformers' own ids")
    return f"{len(lines)} lines equal under the file's pre-tokenizer (smollm), {same} under transformers' default"


def token_lines(folder: Path, refs: Path) -> str:
    rows = json.loads((refs / "token_lines.json").read_text())
    tokenizer = Tokenizer.from_folder(folder)
    differ = [row["text"] for row in rows if tokenizer.encode(row["text"]) != row["ids"]]
    require(not differ, f"{differ[:3]}")
    return f"{len(rows)} hard lines of our own equal"


def chat(folder: Path, refs: Path) -> str:
    """Ids and assistant masks, from templates with generation blocks and from the same without."""
    conversations = chats.conversations()
    counts, faults = our_chats.differences(folder, conversations, json.loads((refs / "chat.json").read_text()))
    require(not faults, f"{len(faults)} of {counts.total()} differ: {faults[:3]}")
    require(counts["equal"] == counts.total(), f"not compared: {counts}")
    styles = ", ".join(chats.STYLES)
    return f"{len(conversations)} conversations in the styles of {styles}: ids and assistant masks equal"


def tiny_model(_: Path, refs: Path) -> str:
    theirs = dict(np.load(refs / "tiny.npz"))
    require(
        str(theirs.pop("digest")) == tiny.digest(), "the tiny model is another one here: NumPy's generators differ?"
    )
    with tempfile.TemporaryDirectory() as scratch:
        folder = tiny.write_folder(Path(scratch))
        found = ours.tiny_results(folder, lora=False) | ours.tiny_results(folder, lora=True)
    errors = ours.worst(found, theirs)
    name = max(errors, key=errors.__getitem__)
    require(errors[name] <= 1e-4, f"{name}: relative difference {errors[name]:.2e}")
    return f"{len(errors)} logits, losses and gradients, plain and peft's LoRA: at most {errors[name]:.1e} apart"


def family_models(_: Path, refs: Path) -> str:
    largest, count = 0.0, 0
    for name in [*families.CONFIGS, *families.T5S]:
        errors, faults = our_families.differences(refs / "families" / name, Compute())
        worst = max(errors, key=errors.__getitem__)
        require(errors[worst] <= our_families.TOLERANCE, f"{name}: {worst} is {errors[worst]:.2e} apart")
        require(not faults, f"{name}: {faults[:2]}")
        largest, count = max(largest, errors[worst]), count + len(errors)
    names = ", ".join([*families.CONFIGS, *families.T5S])
    return f"{names}: {count} logits, losses, gradients at most {largest:.1e} apart; greedy equal"


def sampling(_: Path, refs: Path) -> str:
    """Filtered probabilities, and what beam search and the repetition penalty lead to."""
    rows, searches = (json.loads((refs / f"{name}.json").read_text()) for name in ("probabilities", "searches"))
    largest = our_sampling.probability_difference(rows)
    require(largest <= our_sampling.TOLERANCE, f"probabilities {largest:.1e} apart")
    faults = our_sampling.search_faults(searches, refs / "families")
    require(not faults, "; ".join(faults[:2]))
    return f"{len(rows)} filtered distributions at most {largest:.1e} apart; {len(searches)} searches equal"


def continuations(folder: Path, refs: Path) -> str:
    """Log-probabilities, and whether greedy decoding would write them."""
    theirs = json.loads((refs / "likelihoods.json").read_text())
    faults = []
    for name in likelihoods.NAMES:
        scorer = Scorer(*ours.load(refs / "families" / name), Compute())
        references = [row for row in theirs if row["model"] == name]
        faults += [f"{name}: {f}" for f in our_likelihoods.faults(scorer, likelihoods.pairs(), references)]
    rows = json.loads((refs / "smollm2_likelihoods.json").read_text())
    pairs = [(row["context"], row["continuation"]) for row in rows]
    faults += [f"{MODEL}: {f}" for f in our_likelihoods.faults(Scorer(*ours.load(folder), Compute()), pairs, rows)]
    require(not faults, f"{len(faults)} differ: {faults[:2]}")
    return f"{len(rows)} of {MODEL}, {len(likelihoods.pairs())} of each of {', '.join(likelihoods.NAMES)}"


def ranking(folder: Path, refs: Path) -> str:
    """Rank classification, each of the four ways, by scores that transformers computed."""
    theirs = json.loads((refs / "ranking.json").read_text())
    scorer = Scorer(*ours.load(folder), Compute())
    faults = our_likelihoods.ranking_faults(scorer, Tokenizer.from_folder(folder), theirs)
    require(not faults, f"{len(faults)} differ: {faults[:2]}")
    said = ", ".join(f"{way} {value:.0f}" for way, value in theirs["accuracy"].items())
    return f"{len(likelihoods.QUESTIONS)} questions of {len(likelihoods.OPTIONS)} options: {said}"


def harness(folder: Path, refs: Path) -> str:
    """lm-evaluation-harness's tasks, by its own `hf` backend and by ours."""
    count, largest, faults = our_harness.faults(refs / "harness", refs / "families", folder)
    require(not faults, f"{len(faults)} differ: {faults[:2]}")
    names = ", ".join(harness_tasks.RUNS)
    return f"{names}: {count} requests of lm-eval's, at most {largest:.1e} nats apart; texts and metrics equal"


def metrics(_: Path, refs: Path) -> str:
    """Metrics of texts by rouge-score, sacrebleu and scikit-learn."""
    theirs = json.loads((refs / "metrics.json").read_text())
    require(not (faults := our_metrics.faults(theirs)), "; ".join(faults))
    return f"{', '.join(theirs)} equal"


def adapters(_: Path, refs: Path) -> str:
    """Forward, gradients, merging and LoRA+ steps of peft's own folders."""
    largest = 0.0
    for name, (base, _settings) in families.ADAPTERS.items():
        with tempfile.TemporaryDirectory() as scratch:
            errors = our_adapters.differences(refs / "families" / base, refs / "adapters" / name, Path(scratch))
        worst = max(errors, key=errors.__getitem__)
        require(errors[worst] <= our_families.TOLERANCE, f"{name}: {worst} is {errors[worst]:.2e} apart")
        largest = max(largest, errors[worst])
    return f"peft's {', '.join(families.ADAPTERS)}: at most {largest:.1e} apart; merged is unmerged"


def gemma3(_: Path, refs: Path) -> str:
    """Logits by transformers' own reading of the GGUF file, token ids by sentencepiece itself."""
    if gemma.gguf() is None or not (refs / "gemma.npz").is_file():
        return "skipped: python -m itune.generate --model=gemma3-270m --accept_terms=gemma fetches it first"
    os.environ[ACCEPTED] = gemma.RELEASE.name.partition("3")[0]
    theirs, largest = np.load(refs / "gemma.npz"), 0.0
    folder = resolve(gemma.RELEASE.name)
    prompts = [np.array(ids, np.int32) for ids in gemma.prompts()]
    for n, logits in enumerate(ours.prompt_logits(*ours.load(folder), prompts)):
        found = gemma.summary(logits)
        for name in ("last", "logsumexp"):
            scale = np.abs(theirs[f"{n}/{name}"]).max()
            largest = max(largest, float(np.abs(found[name] - theirs[f"{n}/{name}"]).max() / scale))
        require(bool((found["argmax"] == theirs[f"{n}/argmax"]).mean() > 0.99), f"prompt {n}: argmax differs")
    require(largest <= 1e-4, f"logits {largest:.1e} apart")
    lines, differ = our_gemma.differing_lines(gemma.gguf(), folder)
    require(not differ, f"{len(differ)} of {lines} lines have other ids: {differ[:2]}")
    return f"{len(prompts)} prompts: logits {largest:.1e} apart; {lines} lines with sentencepiece's ids"


def goldens(_: Path, refs: Path) -> str:
    """The committed files are what the references still say."""
    golden = ROOT / "tests" / "golden"
    theirs, kept = dict(np.load(refs / "tiny.npz")), dict(np.load(golden / "tiny_llama.npz"))
    require(
        str(theirs.pop("digest")) == str(kept.pop("digest")), "tiny_llama.npz is of another tiny model; make it anew"
    )
    require(max(ours.worst(kept, theirs).values()) <= 1e-5, "tiny_llama.npz differs from the references")
    for name, ref in (("smollm2_tokens.json", "token_lines.json"), ("smollm2_greedy.json", "greedy.json")):
        old, new = (json.loads(path.read_text()) for path in (golden / name, refs / ref))
        key = "ids" if "tokens" in name else "prompt"
        require([row[key] for row in old] == [row[key] for row in new], f"{name} is of other texts; make it anew")
    return "tests/golden agrees with the fresh references"


CHECKS: dict[str, Callable[[Path, Path], str]] = {
    "tensors": tensors,
    "logits": real_logits,
    "greedy": greedy,
    "token ids": token_ids,
    "token lines": token_lines,
    "chat": chat,
    "tiny llama": tiny_model,
    "families": family_models,
    "sampling": sampling,
    "continuations": continuations,
    "ranking": ranking,
    "harness": harness,
    "metrics": metrics,
    "adapters": adapters,
    "gemma 3": gemma3,
    "goldens": goldens,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--refs", type=Path, required=True, help="what make_golden.py --out wrote")
    flags = parser.parse_args()
    folder, failed = resolve(MODEL), 0
    for name, check in CHECKS.items():
        try:
            print(f"  ok    {name:13} {check(folder, flags.refs)}", flush=True)
        except (Failed, AssertionError) as error:
            failed += 1
            print(f"  FAIL  {name:13} {error}", flush=True)
    print(f"parity: {len(CHECKS) - failed} of {len(CHECKS)} hold")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
