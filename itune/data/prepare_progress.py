"""What people see of prepare: a bar or lines while it works, and lines that say what a manifest holds."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, TextIO

from itune.data.manifest import Manifest, PreparedSplit
from itune.data.prepare_failures import Failure, tell


class ProgressBar:
    """One bar over all splits on a terminal, else a line a task. Names and counts only, never text of examples.

    It is moved by the process that draws it; the workers of a pool tell that one how far they are.
    """

    def __init__(self, stream: TextIO, splits_per_task: Mapping[str, int]):
        self._stream = stream
        self._splits = splits_per_task
        self._done = 0
        self._counts: dict[tuple[str, str], int] = {}
        self._bar: Any = None

    def __enter__(self) -> ProgressBar:
        if self._stream.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

            columns = (TextColumn("prepare"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
            self._bar = Progress(
                *columns, TextColumn("{task.description}"), console=Console(file=self._stream), transient=True
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=sum(self._splits.values()))
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.stop()

    def say(self, line: str) -> None:
        """A line of its own, beside the bar."""
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False, soft_wrap=True)
        else:
            print(line, file=self._stream, flush=True)

    def examples(self, task: str, split: str, count: int) -> None:
        """A task is `count` examples into a split, maybe in another process."""
        if self._bar is not None:
            self._counts[task, split] = count
            self._describe(f"{task} {split} {count:,}")

    def finished(self, task: str, splits: Mapping[str, PreparedSplit] | Failure) -> None:
        """A task's splits are on disk, or it failed."""
        self._done += 1
        if isinstance(splits, Failure):
            self._advance(self._splits.get(task, 0), "")
            self.say(f"prepare: {self._done}/{len(self._splits)} FAILED {splits.reason}")
            return
        self._counts |= {(task, name): split.examples for name, split in splits.items()}
        counts = ", ".join(_count(name, split) for name, split in splits.items())
        if self._bar is None:
            self.say(f"prepare: {self._done}/{len(self._splits)} {task}: {counts}")
        self._advance(len(splits), f"{task} {counts}")

    def _advance(self, splits: int, text: str) -> None:
        if self._bar is not None:
            self._bar.advance(self._task, splits)
            self._describe(text)

    def _describe(self, text: str) -> None:
        self._bar.update(self._task, description=f"{sum(self._counts.values()):,} examples; {text}")


def _count(name: str, split: PreparedSplit) -> str:
    skipped = f" ({split.skipped} bad skipped)" if split.skipped else ""
    return f"{name} {split.examples:,}{skipped}"


def summary(manifest: Manifest) -> Iterator[str]:
    """Lines that say what a manifest holds."""
    for group in ("train", "held_in", "held_out"):
        for task in getattr(manifest, group):
            counts = ", ".join(_count(name, split) for name, split in task.splits.items())
            marks = ", sensitive" if task.sensitive else ""
            yield f"{group:<9}{task.name}  rate {task.rate:g}  {counts}  cluster {task.cluster}, {task.licence}{marks}"
    yield from tell(manifest.failed)
