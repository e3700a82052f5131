"""Tasks without their instructions, as ablations want them (Wei et al. 2022, figure 8): a prefix to any task's name.

    without_instructions/MIXTURE    prompts are the row's fields, a line each, and nothing else
    names_only/MIXTURE              the same after the cluster and the data set in brackets: "[nli: rte]"

Targets, examples, their order and rates are those of the task.

    MIXTURE+TASK+...                the tasks of all of them, each with the rate that it has there

Registered when asked for.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Sequence
from typing import Any

import seqio

from itune.data import registry
from itune.data.library.prompts import VariantTemplate
from itune.data.library.shots import FewShot
from itune.data.niv2_prompts import Niv2Template
from itune.data.templates import RowTemplate, Template
from itune.errors import UserError

PREFIXES = ("without_instructions", "names_only")


def register(name: str) -> bool:
    """Registers "<prefix>/<task or mixture>", and the tasks of a mixture, or "<mixture>+<task>"; False for other names.

    Raises: UserError where there is no such task, or one whose prompts hold their instructions in code.
    """
    if "+" in name:
        _register_joined(name, name.split("+"))
        return True
    prefix, _, base = name.partition("/")
    if prefix not in PREFIXES or not base:
        return False
    if isinstance(registry.get(base), seqio.Mixture):
        tasks = [info.name for info, _ in registry.mixture_info(base)]
        registry.add_mixture(name, [(f"{prefix}/{task}", functools.partial(_rate, base, task)) for task in tasks])
    else:
        _register_task(name, prefix, base)
    return True


def _register_joined(name: str, parts: Sequence[str]) -> None:
    """What stands in several parts has the sum of its rates there."""
    found: dict[str, list[str]] = {}
    for part in parts:
        for task in _members(part):
            found.setdefault(task, []).append(part)
    registry.add_mixture(name, [(task, functools.partial(_sum, tuple(there), task)) for task, there in found.items()])


def _members(name: str) -> dict[str, float]:
    """A task by itself has the rate 1."""
    if isinstance(registry.get(name), seqio.Mixture):
        return {info.name: rate for info, rate in registry.mixture_info(name)}
    return {name: 1.0}


def _sum(parts: tuple[str, ...], task: str, _: seqio.Task) -> float:
    return sum(_members(part)[task] for part in parts)


def _rate(mixture: str, task: str, _: seqio.Task) -> float:
    """The task's rate in the mixture that this is a view of."""
    return {info.name: rate for info, rate in registry.mixture_info(mixture)}[task]


def _register_task(name: str, prefix: str, base: str) -> None:
    task, info = registry.get(base), registry.info(base)
    head = f"[{info.cluster}: {info.identity}]\n" if prefix == "names_only" else ""
    found: dict[Any, RowTemplate] = {}
    for template in info.templates:
        if (plain := without_instructions(template, head, f"task {name!r}")) is not None:
            # Two wordings of the same fields are one prompt now.
            found.setdefault(dataclasses.replace(plain, **_no_id(plain)), plain)  # type: ignore[type-var]
    if not found:
        raise UserError(f"task {name!r}: {base!r} has no templates whose fields could stand without instructions")
    templates = tuple(found.values())
    seqio.TaskRegistry.add(
        name,
        source=task.source,
        output_features=task.output_features,
        preprocessors=[_with_templates(step, name, templates) for step in task.preprocessors],
        postprocess_fn=task.postprocess_fn,
        metric_fns=task.metric_fns,
        task_cls=registry.TextTask,
    )
    registry.TASKS[name] = dataclasses.replace(info, name=name, templates=templates)


def without_instructions(template: RowTemplate, head: str, where: str) -> RowTemplate | None:
    """The template with `head` and the fields of its prompt, a line each; None if its prompt has no fields.

    Raises: UserError for a kind whose instructions can't be told from the row's text.
    """
    if isinstance(template, Template):
        fields = Template(template.id, template.inputs, "").fields
        if not fields:
            return None
        said = head.replace("{", "{{").replace("}", "}}")
        return dataclasses.replace(template, inputs=said + "\n".join(f"{{{name}}}" for name in fields))
    if isinstance(template, VariantTemplate):
        plain = without_instructions(template.wording.template, head, where)
        if not isinstance(plain, Template):
            return None
        return dataclasses.replace(template, wording=dataclasses.replace(template.wording, inputs=plain.inputs))
    if isinstance(template, FewShot):
        inner = without_instructions(template.template, head, where)
        return inner and dataclasses.replace(template, template=inner)
    if isinstance(template, Niv2Template):
        plain = without_instructions(Template(template.id, "{input}", "{output}"), head, where)
        assert isinstance(plain, Template)
        layout = dataclasses.replace(template.layout, prompt=plain.inputs, example="", shots=0)
        return dataclasses.replace(template, layout=layout)
    raise UserError(
        f"{where}: template {template.id!r} is a {type(template).__name__}, whose instructions can't be told from the "
        "row's text; leave the task out of the mixture"
    )


def _no_id(template: RowTemplate) -> dict[str, Any]:
    """What makes two templates that differ in their ids alike."""
    if isinstance(template, VariantTemplate):
        return {"wording": dataclasses.replace(template.wording, id="-")}
    if isinstance(template, FewShot):
        return {"template": dataclasses.replace(template.template, **_no_id(template.template))}  # type: ignore[type-var]
    if isinstance(template, Niv2Template):
        return {"layout": dataclasses.replace(template.layout, id="-")}
    return {"id": "-"}


def _with_templates(step: Any, name: str, templates: tuple[RowTemplate, ...]) -> Any:
    if isinstance(step, functools.partial) and step.func is registry.render:
        return functools.partial(registry.render, **{**step.keywords, "task": name, "templates": templates})
    return step
