"""What the model will see: rows of the plan, or examples of a task, token by token with their roles and provenance."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from itune.data.manifest import Manifest
from itune.data.packing import fit
from itune.data.plan_tasks import PlanTask
from itune.data.reader import Reader, kept_tokens
from itune.data.records import Record
from itune.data.schedule import Plan
from itune.data.tokenizer import Tokenizer
from itune.errors import UserError, nearest


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenView:
    """learnt: whether the loss counts its prediction. text is "" inside a character, None where it is withheld."""

    id: int
    text: str | None
    role: str
    learnt: bool


@dataclasses.dataclass(frozen=True, kw_only=True)
class ExampleView:
    """One example as it is trained on.

    hidden: its text is withheld.  cut: tokens truncated away.  dropped: too long for its task's policy.
    """

    task: str
    split: str
    id: str
    example: int
    variant: int
    template: str
    epoch: int | None
    hidden: bool
    tokens: tuple[TokenView, ...]
    cut: int
    dropped: bool = False

    @property
    def learnt(self) -> int:
        return sum(token.learnt for token in self.tokens)


@dataclasses.dataclass(frozen=True, kw_only=True)
class RowView:
    """A packed row. row: of the run, from 0.  step: the update that it belongs to, from 1."""

    row: int
    step: int
    window: int
    row_in_window: int
    length: int
    supervised_budget: int
    examples: tuple[ExampleView, ...]


class Preview:
    """Views of a prepared mixture and its plan. Text of sensitive tasks is withheld unless `show_text`."""

    def __init__(
        self, manifest: Manifest, plan: Plan, reader: Reader, tokenizer: Tokenizer, *, show_text: bool = False
    ):
        self._manifest, self._plan, self._reader, self._tokenizer = manifest, plan, reader, tokenizer
        self._hidden = {task.name for task in manifest.tasks() if task.sensitive and not show_text}

    def of_step(self, step: int, batch_size: int) -> Iterator[RowView]:
        """The rows of update `step`, from 1. Raises as `rows`, and for a step 0."""
        if step < 1:
            raise UserError(f"--step={step}: steps are counted from 1")
        return self.rows(range((step - 1) * batch_size, step * batch_size), batch_size)

    def rows(self, rows: Sequence[int], batch_size: int) -> Iterator[RowView]:
        """Raises UserError for a row past the end of a plan that ends."""
        for i in rows:
            try:
                planned = self._plan.row(i)
            except IndexError as error:
                raise UserError(str(error)) from None
            views = []
            for s in planned.segments:
                task, record = self._plan.tasks[s.task], self._reader.record(s.task, s.record)
                kept = kept_tokens(record, s.num_inputs, s.num_targets, task.truncate_side)
                views.append(self._view(record, kept, epoch=s.epoch))
            yield RowView(
                row=i,
                step=i // batch_size + 1,
                window=planned.window,
                row_in_window=planned.row,
                length=self._plan.L,
                supervised_budget=self._plan.T,
                examples=tuple(views),
            )

    def examples(self, name: str, first: int, count: int) -> Iterator[ExampleView]:
        """Examples of a task that the run trains on or evaluates, cut as in the run; dropped ones whole.

        Raises UserError for a name that the run doesn't know, or a number past the end.
        """
        known = {task.name: task for task in self._manifest.tasks()}
        if name not in known:
            raise UserError(f"--task={name}: the run has no such task.{nearest(name, known)}")
        splits = known[name].splits
        trained = (task for task in self._plan.tasks if task.name == name)
        task = next(trained, None) or PlanTask.from_manifest(known[name], next(iter(splits)))
        if not 0 <= first < task.num_examples:
            raise UserError(f"--example={first}: task {name!r} has {task.num_examples} examples")
        reader = Reader([task])
        for example in range(first, min(first + count, task.num_examples)):
            r = example * task.variants
            record = reader.record(0, r)
            index = slice(r, r + 1)
            fitted = fit(
                task.index.inputs[index],
                task.index.targets[index],
                np.array([task.overlong == "drop"]),
                self._plan.limits,
            )
            kept = np.arange(record.num_tokens(supervised=True) + record.num_tokens(supervised=False))
            if not fitted.dropped[0]:
                sizes = int(fitted.num_inputs[0]), int(fitted.num_targets[0])
                kept = kept_tokens(record, *sizes, task.truncate_side)
            yield self._view(record, kept, epoch=None, dropped=bool(fitted.dropped[0]))

    def _view(self, record: Record, kept: np.ndarray, *, epoch: int | None, dropped: bool = False) -> ExampleView:
        sizes = [len(span.ids) for span in record.spans]
        ids = np.concatenate([span.ids for span in record.spans])[kept]
        roles = np.repeat([span.role for span in record.spans], sizes)[kept]
        supervised = np.repeat([span.supervised for span in record.spans], sizes)[kept]
        hidden = record.task in self._hidden
        texts: list[str | None] = [None] * len(ids) if hidden else list(self._tokenizer.pieces(ids))
        columns = zip(ids.tolist(), texts, roles.tolist(), supervised.tolist(), strict=True)
        tokens = tuple(
            # Nothing stands before the first token of an example: it is never predicted.
            TokenView(id=i, text=text, role=role, learnt=learnt and n > 0)
            for n, (i, text, role, learnt) in enumerate(columns)
        )
        return ExampleView(
            task=record.task,
            split=record.split,
            id=record.id,
            example=record.example,
            variant=record.variant,
            template=record.template,
            epoch=epoch,
            hidden=hidden,
            tokens=tokens,
            cut=sum(sizes) - len(ids),
            dropped=dropped,
        )


def as_json(view: RowView | ExampleView) -> dict[str, Any]:
    return dataclasses.asdict(view)
