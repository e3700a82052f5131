"""`python -m itune.preview`: what the model will see, at any step, in any row, of any task."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence

from itune import cli


def main(argv: Sequence[str]) -> int:
    flags = _parser().parse(argv)
    config = cli.load_config(flags)

    from rich.console import Console

    from itune.data import find, preview, preview_text
    from itune.terminal import say
    from itune.training.data_side import data_side

    errors = Console(stderr=True)
    data = data_side(config, lambda line: say(errors, line))
    if flags.find is not None:
        shape = {"steps": config.train.steps, "batch_size": config.train.batch_size}
        found = find.find(data.plan, data.reader, flags.find, **shape)
        find.print_found(found, Console(), output_format=flags.format)
        return 0
    shown = preview.Preview(data.manifest, data.plan, data.reader, data.tokenizer, show_text=flags.show_text)
    batch = config.train.batch_size
    views: Iterable[preview.RowView | preview.ExampleView]
    if flags.task is not None:
        views = shown.examples(flags.task, flags.example, flags.examples)
    elif flags.row is not None:
        views = shown.rows([flags.row], batch)
    else:
        views = shown.of_step(flags.step, batch)
    preview_text.show(views, Console(), each_token=flags.tokens, output_format=flags.format)
    return 0


def _parser() -> cli.Parser:
    example = "python -m itune.preview --gin_file=gin_configs/recipes/quickstart.gin --step=12"
    about = "Show what the model will see: the rows of a step, one row, or a task's examples."
    parser = cli.Parser(prog="python -m itune.preview", description=about, example=example)
    cli.add_config_flags(parser)
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--step", type=int, default=1, metavar="K", help="the rows of this step; default: 1, the first")
    what.add_argument("--row", type=int, metavar="I", help="this row of the run, from 0")
    what.add_argument("--find", metavar="TASK:ID", help="the steps in which this example is trained on")
    what.add_argument("--task", metavar="NAME", help="examples of this task, held-out ones too")
    parser.add_argument("--example", type=int, default=0, metavar="N", help="of --task: the first one shown, from 0")
    parser.add_argument("--examples", type=int, default=3, metavar="N", help="of --task: how many; default: 3")
    parser.add_argument("--tokens", action="store_true", help="one token a line, with its id and role")
    parser.add_argument("--show_text", action="store_true", help="show example text of sensitive tasks")
    cli.add_format_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
