"""One model state, measured: teacher-forced loss of each example, and greedy completions of some.

Every chosen example is scored once, packed like training data; sums come back per example, so that packing shows in
no number.
"""

from __future__ import annotations

import contextlib
import dataclasses
import fnmatch
import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

import jax
import numpy as np

from itune.config.run import RunConfig
from itune.data.converters import assemble
from itune.data.evalplan import SequentialPlan
from itune.data.manifest import Manifest, PreparedTask
from itune.data.plan_tasks import PlanTask, TaskIndex
from itune.data.prompt import render_prompt, render_spans, stop_id, stop_ids
from itune.data.reader import Reader, RecordReader, prompt_ids
from itune.data.records import Record, Span
from itune.data.schedule import Segment
from itune.data.tokenizer import Tokenizer
from itune.data.turns import TURNS_FEATURE, BadRecord, read_turns
from itune.errors import UserError, nearest
from itune.evaluation.config import EvalConfig
from itune.evaluation.rank import Question, Ranked, rank
from itune.evaluation.results import GROUPS, ExampleLoss, mean_loss, write_text
from itune.evaluation.worst import WorstExample, choose
from itune.inference.config import GREEDY
from itune.inference.generate import Generator
from itune.inference.loglikelihood import Scorer
from itune.inference.request import Request
from itune.parallel.arrays import fetch
from itune.parallel.mesh import BATCH_AXES
from itune.training.step import make_eval_step

Check = Callable[[], None]  # called between batches; raises to stop


class Model(Protocol):
    """What evaluation needs of `itune.training.setup.ModelSide`."""

    @property
    def spec(self) -> Any: ...
    @property
    def compute(self) -> Any: ...
    def put(self, batch: Any) -> Any: ...


@dataclasses.dataclass(frozen=True, kw_only=True)
class Completion:
    """A greedy completion and what it is compared with. template: the id of the one that rendered the prompt."""

    group: str
    task: str
    id: str
    template: str
    prompt: str
    target: str
    text: str
    extras: dict[str, str]
    logprob: float | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Snapshot:
    """A state's measurements. chat: the same examples in the model's own chat template, if that was asked for.

    cut: (task, examples that are too long and were cut, examples) of tasks with such.
    """

    losses: tuple[ExampleLoss, ...]
    completions: tuple[Completion, ...] = ()
    chat: Snapshot | None = None
    ranked: tuple[Ranked, ...] = ()
    cut: tuple[tuple[str, int, int], ...] = ()

    def loss_lines(self) -> dict[str, dict[str, dict[str, float]]]:
        """{group: {task: {"loss": nats per target token, "examples": n}}}, as metrics.jsonl has it."""
        out: dict[str, dict[str, dict[str, float]]] = {group: {} for group in GROUPS}
        for group, task in dict.fromkeys((e.group, e.task) for e in self.losses):
            chosen = [e for e in self.losses if (e.group, e.task) == (group, task)]
            out[group][task] = {"loss": mean_loss(chosen) or 0.0, "examples": len(chosen)}
        return out

    def pooled_loss(self, group: str) -> float | None:
        return mean_loss(e for e in self.losses if e.group == group)

    def save(self, path: Path) -> None:
        """Readable by its owner alone: it holds example text, sensitive or not."""
        write_text(path, json.dumps(dataclasses.asdict(self)), private=True)

    @classmethod
    def load(cls, path: Path) -> Snapshot:
        return cls._from_dict(json.loads(path.read_text(encoding="utf-8")))

    @classmethod
    def _from_dict(cls, raw: dict[str, Any]) -> Snapshot:
        return cls(
            losses=tuple(ExampleLoss(**e) for e in raw["losses"]),
            completions=tuple(Completion(**c) for c in raw["completions"]),
            chat=cls._from_dict(raw["chat"]) if raw["chat"] else None,
            ranked=tuple(Ranked.from_dict(r) for r in raw["ranked"]),
            cut=tuple((task, cut, of) for task, cut, of in raw.get("cut", ())),
        )


class MemoryReader:
    """Records that were rendered again in this process, behind the Reader's face."""

    def __init__(self, records: Sequence[Sequence[Record]]):
        self._records = records

    def record(self, task: int, record: int) -> Record:
        return self._records[task][record]


