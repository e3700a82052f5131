"""MedQA (Jin et al. 2021), its owner's US layout: exam questions with four or five options.

    {"question": "...", "options": {"A": "...", ..., "E": "..."}, "answer_idx": "C", ...}

Validation is the published test set; a training question that repeats one of its questions is left out.
"""

from __future__ import annotations

from collections.abc import Iterator

from itune.data import field_text, normalise, read_records, text_key
from itune.errors import UserError
from tasks.clinical_sources.sides import Row, passages, published

FIELDS = ("question", "options", "letter", "answer")


def rows(split: str, *, train: str, test: str) -> Iterator[Row]:
    """question and options (a line each, "A. ...") -> letter, answer (the option's text)."""
    sides = [
        [(row, passages(row["question"], size=30) | {normalise(row["question"])}) for row in _read(path)]
        for path in (train, test)
    ]
    yield from published(split, *sides)


def _read(path: str) -> Iterator[Row]:
    for where, record in read_records(path):
        question, letter = field_text(record, "question", where), field_text(record, "answer_idx", where)
        options = record.get("options")
        if not isinstance(options, dict) or not all(isinstance(text, str) for text in options.values()):
            raise UserError(f"{where}: 'options' must be an object of letters and texts")
        if letter not in options:
            raise UserError(f"{where}: answer_idx {letter!r} is none of the options {', '.join(options)}")
        lines = "\n".join(f"{key}. {options[key]}" for key in sorted(options))
        yield {
            "id": text_key(question, lines),
            "question": question,
            "options": lines,
            "letter": letter,
            "answer": options[letter],
        }
