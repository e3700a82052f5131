"""Greedy generation of SmolLM2-135M for 64 prompts of mixed lengths: itune against transformers' generate, on the CPU.

    .venv/bin/python benchmarks/generate.py [--rounds 3] [--batch 16 32] [--peer_batch 16 32 64] ...

Both sides get the same token ids and stop at the same tokens, 64 new ones at most. Each variant (dtype, batch size)
runs first to warm up, ours compiling; the quickest variant of each side and dtype then takes turns with the other's.
Prints a table, and as its last line one JSON object. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from benchmarks.train_step import machine  # noqa: E402
from itune.data.prompt import render_prompt, stop_ids  # noqa: E402
from itune.data.tokenizer import Tokenizer  # noqa: E402
from itune.weights import resolve  # noqa: E402

UNIT = "new tokens/s"
NUM_PROMPTS, NEW_TOKENS = 64, 64
QUESTIONS = (
    "What is a fever?",
    "Summarise the text above in one sentence.",
    "Why is the sky blue? Explain it to a child.",
    "List three things to check before a long walk.",
    "Write a short letter that thanks a neighbour for watering the plants.",
    "What follows from this? Give two reasons.",
    "Translate the last sentence into plain words.",
    "Name the capital of France.",
)
SENTENCES = (
    "The clinic opens at eight, and the first patients wait at the door.",
    "A river that floods every spring leaves dark soil on the fields beside it.",
    "She counted the coins twice, wrote the sum in the book, and closed the drawer.",
    "Bread rises because yeast turns sugar into gas, which the dough holds.",
    "Most of the letters were about the weather, some about the harvest, one about a wedding.",
    "The train was late again, so the meeting began without its chair.",
    "Copper carries heat well, which is why good pans have a layer of it.",
    "After the storm the children found three kites in the old oak.",
    "The study followed two hundred people for ten years and asked them how they slept.",
    "Nobody knew who had painted the bridge, but everybody liked the colour.",
)


def texts() -> list[str]:
    """From one line to a page: a question behind none to 24 sentences."""
    draw, out = random.Random(0), []
    for n in range(NUM_PROMPTS):
        sentences = [draw.choice(SENTENCES) for _ in range((0, 1, 3, 6, 0, 2, 10, 24)[n % 8])]
        out.append(" ".join([*sentences, QUESTIONS[draw.randrange(len(QUESTIONS))]]))
    return out


class Side:
    """A process that stays: it runs a variant each time it is told to, and waits in between."""

    def __init__(self, *command: str | Path):
        environment = os.environ | {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
        self._process = subprocess.Popen(
            [str(c) for c in command],
            cwd=ROOT,
            env=environment,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def run(self, dtype: str, batch: int) -> dict[str, Any]:
        """{"seconds", "completions"} of one pass over all prompts."""
        assert self._process.stdin is not None and self._process.stdout is not None
        print(dtype, batch, file=self._process.stdin, flush=True)
        line = self._process.stdout.readline()
        if not line:
            sys.exit(f"{self._process.args} ended early")
        return json.loads(line)

    def close(self) -> None:
        self._process.communicate()


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--batch", type=int, nargs="+", default=[16, 32], help="ours, tried in the warm-up")
    parser.add_argument("--peer_batch", type=int, nargs="+", default=[16, 32, 64])
    parser.add_argument("--dtype", choices=("f32", "bf16"), nargs="+", default=["f32", "bf16"])
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a known model or a folder")
    parser.add_argument("--peer_python", default=".venv-parity/bin/python", help="has torch and transformers")
    parser.add_argument("--json_out", help="write the JSON object to this file too")
    return parser.parse_args()


def rate(found: dict[str, Any]) -> float:
    return sum(map(len, found["completions"])) / found["seconds"]


def agreement(one: dict[str, Any], other: dict[str, Any]) -> float:
    """The share of prompts that both continue the same. Near ties part the others."""
    pairs = list(zip(one["completions"], other["completions"], strict=True))
    return sum(a == b for a, b in pairs) / len(pairs)


def main() -> None:
    flags = parse_flags()
    load_before = os.getloadavg()[0]
    folder = resolve(flags.model)
    tokenizer = Tokenizer.from_folder(folder)
    prompts = [render_prompt(tokenizer, text, "chat") for text in texts()]
    job = {"folder": str(folder), "prompts": prompts, "stops": stop_ids(tokenizer, "chat"), "new": NEW_TOKENS}
    with tempfile.TemporaryDirectory(prefix="itune-bench-") as scratch:
        path = Path(scratch) / "job.json"
        path.write_text(json.dumps(job), "utf-8")
        sides = {
            "itune": (Side(sys.executable, HERE / "generate_side.py", path), flags.batch),
            "transformers": (
                Side(flags.peer_python, HERE / "peers" / "transformers_generate.py", path),
                flags.peer_batch,
            ),
        }
        answer = compare(sides, flags, prompts)
        for side, _ in sides.values():
            side.close()
    answer |= {"machine": machine(), "load_before": round(load_before, 2), "python": platform.python_version()}
    if load_before > 0.5:
        print(f"The machine was busy before we began (load {load_before:.1f}): take the ratio, not the rates.")
    if flags.json_out:
        Path(flags.json_out).write_text(json.dumps(answer) + "\n", "utf-8")
    print(json.dumps(answer))


def compare(sides: dict[str, tuple[Side, list[int]]], flags: argparse.Namespace, prompts: list[list[int]]) -> dict:
    warm: dict[tuple[str, str, int], dict[str, Any]] = {}
    for dtype in flags.dtype:
        for name, (side, batches) in sides.items():
            for batch in batches:
                first = side.run(dtype, batch)
                # Ours compiled in the first pass; the second is what its batch sizes are compared by.
                warm[name, dtype, batch] = side.run(dtype, batch) if name == "itune" else first
                seconds = first["seconds"] if name == "itune" else 0.0
                more = f" (first pass {seconds:.0f} s)" if seconds else ""
                print(
                    f"warm-up, {name} {dtype} x{batch}: {rate(warm[name, dtype, batch]):.1f} {UNIT}{more}", flush=True
                )
    chosen = {}
    for name, dtype in dict.fromkeys((name, dtype) for name, dtype, _ in warm):
        tried = {batch: rate(found) for (n, d, batch), found in warm.items() if (n, d) == (name, dtype)}
        chosen[name, dtype] = max(tried, key=tried.__getitem__)
    rates: dict[tuple[str, str], list[float]] = {key: [] for key in chosen}
    last: dict[tuple[str, str], dict[str, Any]] = {}
    for number in range(1, flags.rounds + 1):
        for (name, dtype), batch in chosen.items():
            last[name, dtype] = sides[name][0].run(dtype, batch)
            rates[name, dtype].append(rate(last[name, dtype]))
            print(f"round {number}, {name} {dtype} x{batch}: {rates[name, dtype][-1]:.1f} {UNIT}", flush=True)
    medians = {key: statistics.median(values) for key, values in rates.items()}
    best = {name: max((k for k in medians if k[0] == name), key=medians.__getitem__) for name in sides}
    same = {d: agreement(last["itune", d], last["transformers", d]) for d in flags.dtype}
    if "f32" in same and same["f32"] < 0.8:
        sys.exit(f"not the same computation: only {same['f32']:.0%} of the completions in f32 are equal")
    ours, peer = medians[best["itune"]], medians[best["transformers"]]
    print("\n| | batch | new tokens/s | rounds |\n|---|---:|---:|---:|")
    for (name, dtype), values in rates.items():
        spread = f"{min(values):.1f} to {max(values):.1f}"
        print(f"| {name} {dtype} | {chosen[name, dtype]} | {medians[name, dtype]:.1f} | {spread} |")
    return {
        "name": "generate",
        "ours": round(ours, 1),
        "peer": round(peer, 1),
        "ratio": round(ours / peer, 3),
        "unit": UNIT,
        "ours_variant": f"{best['itune'][1]} x{chosen[best['itune']]}",
        "peer_variant": f"{best['transformers'][1]} x{chosen[best['transformers']]}",
        "ratio_by_dtype": {d: round(medians["itune", d] / medians["transformers", d], 3) for d in flags.dtype},
        "rates_of_rounds": {f"{n} {d}": [round(r, 1) for r in values] for (n, d), values in rates.items()},
        "warm_up": {f"{n} {d} x{b}": round(rate(found), 1) for (n, d, b), found in warm.items()},
        "same_completions": {d: round(share, 3) for d, share in same.items()},
        "prompts": len(prompts),
        "prompt_tokens": sum(map(len, prompts)),
        "longest_prompt": max(map(len, prompts)),
        "new_tokens": sum(map(len, last[best["itune"]]["completions"])),
        "rounds": flags.rounds,
    }


if __name__ == "__main__":
    main()
