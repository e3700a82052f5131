"""What prepare made, in a form that the trainer reads and rechecks in milliseconds, without SeqIO.

Files at URLs are looked up where they lie, by checksum or generation.
"""

from __future__ import annotations

import concurrent.futures
import dataclasses
import hashlib
import importlib.metadata
import json
import os
import platform
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from itune.data import remote
from itune.data.config import DataConfig
from itune.data.identities import TABLE
from itune.data.readers import find_files
from itune.data.records import COMPLETED, INDEX, file_sha256, write_atomic
from itune.errors import UserError
from itune.evaluation.config import EvalConfig

MANIFEST_FORMAT = 1
_PATTERN = "pattern:"
_LOOKUPS = 16  # at a time, of files at URLs: each is a round trip


@dataclasses.dataclass(frozen=True, kw_only=True)
class InputFile:
    """A file that the manifest depends on; or, its path ending in "/", which names a directory holds; or, its path
    beginning with "pattern:", which files a pattern or a folder of data stands for.

    A file at a URL has mtime_ns 0 and the sha256 of what `remote.version` says of it.
    """

    path: str
    size: int
    mtime_ns: int
    sha256: str

    @property
    def is_pattern(self) -> bool:
        return self.path.startswith(_PATTERN)

    @property
    def is_remote(self) -> bool:
        return remote.is_remote(self.path.removeprefix(_PATTERN))


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedSplit:
    """One split of one task on disk: examples * variants records. skipped: bad examples left out, within the limit."""

    dir: str
    fingerprint: str
    examples: int
    variants: int
    skipped: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class PreparedTask:
    """A task as the schedule and the report know it. rate: relative, as the mixture gives it."""

    name: str
    cluster: str
    licence: str
    identity: str
    sensitive: bool
    overlong: str
    truncate_side: str
    rate: float
    metrics: list[str]
    splits: dict[str, PreparedSplit]


@dataclasses.dataclass(frozen=True, kw_only=True)
class FailedTask:
    """A task that the run goes on without. groups: where it would have stood, "train", "held_in" or "held_out"."""

    name: str
    groups: list[str]
    reason: str


