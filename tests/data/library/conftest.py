"""A declaration small enough to read, and rows for it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

NLI: dict[str, Any] = {
    "name": "tiny_nli",
    "cluster": "nli",
    "description": "whether it follows",
    "licence": "MIT",
    "identity": "tiny_nli",
    "hf": {"path": "acme/tiny", "config": "nli"},
    "columns": {"premise": "string", "hypothesis": "string", "label": ["yes_it_does", "no_it_does_not"], "idx": "int"},
    "answer": "label",
    "options": {"yes_it_does": "yes", "no_it_does_not": "no"},
    "metrics": ["accuracy"],
    "templates": [
        {"id": "plain", "inputs": "{premise}\nIs it so that {hypothesis}"},
        {
            "id": "words",
            "inputs": "{premise} => {hypothesis}",
            "options": {"yes_it_does": "true", "no_it_does_not": "false"},
        },
        {"id": "choose", "inputs": "{options}\nText: {premise}\nClaim: {hypothesis}\nChoice:", "only": "opt"},
    ],
    "inversions": [{"id": "back", "inputs": "{premise}\nSay something that is {answer}.", "targets": "{hypothesis}"}],
}


def nli_rows(count: int, first: int = 0) -> list[dict[str, Any]]:
    """Every fourth premise is that of the row before."""
    return [
        {"premise": f"Fact {n - (n % 4 == 3)} holds.", "hypothesis": f"claim {n} holds", "label": n % 2, "idx": n}
        for n in range(first, first + count)
    ]


class Maker:
    """Writes declarations and their rows; the rows are where the library looks for them."""

    def __init__(self, folder: Path):
        self.folder = folder

    def declare(self, fields: dict[str, Any] | None = None, *, drop: tuple[str, ...] = (), **changes: Any) -> Path:
        found = {key: value for key, value in ((fields or NLI) | changes).items() if key not in drop}
        path = self.folder / "declared" / "kind" / f"{found.get('name', 'nameless')}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(found, sort_keys=False, allow_unicode=True), "utf-8")
        return path

    def write(self, name: str, **splits: list[dict[str, Any]]) -> None:
        folder = self.folder / "library" / name
        folder.mkdir(parents=True, exist_ok=True)
        for split, rows in splits.items():
            lines = [json.dumps(row, ensure_ascii=False) for row in rows]
            (folder / f"{split}.jsonl").write_text("\n".join(lines) + "\n", "utf-8")


@pytest.fixture
def maker(tmp_path, monkeypatch) -> Maker:
    monkeypatch.setenv("ITUNE_LIBRARY_DIR", str(tmp_path / "library"))
    monkeypatch.delenv("ITUNE_LIBRARY_FROM", raising=False)
    return Maker(tmp_path)
