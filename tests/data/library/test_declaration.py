"""What a declaration may say, and what is told where it says something else."""

from __future__ import annotations

import pytest

from itune.data.library.declaration import by_path, load_declaration
from itune.errors import UserError
from tests.data.library.conftest import NLI


def test_a_declaration_is_read(maker):
    d = load_declaration(maker.declare())
    assert (d.name, d.hub, d.hub_config, d.answer) == ("tiny_nli", "acme/tiny", "nli", "label")
    assert d.options == (("yes_it_does", "yes"), ("no_it_does_not", "no"))
    assert d.question_fields == ("hypothesis", "options", "premise") or d.question_fields == ("hypothesis", "premise")
    assert set(d.row_fields) == {"premise", "hypothesis", "label", "idx", "answer", "options"}
    assert [w.id for w in d.templates] == ["plain", "words", "choose"]
    assert "/" not in d.path, "what is prepared must not depend on where the file lies"


TEMPLATE = NLI["templates"][0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"clusters": "nli"}, r"unknown key 'clusters'. Did you mean 'cluster'\?"),
        ({"templates": []}, "'templates' is needed"),
        ({"licence": ""}, "'licence' is needed"),
        ({"answer": "lable"}, r"answer: there is no column 'lable'. Did you mean 'label'\?"),
        ({"options": {"yes_it_does": True, "no_it_does_not": "no"}}, "options: True must be text .quote it"),
        ({"options": {"yes_it_does": "yes"}}, "but column 'label' has"),
        ({"templates": [{"id": "a", "inputs": "{premis}"}]}, r"uses field \{premis\}.* Did you mean 'premise'\?"),
        ({"templates": [{"id": "a", "inputs": "{premise} {answer}"}]}, "'a' gives the answer away in its inputs"),
        ({"templates": [{"id": "a", "inputs": "{options}"}]}, r"'a' shows \{options\}: say only: opt"),
        ({"templates": [TEMPLATE, TEMPLATE]}, "two templates are called 'plain'"),
        ({"templates": [{"id": "a", "input": "x"}]}, r"unknown key 'input'. Did you mean 'inputs'\?"),
        ({"templates": [{"id": "a", "inputs": "x", "only": "options"}]}, "only: 'options' must be one of opt, noopt"),
        ({"templates": [TEMPLATE | {"options": {"yes": "y"}}]}, "has words for .'yes'., not for each label"),
        ({"overlong": "cut"}, "overlong: 'cut' must be truncate_inputs or drop"),
        ({"splits": {"training": "train"}}, "splits: expected train and validation, found training"),
        ({"turns": "premise"}, "one of 'answer' and 'turns' is needed"),
        ({"hf": "acme/tiny"}, "hf: must be .path: ORG/NAME"),
        ({"columns": ["premise"]}, "columns: must be a mapping"),
        ({"rows": {"train": "many"}}, "rows: 'many' must be a number of rows"),
        ({"skip": {"label": -1}}, "skip: must be .path: .values.."),
        ({"metrics": "accuracy"}, "metrics: must be a list"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_a_slip_is_one_line_that_names_the_file(maker, changes, message):
    path = maker.declare(**changes)
    with pytest.raises(UserError, match=message) as caught:
        load_declaration(path)
    assert str(caught.value).startswith(str(path)) and "\n" not in str(caught.value)


def test_no_yaml_and_no_mapping(maker, tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("name: [", "utf-8")
    with pytest.raises(UserError, match=r"broken.yaml: cannot be read as YAML: .*line 2"):
        load_declaration(broken)
    broken.write_text("- a\n", "utf-8")
    with pytest.raises(UserError, match="expected a mapping of name, cluster"):
        load_declaration(broken)


def test_paths_lead_into_a_record():
    record = {"answers": {"text": ["a", "b"]}, "choices": [{"t": "x"}, {"t": "y"}], "none": None}
    assert by_path(record, "answers.text") == ["a", "b"] and by_path(record, "answers.text.1") == "b"
    assert by_path(record, "choices.t") == ["x", "y"] and by_path(record, "answers.text.7") is None
    assert by_path(record, "none.text") is None
    with pytest.raises(KeyError):
        by_path(record, "answer")
