"""`python -m itune.lint`: faults of a mixture that a loss curve would not show. 0: no errors; 1: errors were found."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Sequence

from itune import cli

EXIT_FOUND = 1


def main(argv: Sequence[str]) -> int:
    flags = _parser().parse(argv)
    config = cli.load_config(flags)

    from rich.console import Console

    from itune.data.lint import lint
    from itune.terminal import say
    from itune.training.data_side import data_side

    errors, out = Console(stderr=True), Console()
    data = data_side(config, lambda line: say(errors, line))
    findings = lint(data.manifest, data.plan, data.reader, data.tokenizer, quick=flags.quick)
    if flags.contamination:
        from itune.cache import cache_dir
        from itune.data import decontaminate

        findings += decontaminate.find(data.manifest, cache_dir()).findings()
    if flags.format == "json":
        print(json.dumps([dataclasses.asdict(finding) for finding in findings], ensure_ascii=False))
    else:
        for finding in findings:
            say(out, str(finding), "red" if finding.level == "error" else "yellow")
        say(out, f"{len(data.manifest.train)} tasks, {len(findings)} findings")
    return EXIT_FOUND if any(finding.level == "error" for finding in findings) else 0


def _parser() -> cli.Parser:
    example = "python -m itune.lint --gin_file=gin_configs/recipes/quickstart.gin"
    about = "Look for faults of a mixture that a loss curve would not show."
    parser = cli.Parser(prog="python -m itune.lint", description=about, example=example)
    cli.add_config_flags(parser)
    quick = "some records of each task only, as before every training"
    parser.add_argument("--quick", action="store_true", help=quick)
    contamination = "also look for evaluation text that is trained on, word by word (minutes for a million examples)"
    parser.add_argument("--contamination", action="store_true", help=contamination)
    cli.add_format_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
