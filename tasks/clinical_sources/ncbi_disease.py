"""The NCBI disease corpus (Dogan et al. 2014): sentences of abstracts with every mention of a disease, as IOB tags.

Validation is the published development set; a training sentence that shares a passage with it is left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence

from itune.data import normalise, read_text, text_key
from itune.errors import UserError
from tasks.clinical_sources.sides import Row, passages, published

FIELDS = ("sentence", "answer")
TAGS = ("O", "B-Disease", "I-Disease")

_NO_SPACE_BEFORE = re.compile(r"[.,;:!?%)\]}/'-]")
_NO_SPACE_AFTER = re.compile(r"[(\[{/'-]")


def rows(split: str, *, train: str, test: str) -> Iterator[Row]:
    """sentence -> {"diseases": [mention, ...]}: as written, in order, each once; [] where there is none."""
    sides = [
        [(row, passages(row["sentence"]) | {normalise(row["sentence"])}) for row in _read(p)] for p in (train, test)
    ]
    yield from published(split, *sides)


def _read(path: str) -> Iterator[Row]:
    tokens: list[str] = []
    tags: list[str] = []
    for number, line in enumerate([*read_text(path).split("\n"), ""], 1):
        if not line.strip():
            if tokens:
                yield _row(tokens, tags)
            tokens, tags = [], []
            continue
        token, tab, tag = line.rstrip("\r").partition("\t")
        if not tab or tag not in TAGS:
            raise UserError(f"{path}:{number}: expected a token, a tab and one of {', '.join(TAGS)}")
        if tag == "I-Disease" and (not tags or tags[-1] == "O"):
            raise UserError(f"{path}:{number}: I-Disease without a B-Disease before it")
        tokens.append(token)
        tags.append(tag)


def _row(tokens: Sequence[str], tags: Sequence[str]) -> Row:
    sentence, starts = joined(tokens)
    mentions: list[list[int]] = []
    for start, token, tag in zip(starts, tokens, tags, strict=True):
        if tag == "B-Disease":
            mentions.append([start, start + len(token)])
        elif tag == "I-Disease":
            mentions[-1][1] = start + len(token)
    named = list(dict.fromkeys(sentence[a:b] for a, b in mentions))
    return {
        "id": text_key(*tokens),
        "sentence": sentence,
        "answer": json.dumps({"diseases": named}, ensure_ascii=False),
    }


def joined(tokens: Sequence[str]) -> tuple[str, list[int]]:
    """["(", "APC", ")", "tumour", "-", "x", "."] -> ("(APC) tumour-x.", [0, 1, 4, 6, 12, 13, 14]).

    The corpus has tokens alone; blanks around brackets, hyphens and punctuation are taken out again.
    """
    text, starts = "", []
    for index, token in enumerate(tokens):
        if index and not _NO_SPACE_BEFORE.fullmatch(token) and not _NO_SPACE_AFTER.fullmatch(tokens[index - 1]):
            text += " "
        starts.append(len(text))
        text += token
    return text, starts
