"""From planned rows to batches, read ahead by threads: from any row on, on any number of hosts."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from itune.batch import Batch
from itune.data.converters import assemble
from itune.data.reader import RecordReader
from itune.data.schedule import PlannedRow, RowPlan


class _Batches:
    """A Grain data source: element b is the b-th batch from `start_row` on, or None past the plan's end."""

    def __init__(
        self, plan: RowPlan, reader: RecordReader, batch_size: int, start_row: int, loss_norm: str, pick: list[int]
    ):
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
        return (assemble(picked, self._plan, self._reader, self._loss_norm),)

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
