"""Records of prepared tasks, by number, and what is left of one when it is cut to a plan's lengths."""

from __future__ import annotations

import collections
import contextlib
import resource
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from array_record.python import array_record_module

from itune.data.plan_tasks import PlanTask
from itune.data.records import Record, decode_record
from itune.data.schedule import RowPlan, Segment
from itune.errors import UserError

if TYPE_CHECKING:
    from itune.data.manifest import PreparedTask

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

    A BOS before the inputs stays.

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
    head = 1 if record.spans[0].role == "bos" and num_inputs > 1 else 0
    tail = num_inputs - head
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
