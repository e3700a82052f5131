"""Our side of make_harness.py: the same tasks, by lm-eval with `HarnessLM`.

Runs in .venv, where JAX is; lm-eval comes from .venv-parity, behind everything that .venv has itself.
"""

from __future__ import annotations

import json
import math
import os
import sys
import sysconfig
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.parity import families, harness_tasks


def faults(folder: Path, models: Path, smollm2: Path) -> tuple[int, float, list[str]]:
    """(requests compared, largest difference of a log-probability, what differs); folders as of make_harness.py."""
    references = json.loads((folder / "references.json").read_text("utf-8"))
    python = sysconfig.get_python_version()
    if references["python"] != python:
        return 0, math.inf, [f"the references are of Python {references['python']}, this is {python}"]
    if references["packages"] not in sys.path:
        sys.path.append(references["packages"])
    os.environ |= {"HF_DATASETS_CACHE": str(folder / "cache"), "HF_DATASETS_OFFLINE": "1", "HF_HUB_OFFLINE": "1"}
    from itune.inference.harness import HarnessLM

    found, count, largest = [], 0, 0.0
    for name, (model, tasks, chat) in harness_tasks.RUNS.items():
        path = models / model if model in harness_tasks.TINY else smollm2
        length = families.SIZES["max_position_embeddings"] if model in families.T5S else None
        lm = HarnessLM(str(path), max_length=length)
        ours, theirs = harness_tasks.results(lm, folder / "tasks", tasks, chat), references["runs"][name]
        requests, worst, differ = compare(ours, theirs, lm.answers.encoder)
        count, largest = count + requests, max(largest, worst)
        found += [f"{name}, {fault}" for fault in differ]
    return count, largest, found


def compare(ours: Mapping[str, Any], theirs: Mapping[str, Any], encoder: bool) -> tuple[int, float, list[str]]:
    """As `faults`, of one run.

    encoder: the `hf` backend lets an encoder-decoder write as many tokens more than max_gen_toks as its context has
      (it adds both up, though the decoder's count begins anew). We don't, so ours is where its text begins.
    """
    found, count, largest = [], 0, 0.0
    for task, rows in theirs["samples"].items():
        for number, (got, want) in enumerate(zip(ours["samples"][task], rows, strict=True)):
            if got["arguments"] != want["arguments"]:
                found.append(f"{task} {number}: another request, {got['arguments']}")
                continue
            for mine, other in zip(_answers(got), _answers(want), strict=True):
                count += 1
                if isinstance(other, str):
                    if not (mine == other or (encoder and mine and other.startswith(mine))):
                        found.append(f"{task} {number}: {mine!r}, not {other!r}")
                    continue
                (logprob, *greedy), (reference, *best) = mine, other
                largest = max(largest, abs(logprob - reference))
                if not abs(logprob - reference) <= harness_tasks.TOLERANCE or greedy != best:
                    found.append(f"{task} {number}: {mine}, not {other}")
    for task, values in theirs["metrics"].items():
        if encoder and task == harness_tasks.WRITE:
            continue
        for name, value in values.items():
            if not math.isclose(ours["metrics"][task][name], value, rel_tol=1e-3):
                found.append(f"{task}'s {name}: {ours['metrics'][task][name]}, not {value}")
    return count, largest, found


def _answers(sample: Mapping[str, Any]) -> list[Any]:
    """Of each of its requests the text, or [log-probability, greedy], or of a whole text [log-probability]."""
    answers = [answer for request in sample["resps"] for answer in request]
    return [[answer] if isinstance(answer, float) else answer for answer in answers]
