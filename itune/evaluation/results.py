"""What an evaluation leaves behind: evaluation.json, predictions.jsonl, the sign test; readers that bear missing parts.

No JAX, no SeqIO: the report, the console summary and studies read results through this module alone.
"""

from __future__ import annotations

import dataclasses
import json
import math
import os
import re
from collections.abc import Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from itune.data.metrics import METRICS

GROUPS = ("held_in", "held_out")
STATES = ("before", "before_chat", "after")
TEXT_FIELDS = ("prompt", "target", "references", "before", "before_chat", "after")

# Of options by their likelihood: see itune.evaluation.rank.
RANK_METRICS = ("rank_accuracy", "rank_accuracy_norm", "rank_accuracy_unconditional", "rank_accuracy_calibrated")

# itune's own: 0..100, more is better. Of a foreign metric neither range nor direction is known.
KNOWN_METRICS = frozenset({*METRICS, *RANK_METRICS, "rank_macro_f1"})

# What itune.data.intervals says beside a value: the ends of its interval, and of how many it is.
INTERVAL = ("/low", "/high", "/of")


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleLoss:
    """One example, teacher-forced. nll: summed over its target tokens, in nats; tokens: the sum of their weights.

    template: what rendered it.  record: its number among those that were measured, of the task's prepared split;
    -1 where that is not known.
    """

    group: str
    task: str
    id: str
    nll: float
    tokens: float
    template: str = ""
    record: int = -1

    @property
    def loss(self) -> float:
        """Nats per target token; NaN for an example without any."""
        return self.nll / self.tokens if self.tokens else math.nan


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskResult:
    """One task in one state.

    loss: nats per target token over `examples` examples. metrics: {name: value} over `generated` completions.
    """

    loss: float | None
    examples: int
    metrics: Mapping[str, float] = dataclasses.field(default_factory=dict)
    generated: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Eval:
    """The model in one state (before, before in its chat template, after): {task: TaskResult} for each group."""

    held_in: Mapping[str, TaskResult] = dataclasses.field(default_factory=dict)
    held_out: Mapping[str, TaskResult] = dataclasses.field(default_factory=dict)

    def group(self, name: str) -> Mapping[str, TaskResult]:
        return self.held_in if name == "held_in" else self.held_out


