"""All benchmarks, one after another: python benchmarks/run_all.py [--only NAME ...] [--full] [--write].

By default each runs in small, to see that it works and roughly where things stand; --full runs them as the records were
made. --write puts what they found into benchmarks/records and writes RESULTS.md anew: for a machine that does nothing
else meanwhile. The first that fails ends the run.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import time
from pathlib import Path

HERE = Path(__file__).resolve().parent
# {record: (arguments in small, arguments in full)}; a record called PROGRAM_full is of PROGRAM.py, too.
PROGRAMS = {
    "train_step": (("--rounds", "1", "--steps", "2"), ("--rounds", "3", "--steps", "3")),
    "trainers": (("--rounds", "1", "--steps", "2", "--dtype", "f32"), ("--rounds", "2", "--steps", "3")),
    "trainers_full": (("--mode", "full", "--rounds", "1", "--steps", "1", "--dtype", "f32"), ("--mode", "full")),
    "head": (("--rounds", "1", "--steps", "2"), ()),
    "memory": (("--no_peer",), ()),
    "packing": (("--examples", "100000"), ()),
    "data": (("--tasks", "60"), ()),
    "generate": (("--rounds", "1"), ()),
    "stacked": (("--runs", "2", "--steps", "2", "--rounds", "1"), ()),
    "startup": ((), ()),
    "growth": ((), ("--svg", "docs/images/growth.svg")),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", choices=tuple(PROGRAMS), nargs="+", default=list(PROGRAMS), metavar="NAME")
    parser.add_argument("--full", action="store_true", help="as the records were made; hours")
    parser.add_argument("--write", action="store_true", help="into benchmarks/records and RESULTS.md; with --full")
    flags = parser.parse_args()
    if flags.write and not flags.full:
        parser.error("--write goes with --full: figures of a small run are no record")
    for name in flags.only:
        print(f"\n== {name}", flush=True)
        program = HERE / f"{name.removesuffix('_full')}.py"
        command = [sys.executable, str(program), *PROGRAMS[name][flags.full]]
        command += ["--json_out", str(HERE / "records" / f"{name}.json")] if flags.write else []
        begin = time.perf_counter()
        done = subprocess.run(command, cwd=HERE.parent)
        if done.returncode:
            sys.exit(f"{name} failed ({done.returncode})")
        print(f"== {name}: {time.perf_counter() - begin:.0f} s", flush=True)
    if flags.write:
        subprocess.run([sys.executable, str(HERE / "results.py")], cwd=HERE.parent, check=True)


if __name__ == "__main__":
    main()