# Fields of a Request that say how the work is done, not what comes out.
_HOW = ("workers", "runner", "beam_options")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Request:
    """What prepare is asked for. `directory`: where `modules` are looked up, first. runner: Beam's, "" for none."""

    mixture: str
    modules: list[str]
    split: str
    held_in: list[str]
    held_out: list[str]
    eval_split: str
    model_folder: str
    prompt_format: str
    variants: int
    prepare_seed: int
    feature_lengths: dict[str, int]
    cache: str
    directory: str
    max_bad_records: int
    on_failed_source: str = "stop"
    held_out_clusters: list[str] = dataclasses.field(default_factory=list)
    held_out_sources: list[str] = dataclasses.field(default_factory=list)
    allowed_licences: list[str] = dataclasses.field(default_factory=list)
    shots: int = -1
    reasoning: str = ""
    workers: int = 2
    runner: str = ""
    beam_options: list[str] = dataclasses.field(default_factory=list)

    @classmethod
    def from_config(cls, data: DataConfig, evaluation: EvalConfig, model_folder: Path, *, cache: Path) -> Request:
        return cls(
            mixture=data.mixture,
            modules=list(data.modules),
            split=data.split,
            held_in=list(evaluation.held_in),
            held_out=list(evaluation.held_out),
            eval_split=evaluation.split,
            model_folder=str(Path(model_folder).resolve()),
            prompt_format=data.prompt_format,
            variants=data.variants,
            prepare_seed=data.prepare_seed,
            feature_lengths=dict(sorted(data.feature_lengths.items())),
            cache=str(Path(cache).resolve()),
            directory=os.getcwd(),
            max_bad_records=data.max_bad_records,
            on_failed_source=data.on_failed_source,
            held_out_clusters=list(evaluation.held_out_clusters),
            held_out_sources=list(evaluation.held_out_sources),
            allowed_licences=list(data.allowed_licences),
            shots=evaluation.shots,
            reasoning=evaluation.reasoning,
        )

    def manifest_path(self) -> Path:
        """<cache>/manifests/<digest of the request, of ITUNE_DATA_DIR and of the table of data sets' names>.json"""
        fields = {name: value for name, value in dataclasses.asdict(self).items() if name not in _HOW}
        # With a new table of names, what is held out must be looked for anew.
        asked = json.dumps([fields, os.environ.get("ITUNE_DATA_DIR", ""), file_sha256(TABLE)], sort_keys=True)
        return Path(self.cache) / "manifests" / f"{hashlib.sha256(asked.encode()).hexdigest()[:32]}.json"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Manifest:
    """A prepared mixture: tasks to train on and to evaluate, and everything that they were made from.

    tokenizer: its digest.  versions: "python" and distributions.  request: the fields of the Request that it answers.
    failed: tasks that the run asked for and goes on without (DataConfig.on_failed_source="skip").
    """

    mixture: str
    tokenizer: str
    train: list[PreparedTask]
    held_in: list[PreparedTask]
    held_out: list[PreparedTask]
    inputs: list[InputFile]
    versions: dict[str, str]
    request: dict[str, Any]
    failed: list[FailedTask] = dataclasses.field(default_factory=list)

    @property
    def sensitive(self) -> bool:
        """Whether any task in it holds protected data."""
        return any(task.sensitive for task in self.tasks())

    def tasks(self) -> list[PreparedTask]:
        return [*self.train, *self.held_in, *self.held_out]

    def save(self, path: Path) -> None:
        path = Path(path)
        path.parent.mkdir(parents=True, exist_ok=True)
        fields = {"format": MANIFEST_FORMAT} | dataclasses.asdict(self)
        write_atomic(path, json.dumps(fields, indent=1).encode(), private=self.sensitive)

    @classmethod
    def load(cls, path: Path) -> Manifest:
        """Raises UserError naming the file if it can't be read or has another format."""
        try:
            fields = json.loads(Path(path).read_text())
            if fields.pop("format", None) != MANIFEST_FORMAT:
                raise ValueError("another format")
            for group in ("train", "held_in", "held_out"):
                fields[group] = [_prepared_task(task) for task in fields[group]]
            fields["inputs"] = [InputFile(**entry) for entry in fields["inputs"]]
            fields["failed"] = [FailedTask(**entry) for entry in fields.get("failed", [])]
            return cls(**fields)
        except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
            raise UserError(f"{path}: not a manifest of this version of itune ({error})") from error

    def still_valid(self) -> str | None:
        """None if everything that the manifest was made from is unchanged, else the first reason why not.

        Files are compared by size and time of change, and by content only where the time differs. UserError where one
        lies at a URL that cannot be reached: whether it has changed is then not known.
        """
        for entry in self.inputs:
            if not entry.is_remote and (reason := _changed(entry)):
                return reason
        if reason := _first_changed_afar([entry for entry in self.inputs if entry.is_remote]):
            return reason
        for name, version in self.versions.items():
            if (now := installed_version(name)) != version:
                return f"{name} is version {now}, it was {version}"
        for task in self.tasks():
            for split in task.splits.values():
                if not all((Path(split.dir) / name).is_file() for name in (COMPLETED, INDEX)):
                    return f"{split.dir} is gone or not complete"
        return None

    def refreshed(self) -> Manifest:
        """A valid manifest with today's times of change, so that a touched file is not read at every start."""
        inputs = [
            e if e.is_pattern or e.is_remote else dataclasses.replace(e, mtime_ns=os.stat(e.path).st_mtime_ns)
            for e in self.inputs
        ]
        return dataclasses.replace(self, inputs=inputs)


def _prepared_task(fields: dict[str, Any]) -> PreparedTask:
    splits = {name: PreparedSplit(**split) for name, split in fields["splits"].items()}
    return PreparedTask(**{**fields, "splits": splits})


def _first_changed_afar(entries: list[InputFile]) -> str | None:
    if not entries:
        return None
    try:
        with concurrent.futures.ThreadPoolExecutor(_LOOKUPS) as pool:
            return next(filter(None, pool.map(_changed_afar, entries)), None)
    except UserError as error:
        raise UserError(f"{error}; so it is not known whether the data has changed since it was prepared") from None


