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
    flags = _parser().parse(argv)
    if flags.request:
        return _serve(Path(flags.request), Path(flags.manifest))
    config = cli.load_config(flags)

    from itune import weights
    from itune.cache import cache_dir
    from itune.data import launch, prepare

    folder = weights.resolve(config.weights.source)
    manifest = launch.ensure_prepared(config.data, config.evaluation, folder, cache=cache_dir(), workers=flags.workers)
    print(json.dumps(dataclasses.asdict(manifest)) if flags.format == "json" else "\n".join(prepare.summary(manifest)))
    return 0


def _serve(asked: Path, manifest: Path) -> int:
    """Answer a trainer's request (itune.data.launch). It prints our error, so that it is seen once."""
    from itune.data import prepare
    from itune.data.manifest import Request

    try:
        prepare.run(Request(**json.loads(asked.read_text())), sys.stderr).save(manifest)
    except UserError as error:
        asked.with_suffix(".error").write_text(" ".join(str(error).split()))
        return cli.EXIT_USER_ERROR
    return 0


def _parser() -> cli.Parser:
    example = "python -m itune.prepare --gin_file=gin_configs/recipes/quickstart.gin"
    parser = cli.Parser(prog="python -m itune.prepare", description=__doc__.split(": ", 1)[1], example=example)
    cli.add_config_flags(parser)
    parser.add_argument("--workers", type=int, default=2, help="processes, when there is much to do")
    parser.add_argument("--request", help=argparse.SUPPRESS)
    parser.add_argument("--manifest", help=argparse.SUPPRESS)
    cli.add_format_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
