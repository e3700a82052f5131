"""Tasks as the schedule sees them: a name, a rate, and a few integers for each prepared record."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from itune.data.keyed import key64
from itune.data.packing import OVERLONG, Limits, fit
from itune.data.records import INDEX, read_completed
from itune.errors import UserError, nearest

if TYPE_CHECKING:
    from itune.data.manifest import PreparedTask

TRUNCATE_SIDES = ("right", "left")


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskIndex:
    """A prepared split's index.npz: one entry per record, record r = example * V + variant.

    inputs, targets: int32, tokens in unsupervised and in supervised spans.  example_key: uint64.  template: int16.
    shard, offset: int32, where the record's bytes are.
    """

    inputs: np.ndarray
    targets: np.ndarray
    example_key: np.ndarray
    template: np.ndarray
    shard: np.ndarray
    offset: np.ndarray

    @classmethod
    def load(cls, directory: Path) -> TaskIndex:
        """Raises UserError naming the file if it can't be read."""
        path = Path(directory) / INDEX
        try:
            with np.load(path) as arrays:
                return cls(**{f.name: arrays[f.name] for f in dataclasses.fields(cls)})
        except (OSError, ValueError, KeyError) as error:
            raise UserError(f"{path}: not a prepared index ({error}); delete its folder and prepare again") from error

    def digest(self) -> str:
        """sha256 of what a plan depends on: lengths and example keys."""
        digest = hashlib.sha256()
        for array, dtype in ((self.inputs, "<i4"), (self.targets, "<i4"), (self.example_key, "<u8")):
            digest.update(np.ascontiguousarray(array, dtype).tobytes())
        return digest.hexdigest()


@dataclasses.dataclass(frozen=True, kw_only=True)
class PlanTask:
    """A task as the schedule knows it.

    rate: relative to the other tasks'.  identity: the data set's, which keys the order of examples.  variants: V.
    directory, fingerprint: of the prepared split.  excluded: bool [examples], those never to be drawn; None for none.
    unused: bool [records], the renderings never to be drawn; None for none.
    """

    name: str
    identity: str
    rate: float
    index: TaskIndex
    variants: int = 1
    overlong: str = "truncate_inputs"
    truncate_side: str = "right"
    directory: Path = Path()
    fingerprint: str = ""
    excluded: np.ndarray | None = None
    unused: np.ndarray | None = None

    def __post_init__(self) -> None:
        if self.overlong not in OVERLONG:
            raise UserError(f"task {self.name!r}: overlong={self.overlong!r} must be one of {OVERLONG}")
        if self.truncate_side not in TRUNCATE_SIDES:
            raise UserError(f"task {self.name!r}: truncate_side={self.truncate_side!r} must be one of {TRUNCATE_SIDES}")
        if self.variants < 1 or len(self.index.inputs) % self.variants:
            raise UserError(
                f"task {self.name!r}: {len(self.index.inputs)} records do not divide by variants={self.variants}"
            )

    @classmethod
    def from_manifest(cls, task: PreparedTask, split: str) -> PlanTask:
        """Reads the split's index. Raises UserError naming the task if the split wasn't prepared."""
        if split not in task.splits:
            raise UserError(f"task {task.name!r} has no prepared split {split!r}.{nearest(split, task.splits)}")
        prepared = task.splits[split]
        return cls(
            name=task.name,
            identity=task.identity,
            rate=task.rate,
            index=TaskIndex.load(Path(prepared.dir)),
            variants=prepared.variants,
            overlong=task.overlong,
            truncate_side=task.truncate_side,
            directory=Path(prepared.dir),
            fingerprint=prepared.fingerprint,
        )

    @property
    def num_examples(self) -> int:
        return len(self.index.inputs) // self.variants

    @functools.cached_property
    def example_keys(self) -> np.ndarray:
        """uint64 [examples]"""
        return self.index.example_key[:: self.variants]


def capped(task: PlanTask, most: int) -> PlanTask:
    """The task with `most` examples at most (0: no limit): those with the smallest keys of what is not excluded.

    Tasks of one data set keep the same examples, and a larger limit keeps all that a smaller one does.
    """
    left = np.ones(task.num_examples, bool) if task.excluded is None else ~task.excluded
    if not most or left.sum() <= most:
        return task
    there = np.flatnonzero(left)
    excluded = np.ones(task.num_examples, bool)
    excluded[there[np.argsort(task.example_keys[there], kind="stable")[:most]]] = False
    return dataclasses.replace(task, excluded=excluded)


