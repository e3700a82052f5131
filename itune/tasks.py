"""`python -m itune.tasks`: which tasks there are, what one looks like, whether one is sound, and a new one."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from itune import cli

ACTIONS = ("list", "show", "check", "new")
NAME = "a task, data set, mixture or declaration: rte/zs_opt, rte, flan2021, mine/x.yaml"
TEXTS = {
    "cluster": "list: of this cluster; new: put it there",
    "licence": "list: whose licence has these words",
    "collection": "list: of this collection",
    "to": "new: the folder of clusters' folders (default: tasks/library)",
    "model": "check: whose tokens (default: the quickstart's); none: renderings only",
}
NUMBERS = {
    "at_least": "list: so many training rows, as published",
    "at_most": "list: no more than so many",
    "examples": "show, check: rows (default: 1, 200)",
}


def main(argv: Sequence[str]) -> int:
    flags = _parser().parse(argv)
    if (flags.action == "list") == bool(flags.name):
        raise cli.UserError(f"{flags.action}: {'takes no name' if flags.name else 'a NAME is needed'}")
    if flags.action == "check":
        from itune.training.task_check import check

        return check(flags.module_import, flags.name, flags.examples or 200, flags.model, flags.write_golden)
    from itune.data import task_list, task_new, task_show

    if flags.action == "list":
        asked = {name: getattr(flags, name) for name in ("cluster", "licence", "collection", "at_least", "at_most")}
        return task_list.list_tasks(flags.module_import, asked, flags.format)
    if flags.action == "new":
        return task_new.new_task(flags.module_import, flags.name, flags.cluster, flags.to)
    return task_show.show(flags.module_import, flags.name, flags.examples or 1)


def _parser() -> cli.Parser:
    about, example = "List the tasks there are; show or check one; write a new one.", "python -m itune.tasks show rte"
    parser = cli.Parser(prog="python -m itune.tasks", description=about, example=example, macros=False)
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument("name", nargs="?", default="", metavar="NAME", help=NAME)
    parser.add_argument("--module_import", action="append", default=[], metavar="MODULE", help="default: tasks")
    for name, help_ in TEXTS.items():
        parser.add_argument(f"--{name}", default="", help=help_)
    for name, help_ in NUMBERS.items():
        parser.add_argument(f"--{name}", type=int, metavar="N", help=help_)
    parser.add_argument("--write_golden", action="store_true", help="check of a file: write its prompts beside it")
    cli.add_format_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
