"""Medical Abstracts (Schopf et al. 2022): abstracts by the class of condition. Class ids need the label file.

Only the published test file is read. Abstracts with two classes in the file are left out (their rows contradict each
other), and so are those that quote a sentence of the ADE corpus, whose split is another.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence

from itune.data import field_text, normalise, read_records, text_key
from itune.errors import UserError
from tasks.clinical_sources import ade
from tasks.clinical_sources.sides import Row, divided, passages

FIELDS = ("abstract", "condition", "conditions")
log = logging.getLogger(__name__)


def rows(split: str, *, path: str, labels: str, identity: str, ade_files: Sequence[str] = ()) -> Iterator[Row]:
    """abstract -> condition, one of `conditions`."""
    names = {}
    for where, record in read_records(labels):
        names[field_text(record, "condition_label", where)] = field_text(record, "condition_name", where)
    classes: dict[str, set[str]] = {}
    texts: dict[str, str] = {}
    for where, record in read_records(path):
        label, abstract = field_text(record, "condition_label", where), field_text(record, "medical_abstract", where)
        if label not in names:
            raise UserError(f"{where}: class {label!r} is not in {labels}")
        classes.setdefault(normalise(abstract), set()).add(label)
        texts.setdefault(normalise(abstract), abstract.strip())
    elsewhere = {key for sentence in ade.sentences(*ade_files) for key in passages(sentence)} if ade_files else set()
    found, keys = [], []
    for key, abstract in texts.items():
        shared = passages(abstract)
        if len(classes[key]) > 1 or not elsewhere.isdisjoint(shared):
            continue
        found.append(
            {
                "id": text_key(abstract),
                "abstract": abstract,
                "condition": names[min(classes[key])],
                "conditions": ", ".join(names.values()),
            }
        )
        keys.append({key, *shared})
    if len(found) < len(texts):
        log.info("%s: %d of %d abstracts left out", path, len(texts) - len(found), len(texts))
    yield from divided(split, found, keys, identity=identity)
