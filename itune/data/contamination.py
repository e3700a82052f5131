"""Evaluation text that is trained on: an exact index of the evaluation sets' source fields, not of their renderings.

Text is compared word by word, without case and punctuation (`splits.normalise`). Two fields share text if

- they have `GRAM` = 13 consecutive words in common (the length of Brown et al. 2020, appendix C), or
- they are the same as a whole, and shorter than that but at least `SHORTEST` = 4 words. Labels, names and dates are
  shorter than that ("yes", "not enough information"); matched, they would mark every example of a classification.

What occurs in more than `COMMON` = 50 evaluation examples is an instruction or boilerplate, and counts for nothing: a
passage with its questions stays well below that.
"""

from __future__ import annotations

import collections
import dataclasses
import itertools
import re
from collections.abc import Collection, Iterable, Iterator

import numpy as np

from itune.data.lint import NAMED, Finding
from itune.data.manifest import Manifest
from itune.data.plan_tasks import PlanTask
from itune.data.reader import Reader
from itune.data.records import Record

VERSION = 2  # raise it when the same texts would give another report
GRAM, SHORTEST, COMMON = 13, 4, 50
# Fields of collections that say where a row is from: all rows of a task share "glue/rte:2.0.0", five words.
PROVENANCE = frozenset({"task_name", "task_source"})
BATCH = 4096  # training examples looked up together
HITS_PER_PAIR = 100  # of a training and an evaluation task that are kept; all are counted

_WORD = re.compile(r"\w+")
_MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)
_FILTER_BITS = np.uint64(26)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Hit:
    """A training and an evaluation example that share text, at the first place found. Texts: None where withheld."""

    train_task: str
    train_id: str
    train_field: str
    train_text: str | None
    eval_task: str
    eval_id: str
    eval_field: str
    eval_text: str | None
    shared: str | None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Report:
    """examples: looked at, by training task.  pairs: (training task, evaluation task) -> training examples hit.

    found: by training task, the numbers of all examples hit; hits has the first of each pair.
    """

    hits: tuple[Hit, ...]
    pairs: dict[tuple[str, str], int]
    examples: dict[str, int]
    found: dict[str, tuple[int, ...]] = dataclasses.field(default_factory=dict)

    def findings(self) -> Iterator[Finding]:
        """A warning for each pair of tasks, with the first pairs of ids and what the first of them share."""
        for (train, evaluated), count in self.pairs.items():
            hits = [h for h in self.hits if (h.train_task, h.eval_task) == (train, evaluated)]
            shared = "text withheld" if hits[0].shared is None else repr(hits[0].shared)
            yield Finding(
                check="contamination",
                level="warning",
                task=train,
                message=f"{count:,} of {self.examples[train]:,} examples share text with {evaluated}: {shared}",
                share=count / self.examples[train],
                ids=tuple(f"{h.train_id} and {h.eval_id}" for h in hits[:NAMED]),
            )


def source_fields(record: Record) -> dict[str, str]:
    """The fields of the row that a record was rendered from; its texts if it has none. `PROVENANCE` is no text."""
    fields = {name: text for name, text in record.extras.items() if name not in PROVENANCE}
    return fields or {"inputs": record.inputs_text, "targets": record.targets_text}


