"""`python -m itune.harness`: a model of ours, or any weights, on lm-evaluation-harness's tasks."""

from __future__ import annotations

import argparse
import importlib.util
import sys
from collections.abc import Sequence
from pathlib import Path

from itune import cli
from itune.errors import UserError


def main(argv: Sequence[str]) -> int:
    flags = _parser().parse(argv)
    _check(flags)

    # JAX loads here: a slip on the command line has been reported by now.
    from itune.inference import harness

    lm = harness.HarnessLM(flags.model, flags.step, flags.adapter, batch_size=flags.batch_size, mesh=flags.mesh)
    how = {name: getattr(flags, name) for name in ("include_path", "num_fewshot", "limit", "apply_chat_template")}
    print(harness.evaluate(lm, flags.tasks.split(","), output=flags.output, **how))
    return 0


def _check(flags: argparse.Namespace) -> None:
    if flags.gin_bindings:
        raise UserError(f"--gin.{flags.gin_bindings[0]}: harness takes no gin bindings")
    for name, lowest in (("batch_size", 1), ("num_fewshot", 0), ("limit", 1)):
        value = getattr(flags, name)
        if value is not None and value < lowest:
            raise UserError(f"--{name}={value} must be at least {lowest}")
    if flags.include_path and not Path(flags.include_path).is_dir():
        raise UserError(f"--include_path={flags.include_path}: no such folder")
    if importlib.util.find_spec("lm_eval") is None:
        raise UserError("lm-evaluation-harness is not installed: pip install itune[harness]")


def _parser() -> cli.Parser:
    example = "python -m itune.harness --model=runs/quickstart --tasks=arc_easy,gsm8k --num_fewshot=5 --limit=100"
    about = "Evaluate a run's checkpoint, or any weights, on tasks of EleutherAI's lm-evaluation-harness."
    parser = cli.Parser(prog="python -m itune.harness", description=about, example=example, macros=False)
    parser.add_argument("--model", required=True, metavar="RUN_DIR|SOURCE", help=cli.SOURCE)
    parser.add_argument("--step", metavar="N|best", help="a run's checkpoint (default: the newest)")
    parser.add_argument("--adapter", default="", metavar="FOLDER|FILE:NAME", help=cli.ADAPTER)
    parser.add_argument("--tasks", required=True, metavar="NAME,...", help="tasks, groups or tags of lm-eval's")
    parser.add_argument("--include_path", metavar="DIR", help="a folder of task files (YAML) beside lm-eval's own")
    parser.add_argument("--num_fewshot", type=int, metavar="N", help="exemplars (default: the task's)")
    parser.add_argument("--limit", type=int, metavar="N", help="only the first N examples of each task")
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="rows computed together; default: 8")
    parser.add_argument("--mesh", default="", metavar="DATA,FSDP,TENSOR", help="of the devices; default: one device")
    parser.add_argument("--apply_chat_template", action="store_true", help="prompts in the model's chat template")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the results whole, as JSON")
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
