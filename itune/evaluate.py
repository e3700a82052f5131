"""`python -m itune.evaluate`: measure a run's checkpoint on the run's examples, or any model on others."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

from itune import cli
from itune.errors import UserError
from itune.memory import use_huge_pages
from itune.storage import names


def main(argv: Sequence[str]) -> int:
    flags = _parser().parse(argv)

    # JAX loads here: a slip on the command line has been reported by now.
    from itune.evaluation.checkpoint import Examples, evaluate_checkpoint, evaluate_model

    how = {"show_text": flags.show_text, "output_format": flags.format}
    if not (flags.mixture or flags.gin_file):
        _only_with_examples(flags)
        return evaluate_checkpoint(flags.model, flags.step, flags.gin_bindings, **how)
    examples = Examples(gin_files=flags.gin_file, mixture=flags.mixture, modules=flags.module_import)
    names.on_disk("--workdir", flags.workdir)
    output = Path(flags.workdir) if flags.workdir else None
    return evaluate_model(flags.model, flags.step, flags.adapter, examples, flags.gin_bindings, output, **how)


def _only_with_examples(flags: argparse.Namespace) -> None:
    for name in ("adapter", "workdir", "module_import"):
        if getattr(flags, name):
            raise UserError(f"--{name} goes with --mixture or --gin_file: without, a run is measured as it was trained")


def _parser() -> cli.Parser:
    example = "python -m itune.evaluate --model=smollm2-135m-instruct --mixture=rte/zs --gin.EvalConfig.rank_per_task=8"
    about = "Measure a run's checkpoint on the run's own examples, or any model on those of a mixture or a recipe."
    parser = cli.Parser(prog="python -m itune.evaluate", description=about, example=example)
    parser.add_argument("--model", required=True, help="a run's MODEL_DIR, a Hugging Face folder, a .gguf, a name")
    parser.add_argument("--step", metavar="N|best", help="a run's checkpoint (default: the newest)")
    parser.add_argument("--adapter", default="", metavar="DIR", help="a folder that peft saved, over --model")
    parser.add_argument("--mixture", default="", metavar="NAME", help="a task or mixture: its EvalConfig.split")
    cli.add_config_flags(parser)
    parser.add_argument("--show_text", action="store_true", help="write example text of sensitive tasks, too")
    cli.add_format_flag(parser)
    return parser


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(cli.run(main))
