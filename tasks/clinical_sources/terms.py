"""A clinical term in plain words, from the tables of the synthetic clinic: illnesses, tests and operations, medicines.

Short and few (about 300); longer explanations of real terms are MedQuAD's. All names of one thing, and all
things that are put in the same plain words, are on one side.
"""

from __future__ import annotations

from collections.abc import Iterator

from itune.data import split_of
from tasks.clinical_sources.sides import Row
from tasks.synthetic_clinic.conditions import CONDITIONS
from tasks.synthetic_clinic.drugs import DRUGS
from tasks.synthetic_clinic.procedures import PROCEDURES
from tasks.synthetic_clinic.wording import FREQUENCIES, LAY_FREQUENCIES, capitalise

IDENTITY = "itune/synthetic-clinic/terms"
FIELDS = ("term", "answer", "kind")
KINDS = ("illness", "test or operation", "medicine", "frequency of a medicine")
_VALIDATION_FRACTION = 0.2  # a tenth of so few would say little


def rows(split: str) -> Iterator[Row]:
    """term -> answer, a phrase or two in plain words; kind: one of KINDS."""
    seen = set()
    for kind, key, term, answer in _entries():
        side = split_of(f"{kind}/{key}", identity=IDENTITY, validation_fraction=_VALIDATION_FRACTION)
        row_id = f"{kind}/{term}"
        if side == split and row_id not in seen:
            seen.add(row_id)
            yield {"id": row_id, "term": term, "answer": answer, "kind": kind}


def _entries() -> Iterator[tuple[str, str, str, str]]:
    """(kind, what it is about, one of its names, in plain words)."""
    for condition in CONDITIONS.values():
        for name in condition.names.split("|"):
            if name and name.casefold() != condition.lay.casefold().removeprefix("a ").removeprefix("an "):
                # Forms of one illness share names and words: asthma and its exacerbation go together.
                yield KINDS[0], condition.group, name, f"{capitalise(condition.lay)}: {condition.about}."
    for procedure in PROCEDURES.values():
        for name in procedure.names.split("|"):
            yield KINDS[1], procedure.lay, name, f"{capitalise(procedure.lay)}."
    for drug in DRUGS.values():
        yield KINDS[2], drug.lay, drug.name, f"A medicine that {drug.lay}."
    for code, pools in FREQUENCIES.items():
        for name in {name: 0 for pool in pools for name in pool}:
            if len(name) <= 4:  # abbreviations; "two times a day" is plain already
                yield KINDS[3], code, name, f"{capitalise(LAY_FREQUENCIES[code])}."
