"""Counts over extracted fields: values by entity type, whole regimens, allergies, "not documented".

Each is a function (target, prediction) -> {name: (hits, of how many)} of one example; itune/data/clinical_metrics.py
makes metrics of them.
"""

from __future__ import annotations

import collections
import json
import re

from itune.data import metrics as metrics_lib
from itune.data.clinical_reference import text_of
from itune.data.clinical_text import dose, frequency, tidy
from itune.data.intervals import Counts
from itune.data.metrics import Target


def _pairs(text: str) -> collections.Counter[tuple[str, str]]:
    """(path, value) of JSON, "medications.dose": "5 mg"; nothing for broken JSON."""
    return collections.Counter((".".join(path), value) for path, value in metrics_lib._parse_json(text) or ())


def entity_f1(target: Target, prediction: str) -> Counts:
    """F1 of JSON values by entity type ("f1/medications.dose"): 2 * values in both / (values in target + in output).

    Case, white space and order aside; an empty list is one value, "(none)", of the list's own type. Output under keys
    that the target does not have counts as "f1/other", with nothing right. "valid_json": the output parses at all;
    broken or empty output has no values.
    """
    want, got = _pairs(text_of(target)), _pairs(prediction)
    of: collections.Counter[str] = collections.Counter()
    common: collections.Counter[str] = collections.Counter()
    types = {path for path, _ in want}
    for side in (want, got):
        for (path, _), n in side.items():
            of[path if path in types else "other"] += n
    for (path, _), n in (want & got).items():
        common[path] += 2 * n
    parsed = metrics_lib._parse_json(prediction) is not None
    return {f"f1/{path}": (common[path], n) for path, n in of.items()} | {"valid_json": (parsed, 1)}


def _entries(text: str, key: str) -> list[dict[str, str]]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return []
    entries = value.get(key) if isinstance(value, dict) else None
    if not isinstance(entries, list):
        return []
    return [{str(k): str(v) for k, v in entry.items()} for entry in entries if isinstance(entry, dict)]


def _regimens(text: str) -> collections.Counter[tuple[str, str, str]]:
    return collections.Counter(
        (tidy(e.get("name", "")), dose(e.get("dose", "")), frequency(e.get("frequency", "")))
        for e in _entries(text, "medications")
    )


def regimens(target: Target, prediction: str) -> Counts:
    """Medicines of {"medications": [{name, dose, frequency}]} with all of name, dose, unit and frequency right.

    "regimen/recall" of those in the target, "regimen/precision" of those in the output. Only spellings may differ
    ("20 milligrams" is "20 mg", "BID" is "twice daily"): 20 mg for 40 mg, or mg for mcg, is wrong. Of broken or empty
    output none is found.
    """
    want, got = _regimens(text_of(target)), _regimens(prediction)
    right = (want & got).total()
    return {"regimen/recall": (right, want.total()), "regimen/precision": (right, got.total())}


_ALLERGY_LINE = re.compile(r"\ballerg(?:y|ies)[ \t]*(?::|:?[ \t]*\n+)[ \t]*([^.\n]+)", re.IGNORECASE)
_NO_ALLERGY = re.compile(r"(?:no|none|not|nkd?a|denies|unknown)\b", re.IGNORECASE)


def _allergens(text: str) -> set[str]:
    """Of JSON {"allergies": [{"substance"}]}, or of "Allergies: x (rash), y." in text; at most four words each."""
    named = [e.get("substance", "") for e in _entries(text, "allergies")]
    if not named and not text.lstrip().startswith("{"):
        lines = [re.sub(r"\([^)]*\)", "", line) for line in _ALLERGY_LINE.findall(text)]
        named = [part for line in lines for part in re.split(r",|;| and ", line)]
    tidied = {tidy(name).strip(" .") for name in named}
    return {name for name in tidied if 0 < len(name.split()) <= 4 and not _NO_ALLERGY.match(name)}


def missed_allergies(target: Target, prediction: str) -> Counts:
    """Share of the target's allergies that the output does not list. Less is better.

    Both sides as `_allergens` finds them; "penicillin" is found in "penicillin V" and the other way round. Broken JSON
    and empty output list none.
    """
    want, got = _allergens(text_of(target)), _allergens(prediction)
    missed = [name for name in want if not any(name in other or other in name for other in got)]
    return {"missed_allergies": (len(missed), len(want))}


_NOT_DOCUMENTED = re.compile(r"\bnot (?:documented|stated|mentioned|recorded|specified)\b", re.IGNORECASE)


def not_documented(target: Target, prediction: str) -> Counts:
    """Whether the output says that something is not documented (stated, mentioned, ...) where the target does.

    "/precision" of the outputs that say it, "/recall" of the targets that say it; once an example, wherever in it.
    """
    want, got = bool(_NOT_DOCUMENTED.search(text_of(target))), bool(_NOT_DOCUMENTED.search(prediction))
    return {"not_documented/precision": (want and got, got), "not_documented/recall": (want and got, want)}
