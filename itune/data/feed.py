"""From planned rows to batches: read the records, cut them as planned, lay them out.

Legend: B rows, L tokens a row, T supervised positions a row, n tokens of all the examples in a batch.
"""

from __future__ import annotations

import collections
import contextlib
import resource
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from array_record.python import array_record_module

from itune.batch import Batch
from itune.data.plan_tasks import PlanTask
from itune.data.records import Record, decode_record
from itune.data.schedule import PlannedRow, RowPlan, Segment
from itune.errors import UserError

if TYPE_CHECKING:
    from itune.data.manifest import PreparedTask

LOSS_NORMS = ("tokens", "example")
MAX_OPEN_FILES = 8192  # an open reader takes ten kilobytes or so; opening one takes longer than reading a record
# A plain prompt ends in a newline, a chat prompt in the header that opens the reply: 4 or 5 tokens today.
_PROMPT_TAIL = {"inputs": 1}
_CHAT_TAIL = 8


def room_for_files() -> int:
    """How many shards may be open at once: half of what the system lets this process have, which asks for its share."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = 2 * MAX_OPEN_FILES if hard == resource.RLIM_INFINITY else min(hard, 2 * MAX_OPEN_FILES)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        with contextlib.suppress(OSError, ValueError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
            soft = wanted
    return max(1, min(MAX_OPEN_FILES, (wanted if soft == resource.RLIM_INFINITY else soft) // 2))


class RecordReader(Protocol):
    """Where records come from: a Reader, or a stand-in for it."""

    def record(self, task: int, record: int) -> Record: ...


class Reader:
    """Records of prepared tasks, by number. Thread-safe.

    tasks: a plan's, or a manifest's with the `split` to read.  max_open_files: None for `room_for_files()`.
    """

    def __init__(
        self,
        tasks: Sequence[PlanTask] | Sequence[PreparedTask],
        split: str = "",
        *,
        max_open_files: int | None = None,
    ):
        self._tasks = [t if isinstance(t, PlanTask) else PlanTask.from_manifest(t, split) for t in tasks]
        self._num_shards = [int(t.index.shard.max(initial=-1)) + 1 for t in self._tasks]
        self._max_open_files = room_for_files() if max_open_files is None else max_open_files
        self._lock = threading.Lock()
        self._paths: dict[tuple[int, int], Path] = {}
        self._open: collections.OrderedDict[Path, Any] = collections.OrderedDict()

    def record(self, task: int, record: int) -> Record:
        """Record `record` of task number `task`. Raises UserError naming the file if it can't be read."""
        path, offset = self.locate(task, record)
        try:
            return decode_record(self._file(path).read([offset])[0])
        except (RuntimeError, ValueError, IndexError, OSError) as error:
            raise UserError(
                f"{path}: record {offset} can't be read ({error}); delete {path.parent} and prepare again"
            ) from error

    def locate(self, task: int, record: int) -> tuple[Path, int]:
        """(file, place in the file) of a record."""
        t = self._tasks[task]
        shard = int(t.index.shard[record])
        path = self._paths.get((task, shard))
        if path is None:
            path = t.directory / f"data-{shard:05d}-of-{self._num_shards[task]:05d}.array_record"
            self._paths[task, shard] = path
        return path, int(t.index.offset[record])

    def _file(self, path: Path) -> Any:
        with self._lock:
            file = self._open.pop(path, None)
            if file is None:
                if not path.is_file():
                    raise FileNotFoundError("no such file")
                file = array_record_module.ArrayRecordReader(
                    str(path), options="readahead_buffer_size:0", file_reader_buffer_size=32768
                )
                while len(self._open) >= self._max_open_files:
                    # Dropped, not closed: another thread may be reading it, and the last reference closes it.
                    self._open.popitem(last=False)
            self._open[path] = file
            return file


def example_tokens(
    record: Record, num_inputs: int, num_targets: int, truncate_side: str
) -> tuple[np.ndarray, np.ndarray]:
    """(ids int32, supervised bool) of an example cut to so many unsupervised and supervised tokens: `kept_tokens`."""
    ids = np.concatenate([span.ids for span in record.spans])
    supervised = np.repeat([span.supervised for span in record.spans], [len(span.ids) for span in record.spans])
    if len(ids) == num_inputs + num_targets and record.num_tokens(supervised=True) == num_targets:
        return ids, supervised
    keep = kept_tokens(record, num_inputs, num_targets, truncate_side)
    return ids[keep], supervised[keep]


