"""`python -m itune.ablate`: a study: the arms that a gin file declares, over seeds, against their base."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from itune import cli
from itune.memory import use_huge_pages


def main(argv: Sequence[str]) -> int:
    flags = _parser().parse(argv)
    from itune.studies.arms import load_study

    study = load_study(flags.gin_file, flags.gin_bindings, flags.workdir, flags.module_import)

    # JAX loads here: a slip on the command line has been reported by now.
    from itune.studies.budget import dry_run
    from itune.studies.runner import Part, run_study, say_proposal

    part = Part.read(flags.part)

    if flags.dry_run:
        dry_run(study)
        return 0
    if flags.propose:
        say_proposal(study)
        return 0
    if flags.executor == "ray":
        from itune.studies.on_ray import run_on_ray

        return run_on_ray(study, flags.ray_address, flags.ray_resources)
    return run_study(study, part)


def _parser() -> cli.Parser:
    example = "python -m itune.ablate --gin_file=gin_configs/studies/leave_one_source_out.gin --dry_run"
    about = "Run a study: arms that differ from a base recipe, each over several seeds; what has been run is kept."
    parser = cli.Parser(prog="python -m itune.ablate", description=about, example=example)
    cli.add_config_flags(parser)
    parser.add_argument("--dry_run", action="store_true", help="print the arms, what they differ in, and what is done")
    parser.add_argument(
        "--part",
        default="0/1",
        metavar="I/N",
        help="one of N processes that share DIR: every N-th run from the I-th",
    )
    parser.add_argument("--executor", choices=("local", "ray"), default="local", help="where runs are made")
    parser.add_argument(
        "--ray_address", default="auto", metavar="HOST:PORT", help="of the cluster; auto: RAY_ADDRESS's"
    )
    parser.add_argument("--ray_resources", default="CPU=1", metavar="GPU=1,CPU=8", help="what each run takes of it")
    parser.add_argument("--propose", action="store_true", help="which mixture next, by the runs that are done")
    return parser


if __name__ == "__main__":
    use_huge_pages()
    sys.exit(cli.run(main))
