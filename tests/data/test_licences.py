"""Licences: their terms, the strictest, and that a mixture with one that is not allowed is not prepared."""

from __future__ import annotations

from typing import Any

import pytest

from itune.data import strictest, terms_of
from itune.data.config import DataConfig
from itune.data.licences import TERMS, is_allowed
from itune.errors import UserError
from itune.weights.card import _licences
from tests.data.toy import Toy

NAMES = {
    "commercial": [
        "CC0-1.0", "Public Domain", "CC BY 4.0", "cc-by-3.0", "Creative Commons Attribution 4.0 International", "MIT",
        "MIT License", "Apache-2.0", "Apache License, Version 2.0", "BSD-3-Clause", "ODC-BY", "MIT, CC0-1.0",
    ],
    "share-alike": [
        "CC-BY-SA-3.0", "CC BY-SA 4.0", "Creative Commons Attribution-ShareAlike 3.0 Unported", "GPL-3.0-or-later",
        "LGPL v2.1", "MIT and GPL-3.0", "ODbL 1.0",
    ],
    "unknown": [
        "", " ", "unknown", "other", "various", "cc", "CC BY-ND 4.0", "openrail", "Community licence",
        "GPL-3.0 repository; the sources' terms vary", "unknown: each source data set has its own", "MIT, house rules",
    ],
    "non-commercial": [
        "CC-BY-NC-4.0", "CC BY-NC-SA 4.0", "cc_by_nc_4.0", "for research use only", "MIT; CC-BY-NC-4.0",
        "Creative Commons Attribution-NonCommercial 4.0", "non-commercial", "academic use",
    ],
}  # fmt: skip


@pytest.mark.parametrize(("terms", "name"), [(terms, name) for terms, names in NAMES.items() for name in names])
def test_terms_are_read_from_names(terms: str, name: str) -> None:
    assert terms_of(name) == terms


def test_the_strictest_terms() -> None:
    assert strictest([]) == strictest(["MIT", "CC BY 4.0"]) == "commercial"
    assert strictest(["MIT", "CC-BY-SA-3.0"]) == "share-alike"
    assert strictest(["MIT", "", "CC-BY-SA-3.0"]) == "unknown"
    assert strictest(["MIT", "", "CC-BY-NC-4.0"]) == "non-commercial"
    assert list(TERMS) == list(NAMES)


@pytest.mark.parametrize(
    ("allowed", "licence", "expected"),
    [
        (["commercial"], "CC BY 4.0", True),
        (["commercial"], "CC-BY-SA-3.0", False),
        (["commercial", "share-alike"], "CC-BY-SA-3.0", True),
        (["commercial"], "unknown", False),
        (["MIT"], "mit", True),
        (["CC-BY-*"], "CC-BY-NC-4.0", True),
        (["non-commercial"], "MIT", False),
    ],
)
def test_what_is_allowed(allowed: list[str], licence: str, expected: bool) -> None:
    assert is_allowed(licence, allowed) is expected


TASKS = """
    from itune.data import RowSource, Template, add_mixture, add_task

    def rows(split):
        raise AssertionError("rows were read")

    for name, licence in (("free", "MIT"), ("shared", "CC-BY-SA-3.0"), ("bound", "CC-BY-NC-4.0"), ("vague", "unknown")):
        add_task(name, source=RowSource(rows, fields=("q", "a")), templates=(Template("t", "{q}", "{a}"),),
                 cluster=name, identity=name, licence=licence)
    add_mixture("inner", ["shared", ("bound", 0.001)])
    add_mixture("outer", ["free", "inner"])
"""


@pytest.mark.parametrize(
    ("allowed", "message"),
    [
        (
            ("commercial",),
            "DataConfig.allowed_licences: mixture 'outer' > 'inner' > task 'shared' is under 'CC-BY-SA-3.0' "
            "(share-alike), allowed is 'commercial' (1 more like it)",
        ),
        (
            ("commercial", "CC-BY-SA-*"),
            "DataConfig.allowed_licences: mixture 'outer' > 'inner' > task 'bound' is under 'CC-BY-NC-4.0' "
            "(non-commercial), allowed is 'commercial', 'CC-BY-SA-*'",
        ),
        (
            ("comercial",),
            "DataConfig.allowed_licences: no task is under 'comercial', and it is no terms. Did you mean 'commercial'?",
        ),
    ],
)
def test_a_mixture_with_another_licence_is_not_prepared(toy: Toy, allowed: tuple[str, ...], message: str) -> None:
    toy.write(TASKS)
    with pytest.raises(UserError) as error:
        toy.prepare(mixture="outer", allowed_licences=allowed)
    assert str(error.value) == message
    assert not list((toy.folder / "cache" / "prepared").glob("*-*"))  # no task's folder


def test_what_is_allowed_is_prepared_and_evaluation_is_not_asked(toy: Toy) -> None:
    toy.write(TASKS.replace('raise AssertionError("rows were read")', 'return [{"id": "1", "q": "2+2?", "a": "4"}]'))
    manifest = toy.prepare(mixture="free", held_out=("bound",), allowed_licences=("commercial",))
    assert [task.name for task in manifest.train] == ["free"]
    assert toy.prepare(mixture="outer", allowed_licences=("MIT", "CC-BY-*")).mixture == "outer"
    assert toy.prepare(mixture="vague").mixture == "vague"


def test_another_list_is_another_request(toy: Toy) -> None:
    """So that a manifest that was prepared without the check does not pass it."""
    paths = {toy.request(allowed_licences=allowed).manifest_path() for allowed in ((), ("commercial",))}
    assert len(paths) == 2 and DataConfig(mixture="m").allowed_licences == ()


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["MIT", "CC0-1.0"], "commercial (CC0-1.0; MIT)."),
        (["MIT", "CC-BY-NC-4.0", ""], "non-commercial (CC-BY-NC-4.0). Of a part of it they are unknown."),
        (["MIT", "unknown"], "unknown (unknown)."),
    ],
)
def test_the_model_card_states_the_strictest_terms(licences: list[str], expected: str) -> None:
    train: list[dict[str, Any]] = [{"name": f"t{i}", "licence": licence} for i, licence in enumerate(licences)]
    lines = _licences({"licence": "Apache-2.0"}, {"train": train})
    assert lines[-1] == f"The strictest terms of what it was tuned on, as its licences are called: {expected}"
