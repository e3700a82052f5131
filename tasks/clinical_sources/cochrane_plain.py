"""Cochrane reviews (Devaraj et al. 2021): a technical abstract and the plain-language summary, line by line.

Only the published validation pair is read (val.source, val.target); a keyed hash divides it.
"""

from __future__ import annotations

from collections.abc import Iterator

from itune.data import normalise, read_text, text_key
from itune.errors import UserError
from tasks.clinical_sources.sides import Row, divided, passages

FIELDS = ("abstract", "summary")


def rows(split: str, *, source: str, target: str, identity: str) -> Iterator[Row]:
    """abstract -> summary."""
    abstracts, summaries = (read_text(path).rstrip("\n").split("\n") for path in (source, target))
    if len(abstracts) != len(summaries):
        raise UserError(f"{source} has {len(abstracts)} lines, {target} has {len(summaries)}: they must be aligned")
    found = [
        {"id": text_key(abstract, summary), "abstract": abstract.strip(), "summary": summary.strip()}
        for abstract, summary in zip(abstracts, summaries, strict=True)
        if abstract.strip() and summary.strip()
    ]
    keys = [{normalise(r["abstract"]), *passages(r["abstract"], r["summary"])} for r in found]
    yield from divided(split, found, keys, identity=identity)
