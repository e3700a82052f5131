"""The prepare process: resolves a mixture with SeqIO, sees that every task's shards exist, and writes the manifest.

    Request ──▶ import the task modules ──▶ tasks, rates, fingerprints ──▶ shards that are missing ──▶ Manifest

SeqIO is imported here and nowhere on the trainer's side; it loads when `run` is called.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from itune.data import prepare_pool
from itune.data.held_out import check_held_out
from itune.data.licences import check_licences
from itune.data.manifest import DigestCache, Manifest, PreparedSplit, PreparedTask, Request, installed_version
from itune.data.prepare_failures import Failure, Failures, attempt, tell
from itune.data.prepare_inputs import import_modules, manifest_inputs
from itune.data.prepare_progress import ProgressBar
from itune.errors import UserError

if TYPE_CHECKING:
    from itune.data.prepare_task import PreparableTask
    from itune.data.registry import TaskInfo

COT, DIRECT = "_cot", "_direct"  # at the end of a task's name
_VERSIONED = ("seqio", "tensorflow", "tokenizers", "numpy", "jinja2", "array_record", "msgpack")

Groups = dict[str, list[tuple["TaskInfo", float]]]


def run(request: Request, stream: TextIO) -> Manifest:
    """Prepare what the request asks for. Progress goes to `stream`.

    All tasks are tried before those that fail are told, and what was prepared stays.

    Raises UserError for a module, task, split or record that can't be used, for a held-out task that is trained on, and
    for a licence that is not allowed.
    """
    opened = import_modules(request)
    from itune.data.prepare_task import PreparableTask, remove_all_leftovers
    from itune.data.tokenizer import Tokenizer

    prepared = Path(request.cache) / "prepared"
    prepared.mkdir(parents=True, exist_ok=True)
    remove_all_leftovers(prepared)
    tokenizer = Tokenizer.from_folder(Path(request.model_folder))
    failures = Failures(request)
    groups = resolve_groups(request, failures)
    check_held_out(request, groups)
    check_licences(request)
    digests = DigestCache(prepared / "digests.json")
    infos = {info.name: info for members in groups.values() for info, _ in members}
    tasks: dict[str, PreparableTask] = {}
    # Nothing is trained on where both splits are one.
    trained = {info.name for info, _ in groups["train"]} if request.split != request.eval_split else set()
    for name, info in infos.items():
        shots = request.shots if request.shots >= 0 and name not in trained else None
        work = functools.partial(PreparableTask, name, request, tokenizer, digests, shots)
        made = attempt(name, info.sensitive, work)
        if isinstance(made, Failure):
            failures.add(made)
        else:
            tasks[name] = made
    wanted = choose_splits(request, groups, tasks, failures)
    with ProgressBar(stream, {name: len(splits) for name, splits in wanted.items()}) as progress:
        done = _prepare_all(request, tasks, wanted, progress, failures)
    digests.save()
    failed = failures.settle({group: [info.name for info, _ in members] for group, members in groups.items()})
    for line in tell(failed):
        print(f"prepare: {line}", file=stream, flush=True)
    inputs = manifest_inputs(request, opened, digests) | {f.path: f for t in tasks.values() for f in t.files}
    digests.save()
    versions = {name for task in tasks.values() for name in task.versions} | {*_VERSIONED, "python"}
    kept = {
        group: [(info, rate) for info, rate in members if not failures.holds(info.name, group)]
        for group, members in groups.items()
    }
    return Manifest(
        mixture=request.mixture,
        tokenizer=tokenizer.digest,
        **{group: [_prepared(info, rate, done[info.name]) for info, rate in kept[group]] for group in kept},
        inputs=[inputs[path] for path in sorted(inputs)],
        versions={name: v for name in sorted(versions) if (v := installed_version(name))},
        request=dataclasses.asdict(request),
        failed=failed,
    )


def answer(asked: Path, manifest: Path, stream: TextIO) -> bool:
    """Write the manifest that a request file (itune.data.launch) asks for; or the error beside it, and return False.

    The asking process prints the error, so that it is seen once.
    """
    try:
        run(Request(**json.loads(asked.read_text())), stream).save(manifest)
    except (UserError, OSError) as error:
        asked.with_suffix(".error").write_text(" ".join(str(error).split()))
        return False
    return True


def _prepare_all(
    request: Request,
    tasks: dict[str, PreparableTask],
    wanted: dict[str, list[str]],
    progress: ProgressBar,
    failures: Failures,
) -> dict[str, dict[str, PreparedSplit]]:
    if request.runner:
        found = _beam().prepare_all(request, tasks, wanted, progress)
    else:
        found = prepare_pool.prepare_all(request, tasks, wanted, progress)
    done = {}
    for name, splits in found.items():
        if isinstance(splits, Failure):
            failures.add(splits)
        else:
            done[name] = splits
    return done


def _beam() -> Any:
    try:
        from itune.data import prepare_beam
    except ImportError as error:
        if (error.name or "").partition(".")[0] != "apache_beam":
            raise
        raise UserError("--runner needs Apache Beam, which isn't installed: pip install 'itune[beam]'") from None
    return prepare_beam


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


def resolve_groups(request: Request, failures: Failures) -> Groups:
    """{"train": [(TaskInfo, rate), ...], "held_in": ..., "held_out": ...}; no held_in means the training mixture.

    Tasks whose rate can't be worked out, for their source is dead, are left out and noted.
    """
    from itune.data import registry

    def noting(*uses: str) -> Callable[[TaskInfo, UserError], None]:
        def note(info: TaskInfo, error: UserError) -> None:
            for group in uses:
                failures.add(Failure(task=info.name, reason=str(error)), group)

        return note

    def members(names: Sequence[str], *uses: str) -> list[tuple[TaskInfo, float]]:
        found: dict[str, tuple[TaskInfo, float]] = {}
        for name in names:
            for info, rate in registry.mixture_info(name, noting(*uses)):
                found.setdefault(info.name, (info, rate))
        return list(found.values())

    train = members([request.mixture], "train", *(() if request.held_in else ("held_in",)))
    held_in = members(request.held_in, "held_in") if request.held_in else train
    held_out = members(request.held_out, "held_out")
    if request.reasoning:
        same = request.split == request.eval_split and held_in is train  # nothing is trained on
        held_in, held_out = (_reasoning(group, request.reasoning) for group in (held_in, held_out))
        train = held_in if same else train
    return {"train": train, "held_in": held_in, "held_out": held_out}


def _reasoning(group: Sequence[tuple[TaskInfo, float]], asked: str) -> list[tuple[TaskInfo, float]]:
    """The tasks that ask for a chain of thought ("on") or for the answer alone ("off") in place of those that do not.

    Told by their names: gsm8k/zs and gsm8k/zs_cot, mgsm/de and mgsm/de_direct. Raises: UserError for a task without.
    """
    from itune.data import registry

    found: dict[str, tuple[TaskInfo, float]] = {}
    for info, rate in group:
        there = [name for name in _siblings(info.name, asked) if _is_there(name)]
        if not there:
            raise UserError(f"EvalConfig.reasoning={asked!r}: there is no such task in place of {info.name!r}")
        found.setdefault(there[0], (registry.info(there[0]), rate))
    return list(found.values())


def _siblings(name: str, asked: str) -> list[str]:
    """What a task with reasoning, or without, may be called, the likeliest first."""
    if name.endswith(COT):
        return [name] if asked == "on" else [name.removesuffix(COT)]
    if name.endswith(DIRECT):
        return [name] if asked == "off" else [name.removesuffix(DIRECT)]
    if asked == "off":
        return [name + DIRECT, name]
    own = [name] if _is_there(name + DIRECT) else []  # it reasons, or there would be no other
    return [*own, name + COT, name.removesuffix("_opt") + COT]


def _is_there(name: str) -> bool:
    from itune.data import registry

    with contextlib.suppress(UserError):
        registry.get(name)
        return True
    return False


def choose_splits(
    request: Request, groups: Groups, tasks: dict[str, PreparableTask], failures: Failures
) -> dict[str, list[str]]:
    """Task name -> splits to prepare. A task that lacks one fails in that group, with the splits that it has."""
    wanted: dict[str, list[str]] = {}
    for group, members in groups.items():
        split = request.split if group == "train" else request.eval_split
        use = f"evaluated ({group})"
        if group == "train":
            use = "trained on" if request.split != request.eval_split else "evaluated"  # nothing is trained on
        for info, _ in members:
            if info.name not in tasks:
                continue
            if split not in tasks[info.name].splits:
                have = ", ".join(map(repr, tasks[info.name].splits))
                reason = f"task {info.name!r} is to be {use}, split {split!r}, but it has only {have}"
                failures.add(Failure(task=info.name, reason=reason), group)
                continue
            splits = wanted.setdefault(info.name, [])
            if split not in splits:
                splits.append(split)
    return wanted
