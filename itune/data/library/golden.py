"""Renderings of a declared data set to keep beside it, so that a change of a prompt is seen when it is made."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from itune.data.keyed import key64
from itune.data.library.declaration import load_declaration
from itune.data.library.prompts import VARIANTS

FEW_SHOT_WORDINGS = 2  # of a few-shot variant: the others differ from zero-shot's in nothing that these do not show


def golden(path: str | Path) -> dict[str, dict[str, dict[str, str]]]:
    """{variant: {template: {row, inputs, targets}}} of a registered data set, each wording on another training row.

    Raises: UserError where its rows can't be read.
    """
    from itune.data.library.tasks import templates_of
    from itune.data.registry import get

    d = load_declaration(path)
    found: dict[str, Any] = {}
    for name, wordings in d.variants.items():
        variant = VARIANTS[name]
        rows = get(f"{d.name}/{name}").source.checked_rows("train")
        templates = templates_of(d, variant, wordings)[: FEW_SHOT_WORDINGS if variant.shots else None]
        found[name] = {}
        for number, template in enumerate(templates):
            row = rows[number % len(rows)]
            inputs, targets = template.render(row, key64("golden", d.name, name, template.id))
            found[name][template.id] = {"row": row["id"], "inputs": inputs, "targets": targets}
    return found


def as_text(found: dict[str, Any]) -> str:
    return json.dumps(found, indent=1, ensure_ascii=False) + "\n"


def beside(path: str | Path) -> Path:
    """Where the renderings of a declaration of one's own are kept: NAME.golden.json."""
    return Path(path).with_suffix(".golden.json")
