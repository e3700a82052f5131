"""`python -m itune.tasks`: which tasks there are, what one looks like, whether one is sound, and a new one."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from itune import cli

ACTIONS = ("list", "show", "check", "new")


def main(argv: Sequence[str]) -> int:
    flags = _parser().parse(argv)
    if (flags.action == "list") == bool(flags.name):
        raise cli.UserError(f"{flags.action}: {'takes no name' if flags.name else 'a NAME is needed'}")
    from itune.inference import task_commands as commands

    if flags.action == "list":
        asked = {name: getattr(flags, name) for name in ("cluster", "licence", "collection", "at_least", "at_most")}
        return commands.list_tasks(flags.module_import, asked, flags.format)
    if flags.action == "new":
        return commands.new_task(flags.name, flags.to)
    if flags.action == "show":
        return commands.show_task(flags.module_import, flags.name, flags.examples)
    return commands.check_task(flags.module_import, flags.name, flags.examples, flags.model)


def _parser() -> cli.Parser:
    example = "python -m itune.tasks list --cluster=nli"
    about = "List the tasks there are; show or check one; write a new one."
    parser = cli.Parser(prog="python -m itune.tasks", description=about, example=example, macros=False)
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help="of a task, or a data set: rte/zs_opt, rte")
    modules = "modules that register tasks (default: tasks)"
    parser.add_argument("--module_import", action="append", default=[], metavar="MODULE", help=modules)
    for field in ("cluster", "licence", "collection"):
        parser.add_argument(f"--{field}", default="", help=f"list: of this {field}")
    parser.add_argument("--at_least", type=int, metavar="N", help="list: so many training rows, as published")
    parser.add_argument("--at_most", type=int, metavar="N", help="list: no more than so many")
    parser.add_argument("--examples", type=int, default=0, metavar="N", help="show, check: rows (default: 1, 200)")
    parser.add_argument("--model", default="smollm2-135m-instruct", metavar="SOURCE", help="check: whose tokens")
    parser.add_argument("--to", default="", metavar="FOLDER", help="new: where to (default: tasks/library/CLUSTER)")
    cli.add_format_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
