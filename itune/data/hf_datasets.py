"""Data sets by their name on the Hugging Face hub, or a local folder in its layout, where `datasets` is installed.

    hf:org/name@revision?config=plain&split=train

`datasets` makes them into Arrow files in its cache once; those are what itune reads and digests. A name without
@revision means what its owner last put there: pin it for a run that is to be repeated.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import logging
import urllib.parse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from itune.data.arrow_files import library
from itune.errors import UserError, nearest

PREFIX = "hf:"
_OPTIONS = ("config", "split")


@dataclasses.dataclass(frozen=True, kw_only=True)
class HubName:
    """The parts of "hf:name@revision?config=...&split=..."; name: on the hub, or a local folder."""

    name: str
    revision: str | None = None
    config: str | None = None
    split: str | None = None

    @classmethod
    def parse(cls, text: str) -> HubName:
        """Raises UserError for an option that there is not, or a slice of a split, which no file holds."""
        rest, _, query = text.removeprefix(PREFIX).partition("?")
        options = dict(urllib.parse.parse_qsl(query, keep_blank_values=True))
        for option in options:
            if option not in _OPTIONS:
                raise UserError(
                    f"{text}: no option {option!r}, only {' and '.join(_OPTIONS)}.{nearest(option, _OPTIONS)}"
                )
        name, mark, revision = rest.rpartition("@")
        if not mark or "/" in revision and Path(rest).exists():
            name, revision = rest, ""
        if not name:
            raise UserError(f"{text}: names no data set; expected hf:org/name@revision?config=...&split=...")
        if "[" in options.get("split", "") or "+" in options.get("split", ""):
            raise UserError(f"{text}: split={options['split']!r} must be one whole split")
        return cls(name=name, revision=revision or None, config=options.get("config"), split=options.get("split"))


def is_hub_name(path: str | Path) -> bool:
    """Whether `path` is "hf:...", but not a URL hf://..., which fsspec reads as single files."""
    return str(path).startswith(PREFIX) and not str(path).startswith(f"{PREFIX}//")


@functools.lru_cache(maxsize=256)
def hub_files(text: str) -> tuple[Path, ...]:
    """The Arrow files of one split, in `datasets`' cache; the first call may load them from the network.

    Raises UserError, one line, where `datasets` is not installed, the hub cannot be reached, or there is no such data
    set, revision, config or split.
    """
    asked = HubName.parse(text)
    datasets = library("datasets", text)
    with _quietly(datasets), _speaking_of(text):
        found = datasets.load_dataset(asked.name, name=asked.config, revision=asked.revision)
    names = list(found)
    split = asked.split or (names[0] if len(names) == 1 else "")
    if split not in names:
        said = f"no split {split!r} here.{nearest(split, names)}" if split else "say which split, such as ?split=train."
        raise UserError(f"{text}: {said} There are {', '.join(names)}.")
    files = tuple(Path(entry["filename"]) for entry in found[split].cache_files)
    if not files:
        raise UserError(f"{text}: datasets keeps no files of it; unset datasets.config.IN_MEMORY_MAX_SIZE")
    return files


@contextlib.contextmanager
def _speaking_of(text: str) -> Iterator[None]:
    try:
        yield
    except Exception as error:  # datasets, huggingface_hub and the network have kinds of their own
        said = (str(error).splitlines() or [""])[0][:300]
        if "Generation" in type(error).__name__:
            # Reading the files themselves failed: such messages quote them. The kinds of error say enough.
            said = f"its files cannot be read ({type(error.__cause__ or error).__name__})"
        raise UserError(f"{text}: cannot be loaded: {type(error).__name__}: {said}") from error


@contextlib.contextmanager
def _quietly(datasets: Any) -> Iterator[None]:
    """No bars and no log of retries: prepare has a bar of its own, and a failure is told once."""
    bars = not datasets.utils.are_progress_bars_disabled()
    loggers = [logging.getLogger(name) for name in ("datasets", "huggingface_hub")]
    levels = [logger.level for logger in loggers]
    if bars:
        datasets.disable_progress_bars()
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        if bars:
            datasets.enable_progress_bars()
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
