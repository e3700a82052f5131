"""`python -m itune.prepare`: run every task's pipeline once, so that training starts from tokens on disk."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from itune import cli
from itune.errors import UserError


def main(argv: Sequence[str]) -> int:
    words, beam_options = cli.split_rest(argv)
    flags = _parser().parse(words)
    if flags.request:
        return _answer(Path(flags.request), Path(flags.manifest))
    if beam_options and not flags.runner:
        raise UserError(f"{beam_options[0]!r} stands after --, where Beam's options go: give --runner, too")
    config = cli.load_config(flags)

    from itune import weights
    from itune.cache import cache_dir
    from itune.data import launch, prepare_progress

    folder = weights.resolve(config.weights.source)
    how = {"workers": flags.workers, "runner": flags.runner, "beam_options": beam_options, "retry": True}
    manifest = launch.ensure_prepared(config.data, config.evaluation, folder, cache=cache_dir(), **how)
    lines = prepare_progress.summary(manifest)
    print(json.dumps(dataclasses.asdict(manifest)) if flags.format == "json" else "\n".join(lines))
    return 0


def _answer(asked: Path, manifest: Path) -> int:
    from itune.data import prepare

    return 0 if prepare.answer(asked, manifest, sys.stderr) else cli.EXIT_USER_ERROR


def _parser() -> cli.Parser:
    example = "python -m itune.prepare --gin_file=gin_configs/recipes/quickstart.gin"
    parser = cli.Parser(prog="python -m itune.prepare", description=__doc__.split(": ", 1)[1], example=example)
    cli.add_config_flags(parser)
    parser.add_argument("--workers", type=int, default=2, help="processes, when there is much to do")
    parser.add_argument("--runner", default="", help="an Apache Beam runner; its own options follow after --")
    for name in ("--request", "--manifest"):
        parser.add_argument(name, help=argparse.SUPPRESS)
    cli.add_format_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
