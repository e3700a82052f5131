"""`python -m itune.generate`: what a tuned model, or any other, makes of a prompt."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from itune import cli
from itune.data.config import PROMPT_FORMATS
from itune.errors import UserError
from itune.inference import prompts


def main(argv: Sequence[str]) -> int:
    flags = _parser().parse(argv)
    if flags.gin_bindings:
        raise UserError(f"--gin.{flags.gin_bindings[0]}: generate takes no gin bindings")
    if flags.max_new_tokens < 1 or flags.batch_size < 1:
        raise UserError("--max_new_tokens and --batch_size must be at least 1")
    if flags.chat and (flags.prompt or flags.prompts or flags.format == "json"):
        given = "no --prompt(s), no --format=json"
        raise UserError(f"--chat reads its prompts from standard input and prints text: {given}")
    asked = [] if flags.chat else prompts.gather(flags.prompt, flags.prompts)

    # JAX loads here: a slip on the command line has been reported by now.
    from itune.inference import session, terminal

    asked_for = {name: getattr(flags, name) for name in ("step", "prompt_format", "adapter")}
    model = session.load(flags.model, **asked_for)
    if flags.prompt_format is None:
        print(f"{model.name}: prompt format {model.prompt_format!r}", file=sys.stderr)
    if flags.chat:
        terminal.converse(model, max_new_tokens=flags.max_new_tokens)
    else:
        new, size = flags.max_new_tokens, flags.batch_size
        terminal.complete(model, asked, max_new_tokens=new, batch_size=size, output_format=flags.format)
    return 0


def _parser() -> cli.Parser:
    example = 'python -m itune.generate --model=runs/quickstart --prompt="Explain what a fever is."'
    about = "Complete prompts greedily, with a run's checkpoint or with any weights."
    parser = cli.Parser(prog="python -m itune.generate", description=about, example=example, macros=False)
    parser.add_argument("--model", required=True, metavar="RUN_DIR|SOURCE", help=cli.SOURCE)
    parser.add_argument("--adapter", default="", metavar="FOLDER|FILE:NAME", help=cli.ADAPTER)
    parser.add_argument("--step", metavar="N|best", help="of a run: the checkpoint's step (default: the newest)")
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="may be repeated")
    files = "one prompt a line; .jsonl: {prompt} or {instruction, input}; - is standard input"
    parser.add_argument("--prompts", metavar="FILE", help=files)
    parser.add_argument("--chat", action="store_true", help="a conversation, line by line; /quit ends it")
    formats = "default: the run's own; of other weights chat if they have a template"
    parser.add_argument("--prompt_format", choices=PROMPT_FORMATS, help=formats)
    parser.add_argument("--max_new_tokens", type=int, default=128, metavar="N", help="default: 128")
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="prompts decoded together; default: 8")
    cli.add_format_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
