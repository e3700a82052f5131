"""promptsource's Jinja: types, the separator, keyed choices, the sandbox."""

from __future__ import annotations

import collections
import random
from typing import Any

import pytest

from itune.data.jinja_templates import JinjaTemplate, decode_row, encode_row
from itune.errors import UserError


def rendered(jinja: str, row: dict[str, Any], key: int = 0, **options: Any) -> tuple[str, str] | None:
    template = JinjaTemplate(id="t", jinja=jinja, **options)
    return template.render(encode_row(row, tuple(row)), key)


def test_values_keep_their_types() -> None:
    row = {"label": 1, "answers": {"text": ["ä", None]}, "text": "1", "ok": True}
    coded = encode_row(row, tuple(row))
    assert coded == {"label": "1", "answers": '{"text": ["ä", null]}', "text": "1", "ok": "true"} | {
        "json_fields": "label,answers,ok"
    }
    assert decode_row(coded, row) == row
    jinja = "{{ [label + 1, answers.text[0], text + '0', ok and 'yes', answers.none] | join('/') }} ||| {{ label }}"
    assert rendered(jinja, row) == ("2/ä/10/yes/", "1")


def test_the_separator_in_data_is_data() -> None:
    row = {"a": "x ||| y", "b": ["p|||q"]}
    assert rendered("{{a}} {{b}} ||| {{b[0]}}", row) == ("x ||| y ['p|||q']", "p|||q")
    choices = JinjaTemplate(id="t", jinja="{{a}} ||| {{answer_choices[1]}}", answer_choices="{{a}} ||| {{b[0]}}")
    assert choices.options(encode_row(row, ("a", "b"))) == ["x ||| y", "p|||q"]
    assert choices.render(encode_row(row, ("a", "b"))) == ("x ||| y", "p|||q")


@pytest.mark.parametrize(
    "jinja", ["{{a}} |||", "||| {{a}}", "{% if not a %}{{a}} ||| {{a}}{% endif %}", "{{a}}|||b|||c"]
)
def test_what_is_not_two_texts_is_nothing(jinja: str) -> None:
    assert rendered(jinja, {"a": "x"}) is None


def test_a_long_field_is_cut_on_request() -> None:
    row = {"a": "word " * 10, "n": [1]}
    assert rendered("{{a}}{{n}} ||| {{n[0]}}", row, max_field_chars=12) == ("word...[1]", "1")


def test_choices_are_keyed_and_never_drawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """A function of the key alone, each call on its own, every item sometime; global random state is not touched."""
    for name in ("choice", "random", "randrange", "shuffle"):
        monkeypatch.setattr(random, name, None)
    for word in ("choice", "random"):
        jinja = f"{{{{ items | {word} }}}} {{{{ items | {word} }}}} ||| {{{{ [4, 5] | {word} }}}}"
        found = [rendered(jinja, {"items": ["a", "b", "c"]}, key) for key in range(200)]
        assert found == [rendered(jinja, {"items": ["a", "b", "c"]}, key) for key in range(200)]
        counts = collections.Counter(found)
        assert len(counts) == 18 and max(counts.values()) < 30
    assert JinjaTemplate(id="t", jinja="{{ lipsum(1) }} ||| x").fields == ("lipsum",)  # Jinja's own is not there


@pytest.mark.parametrize(
    "jinja",
    [
        "{{ ''.__class__.__mro__[1].__subclasses__() }} ||| x",
        "{{ cycler.__init__.__globals__ }} ||| x",
        "{% include '/etc/passwd' %} ||| x",
        "{{ range(10000000) | list }} ||| x",
    ],
)
def test_templates_cannot_get_out(jinja: str) -> None:
    with pytest.raises(UserError, match="template 't' cannot be rendered: "):
        rendered(jinja, {"a": "x"})


def test_templates_may_build_lists() -> None:
    jinja = (
        "{% set found = [] %}{% for t in a %}{{ found.append(t) or '' }}{% endfor %}{{ found | join }} ||| {{ a[0] }}"
    )
    assert rendered(jinja, {"a": ["x", "y"]}) == ("xy", "x")
    assert rendered("{{ [1, 2, 2, 1, 3] | most_frequent }}{{ [] | most_frequent }} ||| {{ a }}", {"a": "x"}) == (
        "[1, 2]None",
        "x",
    )
