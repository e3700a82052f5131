"""What is known of a task, a data set or a mixture, and what its prompts look like."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from itune.data import lazy
from itune.data.catalogue import import_modules, load_registry
from itune.data.published import published, shares_by
from itune.errors import UserError, nearest

if TYPE_CHECKING:
    from itune.data.registry import TaskInfo

MOST_TASKS = 40  # of a mixture, one by one
RULE = "-" * 72


def show(modules: Sequence[str], name: str, examples: int) -> int:
    """Prints a task, all tasks of a data set ("rte"), or what a mixture is made of. Raises: UserError."""
    import_modules(modules)
    load_registry()
    for line in _mixture(name) if is_mixture(name) else _tasks(tasks_of(name), examples):
        print(line)
    return 0


def tasks_of(name: str) -> list[str]:
    """The task of that name, those that begin with it and "/", a mixture's, or a declaration's (a path).

    Raises: UserError.
    """
    from itune.data import registry

    if name.endswith((".yaml", ".yml")):
        from itune.data.library.declaration import load_declaration
        from itune.data.library.tasks import declare

        declared = load_declaration(name).name
        if declared != Path(name).stem:
            raise UserError(f"{name}: name: is {declared!r}; the file must be called {declared}.yaml")
        return [task for task in registry.TASKS if task.startswith(f"{declared}/")] or declare(name)
    while lazy.load(name):
        pass
    below = [task for task in registry.TASKS if task == name or task.startswith(f"{name}/")]
    return below or [info.name for info, _ in registry.mixture_info(name)]


def is_mixture(name: str) -> bool:
    from itune.data import registry  # SeqIO loads here

    while lazy.load(name):  # a loader may make the name known to another
        pass
    return name in registry.mixture_names()


# Mixtures


def _mixture(name: str) -> Iterator[str]:
    from itune.data import registry

    lost: list[str] = []
    rated = registry.mixture_info(name, on_error=lambda info, error: lost.append(f"{info.name}: {error}"))
    yield f"{name}: a mixture of {len(rated) + len(lost):,} tasks"
    if lost:
        yield f"{len(lost):,} of them cannot be counted, so the shares are those of the others; the first:"
        yield f"  {lost[0]}"
    if not rated:
        return
    says = published(name)
    key = says.part_of if says is not None else _cluster
    shares = says.shares if says is not None else {}
    found = shares_by(rated, key)
    yield ""
    yield f"{'part' if says else 'cluster':36s} {'here':>8s} {'paper':>8s} {'tasks':>7s} {'data sets':>10s}"
    for part in dict.fromkeys([*found, *shares]):
        here, tasks, data_sets = found.get(part, (0.0, 0, 0))
        paper = f"{shares[part]:8.1%}" if part in shares else f"{'':8s}"
        yield f"{part:36s} {here:8.1%} {paper} {tasks:7,} {data_sets:10,}"
    if says is not None:
        yield f"paper: {says.source}"
    yield ""
    total = sum(rate for _, rate in rated)
    for info, rate in sorted(rated, key=lambda pair: -pair[1])[:MOST_TASKS]:
        yield f"  {rate / total:8.3%}  {info.name}"
    if len(rated) > MOST_TASKS:
        yield f"  and {len(rated) - MOST_TASKS:,} more"


def _cluster(info: TaskInfo) -> str:
    return info.cluster


# Tasks


def _tasks(names: Sequence[str], examples: int) -> Iterator[str]:
    from itune.data import registry

    first = True
    for name in names:
        info = registry.info(name)
        if first:
            yield from _facts(info)
        first = False
        yield RULE
        yield f"{name}: {len(info.templates)} templates: {', '.join(template.id for template in info.templates)}"
        if info.sensitive:
            yield "(text of a sensitive task is not shown)"
            continue
        try:
            for number, (inputs, targets, template) in enumerate(itertools.islice(rendered(name), examples), 1):
                yield f"\n[{number}] template {template}\n{inputs}\n    =>\n{targets}"
        except UserError as error:
            yield f"no example can be shown: {error}"


def _facts(info: TaskInfo) -> Iterator[str]:
    from itune.data import registry

    source = registry.get(info.name).source
    yield f"{info.name}: {info.description or 'a task'}"
    for what, said in (
        ("cluster", info.cluster),
        ("data set", info.identity),
        ("licence", info.licence),
        ("metrics", ", ".join(info.metrics)),
        ("splits", ", ".join(source.splits)),
        ("overlong", info.overlong),
        *_declared(source),
    ):
        if said:
            yield f"  {what:9s} {said}"


def _declared(source: object) -> Iterable[tuple[str, str]]:
    d = getattr(source, "declaration", None)
    if d is None:
        return ()
    hub = f"hf:{d.hub}" + (f" ({d.hub_config})" if d.hub_config else "") if d.hub else ""
    rows = ", ".join(f"{split} {count:,}" for split, count in d.published_rows)
    sources = filter(None, (*(str(file) for _, file in d.files), hub, d.tfds and f"tfds:{d.tfds}"))
    return (("from", ", ".join(sources)), ("rows", rows), ("cites", d.citation))


def rendered(name: str, split: str = "train") -> Iterator[tuple[str, str, str]]:
    """(inputs, targets, template's id) of a task's rows, as prepare renders them. Raises: UserError."""
    from itune.data import registry
    from itune.data.templates import RenderContext

    info, source = registry.info(name), registry.get(name).source
    if not info.templates or not hasattr(source, "each_row"):
        raise UserError(f"{name}: its prompts are made by SeqIO's preprocessors; python -m itune.preview shows them")
    if split not in source.splits:
        raise UserError(f"{name}: has no split {split!r}.{nearest(split, source.splits)}")
    for row in source.each_row(split):
        inputs, targets, _, template = registry.render_texts(row, info.templates, info.identity, RenderContext())
        yield inputs, targets, template
