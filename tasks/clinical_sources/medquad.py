"""MedQuAD (Ben Abacha & Demner-Fushman 2019): consumer health questions with answers from NIH web pages.

Questions about one topic, and rows with the same question or answer, are on one side.
"""

from __future__ import annotations

from collections.abc import Iterator

from itune.data import field_text, normalise, read_records, text_key
from tasks.clinical_sources.sides import Row, divided

FIELDS = ("question", "answer", "topic", "kind", "publisher")
_KEYS = {"question": "question", "answer": "answer", "topic": "focus", "kind": "qtype", "publisher": "source"}


def rows(split: str, *, path: str, identity: str) -> Iterator[Row]:
    """question -> answer; topic: what it is about; kind: "symptoms", "treatment", ...; publisher: "GARD", ..."""
    found, keys = [], []
    for where, record in read_records(path):
        row = {name: " ".join(field_text(record, key, where, True).split()) for name, key in _KEYS.items()}
        row["question"] = row["question"].replace(" ?", "?")
        if row["question"] and row["answer"]:
            found.append({"id": text_key(row["question"], row["answer"]), **row})
            keys.append({(name, normalise(row[name])) for name in ("question", "answer", "topic") if row[name]})
    yield from divided(split, found, keys, identity=identity)
