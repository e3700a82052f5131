"""Prompts from the command line, from text and from JSON lines. Loads neither JAX nor numpy."""

from __future__ import annotations

import dataclasses
import json
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from itune.errors import UserError, nearest

FIELDS = ("prompt", "instruction", "input")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompt:
    """where: "--prompt" or "prompts.txt:3", for error messages."""

    text: str
    where: str


def gather(texts: Sequence[str], path: str | None) -> list[Prompt]:
    """The prompts of `texts` (--prompt, repeated) or of the file `path` (--prompts), in order.

    A file holds one prompt a line; a .jsonl file {"prompt": ...} or {"instruction": ..., "input": ...}; "-" is
    standard input, as text.

    Raises: UserError for both or neither, an unreadable file, a line that is no prompt, an empty prompt.
    """
    if bool(texts) == bool(path):
        given = "both --prompt and --prompts" if texts else "no prompt"
        raise UserError(f"{given}: give --prompt=TEXT (again for more), or --prompts=FILE, or --chat")
    if not path:
        found = [Prompt(text=text, where="--prompt") for text in texts]
    elif path == "-":
        found = _from_text(sys.stdin, "stdin")
    else:
        found = _from_file(Path(path).expanduser())
    for prompt in found:
        if not prompt.text.strip():
            raise UserError(f"{prompt.where}: an empty prompt")
    if not found:
        raise UserError(f"{path}: holds no prompt")
    return found


def _from_file(path: Path) -> list[Prompt]:
    try:
        with path.open(encoding="utf-8-sig", newline=None) as file:
            return _from_records(file, path.name) if path.suffix == ".jsonl" else _from_text(file, path.name)
    except OSError as error:
        raise UserError(f"--prompts={path}: {error.strerror}") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not UTF-8 text") from None


def _from_text(lines: Iterable[str], name: str) -> list[Prompt]:
    return [Prompt(text=line.rstrip("\n"), where=f"{name}:{n}") for n, line in enumerate(lines, 1)]


def _from_records(lines: Iterable[str], name: str) -> list[Prompt]:
    return [
        Prompt(text=_text_of(line, f"{name}:{n}"), where=f"{name}:{n}")
        for n, line in enumerate(lines, 1)
        if line.strip()
    ]


def _text_of(line: str, where: str) -> str:
    """{"instruction": "Add", "input": "1, 2"} -> "Add\\n\\n1, 2", as Alpaca's rows are put in itune.data."""
    try:
        record = json.loads(line)
    except ValueError as error:
        raise UserError(f"{where}: not JSON ({error})") from None
    if not isinstance(record, dict):
        raise UserError(f"{where}: expected a JSON object, found {type(record).__name__}")
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
