"""Runs tasks' own metric functions: `python -m itune.evaluation.metric_worker --request=REQ.json --out=OUT.json`.

Metric functions live in SeqIO tasks, and importing SeqIO costs seconds and most of a GB: the trainer never does. It
writes a request, this process answers (itune.evaluation.metrics_client is the other end):

  request  {"modules": [str],
            "tasks": {task: {"targets": [str], "predictions": {state: [str] | null}, "examples": [{...}]?,
                             "scores": {state: [float] | null}?, "aux": {state: {name: [value]} | null}?}}}
  out      {"tasks": {task: {"metrics": {state: {name: value}}, "per_example": {state: {name: [value]}},
                             "references": [[str]]}},
            "errors": {task: [line]}, "notes": {task: [line]}}

examples: the pass-through features of each example, for a task whose postprocess_fn reads them.
scores: log-likelihoods of the targets, in nats, for SeqIO's score_metric_fns.
aux: a value of each prediction, for its predict_with_aux_metric_fns: "scores", its log-likelihood, as T5X has it.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import json
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio

from itune.data import intervals, registry
from itune.data import metrics as metrics_lib
from itune.errors import UserError

MOST_CLASSES = 20  # answers of a task: more are no classes


def import_modules(modules: Sequence[str]) -> None:
    """Imports the modules that register tasks. UserError names the one that fails."""
    for name in modules:
        try:
            importlib.import_module(name)
        except ModuleNotFoundError as error:
            raise UserError(f"no module named {error.name!r} (importing the task module {name!r})") from error


def seqio_example(features: Mapping[str, Any], target: str) -> dict[str, Any]:
    """An example as SeqIO hands it to a postprocess_fn: text as bytes, lists as arrays, and the target's text added."""

    def convert(value: Any) -> Any:
        if isinstance(value, str):
            return value.encode("utf-8")
        if isinstance(value, list):
            objects = any(isinstance(v, (str, list)) for v in value)
            return np.array([convert(v) for v in value], dtype=object if objects else None)
        return value

    return {"targets_pretokenized": target.encode("utf-8")} | {k: convert(v) for k, v in features.items()}


def scalar(value: Any) -> float | None:
    """The number in a metric's value (float, NumPy's, seqio.metrics.Scalar's); None for text, plots and the like."""
    try:
        number = float(value if not hasattr(value, "value") else value.value)
    except (TypeError, ValueError):
        return None
    return number if math.isfinite(number) else None


def describe(error: Exception, sensitive: bool) -> str:
    """One line. Of a sensitive task only the type: the message may quote an example."""
    first = str(error).strip().split("\n")[0]
    return type(error).__name__ if sensitive or not first else f"{type(error).__name__}: {first}"


def score_state(
    metric_fns: Sequence[Callable[..., Mapping[str, Any]]], targets: Sequence[Any], *measured: Any
) -> tuple[dict[str, float], list[tuple[str, Exception]]]:
    """All metric functions on what was measured of one state: values, and (function, error) for those that raise."""
    values: dict[str, float] = {}
    failures = []
    for function in metric_fns:
        try:
            results = function(targets, *measured)
            values.update({str(k): v for k, value in results.items() if (v := scalar(value)) is not None})
        except Exception as error:  # the metric is the user's code: it must not take the others down
            failures.append((getattr(function, "__name__", repr(function)), error))
    return values, failures


def per_example_scorers(task: seqio.Task) -> dict[str, Callable[[Any, str], float]]:
    """Those of the task's metric functions that are itune's own, and so have a per-example form."""
    names = [getattr(function, "__name__", "") for function in task.predict_metric_fns]
    ours = {n: f for n, f in zip(names, task.predict_metric_fns, strict=True) if metrics_lib.METRICS.get(n) is f}
    return {name: metrics_lib.PER_EXAMPLE[name] for name in ours if name in metrics_lib.PER_EXAMPLE}


def counted_per_example(
    metric_fns: Sequence[Callable[..., Any]], references: Sequence[Any], outputs: Sequence[Any]
) -> dict[str, list[float]]:
    """{name: a value an example} of functions that have a `per_example` of their own; NaN where it counts nothing."""
    rows: list[dict[str, float]] = [{} for _ in references]
    for function in metric_fns:
        if scorer := getattr(function, "per_example", None):
            for row, reference, output in zip(rows, references, outputs, strict=True):
                row.update(scorer(reference, output))
    names = dict.fromkeys(name for row in rows for name in row)
    return {name: [row.get(name, math.nan) for row in rows] for name in names}


def _intervals(values: Mapping[str, float], scores: Mapping[str, Sequence[float]]) -> dict[str, float]:
    """{"rouge_l/low": ..., "rouge_l/high": ..., "rouge_l/of": examples} of the metrics that are means of `scores`."""
    out: dict[str, float] = {}
    for name, found in scores.items():
        mean = sum(found) / len(found) if found else math.nan
        if math.isclose(values.get(name, math.nan), mean, abs_tol=1e-6):  # a sum over a sum is another thing
            told = intervals.summarise([{name: (score / 100.0, 1.0)} for score in found])
            out |= {key: value for key, value in told.items() if key != name}
    return out


def _resampled(
    values: Mapping[str, float], metric_fns: Sequence[Callable[..., Any]], references: Sequence[Any], outputs: Any
) -> dict[str, float]:
    """Intervals of those of itune's metrics that are of the data set as a whole."""
    out: dict[str, float] = {}
    for function in metric_fns:
        name = getattr(function, "__name__", "")
        if metrics_lib.METRICS.get(name) is function and name in values and f"{name}/low" not in {**values, **out}:
            counts, score = metrics_lib.COUNTS[name]
            low, high = intervals.of_sums(counts(references, outputs), score)
            out |= {f"{name}/low": low, f"{name}/high": high, f"{name}/of": float(len(outputs))}
    return out