@dataclasses.dataclass(frozen=True, kw_only=True)
class Pooled:
    """A group's examples together. Losses: nats per target token, sum over sum. sign_test_p: see `sign_test`."""

    n: int
    improved: int
    worsened: int
    ties: int
    sign_test_p: float
    loss_before: float | None
    loss_after: float | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Evaluation:
    """evaluation.json. A run that was cut short has `after`, or everything, missing.

    notes: sentences for the reader. facts: {label: text} about the run. timings: {part of the run: seconds}.
    averages: over tasks, of the state `after`; see itune.evaluation.averages.
    """

    before: Eval | None = None
    before_chat: Eval | None = None
    after: Eval | None = None
    pooled: Mapping[str, Pooled] = dataclasses.field(default_factory=dict)
    notes: tuple[str, ...] = ()
    facts: Mapping[str, str] = dataclasses.field(default_factory=dict)
    timings: Mapping[str, float] = dataclasses.field(default_factory=dict)
    averages: Mapping[str, Any] = dataclasses.field(default_factory=dict)

    def state(self, name: str) -> Eval | None:
        return {"before": self.before, "before_chat": self.before_chat, "after": self.after}[name]

    def result(self, state: str, group: str, task: str) -> TaskResult | None:
        found = self.state(state)
        return found.group(group).get(task) if found else None

    def metric_names(self, group: str, task: str) -> list[str]:
        """The task's metrics in the order they were first reported, without the parts of their intervals."""
        results = [r for state in STATES if (r := self.result(state, group, task))]
        names = dict.fromkeys(name for r in results for name in r.metrics)
        return [n for n in names if not (n.endswith(INTERVAL) and n.rpartition("/")[0] in names)]

    def tasks(self, group: str) -> list[str]:
        """The group's tasks in the order they were first reported."""
        evals = [e for e in (self.before, self.before_chat, self.after) if e is not None]
        return list(dict.fromkeys(task for e in evals for task in e.group(group)))

    def save(self, path: Path) -> None:
        """Writes evaluation.json whole or not at all. A value that isn't finite becomes null (JSON has no NaN)."""
        write_text(path, json.dumps(finite(dataclasses.asdict(self)), indent=1) + "\n")

    @classmethod
    def load(cls, path: Path) -> Evaluation:
        """Raises OSError or ValueError; missing fields are empty."""
        return cls.from_dict(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> Evaluation:
        pooled = raw.get("pooled") or {}
        return cls(
            before=_eval(raw.get("before")),
            before_chat=_eval(raw.get("before_chat")),
            after=_eval(raw.get("after")),
            pooled={g: _pooled(pooled[g]) for g in GROUPS if pooled.get(g)},
            notes=tuple(raw.get("notes") or ()),
            facts={str(k): str(v) for k, v in (raw.get("facts") or {}).items()},
            timings={str(k): v for k, v in (raw.get("timings") or {}).items() if number(v) is not None},
            averages=raw.get("averages") or {},
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prediction:
    """One generated example, a line of predictions.jsonl. scores: {state: {metric: value}}. Losses: nats per token.

    target: the text that was trained for.  references: what the metrics compare with, all right answers among it.
    before, before_chat, after: the outputs.
    """

    task: str
    group: str
    id: str
    template: str
    prompt: str | None
    target: str | None
    references: Sequence[str] | None = None
    before: str | None = None
    before_chat: str | None = None
    after: str | None = None
    scores: Mapping[str, Mapping[str, float]] = dataclasses.field(default_factory=dict)
    loss_before: float | None = None
    loss_after: float | None = None
    sensitive: bool | None = None  # None: not known, so treated as if it were


def sign_test(improved: int, worsened: int) -> float:
    """One-sided exact sign test: P(at least `improved` of improved + worsened), were each as likely as the other.

    Small p: more examples improved than chance would give. Ties are left out, as is usual (Dixon & Mood 1946).
    Integer arithmetic and one division, so exact at any size; 0.0 only below the smallest float.
    """
    if improved < 0 or worsened < 0:
        raise ValueError(f"sign_test({improved}, {worsened}): counts must not be negative")
    n = improved + worsened
    term = tail = 1  # C(n, 0), summed up to C(n, worsened): the upper tail, by symmetry
    for k in range(worsened):
        term = term * (n - k) // (k + 1)
        tail += term
    return tail / 2**n


def pool(before: Sequence[ExampleLoss], after: Sequence[ExampleLoss]) -> dict[str, Pooled]:
    """{group: Pooled} over the examples measured in both states, matched by (group, task, id); no empty groups."""
    earlier = {(e.group, e.task, e.id): e for e in before}
    pairs = [(earlier[key], e) for e in after if (key := (e.group, e.task, e.id)) in earlier]
    pooled = {}
    for group in GROUPS:
        chosen = [(b, a) for b, a in pairs if a.group == group and math.isfinite(b.loss) and math.isfinite(a.loss)]
        if not chosen:
            continue
        improved = sum(a.loss < b.loss for b, a in chosen)
        worsened = sum(a.loss > b.loss for b, a in chosen)
        pooled[group] = Pooled(
            n=len(chosen),
            improved=improved,
            worsened=worsened,
            ties=len(chosen) - improved - worsened,
            sign_test_p=sign_test(improved, worsened),
            loss_before=mean_loss(b for b, _ in chosen),
            loss_after=mean_loss(a for _, a in chosen),
        )
    return pooled


def mean_loss(examples: Iterable[ExampleLoss]) -> float | None:
    """Nats per target token: one sum over one sum. None for no tokens."""
    nll = tokens = 0.0
    for example in examples:
        nll, tokens = nll + example.nll, tokens + example.tokens
    return nll / tokens if tokens else None


def summarise(
    losses: Iterable[ExampleLoss],
    metrics: Mapping[str, Mapping[str, float]] | None = None,
    generated: Mapping[str, int] | None = None,
) -> Eval:
    """One state's Eval from its per-example losses, {task: {metric: value}} and {task: number of completions}."""
    by_task: dict[str, dict[str, list[ExampleLoss]]] = {group: {} for group in GROUPS}
    for example in losses:
        by_task[example.group].setdefault(example.task, []).append(example)

    def result(task: str, examples: list[ExampleLoss]) -> TaskResult:
        return TaskResult(
            loss=mean_loss(examples),
            examples=len(examples),
            metrics=dict((metrics or {}).get(task, {})),
            generated=(generated or {}).get(task, 0),
        )

    return Eval(**{group: {task: result(task, e) for task, e in tasks.items()} for group, tasks in by_task.items()})


def notes_from_source(source: Mapping[str, Any], *, held_out: bool) -> tuple[str, ...]:
    """What a reader must know about the base model, from SOURCE.json ("instruction_tuned", "quantised")."""
    notes = []
    if tuned := source.get("tuned"):
        notes.append(f"The base model is a run of its own, tuned before: {'; then '.join(map(str, tuned))}.")
    if source.get("instruction_tuned"):
        notes.append(
            "The base model had already been instruction-tuned by its makers, so \u201cbefore\u201d is not an untaught "
            "model. It is shown in this run\u2019s prompt format and, where measured, in its own chat template."
        )
    if quantised := source.get("quantised"):
        bits = re.match(r"I?Q(\d)", str(quantised))
        stored = f"in {bits[1]} bits ({quantised})" if bits else f"quantised ({quantised})"
        notes.append(f"The base weights were stored {stored} and dequantised: not quite those its makers published.")
    if held_out:
        notes.append(
            "Held out means held out of this training mixture. What the model saw in pretraining, or in its"
            " makers\u2019 own tuning, is not known."
        )
    return tuple(notes)


def write_predictions(
    path: Path, predictions: Iterable[Prediction], *, sensitive: Collection[str], show_text: bool = False
) -> None:
    """predictions.jsonl, whole or not at all. Text of a task named in `sensitive` is null unless `show_text`.

    With any sensitive task the file can be read by its owner alone (0600).
    """
    records = prediction_records(predictions, sensitive=sensitive, show_text=show_text)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    write_text(path, "".join(lines), private=bool(sensitive))


def prediction_records(
    predictions: Iterable[Prediction], *, sensitive: Collection[str], show_text: bool
) -> list[dict[str, Any]]:
    """As they may be written: text of a task named in `sensitive` is null unless `show_text`."""
    records = []
    for prediction in predictions:
        secret = prediction.task in sensitive or bool(prediction.sensitive)
        record = dataclasses.asdict(dataclasses.replace(prediction, sensitive=secret))
        if secret and not show_text:
            record.update(dict.fromkeys(TEXT_FIELDS))
        records.append(finite(record))
    return records


def read_predictions(path: Path) -> list[Prediction]:
    """Every whole line. A last line cut short by a kill is left out."""
    names = {field.name for field in dataclasses.fields(Prediction)}
    required = ("task", "group", "id")
    records = [r for r in read_lines(path) if all(isinstance(r.get(name), str) for name in required)]
    blank = {"template": "", "prompt": None, "target": None}
    return [Prediction(**{**blank, **{k: v for k, v in r.items() if k in names}}) for r in records]


@dataclasses.dataclass(frozen=True, kw_only=True)
class RunFiles:
    """What a run directory holds. Missing parts are empty; parts that can't be read are named in `problems`."""

    config: Mapping[str, Any]
    manifest: Mapping[str, Any]
    plan: Mapping[str, Any]
    proportions: Mapping[str, Any]  # as the plan, of the steps that were made
    steps: tuple[Mapping[str, Any], ...]  # training lines of metrics.jsonl, one an interval, ascending
    evals: tuple[Mapping[str, Any], ...]  # its evaluation lines
    evaluation: Evaluation
    predictions: tuple[Prediction, ...]
    worst: tuple[Mapping[str, Any], ...]  # lines of worst.jsonl
    missing: tuple[str, ...]
    problems: tuple[str, ...]


def load_run(model_dir: Path) -> RunFiles:
    """Reads a run directory, whole or not: an interrupted run still yields what it has."""
    missing: list[str] = []
    problems: list[str] = []

    def read(name: str, reader: Any, empty: Any, *, promised: bool = True) -> Any:
        path = model_dir / name
        if not path.exists():
            if promised:
                missing.append(name)
            return empty
        try:
            return reader(path)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            problems.append(f"{name} can\u2019t be read ({type(error).__name__})")
            return empty

    lines = read("metrics.jsonl", read_lines, [])
    steps = {r["step"]: r for r in lines if "loss" in r and number(r.get("step")) is not None}
    evals = {r["step"]: r for r in lines if isinstance(r.get("eval"), dict) and number(r.get("step")) is not None}
    return RunFiles(
        config=read("config.json", _read_object, {}),
        manifest=read("manifest.json", _read_object, {}),
        plan=read("plan.json", _read_object, {}),
        proportions=read("proportions.json", _read_object, {}, promised=False),
        steps=tuple(steps[step] for step in sorted(steps)),  # the last line of a step wins
        evals=tuple(evals[step] for step in sorted(evals)),
        evaluation=read("evaluation.json", Evaluation.load, Evaluation()),
        predictions=tuple(read("predictions.jsonl", read_predictions, [])),
        worst=tuple(read("worst.jsonl", read_lines, [], promised=False)),
        missing=tuple(missing),
        problems=tuple(problems),
    )


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON lines, without any that isn't a whole object (a kill can cut the last one)."""
    records = []
    for line in path.read_text(encoding="utf-8", errors="replace").split("\n"):  # a text may hold U+2028
        try:
            record = json.loads(line)
        except ValueError:
            continue
        if isinstance(record, dict):
            records.append(record)
    return records


def write_text(path: Path, text: str, *, private: bool = False) -> None:
    """Writes beside `path`, then renames: a reader sees the old file or the new. private: 0600 from the first byte."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600 if private else 0o666)
    with os.fdopen(descriptor, "w", encoding="utf-8", errors="replace") as file:
        file.write(text)
    temporary.replace(path)


def number(value: Any) -> float | None:
    """A finite number as a float; None for anything else."""
    if isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value):
        return float(value)
    return None


def finite(value: Any) -> Any:
    """The same JSON value with null for NaN and infinities."""
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {str(k): finite(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [finite(v) for v in value]
    return value


def _read_object(path: Path) -> dict[str, Any]:
    value = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(value, dict):
        raise ValueError(f"{path.name} must hold a JSON object")
    return value


def _eval(raw: Mapping[str, Any] | None) -> Eval | None:
    if not raw:
        return None
    return Eval(**{g: {task: _task_result(value) for task, value in (raw.get(g) or {}).items()} for g in GROUPS})


def _task_result(raw: Mapping[str, Any]) -> TaskResult:
    metrics = {str(k): v for k, value in (raw.get("metrics") or {}).items() if (v := number(value)) is not None}
    return TaskResult(
        loss=number(raw.get("loss")),
        examples=int(raw.get("examples") or 0),
        metrics=metrics,
        generated=int(raw.get("generated") or 0),
    )


def _pooled(raw: Mapping[str, Any]) -> Pooled:
    counts = {name: int(raw.get(name) or 0) for name in ("n", "improved", "worsened", "ties")}
    p = number(raw.get("sign_test_p"))
    return Pooled(
        **counts,
        sign_test_p=sign_test(counts["improved"], counts["worsened"]) if p is None else p,
        loss_before=number(raw.get("loss_before")),
        loss_after=number(raw.get("loss_after")),
    )
