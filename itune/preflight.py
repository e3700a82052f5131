"""`python -m itune.preflight`: will a run fit, and how long will it take, on devices that need not be here?"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from itune import cli


def main(argv: Sequence[str]) -> int:
    flags = _parser().parse(argv)
    config = cli.load_config(flags)
    if flags.topology:
        os.environ.setdefault("JAX_PLATFORMS", "cpu")  # the compiler needs no accelerator, and must not take one

    # JAX loads here: a slip in the configuration has been reported by now.
    from rich.console import Console

    from itune.costs.preflight import preflight
    from itune.terminal import say

    console = Console(stderr=True)
    return preflight(
        config,
        flags.topology,
        model_config=flags.model_config,
        search=flags.search,
        price=flags.price,
        generate=flags.generate,
        output_format=flags.format,
        picture=flags.picture,
        echo=lambda line: say(console, line),
    )


def _parser() -> cli.Parser:
    parser = cli.Parser(
        prog="python -m itune.preflight",
        description="Compile a recipe's step for devices that need not be here: memory, collectives, time, cost. "
        "Exit code 4: it does not fit.",
        example="python -m itune.preflight --gin_file=recipes/quickstart.gin --topology=v5e:2x2 --topology=v6e:2x4",
    )
    cli.add_config_flags(parser)
    many = "CHIP:AxB[xC][*SLICES], as v5e:16x16; may be repeated; none: the devices at hand"
    parser.add_argument("--topology", action="append", default=[], metavar="NAME", help=many)
    no_data = "a model's config.json: neither its weights nor any data are needed then"
    parser.add_argument("--model_config", default="", metavar="FILE", help=no_data)
    searched = "compile up to N arrangements (mesh, remat, microbatches) for each topology and tell the best"
    parser.add_argument("--search", type=int, default=0, metavar="N", help=searched)
    parser.add_argument("--price", type=float, default=0.0, metavar="P", help="of a chip for an hour")
    written = "compile generation as well, of a batch of prompts of that length and so many new tokens each"
    parser.add_argument("--generate", default="", metavar="BATCHxPROMPTxNEW", help=written)
    parser.add_argument("--picture", default="", metavar="FILE.svg", help="draw memory by kind")
    cli.add_xla_flag(parser)
    cli.add_format_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
