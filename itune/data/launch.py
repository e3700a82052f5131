"""From a run's config to its manifest, without importing SeqIO: the cached one, or what a prepare process writes."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from itune.data.config import DataConfig
from itune.data.manifest import Manifest, Request
from itune.data.prepare_failures import tell
from itune.data.records import locked
from itune.errors import UserError
from itune.evaluation.config import EvalConfig


def ensure_prepared(
    data: DataConfig,
    evaluation: EvalConfig,
    model_folder: Path,
    *,
    cache: Path,
    echo: Callable[[str], None] = lambda line: print(line, file=sys.stderr, flush=True),
    workers: int = 2,
    runner: str = "",
    beam_options: Sequence[str] = (),
    retry: bool = False,
) -> Manifest:
    """The manifest of the tasks that a run trains on and evaluates; their shards are on disk when this returns.

    A cached manifest whose inputs are all unchanged is returned in well under a second. Otherwise
    `python -m itune.prepare` runs, with a progress bar if stderr is a terminal, else line by line through `echo`.

    Args:
      model_folder: a local folder in Hugging Face layout; its tokenizer makes the tokens.
      workers: processes on this machine.  runner, beam_options: Apache Beam's, to work elsewhere.
      retry: try again the tasks that the cached manifest goes on without; a run keeps to it, to resume what it began.

    Raises:
      UserError: the prepare process's one-line error.
    """
    request = Request.from_config(data, evaluation, model_folder, cache=cache)
    request = dataclasses.replace(request, workers=workers, runner=runner, beam_options=list(beam_options))
    path = request.manifest_path()
    path.parent.mkdir(parents=True, exist_ok=True)
    with locked(path, waiting=lambda: echo("waiting for another process that prepares the same data")):
        cached, reason = _cached(path)
        if cached is not None and not (retry and cached.failed):
            for line in tell(cached.failed):
                echo(line)
            return cached
        reason = reason or "some of its tasks failed the last time"
        echo(f"preparing {data.mixture!r}: {reason}")
        _run_prepare(request, path, echo)
        return Manifest.load(path)


def _cached(path: Path) -> tuple[Manifest | None, str]:
    """The manifest at `path` if it still holds, else why not."""
    if not path.exists():
        return None, "not prepared before"
    try:
        manifest = Manifest.load(path)
    except UserError as error:
        return None, str(error)
    reason = manifest.still_valid()
    if reason is not None:
        return None, reason
    refreshed = manifest.refreshed()
    if refreshed != manifest:
        refreshed.save(path)
    return refreshed, ""


def _run_prepare(request: Request, path: Path, echo: Callable[[str], None]) -> None:
    with tempfile.TemporaryDirectory(prefix="itune-prepare-") as folder:
        asked = Path(folder) / "request.json"
        asked.write_text(json.dumps(dataclasses.asdict(request)))
        command = [sys.executable, "-m", "itune.prepare", f"--request={asked}", f"--manifest={path}"]
        error_file = Path(folder) / "request.error"
        status = _stream(command, _environment(), echo)
        if status != 0:
            message = error_file.read_text() if error_file.is_file() else _describe_end(status)
            raise UserError(message)


def _stream(command: list[str], environment: dict[str, str], echo: Callable[[str], None]) -> int:
    """Run a command to its end; on a terminal it draws its own bar there, else its lines go through `echo`."""
    terminal = sys.stderr.isatty()
    with subprocess.Popen(
        command,
        env=environment,
        stdin=subprocess.DEVNULL,
        stderr=None if terminal else subprocess.STDOUT,
        stdout=None if terminal else subprocess.PIPE,
        text=True,
        errors="replace",
    ) as process:
        try:
            for line in process.stdout or ():
                echo(line.rstrip("\n"))
            return process.wait()
        except BaseException:
            process.terminate()
            raise


def _environment() -> dict[str, str]:
    """The child finds this very itune, wherever it was started from, and TensorFlow no accelerator: it would take the
    trainer's memory."""
    home = str(Path(__file__).resolve().parents[2])
    paths = [home, *filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))]
    quiet = {"CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    return os.environ | quiet | {"PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}


def _describe_end(status: int) -> str:
    if status == -9:
        return "the prepare process was killed, probably for lack of memory; run again to go on where it stopped"
    return f"the prepare process ended with status {status}; its output above says why"
