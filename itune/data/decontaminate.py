"""What a run does about evaluation text that is trained on: `DataConfig.contamination`.

    off      nothing is looked for
    report   said in the log, and every hit with both texts in <run>/contamination.jsonl
    drop     the same, and the examples are never drawn
    stop     an error

The look is made once for what was prepared, and remembered.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from itune.data import contamination
from itune.data.contamination import Hit, Report, inspect
from itune.data.lint import NAMED
from itune.data.manifest import Manifest
from itune.data.records import write_atomic
from itune.errors import UserError

FILE = "contamination.jsonl"
_SAID = 5  # pairs of tasks; the rest are in the file


def find(manifest: Manifest, cache: Path) -> Report:
    """`inspect`, remembered under `cache` for what the manifest's tasks were prepared from."""
    path = cache / "contamination" / f"{_digest(manifest)}.json"
    try:
        return _load(path)
    except (OSError, ValueError, KeyError, TypeError):
        report = inspect(manifest)
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = dataclasses.asdict(report) | {"pairs": [[*pair, n] for pair, n in report.pairs.items()]}
        write_atomic(path, json.dumps(fields).encode(), private=True)
        return report


def _load(path: Path) -> Report:
    fields = json.loads(path.read_text(encoding="utf-8"))
    return Report(
        hits=tuple(Hit(**hit) for hit in fields["hits"]),
        pairs={(train, evaluated): n for train, evaluated, n in fields["pairs"]},
        examples=fields["examples"],
        found={task: tuple(numbers) for task, numbers in fields["found"].items()},
    )


def _digest(manifest: Manifest) -> str:
    """Of all that a report depends on. Whose text is withheld is part of it."""
    rules = [contamination.VERSION, contamination.GRAM, contamination.SHORTEST, contamination.COMMON]
    sides = [
        [[task.name, task.sensitive, task.splits[split].fingerprint, split] for task in tasks]
        for tasks, split in (
            (manifest.train, manifest.request["split"]),
            ([*manifest.held_in, *manifest.held_out], manifest.request["eval_split"]),
        )
    ]
    return hashlib.sha256(json.dumps([rules, sides]).encode()).hexdigest()[:32]


def excluded(report: Report, manifest: Manifest) -> dict[str, np.ndarray]:
    """By training task, bool [examples]: those that share text with an evaluation. Tasks without any are left out."""
    split, found = manifest.request["split"], {}
    for task in manifest.train:
        if task.name in report.found:
            found[task.name] = np.zeros(task.splits[split].examples, bool)
            found[task.name][list(report.found[task.name])] = True
    return found


def stop(report: Report) -> None:
    """Raises UserError, naming the pair of tasks that share most, if there is any."""
    if not report.pairs:
        return
    pair = max(report.pairs, key=lambda p: (report.pairs[p], p))
    hits = [f"{h.train_id} is in {h.eval_id}" for h in report.hits if (h.train_task, h.eval_task) == pair]
    others = f", and {len(report.pairs) - 1} more pairs of tasks" if len(report.pairs) > 1 else ""
    raise UserError(
        f"DataConfig.contamination='stop': {report.pairs[pair]:,} of {report.examples[pair[0]]:,} training examples of "
        f"{pair[0]!r} share text with the evaluation of {pair[1]!r} ({', '.join(hits[:NAMED])}){others}; "
        "python -m itune.lint --contamination lists them, 'drop' leaves them out"
    )


def lines(report: Report, policy: str) -> Iterator[str]:
    """What the log says."""
    findings = sorted(report.findings(), key=lambda finding: -finding.share)
    for finding in findings[:_SAID]:
        yield str(finding)
    if len(findings) > _SAID:
        yield f"contamination: {len(findings) - _SAID} more pairs of tasks share text; all are in {FILE}"
    if policy == "drop" and report.found:
        count = sum(map(len, report.found.values()))
        yield f"contamination: {count:,} training examples that share text with an evaluation are not drawn"


def write(report: Report, folder: Path, *, private: bool) -> None:
    """<folder>/contamination.jsonl: a line for each hit that was kept, with both texts (null where withheld)."""
    data = "".join(json.dumps(dataclasses.asdict(hit), ensure_ascii=False) + "\n" for hit in report.hits)
    write_atomic(folder / FILE, data.encode(), private=private)
