"""Asks a process of its own for tasks' metrics, so that this one never imports SeqIO or TensorFlow.

    handle = start(modules, tasks_payload, model_dir)  # returns at once: the accelerator can go on working
    answer = handle.finish()                           # waits; UserError with the worker's last line if it failed

tasks_payload = {task: {"targets": [str], "predictions": {state: [str] | None}, "examples": [{feature: value}]?}}
answer = {"tasks": {task: {"metrics": {state: {name: value}}, "per_example": {state: {name: [value]}}}},
          "errors": {task: [line]}, "notes": {task: [line]}}
"""

from __future__ import annotations

import dataclasses
import json
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import itune
from itune.errors import UserError

WORKER = "itune.evaluation.metric_worker"


@dataclasses.dataclass(kw_only=True)
class MetricsHandle:
    """A running worker and its folder, which is deleted once the answer is read: it may hold sensitive text."""

    process: subprocess.Popen[bytes]
    folder: Path

    def done(self) -> bool:
        """True once `finish` would return at once."""
        return self.process.poll() is not None

    def finish(self, timeout: float | None = None) -> dict[str, Any]:
        """Waits `timeout` seconds at most (None: as long as it takes) for the answer. UserError if that fails."""
        try:
            code = self.process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.cancel()
            raise UserError(f"task metrics: no answer in {timeout:g} s; the metric process was stopped") from None
        try:
            if code:
                raise UserError(f"task metrics: {self._last_line(code)}")
            answer: dict[str, Any] = json.loads((self.folder / "out.json").read_text(encoding="utf-8"))
            return answer
        finally:
            shutil.rmtree(self.folder, ignore_errors=True)

    def cancel(self) -> None:
        """Stops the worker and deletes its folder."""
        self.process.kill()
        self.process.wait()
        shutil.rmtree(self.folder, ignore_errors=True)

    def _last_line(self, code: int) -> str:
        if code < 0:
            return f"the metric process was ended by signal {-code}" + (" (out of memory?)" if code == -9 else "")
        log = (self.folder / "log.txt").read_text(encoding="utf-8", errors="replace")
        lines = [line.strip() for line in log.splitlines() if line.strip()]
        return lines[-1] if lines else f"the metric process exited with status {code} and said nothing"


def start(modules: Sequence[str], tasks_payload: Mapping[str, Any], workdir: Path) -> MetricsHandle:
    """Starts the worker and returns at once. Its files lie in a private folder (0700) of `workdir` until `finish`."""
    workdir.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".metrics-", dir=workdir))
    request = folder / "request.json"
    request.write_text(json.dumps({"modules": list(modules), "tasks": dict(tasks_payload)}), encoding="utf-8")
    # The worker must find itune where this process found it, and leave the accelerator alone.
    root = str(Path(itune.__file__).resolve().parent.parent)
    path = os.pathsep.join(p for p in (os.environ.get("PYTHONPATH", ""), root) if p)
    quiet = {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONPATH": path}
    command = [sys.executable, "-m", WORKER, f"--request={request}", f"--out={folder / 'out.json'}"]
    with (folder / "log.txt").open("wb") as log:
        process = subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env={**os.environ, **quiet}
        )
    return MetricsHandle(process=process, folder=folder)


def compute_metrics(modules: Sequence[str], tasks_payload: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """`start` and `finish` in one."""
    return start(modules, tasks_payload, workdir).finish()
