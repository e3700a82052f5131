"""A task's rows as prepare reads them: what its SeqIO pipeline gives, with the tokens made here, many texts at a time.

A pipeline that ends in SeqIO's own tokenisation and EOS steps runs in TensorFlow up to there only: calling a tokenizer
from inside tf.data costs several times what the tokenizer does. A task of `add_task` over rows held in Python needs no
TensorFlow at all. All other pipelines run as they are. The rows are the same either way.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import seqio
import tensorflow as tf

from itune.data import registry
from itune.data.sources import RowSource, StreamedSource
from itune.data.tokenizer import Tokenizer
from itune.data.turns import BadRecord
from itune.data.vocabularies import HFVocabulary
from itune.errors import UserError

PREFETCH = 32
BATCH = 256  # rows tokenised together

Row = Mapping[str, Any]


class PipelineError(Exception):
    """The SeqIO pipeline failed on a row. The message holds no text of a sensitive task."""


class TaskRows:
    """The rows of a task's variants, in step.

    Args:
      bound: variant -> the task bound to the tokenizer.  seed: variant -> what its random preprocessors get.
      sensitive: errors must not quote the user's code.
    """

    def __init__(
        self,
        bound: Callable[[int], seqio.Task],
        *,
        tokenizer: Tokenizer,
        feature_lengths: Mapping[str, int],
        seed: Callable[[int], int],
        sensitive: bool,
    ):
        self._bound, self._tokenizer, self._lengths = bound, tokenizer, feature_lengths
        self._seed, self._sensitive = seed, sensitive
        self._datasets: dict[tuple[str, int], tuple[Any, _Tail | None]] = {}  # building one takes TensorFlow 0.1 s

    def forget(self) -> None:
        """Drop the datasets: they may hold all of their rows, and what they shuffle differs from pass to pass."""
        self._datasets.clear()

    def read(self, split: str, variants: int, batch: int = 0) -> Iterator[list[Row] | PipelineError | BadRecord]:
        """Each example's rows, one a variant, or why it has none. All are advanced if one fails, to stay in step.

        A row's output features are token ids, with EOS where the pipeline adds it; all else is as numpy gives it.
        batch: rows read ahead, and tokenised together; 0 for many.

        Raises UserError where the variants have different numbers of examples, and what the source raises.
        """
        ended = object()
        passes = [self._pass(split, variant, batch or BATCH) for variant in range(variants)]
        while True:
            found = [next(rows, ended) for rows in passes]
            num_ended = sum(row is ended for row in found)
            if num_ended == variants:
                return
            if num_ended:
                raise UserError("its variants have different numbers of examples")
            failed = [row for row in found if isinstance(row, PipelineError | BadRecord)]
            yield failed[0] if failed else found  # type: ignore[misc]

    def _pass(self, split: str, variant: int, batch: int) -> Iterator[Row | PipelineError | BadRecord]:
        rows, tail = self._texts(split, variant)
        if tail is None:
            yield from rows
            return
        while chunk := list(itertools.islice(rows, batch)):
            yield from tail.tokenise(chunk, self._tokenizer)

    def _texts(self, split: str, variant: int) -> tuple[Iterator[Row | PipelineError], _Tail | None]:
        task = self._bound(variant)
        if (rendering := _rendering(task)) is not None:
            return self._rendered(task.source.each_row(split), rendering), _Tail.of(task, ("inputs", "targets"))
        if (split, variant) not in self._datasets:
            self._datasets[split, variant] = self._dataset(task, split, self._seed(variant))
        dataset, tail = self._datasets[split, variant]
        # The pipeline works on while rows are written.
        return self._iterate(dataset.prefetch(PREFETCH).as_numpy_iterator()), tail

    def _iterate(self, iterator: Iterator[Row]) -> Iterator[Row | PipelineError]:
        while True:
            try:
                yield next(iterator)
            except StopIteration:
                return
            except Exception as error:  # tf.errors.OpError of any kind, holding what the user's code raised
                yield self._error(error, str(error))

    def _rendered(self, rows: Iterable[Row], rendering: Mapping[str, Any]) -> Iterator[Row | PipelineError]:
        """What `registry.render` gives in TensorFlow, for rows in Python."""
        kept = {name: rendering[name] for name in ("templates", "identity", "context")}
        for row in rows:
            try:
                texts = registry.render_texts({name: row[name] for name in sorted(row)}, **kept)
            except Exception as error:
                yield self._error(error, f"{type(error).__name__}: {error}")
                continue
            fields = {f"field/{name}": value for name, value in row.items() if name != "id"}
            yield dict(zip(("inputs", "targets", "id", "template"), texts, strict=True)) | fields

    def _dataset(self, task: seqio.Task, split: str, seed: int) -> tuple[Any, _Tail | None]:
        """The task's pipeline as a tf.data.Dataset, unshuffled and uncut, up to the tail that is done here, if any."""
        if cut := _without_tail(task):
            dataset = self._apply(cut, split, seed)
            names = _tokenisable(task, dataset.element_spec)
            if names is not None:
                return dataset, _Tail.of(task, names, self._lengths)
        return self._apply(task, split, seed), None

    def _apply(self, task: seqio.Task, split: str, seed: int) -> tf.data.Dataset:
        # Task.get_dataset would hand `seed` to sources that may not take one; preprocessors get theirs the same way.
        dataset = task.source.get_dataset(split=split, shuffle=False)
        dataset = task.preprocess_precache(dataset, seed=seed)
        dataset = task.preprocess_postcache(dataset, sequence_length=self._lengths, seed=seed)
        if "targets" not in dataset.element_spec:
            raise UserError("its preprocessors leave no 'targets'")
        return dataset

    def _error(self, error: Exception, message: str) -> PipelineError:
        """What the user's code raised, out of TensorFlow's report."""
        lines = [line.strip() for line in message.splitlines() if line.strip()]
        raised = re.sub(r"^(\{\{.*?\}\} ?)+", "", lines[0]) if lines else type(error).__name__
        kind = type(error).__name__
        hidden = f"its pipeline fails ({kind}; the message is withheld, the task is sensitive)"
        failed = PipelineError(hidden if self._sensitive else f"its pipeline fails: {raised[:300]}")
        failed.__cause__ = error
        return failed


