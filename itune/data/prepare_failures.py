"""Tasks that can't be prepared: one dead source does not keep the others from being tried, and all are told at once."""

from __future__ import annotations

import dataclasses
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TypeVar

from itune.data.manifest import FailedTask, Request
from itune.data.records import NoRoom, is_no_room, write_atomic
from itune.errors import UserError

_LISTED = 3  # in the one line of the error; all are in the file

T = TypeVar("T")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Failure:
    """Why a task can't be prepared, in one line. details: the traceback of what no one foresaw, or ""."""

    task: str
    reason: str
    details: str = ""


def attempt(task: str, sensitive: bool, work: Callable[[], T]) -> T | Failure:
    """What `work` returns, or how it failed. What would fail every other task alike is raised: no room, no memory."""
    try:
        return work()
    except (NoRoom, MemoryError):
        raise
    except Exception as error:
        if is_no_room(error):
            raise NoRoom(f"no room on the disk: {error}; free some, or set ITUNE_CACHE_DIR, and run again") from error
        return Failure(task=task, reason=_reason(task, sensitive, error), details=_details(sensitive, error))


def _reason(task: str, sensitive: bool, error: Exception) -> str:
    if isinstance(error, UserError):
        said = " ".join(str(error).split())
        return said if repr(task) in said else f"task {task!r}: {said}"
    kind = type(error).__name__
    if sensitive:
        return f"task {task!r}: its source or steps raise {kind} (the message is withheld, the task is sensitive)"
    return f"task {task!r}: its source or steps raise {kind}: {' '.join(str(error).split())[:300]}"


def _details(sensitive: bool, error: Exception) -> str:
    if sensitive or isinstance(error, UserError):
        return ""
    return "".join(traceback.format_exception(error))


class Failures:
    """All that failed in one prepare: by task, or in one use of it only."""

    def __init__(self, request: Request):
        self._request = request
        self._path = Path(request.cache) / "prepared" / f"failures-{request.manifest_path().stem[:12]}.txt"
        self._found: dict[tuple[str, str], Failure] = {}

    def add(self, failure: Failure, group: str = "") -> None:
        """group: "train", "held_in" or "held_out" where the task is of no use only there."""
        self._found.setdefault((failure.task, group), failure)

    def holds(self, task: str, group: str) -> bool:
        return (task, "") in self._found or (task, group) in self._found

    def settle(self, groups: Mapping[str, list[str]]) -> list[FailedTask]:
        """What the run goes on without: with on_failed_source="skip", and while each group keeps a task.

        groups: the tasks of each, as asked for. Raises UserError: all reasons, or the first and where the others are.
        """
        if not self._found:
            self._path.unlink(missing_ok=True)
            return []
        lost = {group: [task for task, where in self._found if where == group] for group in groups}
        groups = {group: list(dict.fromkeys([*tasks, *lost[group]])) for group, tasks in groups.items()}
        reasons = self._reasons()
        text = "\n".join(f"{reason}\n{details}" for reason, details in reasons.items())
        write_atomic(self._path, text.encode(), private=True)
        emptied = [name for name, tasks in groups.items() if tasks and all(self.holds(t, name) for t in tasks)]
        if self._request.on_failed_source == "skip" and not emptied:
            return self._skipped(groups)
        raise UserError(self._message(list(reasons), emptied, len({t for tasks in groups.values() for t in tasks})))

    def _reasons(self) -> dict[str, str]:
        """reason -> details, each once: a task may stand in several groups."""
        return {failure.reason: failure.details for failure in self._found.values()}

    def _message(self, reasons: list[str], emptied: list[str], num_tasks: int) -> str:
        failed = len({task for task, _ in self._found})
        if num_tasks == 1:
            return reasons[0]
        what = "train on" if "train" in emptied else "evaluate"
        advice = (
            f"that leaves nothing to {what} ({', '.join(emptied)})"
            if self._request.on_failed_source == "skip"
            else "mend them or take them out; DataConfig.on_failed_source='skip' goes on without them"
        )
        listed = "; ".join(reasons[:_LISTED])
        if len(reasons) == 1:
            return f"{listed} (all else is prepared: {advice})" if failed < num_tasks else listed
        more = f"; and {len(reasons) - _LISTED} more" if len(reasons) > _LISTED else ""
        return f"{listed}{more}: {failed} of {num_tasks} tasks can't be prepared, listed in {self._path}; {advice}"

    def _skipped(self, groups: Mapping[str, list[str]]) -> list[FailedTask]:
        skipped = []
        for name in dict.fromkeys(task for task, _ in self._found):
            without = [group for group, tasks in groups.items() if name in tasks and self.holds(name, group)]
            reasons = [failure.reason for (task, _), failure in self._found.items() if task == name]
            skipped.append(FailedTask(name=name, groups=without, reason="; ".join(dict.fromkeys(reasons))))
        return skipped


def tell(failed: list[FailedTask]) -> list[str]:
    """Lines that say what a run goes on without."""
    if not failed:
        return []
    head = f"WARNING: going on without {len(failed)} tasks that can't be prepared (DataConfig.on_failed_source='skip'):"
    return [head, *(f"  {entry.reason} [{', '.join(entry.groups)}]" for entry in failed)]