def _changed_afar(entry: InputFile) -> str | None:
    if entry.is_pattern:
        pattern = entry.path.removeprefix(_PATTERN)
        same = _listing(pattern, remote.find(pattern)) == entry
        return None if same else f"{pattern} stands for other files now"
    try:
        return None if remote_file(entry.path) == entry else f"{entry.path} has changed"
    except FileNotFoundError:
        return f"{entry.path} is gone"


def _changed(entry: InputFile) -> str | None:
    if entry.is_pattern:
        pattern = entry.path.removeprefix(_PATTERN)
        try:
            same = list_pattern(pattern) == entry
        except UserError:
            same = False
        return None if same else f"{pattern} stands for other files now"
    try:
        stat = os.stat(entry.path)
        if entry.path.endswith("/"):
            if stat.st_mtime_ns == entry.mtime_ns or list_directory(Path(entry.path)).sha256 == entry.sha256:
                return None
            return f"files were added to or taken from {entry.path}"
        if (stat.st_size, stat.st_mtime_ns) == (entry.size, entry.mtime_ns):
            return None
        if stat.st_size == entry.size and file_sha256(Path(entry.path)) == entry.sha256:
            return None
        return f"{entry.path} has changed"
    except OSError:
        return f"{entry.path} is gone"


def list_directory(path: Path) -> InputFile:
    """Which files and folders a directory names, caches and hidden ones left out."""
    names = sorted(e.name for e in os.scandir(path) if not e.name.startswith((".", "__pycache__")))
    digest = hashlib.sha256("\0".join(names).encode()).hexdigest()
    return InputFile(path=f"{str(path).rstrip('/')}/", size=len(names), mtime_ns=path.stat().st_mtime_ns, sha256=digest)


def list_pattern(path: str | Path) -> InputFile:
    """Which files a pattern, a folder of data or a name without its .gz stands for; UserError where there are none."""
    place = remote.url_of(path) if remote.is_remote(path) else str(Path(path).expanduser().absolute())
    return _listing(place, find_files(place))


def _listing(place: str, files: Sequence[Path | str]) -> InputFile:
    digest = hashlib.sha256("\0".join(map(str, files)).encode()).hexdigest()
    return InputFile(path=_PATTERN + place, size=len(files), mtime_ns=0, sha256=digest)


def remote_file(url: str) -> InputFile:
    """A file at a URL, by what tells its content apart. Raises FileNotFoundError, or UserError (`remote.version`)."""
    size, version = remote.version(url)
    return InputFile(path=url, size=size, mtime_ns=0, sha256=hashlib.sha256(f"{size} {version}".encode()).hexdigest())


def installed_version(name: str) -> str | None:
    """A distribution's version ("python": the interpreter's), or None if it isn't installed."""
    if name == "python":
        return platform.python_version()
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


class DigestCache:
    """sha256 of files, remembered by (size, time of change), so that gigabytes are read once."""

    def __init__(self, path: Path):
        self._path = path
        self._dirty = False
        try:
            loaded = json.loads(path.read_text())
            self._known: dict[str, list[Any]] = loaded if isinstance(loaded, dict) else {}
        except (OSError, ValueError):
            self._known = {}

    def digest(self, path: str | Path) -> InputFile:
        """Raises OSError if the file can't be read. One at a URL is asked for its checksum, see `remote_file`."""
        if remote.is_remote(path):
            return remote_file(remote.url_of(path))
        key = os.path.abspath(path)
        stat = os.stat(key)
        known = self._known.get(key)
        if known is None or known[:2] != [stat.st_size, stat.st_mtime_ns]:
            known = [stat.st_size, stat.st_mtime_ns, file_sha256(Path(key))]
            # A file written this instant may be written again within the clock's tick: remember only settled ones.
            if time.time_ns() - stat.st_mtime_ns > 2 * 10**9:
                self._known[key] = known
                self._dirty = True
        return InputFile(path=key, size=known[0], mtime_ns=known[1], sha256=known[2])

    def digests(self, paths: Iterable[str | Path]) -> list[InputFile]:
        return [self.digest(path) for path in paths]

    def save(self) -> None:
        if self._dirty:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(self._path, json.dumps(self._known, sort_keys=True).encode(), private=True)
            self._dirty = False
