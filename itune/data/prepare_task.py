"""Prepares one task: its SeqIO pipeline runs once per variant, and what comes out becomes shards on disk.

Runs in the prepare process or in one of its workers; a lock on the task's directory keeps others out.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import re
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from itune.data.fingerprint import describe_task, digest
from itune.data.manifest import DigestCache, PreparedSplit, Request
from itune.data.prompt import render_spans, stop_id
from itune.data.records import (
    COMPLETED,
    TEMPORARY,
    Record,
    SplitWriter,
    encode_record,
    locked,
    make_private,
    private_files,
    read_completed,
    read_records,
    write_atomic,
)
from itune.data.source_files import blame, data_files, source_files, source_splits
from itune.data.tokenizer import Tokenizer
from itune.data.turns import TURNS_FEATURE, BadRecord, read_turns
from itune.errors import UserError

# Part of every fingerprint: raise it when the same inputs give other bytes on disk.
FORMAT = 2
CANARY_EXAMPLES = 3
PROGRESS_EVERY = 100
PREFETCH = 32
# Features that have a place of their own in a record; the rest is passed through for metrics.
_OWN_FEATURES = frozenset({"inputs", "targets", "inputs_pretokenized", "targets_pretokenized", "id", "template"})

Progress = Callable[[str, str, int], None]


class PreparableTask:
    """A task bound to the request's tokenizer and formats, with its fingerprint.

    Attributes:
      info: the registry's TaskInfo.  splits: what its source has.  files: the data files that its source reads.
      description: what the fingerprint is a digest of.  versions: of the distributions whose code takes part.
      directory: <cache>/prepared/<task>-<fingerprint16>.
    """

    def __init__(self, name: str, request: Request, tokenizer: Tokenizer, digests: DigestCache):
        from itune.data import registry

        self.request, self.tokenizer = request, tokenizer
        self.info = registry.info(name)
        self._datasets: dict[tuple[str, int], Any] = {}  # building one takes TensorFlow 0.1 s
        self._bound = functools.cache(
            lambda variant: registry.bind(
                name,
                tokenizer,
                variant=variant,
                prepare_seed=request.prepare_seed,
                feature_lengths=request.feature_lengths,
            )
        )
        with _naming(name):
            self.splits = source_splits(self._bound(0).source, name)
            self.files = source_files(self._bound(0).source, digests, name)
        described = describe_task(
            self._bound(0),
            info=self.info,
            tokenizer=tokenizer,
            prompt_format=request.prompt_format,
            variants=request.variants,
            prepare_seed=request.prepare_seed,
            feature_lengths=request.feature_lengths,
            data_files=data_files(self.files),
            renderer=render_spans,
        )
        self.description = described | {"format": FORMAT}
        self.versions: dict[str, str] = described["versions"]
        self.fingerprint = digest(self.description)
        self._stop_id = stop_id(tokenizer, request.prompt_format)
        # A name may hold "/"; two names that look alike here have different fingerprints.
        folder = f"{name.replace('/', '.')}-{self.fingerprint[:16]}"
        self.directory = Path(request.cache) / "prepared" / folder

    def size_hint(self, split: str) -> int | None:
        """Examples in the source, if it knows."""
        with _naming(self.info.name):
            return self._bound(0).num_input_examples(split)

    def prepare(self, splits: Sequence[str], progress: Progress) -> dict[str, PreparedSplit]:
        """Make sure that the splits are on disk, whole. Raises UserError naming task, split and record."""
        with private_files(self.info.sensitive), locked(self.directory):
            remove_leftovers(self.directory)
            try:
                return {split: self._prepare_split(split, progress) for split in splits}
            finally:
                self._datasets.clear()  # they may hold all of their rows

    def _prepare_split(self, split: str, progress: Progress) -> PreparedSplit:
        directory = self.directory / split.replace("/", ".")
        completed = read_completed(directory)
        fresh = completed is None or completed["fingerprint"] != self.fingerprint
        if fresh:
            shutil.rmtree(directory, ignore_errors=True)
            completed = self._write(split, directory, progress)
        assert completed is not None
        if completed["skipped"] > self.request.max_bad_records:
            where = f"task {self.info.name!r}, split {split!r}"
            raise UserError(
                f"{where}: it was prepared without {completed['skipped']} bad examples ({completed['skipped_ids'][0]}, "
                f"...), and DataConfig.max_bad_records is {self.request.max_bad_records}"
            )
        if not fresh and completed["sensitive"] != self.info.sensitive:
            self._mark_sensitive(directory, completed)
        # Also when just written: a pipeline that isn't reproducible shows at once, not in the next run.
        self._canary(split, directory, completed)
        return PreparedSplit(
            dir=str(directory),
            fingerprint=self.fingerprint,
            examples=completed["examples"],
            variants=completed["variants"],
            skipped=completed["skipped"],
        )

    def _write(self, split: str, directory: Path, progress: Progress) -> dict[str, Any]:
        writer = SplitWriter(directory, identity=self.info.identity, private=self.info.sensitive)
        skipped: list[str] = []
        examples = 0
        try:
            for records in self._examples(split, skipped):
                for record in records:
                    writer.add(record)
                examples += 1
                if examples % PROGRESS_EVERY == 0:
                    progress(self.info.name, split, examples)
            if not examples:
                raise UserError(f"task {self.info.name!r}, split {split!r}: it has no examples")
            return writer.finish(
                {
                    "fingerprint": self.fingerprint,
                    "task": self.info.name,
                    "split": split,
                    "examples": examples,
                    "variants": self.request.variants,
                    "skipped": len(skipped),
                    "skipped_ids": skipped,
                    "sensitive": self.info.sensitive,
                    "eos": {"id": self._stop_id, "ends_every_target": True, "supervised": True},
                    "inputs": self.description,
                }
            )
        except BaseException:
            writer.abort()
            raise

    def _examples(self, split: str, skipped: list[str]) -> Iterator[list[Record]]:
        """Each example's V records; bad ones are noted in `skipped`, and one too many stops with an error."""
        rows = [self._rows(split, variant) for variant in range(self.request.variants)]
        seen: dict[str, int] = {}
        example, failed = 0, False
        while True:
            name = None
            try:
                found = self._next_rows(rows)
                if found is None:
                    # A source that died ends its pipeline: what it had left must not be lost without a word.
                    if failed and example + len(skipped) != self.size_hint(split):
                        where = f"task {self.info.name!r}, split {split!r}"
                        raise UserError(f"{where}: its pipeline stops after bad record {skipped[-1]}")
                    return
                failed = False
                name = self._source_id(found, example + len(skipped), seen)
                yield [self._record(row, name, split, example, variant) for variant, row in enumerate(found)]
                example += 1
            except (BadRecord, _PipelineError) as error:
                failed = isinstance(error, _PipelineError)
                self._skip(split, name, example, error, skipped)

    def _rows(self, split: str, variant: int) -> Iterator[Mapping[str, Any]]:
        """A pass over the task's pipeline, as numpy rows."""
        with _naming(self.info.name):
            if (split, variant) not in self._datasets:
                self._datasets[split, variant] = self._dataset(split, variant)
            # The pipeline works on while rows are written.
            return self._datasets[split, variant].prefetch(PREFETCH).as_numpy_iterator()

    def _dataset(self, split: str, variant: int) -> Any:
        """The task's pipeline as a tf.data.Dataset, unshuffled and uncut.

        Task.get_dataset would hand `seed` to sources that may not take one; preprocessors get theirs the same way.
        """
        task = self._bound(variant)
        seed = self.request.prepare_seed * 1_000_003 + variant
        dataset = task.source.get_dataset(split=split, shuffle=False)
        dataset = task.preprocess_precache(dataset, seed=seed)
        dataset = task.preprocess_postcache(dataset, sequence_length=self.request.feature_lengths, seed=seed)
        if "targets" not in dataset.element_spec:
            raise UserError(f"task {self.info.name!r}: its preprocessors leave no 'targets'")
        return dataset

    def _next_rows(self, rows: Sequence[Iterator[Mapping[str, Any]]]) -> list[Mapping[str, Any]] | None:
        """The next example from each variant's pipeline; all are advanced even if one fails, to stay in step."""
        found: list[Mapping[str, Any]] = []
        errors: list[Exception] = []
        ended = 0
        for iterator in rows:
            try:
                found.append(next(iterator))
            except StopIteration:
                ended += 1
            except Exception as error:  # tf.errors.OpError of any kind, holding what the user's code raised
                errors.append(error)
        if errors:
            raise _PipelineError(_reason(errors[0], hide=self.info.sensitive)) from errors[0]
        if ended not in (0, len(rows)):
            raise UserError(f"task {self.info.name!r}: its variants have different numbers of examples")
        return None if ended else found

    def _source_id(self, rows: Sequence[Mapping[str, Any]], position: int, seen: dict[str, int]) -> str:
        """The example's id in its source, or its position. A repeated id gets "#2": examples stay distinct."""
        ids = {_text(row["id"]) if "id" in row else str(position) for row in rows}
        if len(ids) != 1:
            listed = ", ".join(sorted(ids))
            raise UserError(f"task {self.info.name!r}: its variants differ in order at example {position} ({listed})")
        name = ids.pop()
        seen[name] = seen.get(name, 0) + 1
        return name if seen[name] == 1 else f"{name}#{seen[name]}"

    def _record(self, row: Mapping[str, Any], name: str, split: str, example: int, variant: int) -> Record:
        texts = {}
        for feature in ("inputs", "targets"):
            text = row.get(f"{feature}_pretokenized")
            ids = [int(i) for i in row.get(feature, ())]
            texts[feature] = self.tokenizer.decode(ids) if text is None else _text(text)
        turns = row.get(TURNS_FEATURE, row.get(f"field/{TURNS_FEATURE}"))
        spans = render_spans(
            self.tokenizer,
            self.request.prompt_format,
            inputs=row.get("inputs", ()),
            targets=row["targets"],
            inputs_text=texts["inputs"],
            targets_text=texts["targets"],
            turns=() if turns is None else read_turns(_text(turns)),
        )
        if sum(span.supervised for span in spans) > 1 and self.info.overlong != "drop":
            raise UserError(
                f"task {self.info.name!r}: conversations with several replies to learn can't be cut: give it "
                "overlong='drop'"
            )
        return Record(
            spans=spans,
            id=name,
            task=self.info.name,
            split=split,
            example=example,
            variant=variant,
            template=_text(row.get("template", b"")),
            inputs_text=texts["inputs"],
            targets_text=texts["targets"],
            extras={k.removeprefix("field/"): _text(v) for k, v in sorted(row.items()) if k not in _OWN_FEATURES},
        )

    def _skip(self, split: str, name: str | None, example: int, error: Exception, skipped: list[str]) -> None:
        position = example + len(skipped)
        which = f"record {name!r}" if name else f"record number {position}{self._id_at(split, position)}"
        if type(error.__cause__).__name__ == "DataLossError":  # TensorFlow's message names no file
            which += blame(self._bound(0).source, split)
        where = f"task {self.info.name!r}, split {split!r}, {which}"
        skipped.append(name or f"number {position}")
        limit = self.request.max_bad_records
        if len(skipped) > limit:
            raise UserError(
                f"{where}: {error} ({len(skipped)} bad; DataConfig.max_bad_records={limit} may be left out)"
            )

    def _id_at(self, split: str, position: int) -> str:
        """ " (id 'x')" of a row of the source that the pipeline failed on: right where steps map rows one to one."""
        with contextlib.suppress(Exception):
            source = self._bound(0).source.get_dataset(split=split, shuffle=False)
            row = next(source.skip(position).take(1).as_numpy_iterator())
            return f" (id {_text(row['id'])!r})" if "id" in row else ""
        return ""

    def _canary(self, split: str, directory: Path, completed: Mapping[str, Any]) -> None:
        """Render the first examples again: what reads a clock, a network or random state escapes the fingerprint."""
        count = min(CANARY_EXAMPLES, completed["examples"])
        variants = self.request.variants
        stored = read_records(directory, range(count * variants))
        for example, records in zip(range(count), self._examples(split, []), strict=False):
            expected = stored[example * variants : (example + 1) * variants]
            if [encode_record(record) for record in records] != expected:
                raise UserError(
                    f"task {self.info.name!r}, split {split!r}, record {records[0].id!r}: rendering it again gives "
                    "something else, though nothing that itune can see has changed: a preprocessor or source is not "
                    "reproducible, or reads what it doesn't name. Mend that, or give the task another version=, or "
                    f"delete {directory}"
                )

    def _mark_sensitive(self, directory: Path, completed: dict[str, Any]) -> None:
        if self.info.sensitive:
            make_private(self.directory)
        completed = completed | {"sensitive": self.info.sensitive}
        data = json.dumps(completed, sort_keys=True).encode()
        write_atomic(directory / COMPLETED, data, private=self.info.sensitive)


