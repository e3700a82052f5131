"""Peak memory of a training step of SmolLM2-135M: in full, with LoRA, and with LoRA over a quantised base.

    .venv/bin/python benchmarks/memory.py [--batch 4] [--length 512] [--json_out FILE]

Each line is a process of its own, from its start to its last step (VmHWM): weights, libraries and loading included. The
same rows and settings as train_step.py, against transformers + peft, whose bases bitsandbytes quantises. Prints a
table, and as its last line one JSON object.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks import train_step  # noqa: E402
from itune.weights import resolve  # noqa: E402

# (name, mode, quantise)
KINDS = (
    ("full", "full", ""),
    ("LoRA", "lora", ""),
    ("LoRA, int8 base", "lora", "int8"),
    ("LoRA, nf4 base", "lora", "nf4"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=4, help="packed rows a step")
    parser.add_argument("--length", type=int, default=512, help="tokens a packed row")
    parser.add_argument("--no_peer", action="store_true", help="our side alone; no ratio")
    parser.add_argument("--json_out", help="write the JSON object to this file too")
    flags = parser.parse_args()
    settings = ["--batch", str(flags.batch), "--length", str(flags.length), "--steps", "2"]
    found: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory(prefix="itune-bench-") as name:
        job_path, base = Path(name) / "job.json", train_step.parse_flags(settings)
        job = train_step.make_job(base, resolve(base.model), Path(name))
        job_path.write_text(json.dumps(job), "utf-8")
        train_step.child(sys.executable, HERE / "packed_rows.py", job_path)
        job = json.loads(job_path.read_text("utf-8"))
        for dtype in ("f32", "bf16"):
            for kind, mode, quantise in KINDS:
                job_path.write_text(json.dumps(job | {"mode": mode, "quantise": quantise}), "utf-8")
                command = [sys.executable, HERE / "ours.py", job_path, dtype]
                found[f"itune {kind} {dtype}"] = run(f"itune {kind} {dtype}", command)
            for kind, mode, quantise in () if flags.no_peer else KINDS:
                job_path.write_text(json.dumps(job | {"mode": mode, "quantise": quantise}), "utf-8")
                peer = [
                    HERE.parent / base.peer_python,
                    HERE / "peers" / "transformers_peft.py",
                    job_path,
                    "--dtype",
                    dtype,
                ]
                found[f"transformers+peft {kind} {dtype}"] = run(f"transformers+peft {kind} {dtype}", peer)
    print("\n| | peak memory, GB | a step, s | first loss |\n| --- | ---: | ---: | ---: |")
    for name, row in found.items():
        print(f"| {name} | {row['peak_memory_gb']:.2f} | {row['step_seconds']:.2f} | {row['loss']:.4f} |")
    line = json.dumps(answer(found, flags))
    if flags.json_out:
        Path(flags.json_out).write_text(line + "\n", "utf-8")
    print(f"\n{line}")


def run(name: str, command: list[str | Path]) -> dict[str, Any]:
    result = json.loads(train_step.child(*command))
    print(f"{name}: {result['peak_memory_gb']:.2f} GB", flush=True)
    return {
        "peak_memory_gb": result["peak_memory_gb"],
        "step_seconds": round(statistics.median(result["step_seconds"][1:]), 3),
        "loss": result["losses"][0],
        "trainable": result["trainable"],
    }


def answer(found: dict[str, dict[str, Any]], flags: argparse.Namespace) -> dict[str, Any]:
    """ours and peer: LoRA in float32. ratios by kind and dtype; larger is better for us."""
    peak = {name: row["peak_memory_gb"] for name, row in found.items()}
    ratios = {
        f"{kind} {dtype}": round(peak[f"transformers+peft {kind} {dtype}"] / peak[f"itune {kind} {dtype}"], 2)
        for kind, *_ in KINDS
        for dtype in ("f32", "bf16")
        if f"transformers+peft {kind} {dtype}" in peak
    }
    return {
        "name": "memory",
        "ours": peak["itune LoRA f32"],
        "peer": peak.get("transformers+peft LoRA f32"),
        "ratio": ratios.get("LoRA f32"),
        "unit": "GB at the peak, LoRA f32",
        "machine": train_step.machine(),
        "ratios": ratios,
        "batch": flags.batch,
        "length": flags.length,
        "variants": found,
    }


if __name__ == "__main__":
    main()
