"""A trace of some steps by JAX's profiler, for TensorBoard's profile plugin (xprof) or Perfetto."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import jax

from itune.training.config import LoggingConfig


class StepProfiler:
    """Traces the steps that LoggingConfig.profile_start and profile_steps name, into `<model_dir>/profile`."""

    def __init__(self, config: LoggingConfig, model_dir: Path, *, on: bool = True):
        self.folder = model_dir / "profile"
        self._first = config.profile_start - 1
        self._end = self._first + (config.profile_steps if on else 0)
        self._tracing = False

    def __enter__(self) -> StepProfiler:
        return self

    def __exit__(self, *error: object) -> None:
        """A run may stop amid the traced steps."""
        if self._tracing:
            self._tracing = False
            jax.profiler.stop_trace()

    @contextlib.contextmanager
    def step(self, step: int) -> Iterator[None]:
        """Around the dispatch of step `step`, counted from 0. A run that resumes amid the steps traces the rest."""
        if self._first <= step < self._end and not self._tracing:
            jax.profiler.start_trace(str(self.folder))
            self._tracing = True
        with jax.profiler.StepTraceAnnotation("train", step_num=step):
            yield

    def after(self, step: int, result: jax.Array) -> str | None:
        """Ends the trace once `result`, the last traced step's, is there; returns a line that says where it lies."""
        if not self._tracing or step + 1 < self._end:
            return None
        jax.block_until_ready(result)
        self.__exit__()
        return f"Trace of {self._end - self._first} steps: {self.folder}"
