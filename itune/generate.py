"""`python -m itune.generate`: what a tuned model, or any other, makes of a prompt."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from itune import cli
from itune.errors import UserError
from itune.inference import flags as table
from itune.inference import prompts


def main(argv: Sequence[str]) -> int:
    flags = _parser().parse(argv)
    if flags.gin_bindings:
        raise UserError(f"--gin.{flags.gin_bindings[0]}: generate takes no gin bindings")
    if flags.batch_size < 1:
        raise UserError(f"--batch_size={flags.batch_size} must be at least 1")
    if flags.chat and (flags.prompt or flags.prompts or flags.format == "json"):
        given = "no --prompt(s), no --format=json"
        raise UserError(f"--chat reads its prompts from standard input and prints text: {given}")
    if flags.chat and len(flags.model) > 1:
        raise UserError("--chat is with one model: give one --model")
    settings, asked_for = table.sampling(flags), table.models(flags)
    asked = [] if flags.chat else prompts.gather(flags.prompt, flags.prompts, settings)

    # JAX loads here: a slip on the command line has been reported by now.
    from itune.inference import session, terminal

    loaded = [session.load(**one) for one in asked_for]
    if flags.prompt_format is None:
        for model in loaded:
            print(f"{model.name}: prompt format {model.prompt_format!r}", file=sys.stderr)
    if flags.chat:
        terminal.converse(loaded[0], settings)
    else:
        terminal.complete(loaded, asked, batch_size=flags.batch_size, output_format=flags.format)
    return 0


def _parser() -> cli.Parser:
    example = 'python -m itune.generate --model=runs/quickstart --prompt="Explain what a fever is." --temperature=0.7'
    about = "Complete prompts, greedily or by sampling, with a run's checkpoint or with any weights."
    parser = cli.Parser(prog="python -m itune.generate", description=about, example=example, macros=False)
    table.add_model_flags(parser, cli.SOURCE, cli.ADAPTER)
    table.add_prompt_flags(parser)
    table.add_sampling_flags(parser)
    cli.add_format_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
