"""The examples that a state of the model did worst on, by id: worst.jsonl, a panel of the report, a few lines to print.

Ids are what a reader needs to look an example up (`python -m itune.preview`); text follows the rules of predictions.
"""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from itune.evaluation.results import ExampleLoss, finite, number, write_text

TEXTS = ("prompt", "target")
MOST_SHOWN = 15
MOST_OF_A_TASK = 3
MOST_TEXT = 1_500  # characters of one text in the report


@dataclasses.dataclass(frozen=True, kw_only=True)
class WorstExample:
    """A line of worst.jsonl. loss: nats per target token, None if it isn't finite; tokens: its target tokens."""

    group: str
    task: str
    id: str
    template: str
    tokens: float
    loss: float | None
    loss_before: float | None
    prompt: str | None
    target: str | None


def choose(losses: Iterable[ExampleLoss], per_task: int) -> list[ExampleLoss]:
    """The `per_task` highest losses per token of each task, in the order of tasks; those that are not finite first."""
    tasks: dict[tuple[str, str], list[ExampleLoss]] = {}
    for example in losses:
        if example.tokens:
            tasks.setdefault((example.group, example.task), []).append(example)
    return [e for examples in tasks.values() for e in sorted(examples, key=_badness)[:per_task]]


def _badness(example: ExampleLoss) -> tuple[float, str]:
    return (-example.loss if math.isfinite(example.loss) else -math.inf, example.id)


def worst_records(
    worst: Iterable[WorstExample], *, sensitive: Collection[str], show_text: bool
) -> list[dict[str, Any]]:
    """As they may be written: text of a task named in `sensitive` is null unless `show_text`."""
    records = []
    for example in worst:
        secret = example.task in sensitive
        hide = dict.fromkeys(TEXTS) if secret and not show_text else {}
        records.append(finite({**dataclasses.asdict(example), "sensitive": secret} | hide))
    return records


def write_worst(path: Path, worst: Iterable[WorstExample], *, sensitive: Collection[str], show_text: bool) -> None:
    """worst.jsonl, whole or not at all; with any sensitive task for its owner alone (0600)."""
    records = worst_records(worst, sensitive=sensitive, show_text=show_text)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    write_text(path, "".join(lines), private=bool(sensitive))


def highest(records: Iterable[Mapping[str, Any]], most: int, of_a_task: int) -> list[Mapping[str, Any]]:
    """The worst of all tasks together, at most so many `of_a_task`: one hard task must not hide the others."""
    taken: dict[tuple[Any, Any], int] = {}
    chosen = []
    badness = lambda r: math.inf if (loss := number(r.get("loss"))) is None else loss  # noqa: E731
    for record in sorted(records, key=badness, reverse=True):
        key = (record.get("group"), record.get("task"))
        taken[key] = taken.get(key, 0) + 1
        if taken[key] <= of_a_task:
            chosen.append(record)
    return chosen[:most]


def panel(
    records: Sequence[Mapping[str, Any]], hidden: Callable[[str, bool | None], bool], *, show_text: bool
) -> dict[str, Any] | None:
    """What the report shows of worst.jsonl. hidden: (task, what the line says of it) -> whether its text stays out.

    A hidden example has no id on the page either, as among the samples: an id can be a patient's.
    """
    whole = [r for r in records if all(isinstance(r.get(name), str) for name in ("group", "task", "id"))]
    rows, any_hidden = [], False
    for record in highest(whole, MOST_SHOWN, MOST_OF_A_TASK):
        hide = hidden(record["task"], record.get("sensitive")) and not show_text
        any_hidden |= hide
        texts = [] if hide else [(name.capitalize(), _cut(text)) for name in TEXTS if (text := record.get(name))]
        rows.append(
            {
                "task": record["task"],
                "held_out": record["group"] == "held_out",
                "id": None if hide else record["id"],
                "template": str(record.get("template") or ""),
                "tokens": f"{number(record.get('tokens')) or 0:.0f}",
                "before": _loss(record.get("loss_before")),
                "loss": _loss(record.get("loss")) if record.get("loss") is not None else "not finite",
                "texts": texts,
            }
        )
    if not rows:
        return None
    return {"rows": rows, "hidden": any_hidden, "more": max(0, len(whole) - len(rows)), "of_a_task": MOST_OF_A_TASK}


def _loss(value: Any) -> str:
    parsed = number(value)
    return "\u2013" if parsed is None else f"{parsed:.3f}"


def _cut(text: str) -> str:
    return text if len(text) <= MOST_TEXT else f"{text[:MOST_TEXT]} \u2026 ({len(text) - MOST_TEXT:,} more characters)"