def _majority(references: Sequence[Any]) -> float | None:
    """What the same answer every time would get, 0..100, where the answers are few and come again; else None."""
    labels = [r if isinstance(r, str) else r[0] if isinstance(r, Sequence) and r else None for r in references]
    counts = collections.Counter(label.strip().casefold() for label in labels if isinstance(label, str))
    if counts.total() < len(labels) or not 2 <= len(counts) <= min(MOST_CLASSES, len(labels) // 2):
        return None
    return 100.0 * counts.most_common(1)[0][1] / len(labels)


def reference_texts(reference: Any, target: str) -> list[str]:
    """All right answers, where that is what a postprocess_fn made of a target; else the target."""
    if isinstance(reference, str):
        return [reference]
    if isinstance(reference, Sequence) and reference and all(isinstance(text, str) for text in reference):
        return list(reference)
    return [target]


def run_task(task: seqio.Task, request: Mapping[str, Any], *, sensitive: bool) -> dict[str, Any]:
    """One task's answer: {"metrics", "per_example", "errors", "notes"}. Raises whatever its postprocess_fn raises."""
    targets: list[str] = request["targets"]
    features = request.get("examples") or [{}] * len(targets)
    if task.name in registry.TASKS:  # in SeqIO's own Evaluator the source's fields have this prefix
        features = [{f"field/{name}": value for name, value in found.items()} | found for found in features]
    examples = [seqio_example(f, t) for f, t in zip(features, targets, strict=True)]
    references = [task.postprocess_fn(t, example=e, is_target=True) for t, e in zip(targets, examples, strict=True)]

    answer: dict[str, Any] = {"metrics": {}, "per_example": {}, "errors": [], "notes": []}
    answer["references"] = [reference_texts(r, t) for r, t in zip(references, targets, strict=True)]
    for state, texts in request["predictions"].items():
        if texts is None:
            continue
        if len(texts) != len(targets):
            raise ValueError(f"{len(texts)} predictions {state!r} for {len(targets)} targets")
        outputs = [task.postprocess_fn(t, example=e, is_target=False) for t, e in zip(texts, examples, strict=True)]
        values, failures = score_state(task.predict_metric_fns, references, outputs)
        if scores := (request.get("scores") or {}).get(state):
            of_scores, more = score_state(task.score_metric_fns, references, scores)
            values, failures = values | of_scores, failures + more
        if aux := (request.get("aux") or {}).get(state):
            arrays = {key: np.array(column) for key, column in aux.items()}
            of_aux, more = score_state(task.predict_with_aux_metric_fns, references, outputs, arrays)
            values, failures = values | of_aux, failures + more
        answer["errors"] += [f"{function}: {describe(error, sensitive)}" for function, error in failures]
        failed = {function for function, _ in failures}
        answer["per_example"][state] = {
            name: [float(scorer(reference, output)) for reference, output in zip(references, outputs, strict=True)]
            for name, scorer in per_example_scorers(task).items()
            if name not in failed
        }
        if (most := _majority(references)) is not None and {"accuracy", "exact_match"} & values.keys():
            values["majority"] = most
        values |= _intervals(values, answer["per_example"][state])
        values |= _resampled(values, task.predict_metric_fns, references, outputs)
        answer["metrics"][state] = values
        sound = [f for f in task.predict_metric_fns if getattr(f, "__name__", "") not in failed]
        answer["per_example"][state] |= counted_per_example(sound, references, outputs)
    answer["errors"] = list(dict.fromkeys(answer["errors"]))  # a metric fails alike in every state
    needs = {"scores": task.score_metric_fns, "aux": task.predict_with_aux_metric_fns}
    others = [
        f.__name__ for key, functions in needs.items() for f in functions if not any((request.get(key) or {}).values())
    ]
    if others:
        answer["notes"].append(f"not computed, for they need more than what was measured: {', '.join(others)}")
    return answer


def run(request: Mapping[str, Any]) -> dict[str, Any]:
    """The whole answer. A task that fails is reported under "errors"; the others go on."""
    import_modules(request["modules"])
    out: dict[str, Any] = {"tasks": {}, "errors": {}, "notes": {}}
    for name, task_request in request["tasks"].items():
        try:
            task, info = registry.get(name), registry.info(name)
        except UserError as error:
            out["errors"][name] = [str(error)]
            continue
        try:
            answer = run_task(task, task_request, sensitive=info.sensitive)
        except Exception as error:  # the task's postprocess_fn is the user's code
            out["errors"][name] = [describe(error, info.sensitive)]
            continue
        out["tasks"][name] = {key: answer[key] for key in ("metrics", "per_example", "references")}
        for key in ("errors", "notes"):
            if answer[key]:
                out[key][name] = answer[key]
    return out


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--request", type=Path, required=True)
    parser.add_argument("--out", type=Path, required=True)
    flags = parser.parse_args(argv)
    try:
        answer = run(json.loads(flags.request.read_text(encoding="utf-8")))
    except UserError as error:
        print(error, file=sys.stderr)
        return 2
    temporary = flags.out.with_name(flags.out.name + ".part")
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as file:
        json.dump(answer, file)
    temporary.replace(flags.out)
    return 0


if __name__ == "__main__":
    sys.exit(main())