def _rendering(task: seqio.Task) -> Mapping[str, Any] | None:
    """The arguments of `registry.render` if that and tokenisation are all that happens to rows held in Python."""
    steps = list(task.preprocessors)
    ours = (RowSource.get_dataset, StreamedSource.get_dataset)
    if getattr(type(task.source), "get_dataset", None) not in ours or len(steps) != 3:
        return None
    if steps[1:] != [seqio.preprocessors.tokenize, seqio.preprocessors.append_eos]:
        return None
    renders = isinstance(steps[0], functools.partial) and steps[0].func is registry.render
    return steps[0].keywords if renders else None


# The end of a pipeline, done here


@dataclasses.dataclass(frozen=True)
class _Tail:
    """SeqIO's tokenize, append_eos and append_eos_after_trim, for rows of numpy values.

    names: features that become tokens.  copied: features that keep a copy of their text.
    eos: per step that adds EOS, the features that it adds it to, each with the length that it is trimmed to first.
    """

    names: tuple[str, ...]
    copied: tuple[str, ...]
    eos: tuple[dict[str, int | None], ...]

    @classmethod
    def of(cls, task: seqio.Task, names: Sequence[str], lengths: Mapping[str, int] | None = None) -> _Tail:
        steps = list(task.preprocessors)
        start = _first_of_tail(steps)
        assert start is not None
        options = _tokenize_options(steps[start]) or {}
        ending = [name for name in names if task.output_features[name].add_eos]
        eos: list[dict[str, int | None]] = [dict.fromkeys(ending)] if options["with_eos"] else []
        for step in steps[start + 1 :]:
            if step is seqio.preprocessors.append_eos:
                eos.append(dict.fromkeys(ending))
            elif step is seqio.preprocessors.append_eos_after_trim:
                # Only ever after the cache placeholder: SeqIO refuses steps before it that want the lengths.
                eos.append({name: (lengths or {}).get(name) for name in ending})
        return cls(tuple(names), tuple(task.output_features) if options["copy_pretokenized"] else (), tuple(eos))

    def tokenise(self, rows: Sequence[Row | PipelineError], tokenizer: Tokenizer) -> Iterator[Any]:
        """The rows with their features tokenised; errors stay where they are, and a text that is no UTF-8 is one."""
        texts: list[str] = []
        checked: list[Any] = []
        for row in rows:
            try:
                if not isinstance(row, PipelineError):
                    texts += [_as_text(row[name], name) for name in self.names]
                checked.append(row)
            except BadRecord as error:
                checked.append(error)
        ids = iter(tokenizer.encode_batch(texts))
        for row in checked:
            yield row if isinstance(row, Exception) else self._tokenised(row, ids, tokenizer.eos_id)

    def _tokenised(self, row: Row, ids: Iterator[list[int]], eos_id: int) -> Row:
        found = dict(row)
        for name in self.copied:
            if name in row:
                found[f"{name}_pretokenized"] = row[name]
        found.update((name, next(ids)) for name in self.names)
        for step in self.eos:
            for name, length in step.items():
                kept = found[name] if length is None else found[name][: length - 1]
                found[name] = [*kept, eos_id]
        return found


