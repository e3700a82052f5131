"""`python -m itune.train`: tune a model as a gin file says."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from itune import cli
from itune.errors import UserError
from itune.memory import use_huge_pages
from itune.parallel import distributed


def main(argv: Sequence[str]) -> int:
    flags = _parser().parse(argv)
    if flags.format == "json" and not flags.dry_run:
        raise UserError("--format=json goes with --dry_run; a run writes metrics.jsonl into MODEL_DIR.")
    config = cli.load_config(flags)

    # JAX loads here: a slip in the configuration has been reported by now.
    if flags.dry_run:
        from itune.training import loop

        return loop.dry_run(config, output_format=flags.format)
    with distributed.joined(cli.processes(flags)) as peers:
        from itune.training import loop
        from itune.training.session import Session

        told = {"show_text": flags.show_text, "allow_remote_tracker": flags.allow_remote_tracker}
        return loop.train(config, resume=flags.resume, **told, session=Session(peers=peers))


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m itune.train",
        description="Tune a model as a gin file says. The same command again resumes the run.",
        example="python -m itune.train --gin_file=recipes/quickstart.gin --gin.TRAIN_STEPS=100 --workdir=runs/first",
    )
    cli.add_config_flags(parser)
    parser.add_argument("--dry_run", action="store_true", help="print the resolved config and the plan, train nothing")
    parser.add_argument(
        "--resume",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="go on from the newest checkpoint (the default); --no-resume starts from step 0",
    )
    parser.add_argument("--show_text", action="store_true", help="show example text of sensitive tasks")
    parser.add_argument(
        "--allow_remote_tracker", action="store_true", help="let metrics of sensitive tasks leave this machine"
    )
    cli.add_xla_flag(parser)
    cli.add_format_flag(parser)
    cli.add_process_flags(parser)
    return parser


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(cli.run(main))
