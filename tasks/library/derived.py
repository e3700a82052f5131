"""What some data sets' declarations need beyond paths: pure functions of a row, named there by `derive`.

Each takes a row as its owner has it and returns fields to add to it, or None where the row is to be left out.
"""

from __future__ import annotations

import re
from typing import Any

_GSM8K_ANNOTATION = re.compile(r"<<.*?>>")

_SPACE_BEFORE = re.compile(r"\s+([.,?!;:%])")
_SPLIT_CONTRACTION = re.compile(r"\s*([’'])\s*(?=(?:s|t|m|d|re|ve|ll)\b)")


def gsm8k(row: dict[str, Any]) -> dict[str, Any] | None:
    """Parts `answer` at its "####": `rationale` without the calculator's <<annotations>>, `final` without commas."""
    rationale, mark, final = row["answer"].rpartition("####")
    rationale = _GSM8K_ANNOTATION.sub("", rationale).strip()
    final = final.strip().replace(",", "")
    if not (mark and rationale and final):
        return None
    return {"rationale": rationale, "final": final}


def daily_dialog(row: dict[str, Any]) -> dict[str, Any] | None:
    """`utterances`: the turns as one would write them; the owner's have spaces before punctuation and in contractions."""
    turns = [" ".join(turn.split()) for turn in row["dialog"]]
    turns = [_SPLIT_CONTRACTION.sub(r"\1", _SPACE_BEFORE.sub(r"\1", turn)) for turn in turns if turn]
    return {"utterances": turns} if len(turns) > 1 else None