@dataclasses.dataclass(frozen=True)
class _Examples:
    """A sequential plan of `tasks`, (group, task) each, where its records come from, its compiled step, and what
    continues its prompts."""

    tasks: Sequence[tuple[str, PreparedTask]]
    plan: SequentialPlan
    reader: RecordReader
    step: Callable[..., Any]
    generator: Generator
    scorer: Scorer


class Evaluator:
    """Measures any parameters on the run's held-in and held-out examples, chosen by key: the same for every seed."""

    def __init__(self, config: RunConfig, tokenizer: Tokenizer, manifest: Manifest, model: Model):
        self.config, self.tokenizer, self.model = config, tokenizer, model
        self.tasks = [(group, task) for group in GROUPS for task in getattr(manifest, group)]
        _check_unseen(config.evaluation, self.tasks)
        self._dev = [(g, t) for g, t in self.tasks if g == "held_in" or not config.evaluation.is_unseen(t.name)]
        self._examples: _Examples | None = None
        self._dev_examples: _Examples | None = None
        self._chat: _Examples | None = None
        e = config.evaluation
        mesh = model.compute.mesh
        devices = math.prod(mesh.shape[axis] for axis in BATCH_AXES) if mesh is not None else 1
        self._rows = -(-e.batch_size // devices) * devices  # every device takes as many rows as the next
        if self.tasks:
            self._examples = self._prepared(self.tasks)

    def _prepared(self, tasks: Sequence[tuple[str, PreparedTask]]) -> _Examples:
        """The chosen examples of these tasks, as they were prepared."""
        split, data = self.config.evaluation.split, self.config.data
        prepared = [task for _, task in tasks]
        plan = self._plan(
            [PlanTask.from_manifest(t, split) for t in prepared],
            data.row_length,
            data.feature_lengths,
            converter=data.converter,
            encoder_row_length=data.encoder_row_length,
        )
        return self._with_step(tasks, plan, Reader(prepared, split))

    def snapshot(
        self, params: dict, check: Check, *, generate: bool = True, chat: bool = False, unseen: bool = True
    ) -> Snapshot:
        """Losses, completions and ranked options (unless generate=False), the chat-template baseline (if asked), under
        all `params`.

        unseen=False leaves the tasks of `EvalConfig.unseen` out.
        `check` is called between batches and may raise to stop.
        """
        if self._examples is None:
            return Snapshot(losses=())
        examples = self._examples if unseen else self._of_dev()
        baseline = None
        decoder = self.config.data.converter != "encoder_decoder"
        if chat and decoder and self.tokenizer.chat_template is not None:
            if self._chat is None:
                self._chat = self._chat_examples()
            baseline = self._measure(self._chat, "chat", params, generate, check)
        own_format = self.config.data.prompt_format
        return dataclasses.replace(self._measure(examples, own_format, params, generate, check), chat=baseline)

    def _of_dev(self) -> _Examples:
        """Made when it is first asked for; the same as all where nothing is unseen."""
        if self._dev_examples is None:
            everything = self._examples is not None and len(self._dev) == len(self.tasks)
            self._dev_examples = self._examples if everything else self._prepared(self._dev)
        assert self._dev_examples is not None
        return self._dev_examples

    def before_digest(self) -> str:
        """Of all that an evaluation before step 1 depends on: the examples, the model it starts from, how it computes.

        The seed, the rank and the rates are no part of it: a fresh adapter changes nothing.
        """
        c, plan = self.config, self._examples.plan.digest if self._examples is not None else ""
        kind = [type(c.tuning).__name__, dataclasses.asdict(c.weights), dataclasses.asdict(c.evaluation)]
        how = [c.data.prompt_format, c.data.converter, self.tokenizer.digest, dataclasses.asdict(c.mesh)]
        return hashlib.sha256(json.dumps([plan, kind, how], sort_keys=True).encode()).hexdigest()[:16]

    def worst(self, after: Snapshot, before: Snapshot | None = None) -> list[WorstExample]:
        """The examples that `after` did worst on, `EvalConfig.worst_examples` a task, with their texts."""
        if self._examples is None:
            return []
        number = {(group, task.name): k for k, (group, task) in enumerate(self.tasks)}
        earlier = {(e.group, e.task, e.id): e.loss for e in (before.losses if before else ())}
        found = []
        for e in choose(after.losses, self.config.evaluation.worst_examples):
            record = self._examples.reader.record(number[e.group, e.task], e.record)
            found.append(
                WorstExample(
                    group=e.group,
                    task=e.task,
                    id=e.id,
                    template=e.template,
                    tokens=e.tokens,
                    loss=e.loss,
                    loss_before=earlier.get((e.group, e.task, e.id)),
                    prompt=record.inputs_text,
                    target=record.targets_text,
                )
            )
        return found

    def _measure(self, examples: _Examples, prompt_format: str, params: dict, generate: bool, check: Check) -> Snapshot:
        losses = self._losses(examples, params, check)
        if not generate:
            return Snapshot(losses=losses)
        counts = zip(examples.tasks, examples.plan.chosen, strict=True)
        return Snapshot(
            losses=losses,
            completions=self._completions(examples, prompt_format, params, check),
            ranked=self._ranked(examples, prompt_format, params, check),
            cut=tuple((task.name, c.truncated, c.examples) for (_, task), c in counts if c.truncated),
        )

    def _ranked(self, examples: _Examples, prompt_format: str, params: dict, check: Check) -> tuple[Ranked, ...]:
        per_task = self.config.evaluation.rank_per_task
        if not per_task:
            return ()
        questions = [
            Question(
                group=examples.tasks[k][0],
                task=examples.tasks[k][1].name,
                segment=segment,
                truncate_side=examples.plan.tasks[k].truncate_side,
            )
            for k in range(len(examples.tasks))
            for segment in _segments(examples.plan, k)[:per_task]
        ]
        sizes = {k: len(task.index.inputs) for k, task in enumerate(examples.plan.tasks)}
        examples.scorer.params = params
        return rank(questions, sizes, examples.reader, self.tokenizer, prompt_format, examples.scorer, check)

    def _plan(
        self, tasks: list[PlanTask], row_length: int, feature_lengths: Mapping[str, int], **converter: Any
    ) -> SequentialPlan:
        e = self.config.evaluation
        return SequentialPlan(
            tasks,
            **converter,
            row_length=row_length,
            feature_lengths=feature_lengths,
            examples_per_task=e.examples_per_task,
            batch_size=self._rows,
        )

    def _with_step(
        self, tasks: Sequence[tuple[str, PreparedTask]], plan: SequentialPlan, reader: RecordReader
    ) -> _Examples:
        spec, compute = self.model.spec, self.model.compute
        size, prefix_lm = self.config.evaluation.generate_batch, plan.converter == "prefix_lm"
        generator = Generator(spec, {}, compute, batch_size=size, prefix_lm=prefix_lm)
        scorer = Scorer(spec, {}, compute, batch_size=self._rows, row_length=plan.L, prefix_lm=prefix_lm)
        return _Examples(tasks, plan, reader, jax.jit(make_eval_step(spec, plan.S, compute)), generator, scorer)

    def _losses(self, examples: _Examples, params: dict, check: Check) -> tuple[ExampleLoss, ...]:
        plan, size, found = examples.plan, self._rows, []
        for first in range(0, plan.num_rows, size):
            check()
            rows = [plan.row(i) for i in range(first, first + size)]
            batch = assemble(rows, plan, examples.reader, loss_norm="tokens")
            nll, tokens = fetch(examples.step(params, self.model.put(batch)))
            for b, row in enumerate(rows):
                for s, segment in enumerate(row.segments):
                    group, task = examples.tasks[segment.task]
                    record = examples.reader.record(segment.task, segment.record)
                    found.append(
                        ExampleLoss(
                            group=group,
                            task=task.name,
                            id=record.id,
                            nll=float(nll[b, s]),
                            tokens=float(tokens[b, s]),
                            template=record.template,
                            record=segment.record,
                        )
                    )
        order = {(group, task.name): n for n, (group, task) in enumerate(examples.tasks)}
        return tuple(sorted(found, key=lambda e: (order[e.group, e.task], e.id)))

    def _completions(
        self, examples: _Examples, prompt_format: str, params: dict, check: Check
    ) -> tuple[Completion, ...]:
        e = self.config.evaluation
        per_task = e.generate_per_task
        if not per_task:
            return ()
        chosen = [s for k in range(len(examples.tasks)) for s in _segments(examples.plan, k)[:per_task]]
        records = [examples.reader.record(s.task, s.record) for s in chosen]
        prompts = [
            prompt_ids(r, s, examples.plan.tasks[s.task].truncate_side) for r, s in zip(records, chosen, strict=True)
        ]
        examples.generator.params = params
        stops = stop_ids(self.tokenizer, prompt_format)
        greedy = dataclasses.replace(GREEDY, max_new_tokens=e.generate_tokens)
        out = examples.generator.complete([Request(ids=ids, settings=greedy) for ids in prompts], stops, check=check)
        return tuple(
            Completion(
                group=examples.tasks[s.task][0],
                task=examples.tasks[s.task][1].name,
                id=r.id,
                template=r.template,
                prompt=self.tokenizer.decode(prompt),
                target=r.targets_text,
                text=self.tokenizer.decode(reply.tokens).strip(),
                extras=r.extras,
                logprob=reply.logprob,
            )
            for s, r, prompt, reply in zip(chosen, records, prompts, out, strict=True)
        )

    def _chat_examples(self) -> _Examples:
        """The same examples, prompted by the chat template. Never cut: cutting would take the template's end."""
        assert self._examples is not None
        source, records = self._examples, []
        for k in range(len(source.tasks)):
            chosen = sorted(_segments(source.plan, k), key=lambda s: s.record)
            records.append([self._as_chat(source.reader.record(k, s.record)) for s in chosen])
        tasks = [
            dataclasses.replace(task, index=_index(rendered), variants=1, overlong="truncate_inputs")
            for task, rendered in zip(source.plan.tasks, records, strict=True)
        ]
        longest = {
            "inputs": max(r.num_tokens(supervised=False) for rs in records for r in rs),
            "targets": max(r.num_tokens(supervised=True) for rs in records for r in rs),
        }
        length = max(self.config.data.row_length, -(-sum(longest.values()) // 128) * 128)
        plan = SequentialPlan(
            tasks,
            row_length=length,
            feature_lengths=longest,
            examples_per_task=0,
            batch_size=self._rows,
        )
        return self._with_step(source.tasks, plan, MemoryReader(records))

    def _as_chat(self, record: Record) -> Record:
        turns = record.extras.get(TURNS_FEATURE)
        if turns is not None:
            fields = {"inputs_text": record.inputs_text, "targets_text": record.targets_text}
            # A template may refuse such turns (system text, say): they are one question then, as text.
            with contextlib.suppress(BadRecord, UserError):
                spans = render_spans(self.tokenizer, "chat", inputs=(), targets=(), turns=read_turns(turns), **fields)
                return dataclasses.replace(record, spans=spans)
        prompt = render_prompt(self.tokenizer, record.inputs_text, "chat")
        reply = [*[span for span in record.spans if span.supervised][-1].ids[:-1], stop_id(self.tokenizer, "chat")]
        spans = (
            Span(role="user", supervised=False, ids=np.array(prompt, np.int32)),
            Span(role="assistant", supervised=True, ids=np.array(reply, np.int32)),
        )
        return dataclasses.replace(record, spans=spans)


def _check_unseen(config: EvalConfig, tasks: Sequence[tuple[str, PreparedTask]]) -> None:
    """UserError for a name in `unseen` that no held-out task has, or a choice by dev tasks of which there is none."""
    held_out = [task.name for group, task in tasks if group == "held_out"]
    for pattern in config.unseen:
        if not any(fnmatch.fnmatchcase(name, pattern) for name in held_out):
            hint = nearest(pattern, held_out) or f" Held out are: {', '.join(held_out) or 'none'}."
            raise UserError(f"EvalConfig.unseen: no held-out task is called {pattern!r}.{hint}")
    if config.choose_by == "held_out" and all(map(config.is_unseen, held_out)):
        raise UserError(
            "EvalConfig.choose_by='held_out' needs a held-out task that is not unseen; of these there is none"
        )


def _segments(plan: SequentialPlan, task: int) -> list[Segment]:
    """The task's examples in the plan, in order of their keys: a prefix is a keyed sample too."""
    keys = plan.tasks[task].index.example_key
    found = [s for i in range(plan.num_rows) for s in plan.row(i).segments if s.task == task]
    return sorted(found, key=lambda s: (int(keys[s.record]), s.record))


def _index(records: Sequence[Record]) -> TaskIndex:
    """The index of records in memory; their order stands in for keys."""
    n = len(records)
    count = lambda supervised: np.array([r.num_tokens(supervised=supervised) for r in records], np.int32)  # noqa: E731
    zeros = np.zeros(n, np.int32)
    return TaskIndex(
        inputs=count(False),
        targets=count(True),
        example_key=np.arange(n, dtype=np.uint64),
        template=zeros.astype(np.int16),
        shard=zeros,
        offset=zeros,
    )