class Index:
    """Evaluation examples by their text. Holds the texts, and a few integers for each of their words.

    A hit is verified word by word; how many examples hold a gram is counted by its 64-bit hash.
    """

    def __init__(self, records: Iterable[Record]):
        self._vocabulary: dict[str, int] = {}  # from 1; 0 is any word that no evaluation example has
        self._fields: list[tuple[str, str, str, str, int]] = []  # task, id, field, text, number of the example
        pieces: list[np.ndarray] = []
        whole: dict[bytes, list[int]] = collections.defaultdict(list)
        for number, record in enumerate(records):
            for name, text in source_fields(record).items():
                words = _WORD.findall(text.casefold())
                if len(words) < SHORTEST:
                    continue
                vocabulary = self._vocabulary
                ids = np.array([vocabulary.setdefault(w, len(vocabulary) + 1) for w in words], np.int32)
                if len(ids) < GRAM:
                    whole[ids.tobytes()].append(len(self._fields))
                pieces.append(ids)
                self._fields.append((record.task, record.id, name, text, number))
        self._examples = np.array([field[4] for field in self._fields], np.int64)
        self._whole = {k: v for k, v in whole.items() if len(set(self._examples[v].tolist())) <= COMMON}
        self._ids, field_of, starts = _joined(pieces)
        hashes = _hashes(self._ids)[starts]
        order = np.argsort(hashes, kind="stable")
        hashes, starts = hashes[order], starts[order]
        rare = _rare(hashes, self._examples[field_of[starts]])
        self._hashes, self._starts, self._field_of = hashes[rare], starts[rare], field_of
        self._filter = np.zeros(1 << int(_FILTER_BITS), bool)
        self._filter[self._hashes >> (np.uint64(64) - _FILTER_BITS)] = True

    def matches(self, texts: list[str]) -> Iterator[tuple[int, int, str]]:
        """(number of the text, number of the evaluation field, the first words that they share), once a pair."""
        get = self._vocabulary.get
        words = [_WORD.findall(text.casefold()) for text in texts]
        pieces = [np.array([get(w, 0) for w in found], np.int32) for found in words]
        for number, ids in enumerate(pieces):
            if SHORTEST <= len(ids) < GRAM:
                for field in self._whole.get(ids.tobytes(), ()):
                    yield number, field, " ".join(words[number])
        ids, text_of, starts = _joined(pieces)
        hashes = _hashes(ids)[starts]
        maybe = self._filter[hashes >> (np.uint64(64) - _FILTER_BITS)]
        starts, hashes = starts[maybe], hashes[maybe]
        first = np.searchsorted(self._hashes, hashes, "left")
        last = np.searchsorted(self._hashes, hashes, "right")
        begins = np.cumsum([0, *map(len, pieces)])
        said: set[tuple[int, int]] = set()  # stock passages are shared for hundreds of grams
        for i in np.flatnonzero(last > first).tolist():
            at = int(starts[i])
            number = int(text_of[at])
            for start in self._starts[first[i] : last[i]].tolist():
                pair = number, int(self._field_of[start])
                # A hash may lie, words don't.
                if pair not in said and np.array_equal(ids[at : at + GRAM], self._ids[start : start + GRAM]):
                    said.add(pair)
                    offset = at - int(begins[number])
                    yield *pair, " ".join(words[number][offset : offset + GRAM])

    def check(self, records: Iterable[Record], *, hidden: Collection[str] = ()) -> Report:
        """What the training records share with the index. hidden: tasks whose text, in either role, is withheld."""
        hits: list[Hit] = []
        pairs: collections.Counter[tuple[str, str]] = collections.Counter()
        examples: collections.Counter[str] = collections.Counter()
        kept: collections.Counter[tuple[str, str]] = collections.Counter()
        found: dict[str, set[int]] = collections.defaultdict(set)
        records = iter(records)
        while batch := list(itertools.islice(records, BATCH)):
            examples.update(record.task for record in batch)
            fields = [(n, name, text) for n, r in enumerate(batch) for name, text in source_fields(r).items()]
            seen: set[tuple[int, int]] = set()
            counted: set[tuple[int, str]] = set()
            for number, field, shared in self.matches([text for _, _, text in fields]):
                n, name, text = fields[number]
                eval_task, eval_id, eval_field, eval_text, example = self._fields[field]
                if (n, example) in seen:
                    continue
                seen.add((n, example))
                found[batch[n].task].add(batch[n].example)
                pair = batch[n].task, eval_task
                if (n, eval_task) not in counted:
                    counted.add((n, eval_task))
                    pairs[pair] += 1
                if kept[pair] < HITS_PER_PAIR:
                    kept[pair] += 1
                    shown = not {*pair} & {*hidden}
                    hits.append(
                        Hit(
                            train_task=pair[0],
                            train_id=batch[n].id,
                            train_field=name,
                            train_text=text if shown else None,
                            eval_task=eval_task,
                            eval_id=eval_id,
                            eval_field=eval_field,
                            eval_text=eval_text if shown else None,
                            shared=shared if shown else None,
                        )
                    )
        return Report(
            hits=tuple(hits),
            pairs=dict(pairs),
            examples=dict(examples),
            found={task: tuple(sorted(numbers)) for task, numbers in found.items()},
        )


def inspect(manifest: Manifest) -> Report:
    """What is trained on against all that the run evaluates; one variant of each example. Withholds sensitive text."""
    split, eval_split = manifest.request["split"], manifest.request["eval_split"]
    evaluated = [PlanTask.from_manifest(task, eval_split) for task in (*manifest.held_in, *manifest.held_out)]
    trained = [PlanTask.from_manifest(task, split) for task in manifest.train]
    hidden = {task.name for task in manifest.tasks() if task.sensitive}
    return Index(_records(evaluated)).check(_records(trained), hidden=hidden)


def _records(tasks: Iterable[PlanTask]) -> Iterator[Record]:
    for task in tasks:
        reader = Reader([task])
        yield from (reader.record(0, example * task.variants) for example in range(task.num_examples))


def _joined(pieces: list[np.ndarray]) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """[[a x 14], [b x 2]] -> ids a..b, piece of each id 0..1, starts of whole grams [0, 1]."""
    ids = np.concatenate([*pieces, np.zeros(0, np.int32)])
    piece_of = np.repeat(np.arange(len(pieces), dtype=np.int32), [len(piece) for piece in pieces])
    whole = piece_of[GRAM - 1 :] == piece_of[: max(len(ids) - GRAM + 1, 0)]
    return ids, piece_of, np.flatnonzero(whole)


def _hashes(ids: np.ndarray) -> np.ndarray:
    """uint64 of the gram that starts at each id, modulo 2**64; none for the last GRAM - 1 ids."""
    mixed = (ids.astype(np.uint64) + np.uint64(1)) * _MULTIPLIER
    mixed = (mixed ^ (mixed >> np.uint64(29))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed ^= mixed >> np.uint64(32)
    count = max(len(ids) - GRAM + 1, 0)
    hashes = np.zeros(count, np.uint64)
    for offset in range(GRAM):
        hashes = hashes * _MULTIPLIER + mixed[offset : offset + count]
    return hashes


def _rare(hashes: np.ndarray, examples: np.ndarray) -> np.ndarray:
    """Which of the grams, sorted by hash and then example, occur in at most COMMON examples."""
    if not len(hashes):
        return np.zeros(0, bool)
    new_hash = np.concatenate([[True], hashes[1:] != hashes[:-1]])
    new_example = new_hash | np.concatenate([[True], examples[1:] != examples[:-1]])
    group = np.cumsum(new_hash) - 1
    return (np.bincount(group, weights=new_example) <= COMMON)[group]