def _as_text(value: Any, name: str) -> str:
    if isinstance(value, str):
        return value
    try:
        return str(value, "utf-8")
    except UnicodeDecodeError as error:
        raise BadRecord(f"its {name!r} is not UTF-8 (byte 0x{value[error.start]:02x} at {error.start})") from None


def _tokenize_options(step: Any) -> dict[str, bool] | None:
    """How a step tokenises, if it is SeqIO's."""
    options = {"copy_pretokenized": True, "with_eos": False}
    if step is seqio.preprocessors.tokenize:
        return options
    if step is seqio.preprocessors.tokenize_and_append_eos:
        return options | {"with_eos": True}
    if isinstance(step, functools.partial) and step.func is seqio.preprocessors.tokenize:
        known = not step.args and set(step.keywords) <= set(options)
        return options | step.keywords if known else None
    return None


def _is_placeholder(step: Any) -> bool:
    return isinstance(step, seqio.CacheDatasetPlaceholder)


def _first_of_tail(steps: Sequence[Any]) -> int | None:
    """Where tokenisation stands, if nothing but EOS follows it."""
    start = next((i for i, step in enumerate(steps) if _tokenize_options(step) is not None), None)
    known = (seqio.preprocessors.append_eos, seqio.preprocessors.append_eos_after_trim)
    if start is None or not all(step in known or _is_placeholder(step) for step in steps[start + 1 :]):
        return None
    return start


def _without_tail(task: seqio.Task) -> seqio.Task | None:
    """The task with the steps of its tail doing nothing: left in their places, for seeds and caching go by those."""
    steps = list(task.preprocessors)
    start = _first_of_tail(steps)
    if start is None:
        return None
    tail = [step if _is_placeholder(step) else _unchanged for step in steps[start:]]
    return task.replace(preprocessors=[*steps[:start], *tail])


def _unchanged(dataset: tf.data.Dataset) -> tf.data.Dataset:
    return dataset


def _tokenisable(task: seqio.Task, spec: Mapping[str, Any]) -> tuple[str, ...] | None:
    """The output features that become tokens, one text each; None where one is neither that nor left alone."""
    names = []
    for name, feature in task.output_features.items():
        if name not in spec:
            continue
        vocabulary = getattr(feature, "vocabulary", None)
        if isinstance(vocabulary, HFVocabulary) and spec[name].dtype == tf.string and spec[name].shape.rank == 0:
            names.append(name)
        elif not isinstance(vocabulary, seqio.PassThroughVocabulary) or feature.add_eos:
            return None
    return tuple(names)