class _PipelineError(Exception):
    """The SeqIO pipeline failed on a row."""


def _reason(error: Exception, *, hide: bool) -> str:
    """What the user's code raised, out of TensorFlow's report. hide: the message may quote protected data."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    raised = re.sub(r"^(\{\{.*?\}\} ?)+", "", lines[0]) if lines else type(error).__name__
    if hide:
        return f"its pipeline fails ({type(error).__name__}; the message is withheld, the task is sensitive)"
    return f"its pipeline fails: {raised[:300]}"


def _text(value: Any) -> str:
    """b"x" -> "x", 3 -> "3", array([1, 2]) -> "[1, 2]"; what metric functions get back."""
    if isinstance(value, bytes):
        return value.decode("utf-8", "replace")
    if isinstance(value, str):
        return value
    listed = np.asarray(value).tolist()
    return json.dumps(listed, default=lambda b: b.decode("utf-8", "replace"))


@contextlib.contextmanager
def _naming(task: str) -> Iterator[None]:
    """A source's own UserError says which row; this says which task."""
    try:
        yield
    except UserError as error:
        raise UserError(str(error) if repr(task) in str(error) else f"task {task!r}: {error}") from error


def remove_leftovers(directory: Path) -> None:
    """Remove what killed runs left of a task. Call with its lock held."""
    for path in directory.glob(f"{TEMPORARY}*"):
        shutil.rmtree(path, ignore_errors=True)


def remove_all_leftovers(prepared: Path) -> None:
    """The same for every task that nobody is preparing now."""
    for path in prepared.glob(f"*/{TEMPORARY}*"):
        directory = path.parent
        with open(directory.with_name(f".{directory.name}.lock"), "w") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                continue
            shutil.rmtree(path, ignore_errors=True)
