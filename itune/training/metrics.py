"""metrics.jsonl, TensorBoard, Weights & Biases and the progress bar."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from itune.errors import UserError
from itune.training.config import LoggingConfig

# A thousand tasks' scalars take TensorBoard 40 ms a line: of what is kept by task, the loss and the epochs are shown.
ONLY_IN_FILE = ("task_tokens", "task_tokens_total")


def cut_back(path: Path, step: int, *, over: bool = False) -> list[dict[str, Any]]:
    """Drops the lines of metrics.jsonl past `step`, which a resumed run makes again. A torn last line goes too.

    over: the run has no step left, and makes its last evaluation again, too.
    Returns: the lines that stay.
    """
    if not path.is_file():
        return []
    kept, records = [], []
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
            if record["step"] <= step and not (over and record.get("last")):
                kept.append(line)
                records.append(record)
        except (ValueError, KeyError):
            continue  # the process was killed while it wrote this line
    temporary = path.with_suffix(".tmp")
    temporary.touch()
    shutil.copymode(path, temporary)
    temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
    os.replace(temporary, path)
    return records


class MetricsWriter:
    """Appends one JSON object a line; mirrors scalars to TensorBoard and, if asked for, to Weights & Biases."""

    def __init__(
        self,
        model_dir: Path,
        config: LoggingConfig,
        *,
        sensitive: bool,
        allow_remote: bool = False,
        run_config: dict | None = None,
    ):
        self._wandb = (
            _start_wandb(config, model_dir, sensitive, allow_remote, run_config) if config.wandb_project else None
        )
        # Of a step that isn't finite it names the examples, and an id can be a patient's.
        mode = 0o600 if sensitive else 0o666
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        self._file = os.fdopen(os.open(model_dir / "metrics.jsonl", flags, mode), "a", encoding="utf-8")
        self._events = None
        if config.tensorboard:
            from tensorboardX import SummaryWriter

            self._events = SummaryWriter(str(model_dir))

    def write(self, record: dict[str, Any]) -> None:
        self._file.write(json.dumps(record) + "\n")
        self._file.flush()
        scalars = dict(_scalars(record))
        if self._events:
            for name, value in scalars.items():
                self._events.add_scalar(name, value, record["step"])
        if self._wandb:
            self._wandb.log(scalars, step=record["step"])

    def close(self) -> None:
        self._file.close()
        if self._events:
            self._events.close()
        if self._wandb:
            self._wandb.finish()


class NoMetrics:
    """Of a process that isn't the first."""

    def write(self, record: dict[str, Any]) -> None:
        pass

    def close(self) -> None:
        pass


def _scalars(record: dict, prefix: str = ""):
    for key, value in record.items():
        if key in ONLY_IN_FILE:
            continue
        name = f"{prefix}{key}"
        if isinstance(value, dict):
            yield from _scalars(value, name + "/")
        elif isinstance(value, (int, float)) and not isinstance(value, bool) and key != "step":
            yield name, value


def _start_wandb(config: LoggingConfig, model_dir: Path, sensitive: bool, allow_remote: bool, run_config: dict | None):
    if sensitive and not allow_remote:
        raise UserError(
            "LoggingConfig.wandb_project: the mixture holds a sensitive task; its metrics leave this machine only "
            "with --allow_remote_tracker"
        )
    try:
        import wandb
    except ImportError:
        raise UserError(
            "LoggingConfig.wandb_project is set but wandb is not installed: pip install 'itune[wandb]'"
        ) from None
    # Kept beside the metrics: a resumed run goes on in its own page, and another folder of that name has another.
    known = model_dir / "wandb_run_id"
    if not known.exists():
        known.write_text(secrets.token_hex(8))
    identity = {"id": known.read_text().strip(), "name": model_dir.name}
    return wandb.init(project=config.wandb_project, dir=str(model_dir), config=run_config, resume="allow", **identity)


class SharedConsole(Console):
    """A console with one display for all bars on it: a terminal's last lines take no second one."""

    progress: Progress | None = None


def progress_bar(console: Console) -> contextlib.AbstractContextManager[Progress]:
    """step, loss, real and supervised tokens a second, time left; on a console that shows bars already, among these."""
    shown = console.progress if isinstance(console, SharedConsole) else None
    return new_progress(console) if shown is None else _lines_of(shown)


def new_progress(console: Console, *, memory: float = 30.0) -> Progress:
    """memory: seconds of the past that the time left is estimated from."""
    columns = [
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[status]}"),
        TimeRemainingColumn(),
    ]
    return Progress(*columns, console=console, transient=False, speed_estimate_period=memory)


@contextlib.contextmanager
def _lines_of(progress: Progress) -> Iterator[Progress]:
    """Takes away again what was added."""
    before = set(progress.task_ids)
    try:
        yield progress
    finally:
        for task in set(progress.task_ids) - before:
            progress.remove_task(task)
