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
    modules = flags.module_import
    if flags.action == "list":
        from itune.data.task_list import list_tasks

        asked = {name: getattr(flags, name) for name in ("cluster", "licence", "collection", "at_least", "at_most")}
        return list_tasks(modules, asked, flags.format)
    if flags.action == "new":
        from itune.data.task_new import new_task

        return new_task(modules, flags.name, flags.cluster, flags.to)
    if flags.action == "show":
        from itune.data.task_show import show

        return show(modules, flags.name, flags.examples or 1)
    from itune.training.task_check import check

    return check(modules, flags.name, flags.examples or 200, flags.model, write_golden=flags.write_golden)


def _parser() -> cli.Parser:
    example = "python -m itune.tasks list --cluster=nli"
    about = "List the tasks there are; show or check one; write a new one."
    parser = cli.Parser(prog="python -m itune.tasks", description=about, example=example, macros=False)
    parser.add_argument("action", choices=ACTIONS)
    parser.add_argument(
        "name",
        nargs="?",
        default="",
        metavar="NAME",
        help="a task, data set, mixture or declaration: rte/zs_opt, rte, flan2021, mine/x.yaml",
    )
    modules = "modules that register tasks (default: tasks)"
    parser.add_argument("--module_import", action="append", default=[], metavar="MODULE", help=modules)
    for field in ("cluster", "licence", "collection"):
        parser.add_argument(
            f"--{field}",
            default="",
            help=f"list: of this {field}" + ("; new: put it there" if field == "cluster" else ""),
        )
    parser.add_argument("--at_least", type=int, metavar="N", help="list: so many training rows, as published")
    parser.add_argument("--at_most", type=int, metavar="N", help="list: no more than so many")
    parser.add_argument("--examples", type=int, default=0, metavar="N", help="show, check: rows (default: 1, 200)")
    parser.add_argument(
        "--model", default="smollm2-135m-instruct", metavar="SOURCE", help="check: whose tokens; none: renderings only"
    )
    parser.add_argument(
        "--to", default="", metavar="FOLDER", help="new: the folder of folders (default: tasks/library)"
    )
    golden = "check: write the rendered prompts beside a declaration (a path) again, instead of comparing with them"
    parser.add_argument("--write_golden", action="store_true", help=golden)
    cli.add_format_flag(parser)
    return parser


if __name__ == "__main__":
    sys.exit(cli.run(main))
