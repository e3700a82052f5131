"""A training step against other trainers: TRL's SFTTrainer on the same batches, google-tunix's on the same dimensions.

    .venv/bin/python benchmarks/trainers.py [--rounds 1] [--steps 3] [--mode lora|full] [--peers trl tunix]

TRL tokenises and packs the rows itself, each way that it can; we train on the batches it made. Sides take turns, each
in a fresh process a round, and their first losses must agree, or there is no result. tunix has no packing: it gets full
rows of random tokens. Prints a table, and as its last line one JSON object. See benchmarks/README.md.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))

from benchmarks import train_step  # noqa: E402
from benchmarks.publish import publish, stamp  # noqa: E402
from benchmarks.train_step import ROOT, TOLERANCE, UNIT, child  # noqa: E402
from itune.weights import resolve  # noqa: E402

PEERS = {"trl": (".venv-parity/bin/python", "trl_sft.py"), "tunix": (".venv-tunix/bin/python", "tunix_sft.py")}
PACKINGS = ("bfd", "wrapped", "none")
Run = dict[str, Any]


def parse_flags() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--steps", type=int, default=3, help="timed steps of a process, after its first")
    parser.add_argument("--mode", choices=("lora", "full"), default="lora")
    parser.add_argument("--dtype", choices=tuple(TOLERANCE), nargs="+", default=["f32", "bf16"])
    parser.add_argument("--peers", choices=tuple(PEERS), nargs="+", default=list(PEERS))
    parser.add_argument("--packing", choices=PACKINGS, nargs="+", default=["bfd", "wrapped"], help="TRL's")
    parser.add_argument("--json_out", help="write the JSON object to this file too")
    flags = parser.parse_args()
    for peer in flags.peers:
        if not (ROOT / PEERS[peer][0]).is_file():
            parser.error(f"no Python at {PEERS[peer][0]}: `make venv-parity venv-tunix` makes it; or leave out {peer}")
    return flags


def write_rows(job: dict[str, Any]) -> None:
    """The synthetic clinical rows that packed_rows.py packs, for peers that read text."""
    from benchmarks.packed_rows import clinic_rows

    lines = [json.dumps({"prompt": f"{prompt}\n", "completion": text}) for prompt, text in clinic_rows()]
    Path(job["rows_out"]).write_text("\n".join(lines) + "\n", "utf-8")


def alternate(flags: argparse.Namespace, job_path: Path) -> dict[str, list[Run]]:
    """{side: its run of each round}. "itune f32 bfd" trains on the batches that TRL made so, "itune f32" on our own."""
    runs: dict[str, list[Run]] = {}

    def go(name: str, *command: str | Path) -> Run:
        run: Run = json.loads(child(*command))
        runs.setdefault(name, []).append(run)
        print(f"{name}: {statistics.median(run['step_seconds'][1:]):.2f} s a step", flush=True)
        return run

    def peer(name: str, which: str, *words: str) -> Run:
        python, program = PEERS[which]
        return go(name, ROOT / python, HERE / "peers" / program, job_path, *words)

    def ours(name: str, batches: str, dtype: str) -> Run:
        child(sys.executable, HERE / batches, job_path)
        job = json.loads(job_path.read_text("utf-8"))
        run = go(name, sys.executable, HERE / "ours.py", job_path, dtype)
        run |= {"useful": job["useful"], "supervised": job["supervised"]}
        return run

    mode = {"mode": flags.mode}
    for _ in range(flags.rounds):
        for dtype in flags.dtype:
            for packing in flags.packing if "trl" in flags.peers else ():
                theirs, mine = f"trl {dtype} {packing}", f"itune {dtype} {packing}"
                run = peer(theirs, "trl", "--dtype", dtype, "--packing", packing)
                train_step.check_same(mine, ours(mine, "peer_batches.py", dtype), theirs, run, mode, dtype)
            if "tunix" in flags.peers:
                peer(f"tunix {dtype}", "tunix", "--dtype", dtype)
                ours(f"itune {dtype}", "packed_rows.py", dtype)
    return runs


def summary(runs: list[Run]) -> dict[str, Any]:
    """Medians over all steps but each process's first."""
    steps = [(run, n) for run in runs for n in range(1, len(run["step_seconds"]))]
    rate = lambda key: statistics.median(run[key][n] / run["step_seconds"][n] for run, n in steps)  # noqa: E731
    found = {
        "useful_tokens_per_s": round(rate("useful"), 1),
        "supervised_tokens_per_s": round(rate("supervised"), 1),
        "step_seconds": round(statistics.median(run["step_seconds"][n] for run, n in steps), 3),
        "first_step_seconds": round(statistics.median(run["step_seconds"][0] for run in runs), 2),
        "step_seconds_range": [f(run["step_seconds"][n] for run, n in steps) for f in (min, max)],
        "peak_memory_gb": max(run["peak_memory_gb"] for run in runs),
        "losses": runs[0]["losses"],
        "trainable": runs[0]["trainable"],
    }
    if "matrix_gflops" in runs[0]:
        best = max(run["matrix_gflops"] for run in runs)
        gflops = rate("step_flops") / 1e9
        found |= {"gflops": round(gflops, 1), "matrix_gflops": best, "share_of_matrix_rate": round(gflops / best, 3)}
    return found


