"""What every task that `import tasks` makes known must hold; it is looked up by itself when one is added.

.venv/bin/python -m tests.tasks.contract [NAME ...]: prints {"rendered": n, "faults": {task: [what is wrong]}}
.venv/bin/python -m tests.tasks.contract --write_golden: writes the prompts of tasks/library to tests/golden/library

A process of its own, because what is registered depends on the environment that tasks/ was imported in.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
GOLDEN = HERE.parent / "golden" / "library"
os.environ["ITUNE_LIBRARY_DIR"] = os.environ.get("ITUNE_LIBRARY_DIR") or str(HERE / "rows")
os.environ["ITUNE_LIBRARY_FROM"] = "files"

import tasks  # noqa: E402 - reads the environment
from itune.data import catalogue, registry  # noqa: E402
from itune.data.keyed import key64  # noqa: E402
from itune.data.library import golden  # noqa: E402
from itune.data.library.declaration import ANSWER  # noqa: E402
from itune.data.library.prompts import VariantTemplate  # noqa: E402
from itune.data.library.shots import exemplar_pool  # noqa: E402
from itune.data.licences import terms_of  # noqa: E402
from itune.data.metrics import METRICS  # noqa: E402
from itune.data.templates import Room, Template  # noqa: E402
from itune.errors import UserError  # noqa: E402
from itune.training.task_check import unfilled  # noqa: E402

ROWS = 6
KEYS = 2
TOKENS = 160
STYLE = 60  # characters that a style puts around a query, even where no exemplar stands before it
LONG = 20  # characters: shorter text stands in a prompt twice by chance
# Where a gold target is no full score: extraction scores by kinds, readability and coverage by the text itself.
OWN_METRICS = {"accuracy", "exact_match", "token_f1", "rouge_l", "json_field_f1", "final_number", "macro_f1"}


class _Characters:
    """A tokenizer of four characters a token, for budgets."""

    def encode(self, text: str) -> list[str]:
        return [text[n : n + 4] for n in range(0, len(text), 4)]


def contract(name: str, count: collections.Counter[str]) -> Iterator[str]:
    """What is wrong with a task; nothing for one whose files are not here."""
    try:
        task, info = registry.get(name), registry.info(name)
    except UserError as error:
        count["unavailable"] += 1
        if "not available" not in str(error):
            yield str(error)
        return
    for field in ("cluster", "licence", "identity", "description"):
        if not getattr(info, field) or (field == "cluster" and info.cluster == "other"):
            yield f"has no {field}"
    terms_of(info.licence)
    if not info.metrics or not info.templates:
        yield "has no metrics or no templates"
    if len({template.id for template in info.templates}) < len(info.templates):
        yield "has two templates of one id"
    for split in task.source.splits:
        rows = list(itertools.islice(task.source.each_row(split), ROWS))
        if not rows:
            yield f"{split} has no rows"
        for row in rows:
            for template, n in itertools.product(info.templates, range(KEYS)):
                key = key64("contract", name, row["id"], template.id, n)
                sides = template.render(row, key)
                if sides is None:
                    continue
                count["rendered"] += 1
                yield from (f"{split}, {row['id']}, {template.id}: {fault}" for fault in _faults(template, row, key))
    targets = [template.render(row, 0)[1] for template in info.templates[:1] for row in rows if template.render(row, 0)]
    for metric in OWN_METRICS.intersection(info.metrics):
        if METRICS[metric](targets, targets)[metric] < 100 - 1e-6:
            yield f"{metric} of its own targets is not 100"


def _faults(template: Any, row: dict[str, str], key: int) -> Iterator[str]:
    inputs, targets = template.render(row, key)
    if (inputs, targets) != template.render(row, key):
        yield "renders differently a second time"
    if not inputs.strip() or not targets.strip():
        yield "blank"
    if inputs != inputs.strip() or targets != targets.strip():
        yield "white space at its ends"
    if any(unfilled(text, (*template.fields, *row), row) for text in (inputs, targets)):
        yield "a field is not filled"
    if isinstance(template, VariantTemplate):
        yield from _variant_faults(template, row, key, inputs, targets)


def _variant_faults(t: VariantTemplate, row: dict[str, str], key: int, inputs: str, targets: str) -> Iterator[str]:
    block, answer = t.shown(row, key)
    if t.variant.options and (not block or block not in inputs or answer not in block):
        yield f"the answer {answer!r} is not among the options"
    if not t.variant.options and not t.variant.cot and block:
        yield "shows options, and should not"
    if t.variant.shots:
        pool = {other["id"] for other in exemplar_pool(t.family)}
        found = t._exemplars(row, key)
        if any(other["id"] not in pool or other["id"] == row["id"] for other in found):
            yield "an exemplar is the query, or of another data set"
        questions = [t._question(other) for other in (row, *found)]
        if len(set(questions)) < len(questions):
            yield "an exemplar asks what the query or another exemplar asks"
        room = Room(tokenizer=_Characters(), tokens=TOKENS)  # type: ignore[arg-type]
        small, same = t.within(room).render(row, key)
        bare, _ = dataclasses.replace(t, most_shots=0).render(row, key)
        if not room.has(small) and len(small) > len(bare) + STYLE:
            yield "exemplars take more than the budget"
        alone, _ = t.within(dataclasses.replace(room, tokens=0)).render(row, key)
        if same != targets or any(alone.count(line) > inputs.count(line) for line in alone.splitlines()):
            yield "the query is not whole, or its answer depends on the room"
    if t.variant.inverted:
        asked = Template("inputs", t.wording.inputs, "").fields
        wanted = [name for name in Template("targets", "", t.wording.targets).fields if name != ANSWER]
        if not wanted or set(wanted) & set(asked):
            yield "is no inversion: its targets are no field, or one that it shows"
        if any(row[name].strip() not in targets for name in wanted):
            yield "its targets lack the field that it asks for"
    elif any(len(row[ANSWER]) > LONG and row[ANSWER] == row[name] for name in t.same):
        yield "the answer is one of the fields that it shows"


def differing() -> list[str]:
    """The data sets whose prompts are not those in tests/golden/library, and files there that are of none."""
    now = {f"{name}.json": golden.as_text(golden.golden(path)) for name, path in tasks.LIBRARY.items()}
    kept = {path.name: path.read_text("utf-8") for path in GOLDEN.glob("*.json")}
    return sorted(name for name in now.keys() | kept.keys() if now.get(name) != kept.get(name))


def write_golden() -> None:
    found = {f"{name}.json": golden.as_text(golden.golden(path)) for name, path in tasks.LIBRARY.items()}
    GOLDEN.mkdir(exist_ok=True)  # nothing is removed before all are made
    for path in GOLDEN.glob("*.json"):
        path.unlink()
    for name, text in found.items():
        (GOLDEN / name).write_text(text, "utf-8")


def main(names: list[str]) -> dict[str, Any]:
    known = names or [summary.name for summary in catalogue.summaries(["tasks"]) if not summary.mixture]
    count: collections.Counter[str] = collections.Counter()
    faults = {name: list(dict.fromkeys(contract(name, count)))[:5] for name in known}
    faults = {name: found for name, found in faults.items() if found}
    kept = {} if names else {"golden": differing()}
    return {"tasks": len(known), **count, "data_sets": len(tasks.LIBRARY), **kept, "faults": faults}


if __name__ == "__main__":
    if sys.argv[1:] == ["--write_golden"]:
        sys.exit(write_golden())
    print(json.dumps(main(sys.argv[1:])))
