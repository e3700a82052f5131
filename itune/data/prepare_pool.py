"""The work of prepare on one machine: task after task in this process, and in others once it turns out to be long."""

from __future__ import annotations

import concurrent.futures
import logging
import multiprocessing
import os
import threading
import time
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itune.data.manifest import DigestCache, PreparedSplit, Request
from itune.data.prepare_failures import Failure, attempt
from itune.data.prepare_inputs import import_modules
from itune.data.prepare_progress import ProgressBar
from itune.errors import UserError

if TYPE_CHECKING:
    from itune.data.prepare_task import PreparableTask, Progress

# A worker imports SeqIO anew (3-9 s, ~900 MB): it must have something to do.
INLINE_SECONDS = 15.0
_REPORT_SECONDS = 0.2

Prepared = dict[str, PreparedSplit] | Failure


def prepare_all(
    request: Request, tasks: dict[str, PreparableTask], wanted: dict[str, list[str]], progress: ProgressBar
) -> dict[str, Prepared]:
    """Task name -> its prepared splits, or why it has none. UserError for what stops all, such as a full disk."""
    done: dict[str, Prepared] = {}
    started = time.monotonic()
    names = list(wanted)
    while names and (request.workers < 2 or len(names) < 2 or time.monotonic() - started < INLINE_SECONDS):
        name = names.pop(0)
        done[name] = _attempt(tasks[name], wanted[name], progress.examples)
        progress.finished(name, done[name])
    if names:
        done |= _prepare_in_pool(request, {n: tasks[n].fingerprint for n in names}, wanted, progress)
    return done


def _attempt(task: PreparableTask, splits: list[str], report: Progress) -> Prepared:
    return attempt(task.info.name, task.info.sensitive, lambda: task.prepare(splits, report))


def _prepare_in_pool(
    request: Request, fingerprints: dict[str, str], wanted: dict[str, list[str]], progress: ProgressBar
) -> dict[str, Prepared]:
    done = {}
    workers = min(request.workers, len(fingerprints))
    # spawn: TensorFlow's threads don't survive a fork.
    context = multiprocessing.get_context("spawn")
    reports: Any = context.SimpleQueue()
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (request, reports)) as pool:
        futures = {pool.submit(prepare_one, n, wanted[n], f): n for n, f in fingerprints.items()}
        try:
            while futures:
                ended, _ = concurrent.futures.wait(futures, _REPORT_SECONDS, concurrent.futures.FIRST_COMPLETED)
                while not reports.empty():
                    progress.examples(*reports.get())
                for future in ended:
                    name = futures.pop(future)
                    done[name] = future.result()
                    progress.finished(name, done[name])
        except BrokenProcessPool as error:
            raise UserError(
                "a prepare worker was killed, probably for lack of memory; run again to go on, with --workers=1"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return done


# In a worker

_worker: dict[str, Any] = {}


def _start_worker(request: Request, reports: Any) -> None:
    threading.Thread(target=_end_with_parent, daemon=True).start()
    logging.disable(logging.WARNING)  # the first process has said it all
    open_worker(request)
    _worker["report"] = lambda task, split, count: reports.put((task, split, count))


def _end_with_parent() -> None:
    """A pool's workers outlive a parent that is killed, and would wait for ever with a GB each."""
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


def open_worker(request: Request) -> None:
    """Make this process one that `prepare_one` works in."""
    import_modules(request)
    from itune.data.tokenizer import Tokenizer

    tokenizer: Tokenizer = Tokenizer.from_folder(Path(request.model_folder))
    digests = DigestCache(Path(request.cache) / "prepared" / "digests.json")
    _worker.update(request=request, tokenizer=tokenizer, digests=digests, report=lambda *_: None)


def prepare_one(name: str, splits: list[str], fingerprint: str) -> Prepared:
    """A task's prepared splits. A Failure also where the task is not the one that the first process saw."""
    from itune.data import registry
    from itune.data.prepare_task import PreparableTask

    def work() -> dict[str, PreparedSplit]:
        task = PreparableTask(name, _worker["request"], _worker["tokenizer"], _worker["digests"])
        if task.fingerprint != fingerprint:
            raise UserError(
                f"task {name!r}: its fingerprint differs between two processes; either its code was edited just now "
                "(then run again), or something that it closes over changes from run to run (an address, a time, a "
                "set's order)"
            )
        return task.prepare(splits, _worker["report"])

    return attempt(name, registry.info(name).sensitive, work)
