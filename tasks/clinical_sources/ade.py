"""The ADE corpus (Gurulingappa et al. 2012): sentences of case reports with drugs, adverse effects and doses.

    DRUG-AE.rel    10030778|Intravenous azithromycin-induced ototoxicity.|ototoxicity|43|54|azithromycin|22|34
    DRUG-DOSE.rel  10327035|...|1500 mg/m2|230|240|methotrexate|216|228
    ADE-NEG.txt    6460590 NEG Clioquinol intoxication occurring in the treatment of ...

Offsets count from the start of the article, which is not in the files, so they are checked against each other: the two
spans must stand in the sentence as far apart as they say. Sentences of one article, and those that share a passage with
another, are on one side, for all tasks alike.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator

from itune.data import normalise, read_text, split_of, text_key
from itune.errors import UserError
from tasks.clinical_sources.sides import Row, held_out, passages

FIELDS = ("sentence", "answer", "article")
# There are four sentences without an adverse effect to one with it; a quarter of them makes it one to one.
NEGATIVE_SHARE = 0.25

_NEGATIVE = re.compile(r"(\d+) NEG (.+)")


def rows(split: str, *, task: str, effects: str, doses: str, negatives: str, identity: str) -> Iterator[Row]:
    """task "effects": sentence -> {"relations": [{"drug", "adverse_effect"}, ...]}, [] in negative sentences.

    task "doses": sentence -> {"doses": [{"drug", "dose"}, ...]}, only sentences where a dose was annotated: which of
    the others have none, nobody wrote down.
    """
    found: list[tuple[str, str, str, str]] = []  # task, article, sentence, answer
    for kind, path, key, other in (
        ("effects", effects, "relations", "adverse_effect"),
        ("doses", doses, "doses", "dose"),
    ):
        for (article, sentence), pairs in _relations(path).items():
            listed = [{"drug": drug, other: text} for drug, text in pairs]
            found.append((kind, article, sentence, json.dumps({key: listed}, ensure_ascii=False)))
    found += [("effects", article, sentence, '{"relations": []}') for article, sentence in _negatives(negatives)]
    keys = [{("article", a), ("text", normalise(s)), *passages(s)} for _, a, s, _ in found]
    ids = [text_key(kind, sentence, answer) for kind, _, sentence, answer in found]
    seen = set()
    for (kind, article, sentence, answer), row_id, held in zip(
        found, ids, held_out(keys, ids, identity=identity), strict=True
    ):
        key = normalise(sentence)
        if kind == task and held == (split == "validation") and key not in seen:
            seen.add(key)
            yield {"id": row_id, "sentence": sentence, "answer": answer, "article": article}


def sentences(effects: str, doses: str, negatives: str) -> Iterator[str]:
    """Every sentence of the corpus, for those who must not share one."""
    for path in (effects, doses):
        yield from (sentence for _, sentence in _relations(path))
    yield from (sentence for _, sentence in _negatives(negatives))


def _lines(path: str) -> list[str]:
    """UTF-8 where it is that, latin-1 otherwise: copies of both kinds are about."""
    try:
        return read_text(path).split("\n")
    except UserError:
        return read_text(path, "latin-1").split("\n")


def _relations(path: str) -> dict[tuple[str, str], list[tuple[str, str]]]:
    """{(article, sentence): [(drug, the other span), ...]}, in the order of the text, without repeats."""
    found: dict[tuple[str, str], dict[tuple[str, str], tuple[int, int]]] = {}
    for number, line in enumerate(_lines(path), 1):
        if not line.strip():
            continue
        where = f"{path}:{number}"
        # From the right: a sentence may hold "|" itself.
        parts = line.rstrip("\r").rsplit("|", 6)
        article, mark, sentence = parts[0].partition("|")
        if len(parts) != 7 or not mark or not all(parts[i].isdecimal() for i in (2, 3, 5, 6)):
            raise UserError(f"{where}: expected article|sentence|text|start|end|drug|start|end")
        text, start, end, drug, drug_start, drug_end = parts[1:]
        spans = (text, int(start), int(end)), (drug, int(drug_start), int(drug_end))
        place = _place(sentence, *spans)
        if place is None:
            raise UserError(f"{where}: {text!r} at {start}-{end} and {drug!r} at {drug_start}-{drug_end} do not fit")
        found.setdefault((article, sentence), {}).setdefault((drug, text), place)
    return {key: sorted(pairs, key=lambda p: pairs[p]) for key, pairs in found.items()}


def _place(sentence: str, one: tuple[str, int, int], two: tuple[str, int, int]) -> tuple[int, int] | None:
    """Where the two spans start in the sentence, as far apart as their offsets; None where they do not."""
    (text, start, end), (drug, drug_start, drug_end) = one, two
    if end - start != len(text) or drug_end - drug_start != len(drug):
        return None
    at = sentence.find(text)
    while at >= 0:
        other = at + drug_start - start
        if other >= 0 and sentence.startswith(drug, other):
            return other, at
        at = sentence.find(text, at + 1)
    return None


def _negatives(path: str) -> Iterator[tuple[str, str]]:
    """(article, sentence) of NEGATIVE_SHARE of the lines, by a hash of the text."""
    for number, line in enumerate(_lines(path), 1):
        if line.strip():
            match = _NEGATIVE.fullmatch(line.strip())
            if match is None:
                raise UserError(f"{path}:{number}: expected 'article NEG sentence'")
            key = normalise(match[2])
            if split_of(key, identity="ade/negatives", validation_fraction=NEGATIVE_SHARE) == "validation":
                yield match[1], match[2]