def kept_tokens(record: Record, num_inputs: int, num_targets: int, truncate_side: str) -> np.ndarray:
    """Which of a record's tokens are left of it, int64, when it is cut to so many unsupervised and supervised ones.

    Targets lose their end. Inputs lose their beginning ("left"), or ("right") what stands before the prompt's tail.
    The tail stays: the separator newline of a plain prompt, the header that opens the reply of a chat.

      [1 2 3 \\n] [7 8 E] cut to 3 and 2    right: 1 2 \\n 7 8    left: 2 3 \\n 7 8

    Raises ValueError if the record has fewer tokens than that, or several replies to learn: of a conversation any cut
    would leave replies whose questions are gone, so plans drop such records whole.
    """
    supervised = np.repeat([span.supervised for span in record.spans], [len(span.ids) for span in record.spans])
    inputs, targets = np.flatnonzero(~supervised), np.flatnonzero(supervised)
    if len(inputs) < num_inputs or len(targets) < num_targets:
        raise ValueError(f"it has {len(inputs)} + {len(targets)} tokens, the plan has {num_inputs} + {num_targets}")
    if (len(inputs), len(targets)) == (num_inputs, num_targets):
        return np.arange(num_inputs + num_targets)
    if sum(span.supervised for span in record.spans) > 1:
        raise ValueError(f"it is a conversation of {len(inputs)} + {len(targets)} tokens, planned to be cut")
    tail = num_inputs
    if truncate_side == "right":
        role = next((span.role for span in reversed(record.spans) if not span.supervised), "inputs")
        tail = min(num_inputs, _PROMPT_TAIL.get(role, _CHAT_TAIL))
    kept = [inputs[: num_inputs - tail], inputs[len(inputs) - tail :], targets[:num_targets]]
    return np.sort(np.concatenate(kept))


def prompt_ids(record: Record, segment: Segment, truncate_side: str) -> list[int]:
    """The prompt of a planned example, cut as in training: what stands before its last reply."""
    ids, supervised = example_tokens(record, segment.num_inputs, segment.num_targets, truncate_side)
    starts = np.flatnonzero(supervised & ~np.concatenate([[False], supervised[:-1]]))
    return ids[: int(starts[-1])].tolist()


def cut_example(segment: Segment, plan: RowPlan, reader: RecordReader) -> tuple[np.ndarray, np.ndarray]:
    """(ids, supervised) of a planned example. Raises UserError naming the file of a record that is not as planned."""
    task, record = plan.tasks[segment.task], reader.record(segment.task, segment.record)
    try:
        ids, supervised = example_tokens(record, segment.num_inputs, segment.num_targets, task.truncate_side)
    except ValueError as error:
        path, offset = (
            reader.locate(segment.task, segment.record) if isinstance(reader, Reader) else (task.name, segment.record)
        )
        raise UserError(
            f"{path}: record {offset} is not as its index says: {error}; delete {task.directory} and prepare again"
        ) from error
    if plan.converter != "causal" and not supervised[int(np.argmax(supervised)) :].all():
        raise UserError(
            f"task {task.name!r}, record {record.id!r}: a conversation with several replies to learn is for "
            f"converter='causal'; {plan.converter!r} takes one prompt and one answer (turns='each' or 'last')"
        )
    return ids, supervised


class _Batches:
    """A Grain data source: element b is the b-th batch from `start_row` on, or None past the plan's end."""

    def __init__(
        self, plan: RowPlan, reader: RecordReader, batch_size: int, start_row: int, loss_norm: str, pick: list[int]
    ):
        from itune.data.converters import assemble  # which builds on this module

        self._assemble = assemble
        self._plan, self._reader, self._loss_norm = plan, reader, loss_norm
        self._batch_size, self._start_row, self._pick = batch_size, start_row, pick

    def __len__(self) -> int:
        # A bound and one more: to know the exact number, a plan that ends would have to be made to its end first.
        return max(0, self._plan.most_rows - self._start_row) // self._batch_size + 2

    def __getitem__(self, b: int) -> tuple[Batch | None]:
        first = self._start_row + b * self._batch_size
        rows = [self._row(first + i, i) for i in range(self._batch_size)]
        if rows[0] is None:
            return (None,)
        picked = [rows[i] or _padding(first + i) for i in self._pick]
        return (self._assemble(picked, self._plan, self._reader, self._loss_norm),)

    def _row(self, i: int, place: int) -> PlannedRow | None:
        # Other hosts' rows need not be planned, but the first tells all hosts alike whether there is a batch.
        if place and place not in self._pick:
            return None
        try:
            return self._plan.row(i)
        except IndexError:
            return None


def _padding(i: int) -> PlannedRow:
    return PlannedRow(window=0, row=i, segments=())


def feed(
    plan: RowPlan,
    reader: RecordReader,
    *,
    batch_size: int,
    start_row: int = 0,
    loss_norm: str = "tokens",
    pick: Sequence[int] | None = None,
    num_threads: int = 4,
    prefetch: int = 16,
) -> Iterator[Batch]:
    """Batches of `batch_size` rows from `start_row` on. The last of a plan that ends is filled up with empty rows.

    pick: which rows of each batch this host reads, in order, as its devices' shards ask; None for all.
    num_threads: read ahead, up to `prefetch` batches. What a batch holds depends on none of the last three.
    """
    # Grain imports JAX: those who only plan or read don't wait for it.
    import grain.python as grain

    picked = list(range(batch_size)) if pick is None else [int(i) for i in pick]
    if batch_size < 1 or start_row < 0 or not all(0 <= i < batch_size for i in picked):
        raise ValueError(f"batch_size={batch_size}, start_row={start_row}, pick={picked}: no such rows")
    source = _Batches(plan, reader, batch_size, start_row, loss_norm, picked)
    options = grain.ReadOptions(num_threads=num_threads, prefetch_buffer_size=prefetch)
    for (batch,) in grain.MapDataset.source(source).to_iter_dataset(options):
        if batch is None:
            return
        yield batch
