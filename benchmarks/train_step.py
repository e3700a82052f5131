"""A training step of SmolLM2-135M: itune against transformers + peft, the same weights, rows and settings.

    .venv/bin/python benchmarks/train_step.py [--rounds 3] [--steps 4] [--mode lora|full] ...

Sides take turns, each in a fresh process a round. Their losses at the first step must agree, or there is no result.
Prints a table, and as its last line one JSON object. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
ROOT = HERE.parent
sys.path.insert(0, str(ROOT))

from itune.errors import UserError  # noqa: E402
from itune.weights import resolve  # noqa: E402

WARMUP = 1  # steps that a process makes before those that count; ours compiles in it
UNIT = "useful tokens/s"
OURS, PEER = "itune", "transformers+peft"
TOLERANCE = {"f32": 1e-3, "bf16": 2e-2}  # of the first loss, relative; of a pair, the looser
ADAMW = {"b1": 0.9, "b2": 0.999, "eps": 1e-8, "weight_decay": 0.0}
Run = dict[str, Any]  # what a process printed
Job = dict[str, Any]  # what every process is told; packed_rows.py adds what it counted


def parse_flags(argv: list[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=4, help="timed steps of a process, after its first")
    parser.add_argument("--batch", type=int, default=4, help="packed rows a step")
    parser.add_argument("--length", type=int, default=512, help="tokens a packed row")
    parser.add_argument("--mode", choices=("lora", "full"), default="lora")
    parser.add_argument("--dtype", choices=tuple(TOLERANCE), nargs="+", default=["f32", "bf16"], help="ours")
    parser.add_argument("--peer_dtype", choices=tuple(TOLERANCE), nargs="+", default=["f32", "bf16"])
    parser.add_argument("--model", default="smollm2-135m-instruct", help="a known model, a folder or a .gguf file")
    parser.add_argument("--rows", default="", help="JSONL of prompt and completion; default: synthetic clinical rows")
    parser.add_argument("--peer_python", default=".venv-parity/bin/python", help="has torch, transformers and peft")
    parser.add_argument("--no_peer", action="store_true", help="our side alone; no ratio")
    parser.add_argument("--json_out", help="write the JSON object to this file too")
    flags = parser.parse_args(argv)
    for name in ("rounds", "steps", "batch", "length"):
        if getattr(flags, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if flags.rows and not Path(flags.rows).is_file():
        parser.error(f"--rows {flags.rows}: no such file")
    if not flags.no_peer and not (ROOT / flags.peer_python).is_file():
        parser.error(f"no Python at --peer_python {flags.peer_python}: `make venv-parity` makes it; or --no_peer")
    return flags


def cores() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def machine() -> str:
    """ "AMD EPYC 9R14, 2 cores, 24 GB, Linux x86_64" """
    model = platform.processor() or platform.machine()
    info = Path("/proc/cpuinfo")
    if info.exists():
        names = [line.split(":", 1)[1] for line in info.read_text().splitlines() if line.startswith("model name")]
        model = names[0].strip() if names else model
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 1e9
    return f"{model}, {cores()} cores, {memory:.0f} GB, {platform.system()} {platform.machine()}"


def make_job(flags: argparse.Namespace, folder: Path, scratch: Path) -> Job:
    return {
        "folder": str(folder),
        "rows": str(Path(flags.rows).resolve()) if flags.rows else "",
        "batches": str(scratch / "batches.npz"),
        "batch": flags.batch,
        "length": flags.length,
        "warmup": WARMUP,
        "steps": flags.steps,
        "mode": flags.mode,
        "rank": 16,
        "alpha": 32.0,
        "learning_rate": 1e-4,
        "clip_norm": 1.0,
        "adamw": ADAMW,
        "cores": cores(),
    }


def child(*command: str | Path) -> str:
    """The last line that a program of ours prints; its error, if it fails, ends the benchmark. CPU only."""
    # Huge pages for all sides: itune.train asks for them by itself (itune.memory).
    environment = {"GLIBC_TUNABLES": "glibc.malloc.hugetlb=1"} | os.environ
    environment |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3"}
    done = subprocess.run([str(c) for c in command], cwd=ROOT, env=environment, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{Path(command[1]).name} failed ({done.returncode}):\n{done.stderr[-3000:].strip()}")
    lines = done.stdout.strip().splitlines()
    return lines[-1] if lines else ""


def sides(flags: argparse.Namespace, job_path: Path) -> dict[str, list[str | Path]]:
    """{name: command}, in the order in which they take turns."""
    commands: dict[str, list[str | Path]] = {}
    for dtype in dict.fromkeys(flags.dtype):
        commands[f"{OURS} {dtype}"] = [sys.executable, HERE / "ours.py", job_path, dtype]
    if not flags.no_peer:
        peer = HERE / "peers" / "transformers_peft.py"
        for dtype in dict.fromkeys(flags.peer_dtype):
            commands[f"{PEER} {dtype}"] = [ROOT / flags.peer_python, peer, job_path, "--dtype", dtype]
    return commands


def check_same(first: str, ours: Run, name: str, other: Run, job: Job, *dtypes: str) -> None:
    """Ends the benchmark if two sides computed different things: their ratio says nothing.

    dtypes: of the two; where none is given, the last words of their names.
    """
    if ours["trainable"] != other["trainable"]:
        sys.exit(
            f"not the same computation: {ours['trainable']} parameters train in {first}, {other['trainable']} in {name}"
        )
    tolerance = max(TOLERANCE[dtype] for dtype in dtypes or (first.split()[-1], name.split()[-1]))
    # Fresh adapters leave the first loss alone, but their gradient's norm depends on how A was drawn.
    values = ["losses"] if job["mode"] == "lora" else ["losses", "grad_norms"]
    for value in values:
        mine, theirs = ours[value][0], other[value][0]
        if not abs(mine - theirs) <= tolerance * abs(theirs):
            sys.exit(
                f"not the same computation: {value}[0] is {mine:.6f} in {first} and {theirs:.6f} in {name}, "
                f"which differ by more than {tolerance:g} of it"
            )


def summary(runs: list[Run], job: Job) -> dict[str, Any]:
    """One side's numbers over all its timed steps, of all rounds: medians, and the range of the rounds' rates."""
    timed = range(job["warmup"], job["warmup"] + job["steps"])

    def rates(counts: list[int], of: list[Run]) -> list[float]:
        return [counts[n] / run["step_seconds"][n] for run in of for n in timed]

    by_round = [statistics.median(rates(job["useful"], [run])) for run in runs]
    return {
        "useful_tokens_per_s": round(statistics.median(rates(job["useful"], runs)), 1),
        "useful_tokens_per_s_of_rounds": [round(r, 1) for r in by_round],
        "supervised_tokens_per_s": round(statistics.median(rates(job["supervised"], runs)), 1),
        "step_seconds": round(statistics.median(run["step_seconds"][n] for run in runs for n in timed), 3),
        "first_step_seconds": round(statistics.median(run["step_seconds"][0] for run in runs), 2),
        "ready_seconds": round(statistics.median(run["ready_seconds"] for run in runs), 2),
        "peak_memory_gb": max(run["peak_memory_gb"] for run in runs),
        "losses": runs[0]["losses"],
        "grad_norms": runs[0]["grad_norms"],
        "trainable": runs[0]["trainable"],
    }


COLUMNS = (
    ("useful tokens/s", "useful_tokens_per_s", "{:.0f}"),
    ("supervised tokens/s", "supervised_tokens_per_s", "{:.1f}"),
    ("step, s", "step_seconds", "{:.2f}"),
    ("peak memory, GB", "peak_memory_gb", "{:.2f}"),
    ("import and load, s", "ready_seconds", "{:.1f}"),
    ("first step, s", "first_step_seconds", "{:.1f}"),
)


def table(found: dict[str, dict[str, Any]]) -> str:
    """Markdown, for the README."""
    head = ["", *(title for title, _, _ in COLUMNS), "rounds, useful tokens/s", "first loss"]
    rows = [head, ["---", *["---:"] * (len(head) - 1)]]
    for name, side in found.items():
        rounds = side["useful_tokens_per_s_of_rounds"]
        cells = [form.format(side[key]) for _, key, form in COLUMNS]
        rows.append([name, *cells, f"{min(rounds):.0f} to {max(rounds):.0f}", f"{side['losses'][0]:.5f}"])
    return "\n".join(f"| {' | '.join(row)} |" for row in rows)


def result(found: dict[str, dict[str, Any]], job: Job, flags: argparse.Namespace, more: dict[str, Any]) -> Run:
    """The last line. `ours` and `peer` are the quickest variant of either side."""
    rates = {name: side["useful_tokens_per_s"] for name, side in found.items()}
    ours, best = (
        max((n for n in rates if n.startswith(of)), key=rates.__getitem__, default=None) for of in (OURS, PEER)
    )
    rate, peer_rate = rates[ours] if ours else None, rates[best] if best else None
    pairs = {d: (rates.get(f"{OURS} {d}"), rates.get(f"{PEER} {d}")) for d in TOLERANCE}
    setup = {key: job[key] for key in ("mode", "batch", "length", "rank", "alpha", "steps", "examples")}
    timed = slice(job["warmup"], None)
    return {
        "name": "train_step",
        "ours": rate,
        "peer": peer_rate,
        "ratio": round(rate / peer_rate, 3) if rate and peer_rate else None,
        "unit": UNIT,
        "machine": machine(),
        "ours_variant": ours,
        "peer_variant": best,
        "ratio_by_dtype": {d: round(mine / theirs, 3) for d, (mine, theirs) in pairs.items() if mine and theirs},
        "memory_gb": {name: side["peak_memory_gb"] for name, side in found.items()},
        **setup,
        "rounds": flags.rounds,
        "model": flags.model,
        "rows": Path(flags.rows).name or "synthetic clinic",
        "fill": round(statistics.mean(job["useful"][timed]) / (job["batch"] * job["length"]), 4),
        "variants": found,
        **more,
    }


def main() -> None:
    flags = parse_flags()
    load_before = os.getloadavg()[0]
    try:
        folder = resolve(flags.model)
    except UserError as error:
        sys.exit(f"train_step.py: error: {error}")
    with tempfile.TemporaryDirectory(prefix="itune-bench-") as name:
        job_path = Path(name) / "job.json"
        job_path.write_text(json.dumps(make_job(flags, folder, Path(name))), "utf-8")
        child(sys.executable, HERE / "packed_rows.py", job_path)
        job = json.loads(job_path.read_text("utf-8"))
        runs = alternate(flags, job, job_path)
    found = {side: summary(of_side, job) for side, of_side in runs.items()}
    versions = {k: v for of_side in runs.values() for k, v in of_side[0]["versions"].items()}
    more = {"versions": {"python": platform.python_version()} | versions, "load_before": round(load_before, 2)}
    answer = result(found, job, flags, more)
    print(f"\n{table(found)}\n")
    if answer["ratio"]:
        print(
            f"{answer['ours_variant']} runs at {answer['ratio']:.2f} times the rate of {answer['peer_variant']}, "
            "the quickest of either side."
        )
    if load_before > 0.5:
        print(f"The machine was busy before we began (load {load_before:.1f}): not numbers to publish.")
    line = json.dumps(answer)
    if flags.json_out:
        Path(flags.json_out).write_text(line + "\n", "utf-8")
    print(line)


def alternate(flags: argparse.Namespace, job: Job, job_path: Path) -> dict[str, list[Run]]:
    """{side: its run of each round}. Fails at the first pair that disagrees, not after the last round."""
    commands = sides(flags, job_path)
    first, runs = next(iter(commands)), {name: list[Run]() for name in commands}
    for number in range(1, flags.rounds + 1):
        for name, command in commands.items():
            run = json.loads(child(*command))
            runs[name].append(run)
            if name != first:
                check_same(first, runs[first][-1], name, run, job)
            rate = summary([run], job)["useful_tokens_per_s"]
            print(f"round {number} of {flags.rounds}, {name}: {rate:.0f} {UNIT}", flush=True)
    return runs


if __name__ == "__main__":
    main()
