"""Open Assistant's conversations (Köpf et al. 2023, arXiv 2304.07327), releases 1 and 2, from the owners' files."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itune.data.readers import field_text
from itune.data.sources import Paths, oasst_task
from itune.errors import UserError

if TYPE_CHECKING:
    import seqio

# The export date tells the release, in the names of its files.
_RELEASES = {"2023-04-12": "oasst1", "2023-11-05": "oasst2"}
# In a copy of the repository: whole trees as ready for export, the best first; then the tables of the hub.
_FILES = ("*_ready.trees.jsonl.gz", "*_ready.messages.jsonl.gz")
_TABLES = {"train": "data/train-*.parquet", "validation": "data/validation-*.parquet"}

OTHER_LANGUAGE = "messages in other languages and replies below them"
POOR = "messages of lower quality and replies below them"
LOWER_RANK = "replies of a lower rank and those below them"
NOT_READY = "messages of trees that are not ready for export"


def open_assistant(
    path: Paths,
    *,
    name: str | None = None,
    languages: Sequence[str] = (),
    min_quality: float = 0.0,
    max_rank: int | None = None,
    ready_only: bool = True,
    licence: str = "Apache-2.0",
    **options: Any,
) -> seqio.Task:
    """Registers release 1 or 2 of Open Assistant's conversations, called `oasst1` or `oasst2` unless `name` says else.

    `path` is a file of trees or of messages, {split: path}, or a copy of the hub's repository, of which the trees that
    are ready for export are taken, or else the messages, or the Parquet tables with the owners' splits. All but the
    filters is as in `itune.data.oasst_task`, which gets `options` (paths="best" or "all", turns="all", "last", "each").

    A message that a filter leaves out takes all replies below it with it; log lines count them.

    Args:
      languages: codes such as "en" or "pt-BR"; "pt" takes every "pt-...". All by default.
      min_quality: of assistants' messages, the mean of their labels "quality", 0 to 1. One without such labels stays.
      max_rank: of assistants' messages: 0 takes the best of several replies only. One without a rank stays.
      ready_only: leave out trees that are in another state than "ready_for_export".

    Raises:
      UserError: no such file, a folder without any of these, or a label that is no number.
    """
    if not 0.0 <= min_quality <= 1.0:
        raise UserError(f"{path}: min_quality={min_quality} must be in [0, 1]")
    if isinstance(languages, str):
        raise UserError(f"{path}: languages={languages!r} must be a tuple of codes, ({languages!r},)")
    if not isinstance(path, Mapping) and Path(path).expanduser().is_dir():
        path = _in_folder(Path(path).expanduser())
    drop = functools.partial(
        _drop, languages=tuple(languages), min_quality=min_quality, max_rank=max_rank, ready_only=ready_only
    )
    name = name or _release(str(path))
    identity = options.pop("identity", _release(str(path)))
    return oasst_task(name, path, licence=licence, drop=drop, identity=identity, **options)


def _in_folder(folder: Path) -> Paths:
    for pattern in _FILES:
        found = sorted(folder.glob(pattern))
        if len(found) > 1:
            raise UserError(f"{folder}: holds {found[0].name} and {found[1].name}; name one")
        if found:
            return found[0]
    tables = {split: folder / pattern for split, pattern in _TABLES.items() if any(folder.glob(pattern))}
    if not tables:
        raise UserError(f"{folder}: holds neither {' nor '.join(_FILES)} nor {_TABLES['train']}")
    return tables


def _release(path: str) -> str:
    """ "oasst2/2023-11-05_oasst2_ready.trees.jsonl.gz" -> "oasst2"; "oasst" where the name does not tell."""
    for mark, release in _RELEASES.items():
        if mark in path or release in path:
            return release
    return "oasst"


def _drop(
    where: str,
    message: Mapping[str, Any],
    *,
    languages: Sequence[str],
    min_quality: float,
    max_rank: int | None,
    ready_only: bool,
) -> str:
    state = message.get("tree_state")
    if ready_only and state not in (None, "ready_for_export"):
        return NOT_READY
    if languages:
        language = field_text(message, "lang", where)
        if language not in languages and language.partition("-")[0] not in languages:
            return OTHER_LANGUAGE
    if message.get("role") != "assistant":
        return ""
    if max_rank is not None and (rank := message.get("rank")) is not None and not math.isnan(rank) and rank > max_rank:
        return LOWER_RANK
    if min_quality:
        quality = _quality(message, where)
        if quality is not None and quality < min_quality:
            return POOR
    return ""


def _quality(message: Mapping[str, Any], where: str) -> float | None:
    """Of {"quality": {"value": 0.7, "count": 3}} in JSON; of {"name": ["quality"], "value": [0.7]} in the tables."""
    labels = message.get("labels") or {}
    try:
        if "name" in labels:
            value = dict(zip(labels["name"], labels["value"], strict=True)).get("quality")
        else:
            value = labels["quality"]["value"] if "quality" in labels else None
        return None if value is None else float(value)
    except (TypeError, ValueError, KeyError):
        raise UserError(f"{where}: 'labels' has no number for 'quality'") from None
