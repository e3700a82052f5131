"""Tasks of declared data sets: one declaration gives a task for each variant, registered when one is asked for."""

from __future__ import annotations

import functools
import importlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from itune.data.library.declaration import OPTIONS, Declaration, Wording, load_declaration
from itune.data.library.prompts import VARIANTS, Variant, VariantTemplate, final_answer
from itune.data.library.rows import GOLD, REFERENCES, Derive, declared_rows, files_of
from itune.data.library.shots import set_pool
from itune.data.registry import add_mixture, add_task
from itune.data.sources import RowSource
from itune.errors import UserError, nearest


class DeclaredSource(RowSource):
    """The rows of a declared data set. Where its files lie is looked up when they are asked for."""

    def __init__(self, declaration: Declaration, derive: Derive | None = None) -> None:
        rows = functools.partial(declared_rows, declaration=declaration, derive=derive)
        splits = [name for name, _ in declaration.splits]
        super().__init__(rows, splits, (*declaration.row_fields, GOLD, REFERENCES), "1")
        self.declaration = declaration

    @property
    def files(self) -> tuple[Path | str, ...]:
        return files_of(self.declaration)

    @property
    def named_files(self) -> tuple[Path | str, ...]:
        return files_of(self.declaration)


def templates_of(d: Declaration, variant: Variant, wordings: Sequence[Wording]) -> tuple[VariantTemplate, ...]:
    labels = tuple(label for label, _ in d.options)
    same = tuple(name for name in d.question_fields if name != OPTIONS or d.option_paths)
    return tuple(
        VariantTemplate(
            family=d.name,
            wording=wording,
            variant=variant,
            labels=labels,
            same=same,
            shows_options=bool(d.option_paths),
        )
        for wording in wordings
    )


def declare(path: str | Path, *, derived: str = "") -> list[str]:
    """Registers the tasks of a declaration and, as "rte/all", their mixture; returns "rte/zs", "rte/zs_opt", ...

    derived: the module in which the function lies that the declaration's `derive` names.
    Raises: UserError, as `load_declaration` and `add_task`, and where there is no such function.
    """
    d = load_declaration(path)
    source = DeclaredSource(d, _derive(d, derived, str(path)))
    set_pool(d.name, functools.partial(source.checked_rows, "train"))
    names = []
    for name, wordings in d.variants.items():
        variant = VARIANTS[name]
        add_task(
            f"{d.name}/{name}",
            source=source,
            templates=templates_of(d, variant, wordings),
            cluster=d.cluster,
            licence=d.licence,
            identity=d.identity,
            metrics=d.inverted_metrics if variant.inverted else d.metrics,
            postprocess_fn=final_answer if variant.cot else None if variant.inverted else references,
            overlong=d.overlong,
            description=d.description,
        )
        names.append(f"{d.name}/{name}")
    add_mixture(f"{d.name}/all", names)
    return names


def _derive(d: Declaration, module: str, path: str) -> Derive | None:
    if not d.derive:
        return None
    functions = vars(importlib.import_module(module)) if module else {}
    if not callable(functions.get(d.derive)):
        hint = nearest(d.derive, [name for name, value in functions.items() if callable(value)])
        raise UserError(f"{path}: derive: there is no function {d.derive!r} in {module or 'any module named'}.{hint}")
    return functions[d.derive]


def references(text: str, *, example: Mapping[str, Any] | None = None, is_target: bool = False, **_: Any) -> Any:
    """SeqIO's postprocess_fn: a target becomes the list of all right answers where there are several."""
    coded = (example or {}).get(f"field/{REFERENCES}", (example or {}).get(REFERENCES))
    return json.loads(coded) if is_target and coded else text
