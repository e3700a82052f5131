"""Prepares one task: its SeqIO pipeline runs once per variant, and what comes out becomes shards on disk.

Runs in the prepare process or in one of its workers; a lock on the task's directory keeps others out.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import json
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import seqio

from itune.data.fingerprint import describe_task, digest
from itune.data.manifest import DigestCache, PreparedSplit, Request
from itune.data.prepare_rows import PipelineError, Row, TaskRows
from itune.data.prompt import render_spans, stop_id
from itune.data.records import (
    COMPLETED,
    TEMPORARY,
    NoRoom,
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
from itune.data.shared import SharedSplits
from itune.data.source_files import blame, data_files, source_files, source_splits
from itune.data.sources import RowSource
from itune.data.tokenizer import Tokenizer
from itune.data.turns import TURNS_FEATURE, BadRecord, read_turns
from itune.errors import UserError

# Part of every fingerprint: raise it when the same inputs give other bytes on disk.
FORMAT = 2
CANARY_EXAMPLES = 3
PROGRESS_EVERY = 100
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

    def __init__(
        self, name: str, request: Request, tokenizer: Tokenizer, digests: DigestCache, shots: int | None = None
    ):
        """shots: see `registry.bind`."""
        from itune.data import registry

        self.request, self.tokenizer = request, tokenizer
        self.info = registry.info(name)
        self._bound = functools.cache(
            lambda variant: registry.bind(
                name,
                tokenizer,
                variant=variant,
                prepare_seed=request.prepare_seed,
                feature_lengths=request.feature_lengths,
                shots=shots,
            )
        )
        self._rows = TaskRows(
            self._bound,
            tokenizer=tokenizer,
            feature_lengths=request.feature_lengths,
            seed=lambda variant: request.prepare_seed * 1_000_003 + variant,
            sensitive=self.info.sensitive,
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
                self._rows.forget()

    def _prepare_split(self, split: str, progress: Progress) -> PreparedSplit:
        directory = self.directory / split.replace("/", ".")
        completed = read_completed(directory)
        fresh = completed is None or completed["fingerprint"] != self.fingerprint
        if fresh:
            shutil.rmtree(directory, ignore_errors=True)
            shared = None if self.info.sensitive else SharedSplits.from_environment()
            completed = shared.fetch(directory, self.fingerprint) if shared is not None else None
            if completed is None:
                completed = self._write(split, directory, progress)
                if shared is not None:
                    shared.offer(directory)
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
        except NoRoom as error:
            free = shutil.disk_usage(self.directory).free
            writer.abort()
            raise NoRoom(self._needs(split, examples, error.written, free)) from error
        except BaseException:
            writer.abort()
            raise

    def _needs(self, split: str, examples: int, written: int, free: int) -> str:
        """The error for a disk that is full after `examples` and `written` bytes; `free` bytes are left."""
        size = None
        with contextlib.suppress(Exception):
            size = self.size_hint(split)
        whole = f"about {_megabytes(written * size / examples)}" if size and examples else "more than that"
        return (
            f"task {self.info.name!r}, split {split!r}: no room on the disk of {self.request.cache} after {examples:,}"
            f"{f' of {size:,}' if size else ''} examples, {_megabytes(written)}, with {_megabytes(free)} free; this "
            f"split needs {whole}. Free some or set ITUNE_CACHE_DIR, and run again: what is finished is kept"
        )

    def _examples(self, split: str, skipped: list[str], batch: int = 0) -> Iterator[list[Record]]:
        """Each example's V records; bad ones are noted in `skipped`, and one too many stops with an error."""
        seen: dict[str, int] = {}
        example, failed = 0, False
        with _naming(self.info.name):
            for found in self._rows.read(split, self.request.variants, batch):
                name = None
                try:
                    failed = isinstance(found, PipelineError)
                    if isinstance(found, PipelineError | BadRecord):
                        raise found
                    name = self._source_id(found, example + len(skipped), seen)
                    yield [self._record(row, name, split, example, variant) for variant, row in enumerate(found)]
                    example += 1
                except (BadRecord, PipelineError) as error:
                    self._skip(split, name, example, error, skipped)
        # A source that died ends its pipeline: what it had left must not be lost without a word.
        if failed and example + len(skipped) != self.size_hint(split):
            where = f"task {self.info.name!r}, split {split!r}"
            raise UserError(f"{where}: its pipeline stops after bad record {skipped[-1]}; mend its source")

    def _source_id(self, rows: Sequence[Row], position: int, seen: dict[str, int]) -> str:
        """The example's id in its source, or its position. A repeated id gets "#2": examples stay distinct."""
        ids = {_text(row["id"]) if "id" in row else str(position) for row in rows}
        if len(ids) != 1:
            listed = ", ".join(sorted(ids))
            raise UserError(f"task {self.info.name!r}: its variants differ in order at example {position} ({listed})")
        name = ids.pop()
        seen[name] = seen.get(name, 0) + 1
        return name if seen[name] == 1 else f"{name}#{seen[name]}"

    def _record(self, row: Row, name: str, split: str, example: int, variant: int) -> Record:
        texts = {}
        for feature in ("inputs", "targets"):
            text = row.get(f"{feature}_pretokenized")
            texts[feature] = self.tokenizer.decode(row.get(feature, ())) if text is None else _text(text)
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
        skipped.append(name or f"number {position}")
        limit = self.request.max_bad_records
        if len(skipped) > limit:
            found = self._id_at(split, position) if name is None else name
            which = f"record {name!r}" if name else f"record number {position}" + (f" (id {found!r})" if found else "")
            if type(error.__cause__).__name__ == "DataLossError":  # TensorFlow's message names no file
                which += blame(self._bound(0).source, split)
            where = f"task {self.info.name!r}, split {split!r}, {which}{self._place(split, position, found)}"
            raise UserError(
                f"{where}: {error} ({len(skipped)} bad; DataConfig.max_bad_records={limit} may be left out)"
            )

    def _id_at(self, split: str, position: int) -> str | None:
        """The id of a row of the source that the pipeline failed on: right where steps map rows one to one."""
        with contextlib.suppress(Exception):
            source = self._bound(0).source.get_dataset(split=split, shuffle=False)
            row = next(source.skip(position).take(1).as_numpy_iterator())
            return _text(row["id"]) if "id" in row else None
        return None

    def _place(self, split: str, position: int, row_id: str | None) -> str:
        """ " at file:line" where the source can tell it: by the row's id, or by its number among lines of one file."""
        source, place = self._bound(0).source, None
        with contextlib.suppress(Exception):
            if isinstance(source, RowSource) and row_id is not None:
                place = source.place(split, row_id)
            elif isinstance(source, seqio.TextLineDataSource) and len(files := source.list_shards(split)) == 1:
                place = f"{files[0]}:{position + source._skip_header_lines + 1}"
        return f" at {place}" if place else ""

    def _canary(self, split: str, directory: Path, completed: Mapping[str, Any]) -> None:
        """Render the first examples again: what reads a clock, a network or random state escapes the fingerprint."""
        count = min(CANARY_EXAMPLES, completed["examples"])
        stored = read_records(directory, range(count * self.request.variants))
        if self._differs(split, count, stored) is None:
            return
        # A dataset that shuffles may do so anew in every pass, and begins as it began only when it is built again.
        self._rows.forget()
        if (name := self._differs(split, count, stored)) is not None:
            raise UserError(
                f"task {self.info.name!r}, split {split!r}, record {name!r}: rendering it again gives "
                "something else, though nothing that itune can see has changed: a preprocessor or source is not "
                "reproducible, or reads what it doesn't name. Mend that, or give the task another version=, or "
                f"delete {directory}"
            )

    def _differs(self, split: str, count: int, stored: Sequence[bytes]) -> str | None:
        """The first of `count` examples that isn't as stored."""
        variants = self.request.variants
        for example, records in zip(range(count), self._examples(split, [], batch=count), strict=False):
            expected = stored[example * variants : (example + 1) * variants]
            if [encode_record(record) for record in records] != expected:
                return records[0].id
        return None

    def _mark_sensitive(self, directory: Path, completed: dict[str, Any]) -> None:
        if self.info.sensitive:
            make_private(self.directory)
        completed = completed | {"sensitive": self.info.sensitive}
        data = json.dumps(completed, sort_keys=True).encode()
        write_atomic(directory / COMPLETED, data, private=self.info.sensitive)


def _megabytes(size: float) -> str:
    return f"{size / 1e6:,.1f} MB"


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
