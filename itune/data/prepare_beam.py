"""The work of prepare on an Apache Beam runner: a task an element, written to the cache that all workers share.

An element goes through the very code that a worker of the local pool runs, so shards are the same byte for byte, and
what is finished is not made again. Beam moves names only: workers write shards, and what became of each task, to the
cache, which must be a file system that all of them see.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import shutil
import threading
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import apache_beam as beam
from apache_beam.options.pipeline_options import PipelineOptions

from itune.data import prepare_pool
from itune.data.manifest import PreparedSplit, Request
from itune.data.prepare_failures import Failure
from itune.data.prepare_pool import Prepared
from itune.data.prepare_progress import ProgressBar
from itune.data.records import write_atomic
from itune.errors import UserError

if TYPE_CHECKING:
    from itune.data.prepare_task import PreparableTask

_WATCH_SECONDS = 1.0
# Private files are made so by the process's umask: its threads must not prepare two tasks at once.
_one_at_a_time = threading.Lock()


def prepare_all(
    request: Request, tasks: dict[str, PreparableTask], wanted: dict[str, list[str]], progress: ProgressBar
) -> dict[str, Prepared]:
    """Task name -> its prepared splits, or why it has none.

    Raises UserError for options that Beam does not take, a pipeline that fails, and a worker that wrote elsewhere.
    """
    answers = Path(request.cache) / "prepared" / f".beam-{uuid.uuid4().hex}"
    answers.mkdir(parents=True)
    elements = [(n, s, tasks[n].fingerprint, str(answers / f"{i}.json")) for i, (n, s) in enumerate(wanted.items())]
    done: dict[str, Prepared] = {}
    try:
        with _watching(answers, done, progress):
            _run(request, elements)
        _collect(answers, done, progress)
    finally:
        shutil.rmtree(answers, ignore_errors=True)
    missing = [name for name in wanted if name not in done]
    if missing:
        raise UserError(
            f"--runner={request.runner}: {len(missing)} tasks ({missing[0]!r}, ...) were prepared, but not in "
            f"{request.cache}; ITUNE_CACHE_DIR must be a folder that every worker sees"
        )
    return done


def _run(request: Request, elements: list[tuple[Any, ...]]) -> None:
    try:
        options = PipelineOptions([f"--runner={request.runner}", *request.beam_options])
        with beam.Pipeline(options=options) as pipeline:
            spread = pipeline | "tasks" >> beam.Create(elements) | "spread" >> beam.Reshuffle()
            _ = spread | "prepare" >> beam.ParDo(_Prepare(dataclasses.asdict(request)))
    except SystemExit as error:  # Beam's argparse
        raise UserError(f"Beam does not take these options: {' '.join(request.beam_options)}") from error
    except Exception as error:
        said = " ".join(str(error).split())
        raise UserError(f"--runner={request.runner}: {type(error).__name__}: {said[:500]}") from error


class _Prepare(beam.DoFn):
    """(task, splits, fingerprint, where to answer) -> nothing; the answer is a file, and the work is on disk."""

    def __init__(self, request: dict[str, Any]):
        self._request = request

    def setup(self) -> None:
        with _one_at_a_time:
            prepare_pool.open_worker(Request(**self._request))

    def process(self, element: tuple[str, list[str], str, str]) -> None:
        name, splits, fingerprint, answer = element
        with _one_at_a_time:
            found = prepare_pool.prepare_one(name, list(splits), fingerprint)
        failed = isinstance(found, Failure)
        fields = dataclasses.asdict(found) if isinstance(found, Failure) else _plain(found)
        Path(answer).parent.mkdir(parents=True, exist_ok=True)
        write_atomic(Path(answer), json.dumps({"task": name, "failed": failed, "found": fields}).encode(), private=True)


def _plain(splits: dict[str, PreparedSplit]) -> dict[str, Any]:
    return {name: dataclasses.asdict(split) for name, split in splits.items()}


@contextlib.contextmanager
def _watching(answers: Path, done: dict[str, Prepared], progress: ProgressBar) -> Iterator[None]:
    """While open, a thread moves the bar as answers appear: no runner tells the progress of its elements alike."""
    stop = threading.Event()

    def watch() -> None:
        while not stop.wait(_WATCH_SECONDS):
            _collect(answers, done, progress)

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def _collect(answers: Path, done: dict[str, Prepared], progress: ProgressBar) -> None:
    for path in sorted(answers.glob("*.json")):
        answer = json.loads(path.read_text())
        name, found = answer["task"], answer["found"]
        if name not in done:
            done[name] = (
                Failure(**found) if answer["failed"] else {k: PreparedSplit(**split) for k, split in found.items()}
            )
            progress.finished(name, done[name])
