"""`python -m itune.evaluate`: measure a run's checkpoint again, on the run's held-in and held-out examples."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from itune import cli
from itune.memory import use_huge_pages


def main(argv: Sequence[str]) -> int:
    flags = _parser().parse(argv)

    # JAX loads here: a slip on the command line has been reported by now.
    from itune.evaluation.checkpoint import evaluate_checkpoint

    return evaluate_checkpoint(
        Path(flags.model).expanduser(),
        flags.step,
        flags.gin_bindings,
        show_text=flags.show_text,
        output_format=flags.format,
    )


def _parser() -> cli.Parser:
    example = "python -m itune.evaluate --model=runs/quickstart --step=best --gin.EvalConfig.examples_per_task=0"
    about = "Measure a run's checkpoint again, on the run's held-in and held-out examples."
    parser = cli.Parser(prog="python -m itune.evaluate", description=about, example=example, macros=False)
    parser.add_argument("--model", required=True, metavar="RUN_DIR", help="the run's MODEL_DIR")
    parser.add_argument("--step", metavar="N|best", help="the checkpoint's step (default: the newest)")
    # Only for --help: parse() takes these words out before argparse sees them.
    parser.add_argument(
        "--gin.EvalConfig.NAME", metavar="VALUE", dest="_", help="override what is measured, in gin's syntax"
    )
    parser.add_argument("--show_text", action="store_true", help="write example text of sensitive tasks, too")
    cli.add_format_flag(parser)
    return parser


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(cli.run(main))
