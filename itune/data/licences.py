"""What licences of data allow, and whether a build's may be trained on. Imports neither SeqIO nor TensorFlow.

The terms, the strictest last. They are read from names alone: what binds is the licence's text.

    commercial       any use, with a notice at most: CC0, CC BY, MIT, Apache, ...
    share-alike      any use; what is made from it must stay under the same licence: CC BY-SA, GPL, ...
    unknown          nothing stated, terms that vary, no derivatives, or a name that is not in the table
    non-commercial   no commercial use: CC BY-NC, "for research only", ...
"""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING

from itune.data import catalogue
from itune.data.held_out import paths
from itune.errors import UserError, nearest

if TYPE_CHECKING:
    from itune.data.lazy import Summary
    from itune.data.manifest import Request

COMMERCIAL, SHARE_ALIKE, UNKNOWN, NON_COMMERCIAL = TERMS = ("commercial", "share-alike", "unknown", "non-commercial")

# Families of licences by their names without versions, blanks and punctuation; see `_family`.
_FAMILIES: Mapping[str, str] = {
    **dict.fromkeys(("cc0", "publicdomain", "pddl", "unlicense", "ccby", "odcby", "cdlapermissive"), COMMERCIAL),
    **dict.fromkeys(("mit", "mit0", "apache", "isc", "bsd", "bsd2clause", "bsd3clause", "zlib", "ncsa"), COMMERCIAL),
    **dict.fromkeys(("afl", "ecl", "artistic", "psf", "bsl", "w3c"), COMMERCIAL),
    **dict.fromkeys(("ccbysa", "gfdl", "odbl", "odcodbl", "cdlasharing"), SHARE_ALIKE),
    **dict.fromkeys(("gpl", "lgpl", "agpl", "mpl", "epl", "eupl"), SHARE_ALIKE),
}
# The version and its like after a family's name: "4.0", "v2", "only", "or later", "International", "licence".
_ENDING = re.compile(
    r"[\s.,_-]*(?:v?\d+(?:\.\d+)*\+?|version|only|or[ -]later|licen[cs]e|international|unported|generic)$"
)
_LONG = (
    ("creative commons", "cc"),
    ("attribution", "by"),
    ("non-commercial", "nc"),
    ("noncommercial", "nc"),
    ("share-alike", "sa"),
    ("sharealike", "sa"),
    ("no-derivatives", "nd"),
    ("noderivatives", "nd"),
    ("gnu ", ""),
    ("the ", ""),
)
_FORBIDS = re.compile(r"\bnc\b|non-?commercial|\bresearch\b|academic")
# Between the licences of one text: "MIT; CC BY 4.0", "MIT and Apache-2.0", "MIT, CC0".
_BETWEEN = re.compile(r"[;,/&]|\band\b|\+(?=\s)")


def terms_of(licence: str) -> str:
    """ "CC-BY-NC-4.0" -> "non-commercial", "CC BY-SA 3.0" -> "share-alike", "MIT, CC0-1.0" -> "commercial".

    The strictest where the text names several; "unknown" for a name that the table lacks.
    """
    text = licence.casefold().strip()
    if _FORBIDS.search(text.replace("_", "-")):
        return NON_COMMERCIAL
    if found := _family(text):
        return found
    parts = [part for part in _BETWEEN.split(text) if part.strip()]
    return strictest_terms(_family(part) or UNKNOWN for part in parts or [""])


def _family(name: str) -> str | None:
    """The terms of one licence: "cc-by-sa-3.0" and "apache license, version 2.0" are known by their families."""
    for long, short in _LONG:
        name = name.replace(long, short)
    while True:
        if found := _FAMILIES.get(re.sub(r"[^a-z0-9]", "", name)):
            return found
        shorter = _ENDING.sub("", name.strip())
        if shorter == name:
            return None
        name = shorter


def strictest_terms(terms: Iterable[str]) -> str:
    """The last of `TERMS` that is among these; "commercial" for none."""
    return max(terms, key=TERMS.index, default=COMMERCIAL)


def strictest(licences: Iterable[str]) -> str:
    """The strictest terms of several licences: ["MIT", "CC-BY-NC-4.0"] -> "non-commercial". "commercial" for none."""
    return strictest_terms(map(terms_of, licences))


def is_allowed(licence: str, allowed: Sequence[str]) -> bool:
    """Whether one of `allowed` is the licence's terms, its name in any spelling, or a pattern that fits it."""
    text = licence.casefold()
    return any(
        terms_of(licence) == entry if entry in TERMS else fnmatch.fnmatchcase(text, entry.casefold())
        for entry in allowed
    )


def check_licences(request: Request) -> None:
    """UserError if the training mixture holds a task whose licence DataConfig.allowed_licences does not allow.

    The message names the path to the first such task, its licence, and what is allowed. Rates play no part.
    """
    if not request.allowed_licences:
        return
    from itune.data import registry

    _check_entries(request.allowed_licences, catalogue.known())
    faults = []
    for path, name in paths(request.mixture):
        licence = registry.info(name).licence
        if not is_allowed(licence, request.allowed_licences):
            faults.append((path, licence))
    if faults:
        path, licence = faults[0]
        more = f" ({len(faults) - 1} more like it)" if len(faults) > 1 else ""
        under = f"{licence!r} ({terms_of(licence)})"
        allowed = ", ".join(map(repr, request.allowed_licences))
        raise UserError(f"DataConfig.allowed_licences: {path} is under {under}, allowed is {allowed}{more}")


def _check_entries(allowed: Sequence[str], listed: Sequence[Summary]) -> None:
    """UserError for what is neither terms nor a licence that a task or the table has: a typo would refuse all."""
    known = sorted({summary.licence for summary in listed if summary.licence})
    for entry in allowed:
        if entry in TERMS or "*" in entry or terms_of(entry) != UNKNOWN:
            continue
        if not any(is_allowed(licence, [entry]) for licence in known):
            hint = nearest(entry, [*TERMS, *known]) or f" Terms are {', '.join(TERMS)}."
            raise UserError(f"DataConfig.allowed_licences: no task is under {entry!r}, and it is no terms.{hint}")
