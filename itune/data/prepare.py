"""The prepare process: resolves a mixture with SeqIO, sees that every task's shards exist, and writes the manifest.

    Request ──▶ import the task modules ──▶ tasks, rates, fingerprints ──▶ shards that are missing ──▶ Manifest

SeqIO is imported here and nowhere on the trainer's side; it loads when `run` is called.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import importlib
import logging
import multiprocessing
import os
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, TextIO

from itune.data.held_out import check_held_out
from itune.data.manifest import (
    DigestCache,
    InputFile,
    Manifest,
    PreparedSplit,
    PreparedTask,
    Request,
    installed_version,
    list_directory,
)
from itune.errors import UserError

if TYPE_CHECKING:
    from itune.data.prepare_task import PreparableTask
    from itune.data.registry import TaskInfo
    from itune.data.tokenizer import Tokenizer

# A worker imports SeqIO anew (3-9 s, ~900 MB): it must have something to do.
INLINE_SECONDS = 15.0
_VERSIONED = ("seqio", "tensorflow", "tokenizers", "numpy", "jinja2", "array_record", "msgpack")
_TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json", "chat_template.jinja")
_MAX_LISTED = 500

Groups = dict[str, list[tuple["TaskInfo", float]]]


def run(request: Request, stream: TextIO) -> Manifest:
    """Prepare what the request asks for. Progress goes to `stream`.

    Raises UserError for a module, task, split or record that can't be used, and for a held-out task that is trained on.
    """
    opened = import_modules(request)
    from itune.data.prepare_task import PreparableTask, remove_all_leftovers
    from itune.data.tokenizer import Tokenizer

    prepared = Path(request.cache) / "prepared"
    prepared.mkdir(parents=True, exist_ok=True)
    remove_all_leftovers(prepared)
    tokenizer = Tokenizer.from_folder(Path(request.model_folder))
    groups = resolve_groups(request)
    check_held_out(request, groups)
    digests = DigestCache(prepared / "digests.json")
    infos = {info.name: info for members in groups.values() for info, _ in members}
    tasks = {name: PreparableTask(name, request, tokenizer, digests) for name in infos}
    wanted = choose_splits(request, groups, tasks)
    progress = ProgressBar(stream, {name: len(splits) for name, splits in wanted.items()})
    with progress:
        done = prepare_all(request, tasks, wanted, progress)
    inputs = manifest_inputs(request, opened, digests) | {f.path: f for t in tasks.values() for f in t.files}
    digests.save()
    versions = {name for task in tasks.values() for name in task.versions} | {*_VERSIONED, "python"}
    return Manifest(
        mixture=request.mixture,
        tokenizer=tokenizer.digest,
        **{group: [_prepared(info, rate, done[info.name]) for info, rate in groups[group]] for group in groups},
        inputs=[inputs[path] for path in sorted(inputs)],
        versions={name: v for name in sorted(versions) if (v := installed_version(name))},
        request=dataclasses.asdict(request),
    )


def _prepared(info: TaskInfo, rate: float, splits: dict[str, PreparedSplit]) -> PreparedTask:
    return PreparedTask(
        name=info.name,
        cluster=info.cluster,
        licence=info.licence,
        identity=info.identity,
        sensitive=info.sensitive,
        overlong=info.overlong,
        truncate_side=info.truncate_side,
        rate=rate,
        metrics=list(info.metrics),
        splits=splits,
    )


# Which modules, tasks and splits


class _OpenedFiles:
    """Files that Python code opens for reading while `active`: what task modules read at import is an input, too."""

    def __init__(self) -> None:
        self.active = False
        self.paths: set[str] = set()
        sys.addaudithook(self._on_event)  # it can't be taken away again, hence `active`

    def _on_event(self, event: str, arguments: tuple[Any, ...]) -> None:
        if self.active and event == "open" and isinstance(arguments[0], str | os.PathLike):
            mode, flags = arguments[1], arguments[2]
            if mode is None and flags & os.O_ACCMODE == os.O_RDONLY or mode and not set(mode) & set("wax+"):
                self.paths.add(os.path.abspath(os.fspath(arguments[0])))


def import_modules(request: Request) -> set[str]:
    """Import the task modules, from the request's directory first. Returns the files that they opened.

    Raises UserError naming the module and the error.
    """
    if request.directory not in sys.path:
        sys.path.insert(0, request.directory)
    _import_seqio()
    opened = _OpenedFiles()
    opened.active = True
    try:
        for name in request.modules:
            _import_module(name, request.directory)
    finally:
        opened.active = False
    return opened.paths


def _import_seqio() -> None:
    """Without the lines that TensorFlow's C++ writes to stderr as it loads, unless it fails."""
    if "seqio" in sys.modules:
        return
    sys.stderr.flush()
    kept = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            importlib.import_module("seqio")
        except BaseException:
            said.seek(0)
            os.write(kept, said.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
    importlib.import_module("absl.logging").set_verbosity("error")


def _import_module(name: str, directory: str) -> ModuleType:
    try:
        return importlib.import_module(name)
    except UserError as error:
        raise UserError(f"module {name!r}: {error}") from error
    except ModuleNotFoundError as error:
        if error.name is not None and name.split(".")[: error.name.count(".") + 1] == error.name.split("."):
            raise UserError(f"DataConfig.modules: there is no module {name!r} in {directory} or installed") from error
        raise UserError(f"DataConfig.modules: importing {name!r} fails: {error}") from error
    except Exception as error:
        raise UserError(f"DataConfig.modules: importing {name!r} fails: {type(error).__name__}: {error}") from error


def resolve_groups(request: Request) -> Groups:
    """{"train": [(TaskInfo, rate), ...], "held_in": ..., "held_out": ...}; no held_in means the training mixture."""
    from itune.data import registry

    def members(names: Sequence[str]) -> list[tuple[TaskInfo, float]]:
        found: dict[str, tuple[TaskInfo, float]] = {}
        for name in names:
            for info, rate in registry.mixture_info(name):
                found.setdefault(info.name, (info, rate))
        return list(found.values())

    train = members([request.mixture])
    return {
        "train": train,
        "held_in": members(request.held_in) if request.held_in else train,
        "held_out": members(request.held_out),
    }


def choose_splits(request: Request, groups: Groups, tasks: dict[str, PreparableTask]) -> dict[str, list[str]]:
    """Task name -> splits to prepare. Raises UserError naming a task that lacks one, and the splits that it has."""
    wanted: dict[str, list[str]] = {}
    for group, members in groups.items():
        split = request.split if group == "train" else request.eval_split
        use = "trained on" if group == "train" else f"evaluated ({group})"
        for info, _ in members:
            if split not in tasks[info.name].splits:
                have = ", ".join(map(repr, tasks[info.name].splits))
                raise UserError(f"task {info.name!r} is to be {use}, split {split!r}, but it has only {have}")
            splits = wanted.setdefault(info.name, [])
            if split not in splits:
                splits.append(split)
    return wanted


# The work


def prepare_all(
    request: Request, tasks: dict[str, PreparableTask], wanted: dict[str, list[str]], progress: ProgressBar
) -> dict[str, dict[str, PreparedSplit]]:
    """Task name -> its prepared splits. One process while that is quick; workers join once it turns out to be long."""
    done: dict[str, dict[str, PreparedSplit]] = {}
    started = time.monotonic()
    names = list(wanted)
    while names and (request.workers < 2 or len(names) < 2 or time.monotonic() - started < INLINE_SECONDS):
        name = names.pop(0)
        done[name] = tasks[name].prepare(wanted[name], progress.examples)
        progress.finished(name, done[name])
    if names:
        done |= _prepare_in_pool(request, {n: tasks[n].fingerprint for n in names}, wanted, progress)
    return done


def _prepare_in_pool(
    request: Request, fingerprints: dict[str, str], wanted: dict[str, list[str]], progress: ProgressBar
) -> dict[str, dict[str, PreparedSplit]]:
    done = {}
    workers = min(request.workers, len(fingerprints))
    # spawn: TensorFlow's threads don't survive a fork.
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(workers, context, _start_worker, (request,)) as pool:
        futures = {pool.submit(_prepare_in_worker, n, wanted[n], f): n for n, f in fingerprints.items()}
        try:
            for future in concurrent.futures.as_completed(futures):
                name = futures[future]
                done[name] = future.result()
                progress.finished(name, done[name])
        except BrokenProcessPool as error:
            raise UserError(
                "a prepare worker was killed, probably for lack of memory; run again to go on, with --workers=1"
            ) from error
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    return done


_worker: dict[str, Any] = {}


def _start_worker(request: Request) -> None:
    logging.disable(logging.WARNING)  # the first process has said it all
    import_modules(request)
    from itune.data.tokenizer import Tokenizer

    tokenizer: Tokenizer = Tokenizer.from_folder(Path(request.model_folder))
    digests = DigestCache(Path(request.cache) / "prepared" / "digests.json")
    _worker.update(request=request, tokenizer=tokenizer, digests=digests)


def _prepare_in_worker(name: str, splits: list[str], fingerprint: str) -> dict[str, PreparedSplit]:
    from itune.data.prepare_task import PreparableTask

    task = PreparableTask(name, _worker["request"], _worker["tokenizer"], _worker["digests"])
    if task.fingerprint != fingerprint:
        raise UserError(
            f"task {name!r}: its fingerprint differs between two processes; either its code was edited just now (then "
            "run again), or something that it closes over changes from run to run (an address, a time, a set's order)"
        )
    return task.prepare(splits, lambda *_: None)


# What the manifest depends on


def manifest_inputs(request: Request, opened: set[str], digests: DigestCache) -> dict[str, InputFile]:
    """path -> InputFile: task packages, loaded project modules, what these opened at import, tokenizer, listings."""
    files = {Path(path) for path in opened if _is_input(Path(path), request)}
    folders = {Path(request.model_folder)}
    for name in request.modules:
        for folder in _package_folders(sys.modules[name]):
            inside = [p for p in folder.rglob("*") if not any(_ignored(part) for part in p.relative_to(folder).parts)]
            files.update(path for path in inside if path.is_file())
            folders.update([folder, *(path for path in inside if path.is_dir())])
        if module_file := getattr(sys.modules[name], "__file__", None):
            files.add(Path(module_file))
    for module in list(sys.modules.values()):
        path = Path(getattr(module, "__file__", None) or "/dev/null")
        if path.suffix == ".py" and path.is_relative_to(request.directory) and _is_input(path, request):
            files.add(path)
    files.update(p for n in _TOKENIZER_FILES if (p := Path(request.model_folder) / n).is_file())
    if data := os.environ.get("ITUNE_DATA_DIR"):
        # A task whose data was absent is registered once it appears.
        folders.update([root, *_subfolders(root)] if (root := Path(data).resolve()).is_dir() else [])
    inputs = [*digests.digests(sorted(files)), *(list_directory(folder) for folder in sorted(folders))]
    return {entry.path: entry for entry in inputs}


def _package_folders(module: ModuleType) -> list[Path]:
    """Where the package lies that a module is, or is in; [] for a single file."""
    if not hasattr(module, "__path__") and module.__package__:
        module = sys.modules[module.__package__]
    return [Path(p).resolve() for p in getattr(module, "__path__", ())]


def _subfolders(root: Path) -> list[Path]:
    found = (p for pattern in ("*/", "*/*/") for p in root.glob(pattern) if not _ignored(p.name))
    return [path for _, path in zip(range(_MAX_LISTED), found, strict=False)]


def _ignored(part: str) -> bool:
    return part.startswith(".") or part == "__pycache__"


def _is_input(path: Path, request: Request) -> bool:
    """Whether a file that was opened is the user's, and not a library's, the system's or a cache."""
    if path.suffix in (".pyc", ".so") or {"site-packages", "dist-packages", "__pycache__"} & set(path.parts):
        return False
    system = ("/proc", "/sys", "/dev", "/etc", "/usr/lib", sys.base_prefix + "/lib", request.cache)
    return not any(path.is_relative_to(folder) for folder in system) and path.is_file()


# What people see


class ProgressBar:
    """One bar over all splits on a terminal, else a line a task. Names and counts only, never text of examples."""

    def __init__(self, stream: TextIO, splits_per_task: dict[str, int]):
        self._stream = stream
        self._splits = splits_per_task
        self._done = 0
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

    def examples(self, task: str, split: str, count: int) -> None:
        """A task is `count` examples into a split."""
        if self._bar is not None:
            self._bar.update(self._task, description=f"{task} {split} {count:,}")

    def finished(self, task: str, splits: dict[str, PreparedSplit]) -> None:
        """A task's splits are on disk."""
        self._done += 1
        counts = ", ".join(_count(name, split) for name, split in splits.items())
        if self._bar is not None:
            self._bar.update(self._task, advance=len(splits), description=f"{task} {counts}")
        else:
            print(f"prepare: {self._done}/{len(self._splits)} {task}: {counts}", file=self._stream, flush=True)


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