def with_templates(task: PlanTask, most: int) -> PlanTask:
    """The task in the renderings of `most` of its templates (0, or as many as it has: in all).

    Which, is by the hashes of their ids: tasks whose templates are called alike keep the same ones, and more keep all
    that fewer do. Raises: UserError where examples have fewer renderings than the task has templates, for then fewer
    templates would be fewer examples.
    """
    if not most:
        return task
    names = template_names(task)
    if len(names) <= most:
        return task
    if task.variants < len(names):
        raise UserError(
            f"DataConfig.max_templates={most}: task {task.name!r} has {len(names)} templates, of which an example is "
            f"prepared in DataConfig.variants={task.variants}; prepare it in all: DataConfig.variants={len(names)}"
        )
    kept = sorted(range(len(names)), key=lambda n: key64("max_templates", names[n]))[:most]
    return dataclasses.replace(task, unused=~np.isin(task.index.template, kept))


def template_names(task: PlanTask) -> list[str]:
    """The ids of the templates that the split's records were made with; `TaskIndex.template` counts in them."""
    completed = read_completed(task.directory)
    if completed is None:
        raise UserError(f"{task.directory}: not complete; delete the folder and prepare again")
    return list(completed["template_names"])


@dataclasses.dataclass(frozen=True, kw_only=True)
class Placeable:
    """A task's examples that can be placed in a row, in one of their variants at least.

    examples: int64, their numbers.  usable: bool [all examples, V], the variants that can be placed; None if all can.
    longest: most predictions of any of them.  means: of their tokens and supervised tokens, exact; of "examples", 1.
    """

    examples: np.ndarray
    usable: np.ndarray | None
    longest: int
    means: dict[str, Fraction]
    variants: int

    def record(self, example: np.ndarray, variant: np.ndarray) -> np.ndarray:
        """The records of examples in variants (mod V), or in the next ones that can be placed."""
        variant = variant % self.variants
        for _ in range(self.variants if self.usable is not None else 0):
            variant = np.where(self.usable[example, variant], variant, (variant + 1) % self.variants)  # type: ignore[index]
        return example * self.variants + variant


def placeable(task: PlanTask, limits: Limits) -> Placeable:
    """Raises UserError for a task that has no examples, or of which none can be placed."""
    if not task.num_examples:
        raise UserError(f"task {task.name!r} has no examples in {task.directory}")
    fitted = fit(
        task.index.inputs, task.index.targets, np.full(len(task.index.inputs), task.overlong == "drop"), limits
    )
    usable = ~fitted.dropped.reshape(-1, task.variants)
    if task.excluded is not None:
        usable &= ~task.excluded[:, None]
    if task.unused is not None:
        usable &= ~task.unused.reshape(-1, task.variants)
    if not usable.any():
        raise UserError(
            f"task {task.name!r}: every example is dropped; none has targets within feature_lengths="
            f"{{'inputs': {limits.inputs}, 'targets': {limits.targets}}} and {limits.supervised} supervised "
            f"tokens a row{'' if task.excluded is None else ', and is not excluded'}"
        )
    placed = usable.reshape(-1)
    count = int(placed.sum())
    sums = {"tokens": fitted.tokens[placed].sum(), "supervised_tokens": fitted.predictions[placed].sum()}
    return Placeable(
        examples=np.flatnonzero(usable.any(axis=1)),
        usable=None if usable.all() else usable,
        longest=int(fitted.predictions[placed].max()),
        means={"examples": Fraction(1)} | {unit: Fraction(int(total), count) for unit, total in sums.items()},
        variants=task.variants,
    )


def plan_digest(inputs: dict[str, Any], tasks: Sequence[PlanTask]) -> str:
    """sha256 of a plan's inputs and of every task's lengths and keys."""
    whole = inputs | {"arrays": [task.index.digest() for task in tasks]}
    if any(task.excluded is not None for task in tasks):
        whole["excluded"] = [None if t.excluded is None else np.flatnonzero(t.excluded).tolist() for t in tasks]
    if any(task.unused is not None for task in tasks):
        whole["unused"] = [None if t.unused is None else hashlib.sha256(t.unused.tobytes()).hexdigest() for t in tasks]
    return hashlib.sha256(json.dumps(whole, sort_keys=True).encode()).hexdigest()