def result(found: dict[str, dict[str, Any]], flags: argparse.Namespace, runs: dict[str, list[Run]]) -> dict[str, Any]:
    rate = {name: side["useful_tokens_per_s"] for name, side in found.items()}
    peers = [name for name in rate if not name.startswith("itune")]
    ours = {name: f"itune {name.partition(' ')[2]}" for name in peers}  # on the same batches, in the same dtype
    ratios = {name: round(rate[ours[name]] / rate[name], 2) for name in peers}
    for peer in flags.peers:
        best = max((name for name in peers if name.startswith(peer)), key=rate.__getitem__)
        mine = max((ours[name] for name in peers if name.startswith(peer)), key=rate.__getitem__)
        ratios[f"{peer}, best of either ({mine}, {best})"] = round(rate[mine] / rate[best], 2)
    first = peers[0]
    return {
        "name": "trainers",
        "ours": rate[ours[first]],
        "peer": rate[first],
        "ratio": ratios[first],
        "unit": UNIT,
        **stamp(),
        "mode": flags.mode,
        "rounds": flags.rounds,
        "steps": flags.steps,
        "ratios": ratios,
        "variants": found,
        "versions": {"python": platform.python_version()}
        | {name: version for of_side in runs.values() for name, version in of_side[0]["versions"].items()},
    }


def main() -> None:
    flags = parse_flags()
    load_before = os.getloadavg()[0]
    with tempfile.TemporaryDirectory(prefix="itune-bench-") as name:
        scratch, job_path = Path(name), Path(name) / "job.json"
        base = train_step.parse_flags(["--steps", str(flags.steps), "--mode", flags.mode, "--no_peer"])
        job = train_step.make_job(base, resolve(base.model), scratch)
        job |= {"rows_out": str(scratch / "rows.jsonl"), "peer_batches": str(scratch / "peer.npz")}
        write_rows(job)
        job_path.write_text(json.dumps(job), "utf-8")
        runs = alternate(flags, job_path)
    found = {side: summary(of_side) for side, of_side in runs.items()}
    answer = result(found, flags, runs) | {"load_before": round(load_before, 2)}
    print("\n| | useful tokens/s | step, s | peak memory, GB |\n| --- | ---: | ---: | ---: |")
    for side, row in found.items():
        cells = f"{row['useful_tokens_per_s']:.0f} | {row['step_seconds']:.2f} | {row['peak_memory_gb']:.2f}"
        print(f"| {side} | {cells} |")
    publish(answer, flags.json_out)


if __name__ == "__main__":
    main()
