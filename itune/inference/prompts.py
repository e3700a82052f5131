"""Prompts from the command line, from text and from JSON lines. Loads neither JAX nor numpy."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from itune.errors import UserError, nearest
from itune.inference.config import GREEDY, SamplingConfig

FIELDS = ("prompt", "instruction", "input")
SETTINGS = tuple(field.name for field in dataclasses.fields(SamplingConfig))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """where: "--prompt" or "prompts.txt:3", for error messages."""

    text: str
    where: str
    settings: SamplingConfig = GREEDY


def gather(texts: Sequence[str], path: str | None, settings: SamplingConfig = GREEDY) -> list[Prompt]:
    """The prompts of `texts` (--prompt, repeated) or of the file `path` (--prompts), in order.

    A file holds one prompt a line; a .jsonl file {"prompt": ...} or {"instruction": ..., "input": ...}, with
    fields of SamplingConfig where a prompt is to be continued otherwise than by `settings`; "-" is standard input, as
    text.

    Raises: UserError for both or neither, an unreadable file, a line that is no prompt, an empty prompt.
    """
    if bool(texts) == bool(path):
        given = "both --prompt and --prompts" if texts else "no prompt"
        raise UserError(f"{given}: give --prompt=TEXT (again for more), or --prompts=FILE, or --chat")
    if not path:
        found = [Prompt(text=text, where="--prompt", settings=settings) for text in texts]
    elif path == "-":
        found = _from_text(sys.stdin, "stdin", settings)
    else:
        found = _from_file(Path(path).expanduser(), settings)
    for prompt in found:
        if not prompt.text.strip():
            raise UserError(f"{prompt.where}: an empty prompt")
    if not found:
        raise UserError(f"{path}: holds no prompt")
    return found


def _from_file(path: Path, settings: SamplingConfig) -> list[Prompt]:
    try:
        with path.open(encoding="utf-8-sig", newline=None) as file:
            make = _from_records if path.suffix == ".jsonl" else _from_text
            return make(file, path.name, settings)
    except OSError as error:
        raise UserError(f"--prompts={path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None


def _from_text(lines: Iterable[str], name: str, settings: SamplingConfig) -> list[Prompt]:
    return [Prompt(text=line.rstrip("\n"), where=f"{name}:{n}", settings=settings) for n, line in enumerate(lines, 1)]


def _from_records(lines: Iterable[str], name: str, settings: SamplingConfig) -> list[Prompt]:
    return [_from_record(line, f"{name}:{n}", settings) for n, line in enumerate(lines, 1) if line.strip()]


def _from_record(line: str, where: str, settings: SamplingConfig) -> Prompt:
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(record).__name__}")
    try:
        settings = settings.updated({name: record[name] for name in SETTINGS if name in record})
    except UserError as error:
        raise UserError(f"{where}: {error}") from None
    return Prompt(text=_text_of(record, where), where=where, settings=settings)


def _text_of(record: dict[str, Any], where: str) -> str:
    """{"instruction": "Add", "input": "1, 2"} -> "Add\\n\\n1, 2", as Alpaca's rows are put in itune.data."""
    texts = {name: record[name] for name in FIELDS if record.get(name) is not None}
    for name, text in texts.items():
        if not isinstance(text, str):
            raise UserError(f"{where}: {name!r} must be text, found {type(text).__name__}")
    if "prompt" in texts:
        return texts["prompt"]
    if "instruction" in texts:
        return texts["instruction"] + ("\n\n" + texts["input"] if texts.get("input", "").strip() else "")
    hint = next((h for name in record if (h := nearest(str(name), FIELDS[:2]))), "")
    raise UserError(f"{where}: neither 'prompt' nor 'instruction' in it.{hint}")
