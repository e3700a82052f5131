"""A made-up run directory: every number in it is a test fixture, from no model."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from typing import Any

import pytest

HELD_IN = {
    "clinic/summarise/soap_note": ("summaries", "rouge_l"),
    "clinic/summarise/discharge_summary": ("summaries", "rouge_l"),
    "clinic/summarise/history_and_physical": ("summaries", "rouge_l"),
    "clinic/extract/medications_json": ("extraction", "json_field_f1"),
    "clinic/extract/problem_list_json": ("extraction", "json_field_f1"),
    "clinic/answer/grounded_question": ("grounded questions", "token_f1"),
    "clinic/explain/plain_language": ("explanation", "rouge_l"),
    "clinic/classify/document_type": ("classification", "accuracy"),
    "clinic/classify/urgency": ("classification", "accuracy"),
    "clinic/classify/follow_up_needed_within_two_weeks": ("classification", "accuracy"),
}
HELD_OUT = {
    "general/arithmetic_word_problems": ("arithmetic", "final_number"),
    "general/riddles": ("arithmetic", "my_score"),
}
STEPS = 60


def task_entry(name: str, cluster: str, metric: str, sensitive: bool = False) -> dict[str, Any]:
    splits = {"validation": {"dir": "d", "fingerprint": "f", "examples": 32, "variants": 1, "skipped": 0}}
    common = {"licence": "Apache-2.0", "identity": name, "overlong": "truncate_inputs", "truncate_side": "right"}
    facts = {
        "name": name,
        "cluster": cluster,
        "sensitive": sensitive,
        "rate": 1.0,
        "metrics": [metric],
        "splits": splits,
    }
    return common | facts


def group_eval(rng: random.Random, tasks: dict[str, tuple[str, str]], gain: float) -> dict[str, Any]:
    results = {}
    for index, (name, (_, metric)) in enumerate(tasks.items()):
        value = min(99.0, 12 + 7 * index + 45 * gain * rng.random())
        score = value / 100 if metric == "my_score" else value
        loss = (1.1 + 0.17 * index) * (1 - 0.5 * gain)
        results[name] = {"loss": loss, "examples": 32, "generated": 8, "metrics": {metric: score}}
    return results


def write_run(folder: Path, *, sensitive: tuple[str, ...] = (), text: str = "Take one tablet daily.") -> Path:
    """All the files of a finished run of 60 steps on ten tasks, with two held out."""
    rng = random.Random(0)
    folder.mkdir(parents=True, exist_ok=True)
    everything = HELD_IN | HELD_OUT
    config = {
        "model_dir": "runs/quickstart",
        "seed": 0,
        "data": {"mixture": "clinic_mixture", "prompt_format": "plain", "row_length": 512},
        "train": {"steps": STEPS, "batch_size": 4},
        "weights": {"source": "smollm2-135m-instruct"},
        "tuning": {"rank": 16, "alpha": 32.0, "layers": ["q_proj", "v_proj"]},
    }
    (folder / "config.json").write_text(json.dumps(config))
    groups = {"train": HELD_IN, "held_in": HELD_IN, "held_out": HELD_OUT}
    manifest: dict[str, Any] = {
        part: [task_entry(n, c, m, n in sensitive) for n, (c, m) in tasks.items()] for part, tasks in groups.items()
    }
    manifest |= {
        "format": 1,
        "mixture": "clinic_mixture",
        "tokenizer": "3f9a0c",
        "versions": {"python": "3.11", "seqio": "0.0.20"},
    }
    (folder / "manifest.json").write_text(json.dumps(manifest))
    (folder / "plan.json").write_text(json.dumps(plan(rng)))
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(1, STEPS + 1):
            file.write(json.dumps(step_line(rng, step)) + "\n")
            if step % 20 == 0:
                gain = step / STEPS
                groups_at = {"held_in": group_eval(rng, HELD_IN, gain), "held_out": group_eval(rng, HELD_OUT, gain / 3)}
                file.write(json.dumps({"step": step, "eval": groups_at}) + "\n")
    evaluation = {
        "before": {"held_in": group_eval(rng, HELD_IN, 0), "held_out": group_eval(rng, HELD_OUT, 0)},
        "before_chat": {"held_in": group_eval(rng, HELD_IN, 0.2), "held_out": group_eval(rng, HELD_OUT, 0.2)},
        "after": {"held_in": group_eval(rng, HELD_IN, 1), "held_out": group_eval(rng, HELD_OUT, 0.3)},
        "pooled": {
            "held_in": pooled(320, 301, 19, 1.867, 0.934),
            "held_out": pooled(64, 38, 25, 1.185, 1.011),
        },
        "notes": ["The base model had already been instruction-tuned by its makers."],
        "facts": {"command": "python -m itune.train --gin_file=gin_configs/recipes/quickstart.gin", "devices": "1 cpu"},
        "timings": {"prepare": 21.0, "evaluation before": 66.0, "training": 318.4, "evaluation after": 64.0},
    }
    (folder / "evaluation.json").write_text(json.dumps(evaluation))
    with (folder / "predictions.jsonl").open("w") as file:
        for name, (_, metric) in everything.items():
            group = "held_in" if name in HELD_IN else "held_out"
            for index in range(3):
                file.write(json.dumps(prediction(name, group, metric, index, text)) + "\n")
    return folder


def pooled(n: int, improved: int, worsened: int, before: float, after: float) -> dict[str, Any]:
    """Without sign_test_p, which the reader works out."""
    counts = {"n": n, "improved": improved, "worsened": worsened, "ties": n - improved - worsened}
    return counts | {"loss_before": before, "loss_after": after}


def plan(rng: random.Random) -> dict[str, Any]:
    tasks = {}
    for index, (name, (cluster, _)) in enumerate(HELD_IN.items()):
        share = 0.1 + 0.01 * (index - 4.5)
        counts = {
            "examples": round(900 * share),
            "tokens": round(120_000 * share),
            "supervised_tokens": round(31_000 * share),
        }
        more = {
            "epochs": 0.3 * index,
            "truncated": index,
            "dropped": index % 2,
            "examples_available": 400,
            "cluster": cluster,
        }
        tasks[name] = {"share_asked": share, "share_got": share + 0.004 * rng.random()} | counts | more
    fill = {"tokens": 0.973, "supervised": 0.61, "segments": 0.48}
    shape = {"L": 512, "T": 192, "S": 8, "digest": "9be1c4d2", "steps": STEPS, "batch_size": 4}
    return shape | {"summary": {"tasks": tasks, "fill": fill}}


def step_line(rng: random.Random, step: int) -> dict[str, Any]:
    def fall(start: float) -> float:
        return start * (0.5 + 0.5 * math.exp(-step / 15)) + rng.gauss(0, 0.06)

    present = [name for name in HELD_IN if rng.random() < 0.8]
    losses = {name: fall(1.1 + 0.17 * index) for index, name in enumerate(HELD_IN) if name in present}
    seconds = 9.0 if step == 1 else 4.5 + 0.4 * rng.random()
    line = {"step": step, "loss": fall(1.87), "task_loss": losses, "task_tokens": dict.fromkeys(present, 40)}
    line |= {"tokens": 1990, "supervised_tokens": 520, "tokens_per_s": 1990 / seconds, "fill": 0.97, "seconds": seconds}
    line |= {
        "supervised_tokens_per_s": 520 / seconds,
        "learning_rate": 1e-3 * (1 - step / STEPS) + 1e-4,
        "row": 4 * step,
    }
    return line | {"grad_norm": 1.5 + rng.random()}


def prediction(name: str, group: str, metric: str, index: int, text: str) -> dict[str, Any]:
    texts = {"prompt": f"Note {index} for {name}:\n\n{text}\n\nWrite the answer.", "target": f"{text} (target)"}
    texts |= {"before": f"{text} {text} {text}", "before_chat": f"Sure! {text}", "after": f"{text} (after)"}
    scores = {"before": {metric: 12.0}, "before_chat": {metric: 20.0}, "after": {metric: 66.7}}
    place = {"task": name, "group": group, "id": f"enc-{index}", "template": "t1"}
    return place | texts | {"scores": scores, "loss_before": 1.9, "loss_after": 0.8}


@pytest.fixture
def run_folder(tmp_path: Path) -> Path:
    return write_run(tmp_path / "quickstart")
