"""A process that has the owners' files of every collection at hand, made up and small, and says what mixtures are.

.venv/bin/python -m tests.tasks.flan_world FOLDER: writes FOLDER/collections, prints {mixture: {task: rate}} as JSON.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

ROWS = Path(__file__).parent / "rows"
NIV2 = {
    "task001_films_sentiment": (["Sentiment Analysis"], ["films"], 3),
    "task002_films_questions": (["Question Generation"], ["films"], 7),
    "task664_mmmlu_answer_generation_abstract_algebra": (["Question Answering"], ["mmmlu"], 4),
    "task737_mmmlu_answer_generation_world_religions": (["Question Answering"], ["mmmlu"], 4),
}
PROMPTS = """\
dataset: ag_news
templates:
  0a: !Template
    answer_choices: World ||| Sports ||| Business ||| Science
    jinja: "{{text}} What is this news item about? ||| {{answer_choices[label]}}"
    metadata: !TemplateMetadata {metrics: [Accuracy], original_task: true}
    name: about
  0b: !Template
    answer_choices: World ||| Sports ||| Business ||| Science
    jinja: "Topic of \\"{{text}}\\": ||| {{answer_choices[label]}}"
    metadata: !TemplateMetadata {metrics: [Accuracy], original_task: true}
    name: topic
"""


def write(folder: Path) -> None:
    niv2 = folder / "collections" / "natural-instructions"
    for below in ("tasks", "splits/default"):
        (niv2 / below).mkdir(parents=True)
    for name, (categories, source, count) in NIV2.items():
        task: dict[str, Any] = {
            "Categories": categories,
            "Source": source,
            "Definition": [f"Do what {name} asks."],
            "Positive Examples": [{"input": "in", "output": "out", "explanation": "why"}],
            "Negative Examples": [],
            "Instances": [{"id": f"{name}-{n}", "input": f"input {n}", "output": [f"out {n}"]} for n in range(count)],
            "Instance License": ["MIT"],
        }
        (niv2 / "tasks" / f"{name}.json").write_text(json.dumps(task))
    for use, names in (("train", NIV2), ("test", ()), ("excluded", ())):
        (niv2 / "splits" / "default" / f"{use}_tasks.txt").write_text("".join(f"{name}\n" for name in names))
    prompts = folder / "collections" / "promptsource" / "ag_news"
    prompts.mkdir(parents=True)
    (prompts / "templates.yaml").write_text(PROMPTS)


def main(folder: Path) -> dict[str, dict[str, Any]]:
    write(folder)
    os.environ |= {"ITUNE_DATA_DIR": str(folder), "ITUNE_LIBRARY_DIR": str(ROWS), "ITUNE_LIBRARY_FROM": "files"}
    import tasks  # noqa: F401 - reads the environment
    from itune.data import registry

    found = {}
    for name in (
        "flan2021",
        "flan2021/nli",
        "flan2021/without_nli",
        "muffin",
        "cot",
        "dialog",
        "t0",
        "niv2",
        "flan2022",
    ):
        found[name] = {info.name: [rate, info.cluster] for info, rate in registry.mixture_info(name)}
    found["flan2022_library"] = {i.name: [rate, i.cluster] for i, rate in registry.mixture_info("flan2022_library")}
    return found


if __name__ == "__main__":
    print(json.dumps(main(Path(sys.argv[1]))))
