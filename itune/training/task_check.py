"""Whether a task is sound: every template on real rows, lint over its prepared records, lengths in tokens."""

from __future__ import annotations

import collections
import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console

from itune.data.keyed import key64
from itune.data.lint import Finding, lint

if TYPE_CHECKING:
    from itune.training.data_side import DataSide

EXIT_FOUND = 1
YAML = (".yaml", ".yml")
NAMED = 3  # ids that a finding names
LENGTHS = {"inputs": 1024, "targets": 256}  # what lengths are held against: FLAN 2021's


def check(modules: Sequence[str], name: str, examples: int, model: str, write_golden: bool) -> int:
    """Prints what is wrong with a task, or with all of a data set, and how long it is. 1 where there is an error.

    examples: rows that are rendered.  model: whose tokens are counted, and looked at by lint; "" for the default of
      WeightsConfig, "none" for neither.
    Raises: UserError.
    """
    from itune.data.catalogue import import_modules, load_registry
    from itune.data.task_show import tasks_of

    import_modules(modules)
    load_registry()
    names = tasks_of(name)
    findings: list[Finding] = []
    if name.endswith(YAML):
        findings += _golden(Path(name), write=write_golden)
    for task in names:
        found, looked_at = _rendered(task, examples)
        findings += found
        print(f"{task}: {looked_at}")
    if model != "none":
        with _module_of(name, names, modules) as (mixture, known):
            data = _prepared(known, mixture, model)
        findings += lint(data.manifest, data.plan, data.reader, data.tokenizer)
        for line in _lengths(data):
            print(line)
    for finding in findings:
        print(finding)
    errors = sum(finding.level == "error" for finding in findings)
    print(f"{len(names)} tasks, {errors} errors, {len(findings) - errors} warnings")
    return EXIT_FOUND if errors else 0


# Renderings


def _rendered(task: str, examples: int) -> tuple[list[Finding], str]:
    """(what is wrong with the renderings of a task, what was looked at)."""
    from itune.data import registry

    info, source = registry.info(task), registry.get(task).source
    if not info.templates or not hasattr(source, "each_row"):
        return [], "its prompts are made by SeqIO's preprocessors; looked at as prepared only"
    faults: dict[tuple[str, str], list[str]] = collections.defaultdict(list)
    rendered = 0
    for split in source.splits:
        before = rendered
        for row in itertools.islice(source.each_row(split), examples):
            for template in info.templates:
                key = key64("check", task, row["id"], template.id)
                sides = template.render(row, key)
                if sides is None:
                    continue
                rendered += 1
                for fault in _faults(template, row, key, *sides):
                    faults[fault, template.id].append(row["id"])
        if rendered == before:
            faults["empty", ""].append(split)
    findings = [_finding(task, *key, ids, rendered) for key, ids in faults.items()]
    return findings, f"{len(info.templates)} templates, {rendered:,} renderings"


FAULTS = {
    "blank": "inputs or targets are blank",
    "unfilled": "a field in braces is left in the text",
    "options": "the options are not shown, or the right answer is not among them",
    "empty": "a split has no rows",
}


def _faults(template: Any, row: Mapping[str, str], key: int, inputs: str, targets: str) -> Iterator[str]:
    if not inputs.strip() or not targets.strip():
        yield "blank"
    if any(unfilled(text, (*template.fields, *row), row) for text in (inputs, targets)):
        yield "unfilled"
    variant = getattr(template, "variant", None)
    if variant is not None and variant.options:
        block, answer = template.shown(row, key)
        if not block or block not in inputs or answer not in block:
            yield "options"


def unfilled(text: str, fields: Iterable[str], row: Mapping[str, str]) -> bool:
    """Whether a field's name stands in braces in a rendering, and in none of the row's own texts."""
    marks = [f"{{{name}}}" for name in fields]
    return any(mark in text and not any(mark in value for value in row.values()) for mark in marks)


def _finding(task: str, fault: str, template: str, ids: Sequence[str], of: int) -> Finding:
    where = f"template {template!r}: " if template else ""
    share = len(ids) / max(of, 1)
    message = where + FAULTS[fault]
    return Finding(check=fault, level="error", task=task, message=message, share=share, ids=tuple(ids[:NAMED]))


def _golden(path: Path, *, write: bool) -> list[Finding]:
    """Compares a declaration's rendered prompts with those beside it, or writes them."""
    from itune.data.library import golden

    target = golden.beside(path)
    now = golden.as_text(golden.golden(path))
    if write:
        target.write_text(now, "utf-8")
        print(f"{target}: written")
    elif target.is_file() and target.read_text("utf-8") != now:
        message = f"prompts are not those in {target}; --write_golden writes them again, for git diff to show"
        return [Finding(check="golden", level="warning", task=path.stem, message=message, share=1.0)]
    return []


# As prepared


@contextlib.contextmanager
def _module_of(name: str, names: Sequence[str], modules: Sequence[str]) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(what is to be prepared, modules that register it); a declaration gets a module for as long as it takes."""
    known = tuple(modules or ("tasks",))
    if not name.endswith(YAML):
        yield name if len(names) == 1 or name not in {n.partition("/")[0] for n in names} else f"{name}/all", known
        return
    with tempfile.TemporaryDirectory() as folder:
        module = f"itune_checked_{Path(name).stem}"
        declaration = str(Path(name).resolve())
        Path(folder, f"{module}.py").write_text(f"from itune.data import declare\n\ndeclare({declaration!r})\n")
        before = os.environ.get("PYTHONPATH")
        os.environ["PYTHONPATH"] = os.pathsep.join(filter(None, (folder, before)))
        try:
            yield f"{Path(name).stem}/all", (module,)
        finally:
            if before is None:
                del os.environ["PYTHONPATH"]
            else:
                os.environ["PYTHONPATH"] = before


def _prepared(modules: Sequence[str], mixture: str, model: str) -> DataSide:
    """The task's records as a run would have them, under a model's tokenizer."""
    from itune.config.run import RunConfig
    from itune.data.config import DataConfig
    from itune.models.config import WeightsConfig
    from itune.terminal import say
    from itune.training.config import TrainConfig
    from itune.training.data_side import data_side

    data = DataConfig(
        mixture=mixture,
        modules=tuple(modules),
        feature_lengths=LENGTHS,
        row_length=sum(LENGTHS.values()),
        contamination="off",
    )
    config = RunConfig(
        model_dir="",
        data=data,
        train=TrainConfig(steps=1, batch_size=1),
        weights=WeightsConfig(source=model) if model else WeightsConfig(),
    )
    errors = Console(stderr=True)
    return data_side(config, lambda line: say(errors, line))


def _lengths(data: DataSide) -> Iterator[str]:
    yield f"{'tokens':36s} {'inputs: half':>12s}   95 %   most   {'targets: half':>13s}   95 %   most"
    for task in data.plan.tasks:
        sides = (np.percentile(side, (50, 95, 100)) for side in (task.index.inputs, task.index.targets))
        inputs, targets = ([f"{tokens:,.0f}" for tokens in side] for side in sides)
        cells = (
            f"{inputs[0]:>12s} {inputs[1]:>6s} {inputs[2]:>6s}   {targets[0]:>13s} {targets[1]:>6s} {targets[2]:>6s}"
        )
        yield f"{task.name:36s} {cells}"
