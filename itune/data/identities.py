"""Which names mean the same source data set: `canonical` maps each to one; `add_alias` adds a user's own.

RTE is "super_glue/rte:1.0.2" in TFDS, "super_glue_rte" in T0, "task1344_glue_entailment_classification" in Natural
Instructions. What is held out is compared by these names. The order of data never is: it is keyed by the identity as a
task states it, so that the table can grow without a run's order changing.
"""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import re
import unicodedata
from pathlib import Path

import yaml

from itune.errors import UserError, nearest

TABLE = Path(__file__).with_name("identities.yaml")

# TFDS writes "name/config:1.2.3". FLAN's tasks are "rte_10templates", "rte_template_0to10_zero_shot" and the like.
_VERSION = re.compile(r"([:/@]v?\d+\.\d+\.\d+)+$")
_FLAN_TEMPLATES = re.compile(r"_(\d+templates?|template_\d).*$")
_NIV2_TASK = re.compile(r"task\d{3,4}")


@dataclasses.dataclass(frozen=True)
class _Table:  # no NamedTuple: fingerprints of sources that ask for `canonical` could not read its code
    names: dict[str, str]  # normalised name -> canonical name
    spelt: dict[str, str]  # normalised name -> as the table writes it, for hints
    namespaces: frozenset[str]
    suites: dict[str, tuple[str, ...]]  # normalised name -> canonical names of its data sets


def canonical(name: str) -> str:
    """The one name of a source data set, the same for all of its aliases.

    "super_glue/rte", "glue:rte", "SuperGLUE RTE" and "RTE" -> "rte". A data set that neither the table nor `add_alias`
    knows: its name in lower case without punctuation, "Ward B/notes-2" -> "wardbnotes2".
    """
    words = _words(name)
    return _find(words) or _normalised(words) or name


def is_known(name: str) -> bool:
    """Whether the table or `add_alias` knows the data set."""
    return _find(_words(name)) is not None


def known_names() -> list[str]:
    """Every name that the table and `add_alias` have, as they are written there; for hints."""
    return sorted(_table().spelt.values())


def members(suite: str) -> tuple[str, ...]:
    """The data sets of a suite ("GLUE"); () for what is none."""
    return _table().suites.get(_normalised(_words(suite)), ())


def add_alias(name: str, *aliases: str) -> None:
    """From now on, `aliases` mean the source data set `name`, which may be new or known by any of its names.

    Call it in a task module, beside the tasks. UserError where an alias means another data set already, or a suite.
    """
    table, target = _table(), canonical(name)
    spelt = {}
    for alias in (name, *aliases):
        key = _normalised(_words(alias))
        if not key:
            raise UserError(f"add_alias({name!r}): {alias!r} has no letter or digit")
        if key in table.suites or key in table.namespaces:
            raise UserError(f"add_alias({name!r}): {alias!r} stands for many data sets, it can't be an alias of one")
        if (found := _find(_words(alias))) not in (None, target):
            raise UserError(f"add_alias({name!r}): {alias!r} means {found!r} already")
        spelt[key] = alias
    for key, alias in spelt.items():
        table.names[key] = target
        table.spelt.setdefault(key, alias)


def state() -> str:
    """Changes with the table and with `add_alias`: for what rows are chosen by the names of their data sets."""
    return hashlib.sha256(repr(sorted(_table().names.items())).encode()).hexdigest()[:16]


def unknown_hint(name: str, others: list[str]) -> str:
    """What to say of a source that nothing knows: a suite's data sets, or the nearest of `others` or of known names."""
    if sets := members(name):
        return f" It is a suite; name its data sets: {', '.join(sets)}."
    return nearest(name, others) or nearest(name, known_names())


def _words(name: str) -> list[str]:
    text = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold()).strip()
    text = _FLAN_TEMPLATES.sub("", _VERSION.sub("", text))
    return re.findall(r"[^\W_]+", text)


def _normalised(words: list[str]) -> str:
    """["super", "glue"] -> "superglue"; digits stay apart, for "part 1/2" is not "part 12"."""
    joined = ""
    for word in words:
        apart = joined[-1:].isdecimal() and word[:1].isdecimal()
        joined += f"_{word}" if apart else word
    return joined


def _find(words: list[str]) -> str | None:
    """The canonical name of a known data set, looked for after ever more namespaces and suites; None if unknown."""
    table = _table()
    if found := table.names.get(_normalised(words)):
        return found
    for size in range(1, len(words)):
        head, rest = _normalised(words[:size]), words[size:]
        if head in table.namespaces and (found := _find(rest)):
            return found
        # After the data set's name, T0 and Natural Instructions say what is asked: "task199_mnli_classification".
        if head in table.suites or (size == 1 and _NIV2_TASK.fullmatch(head)):
            for end in range(len(rest), 0, -1):
                if found := _find(rest[:end]):
                    return found
    return None


@functools.cache
def _table() -> _Table:
    """The file's table, to which `add_alias` adds. UserError if a name in it leads to two data sets."""
    content = yaml.safe_load(TABLE.read_text(encoding="utf-8"))
    names: dict[str, str] = {}
    spelt: dict[str, str] = {}
    for target, aliases in content["data_sets"].items():
        for alias in (target, *aliases):
            key = _normalised(_words(alias))
            if names.setdefault(key, target) != target:
                raise UserError(f"{TABLE.name}: {alias!r} is listed under both {names[key]!r} and {target!r}")
            spelt.setdefault(key, alias)
    suites = {_normalised(_words(suite)): tuple(sets) for suite, sets in content["suites"].items()}
    namespaces = frozenset(_normalised(_words(name)) for name in content["namespaces"])
    return _Table(names, spelt, namespaces, suites)
