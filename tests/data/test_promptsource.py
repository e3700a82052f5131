"""promptsource's YAML: its tags and no others, its Jinja, what it skips; T0's own prompts where they are at hand."""

from __future__ import annotations

import collections
import itertools
import json
import logging
from pathlib import Path
from typing import Any

import pytest
import seqio

from itune.data import JinjaTemplate, RowSource, Template, add_task, load_promptsource, promptsource_tasks, registry
from itune.data.jinja_templates import encode_row
from itune.data.readers import read_records
from itune.data.templates import RenderContext, Room, render_row
from itune.errors import UserError
from tests.data.toy import Toy, records_of, split_of

YAML = """\
dataset: reviews
subset: short
templates:
  11111111-aaaa-bbbb-cccc-000000000001: !Template
    answer_choices: bad ||| good
    id: 11111111-aaaa-bbbb-cccc-000000000001
    jinja: "{{text}}\\nIs this review {{answer_choices | join(' or ')}}? |||\\n{% if label != -1 %}{{\\
      \\ answer_choices[label] }}{% endif %}"
    metadata: !TemplateMetadata
      choices_in_prompt: true
      languages:
      - en
      metrics:
      - Accuracy
      original_task: true
    name: is this review…
    reference: ''
  11111111-aaaa-bbbb-cccc-000000000002: !Template
    answer_choices: null
    id: 11111111-aaaa-bbbb-cccc-000000000002
    jinja: '{% if tags %}Write a review about {{ tags | choice }}. ||| {{ text }}{% endif %}'
    metadata: !TemplateMetadata
      metrics:
      - ROUGE
      - Other
      original_task: false
    name: write
    reference: ''
"""
ROWS = [
    {"text": "Dull.", "label": 0, "tags": [], "film-id": 7},
    {"text": "A joy.", "label": 1, "tags": ["plot", "cast", "music", "light"], "film-id": 8},
    {"text": "Seen it.", "label": -1, "tags": ["plot"], "film-id": 9},
    {"text": "No idea.", "label": -1, "tags": [], "film-id": 10},
]
ASK, WRITE = "is this review…", "write"


@pytest.fixture(autouse=True)
def _own_registries(registries: None) -> None:
    pass


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    (tmp_path / "templates.yaml").write_text(YAML, encoding="utf-8")
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS), encoding="utf-8")
    return tmp_path / "templates.yaml", tmp_path / "rows.jsonl"


def register(files: tuple[Path, Path], name: str = "reviews", **options: Any) -> list[str]:
    settings: dict[str, Any] = {"cluster": "sentiment", "licence": "CC0-1.0", "rows": {"train": files[1]}} | options
    return promptsource_tasks(name, files[0], **settings)


def rows_of(task: str, split: str = "train") -> list[dict[str, str]]:
    return registry.get(task).source.checked_rows(split)


# The file


def test_a_file_becomes_templates(files: tuple[Path, Path]) -> None:
    ask, write = load_promptsource(files[0])
    assert (ask.id, ask.fields, ask.answer_choices) == (ASK, ("label", "text"), "bad ||| good")
    assert (ask.metrics, ask.original_task, ask.choices_in_prompt, ask.languages) == (
        ("Accuracy",),
        True,
        True,
        ("en",),
    )
    assert (write.id, write.fields, write.answer_choices, write.original_task) == (WRITE, ("tags", "text"), None, False)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("!Template\n    answer_choices: bad", "!Tempalte\n    answer_choices: bad",
         "templates.yaml:4: tag '!Tempalte' is none of promptsource's, !Template and !TemplateMetadata. "
         "Did you mean '!Template'?"),
        ("reference: ''", "reference: !!python/object/apply:os.getcwd []",
         "tag 'tag:yaml.org,2002:python/object/apply:os.getcwd' is none of promptsource's"),
        ("    name: write", "    nmae: write",
         "template '11111111-aaaa-bbbb-cccc-000000000002': no 'name' in this record. Did you mean 'nmae'?"),
        ("    name: write", "    name: 5", "'name' is a int, must be text"),
        ("    name: write", "    name: is this review…", "templates.yaml: two templates are called 'is this review…'"),
        ("{% endif %}'", "{% endfi %}'", "'write': jinja, line 1: Encountered unknown tag 'endfi'"),
        ("answer_choices: bad ||| good", "answer_choices: '{{ bad ||| good'", "review…': answer_choices, line 1:"),
        (" ||| {{ text }}", " {{ text }}", "000000000002', 'write': no ||| between inputs and targets"),
        ("templates:\n", "prompts:\n", "expected promptsource's layout"),
        ("subset: short", "subset: [short", "templates.yaml:3: not YAML: did not find expected ',' or ']'"),
        ("answer_choices: null", "answer_choices: [a, b]", "'answer_choices' is a list, must be text"),
    ],
)  # fmt: skip
def test_faults_of_the_file_are_one_line(files: tuple[Path, Path], old: str, new: str, message: str) -> None:
    assert old in YAML
    files[0].write_text(YAML.replace(old, new), encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_promptsource(files[0])
    assert message in str(error.value) and str(files[0]) in str(error.value) and "\n" not in str(error.value)


# Tasks


def test_one_task_with_each_rows_own_templates(files: tuple[Path, Path], caplog: pytest.LogCaptureFixture) -> None:
    assert register(files) == ["reviews"]
    info = registry.info("reviews")
    assert (info.identity, info.metrics) == ("reviews_short", ("accuracy", "rouge_l"))
    with caplog.at_level(logging.WARNING):
        rows = rows_of("reviews")
    assert [row["text"] for row in rows] == ["Dull.", "A joy.", "Seen it."]
    assert "'is this review…' 2, 'write' 2; 1 rows left out" in caplog.text
    assert rows[1] | {"id": ""} == {
        "id": "",
        "label": "1",
        "tags": '["plot", "cast", "music", "light"]',
        "text": "A joy.",
        "json_fields": "label,tags",
    }
    contexts = [RenderContext(variant=variant) for variant in range(4)]
    used = [
        [render_row(info.templates, row, identity="r", source_id=row["id"], context=c)[2] for c in contexts]
        for row in rows
    ]
    assert used[0] == [ASK] * 4 and used[2] == [WRITE] * 4
    assert used[1][:2] == used[1][2:] and sorted(used[1][:2]) == [ASK, WRITE]


def test_golden_prompts_and_variants(files: tuple[Path, Path]) -> None:
    register(files)
    bound = registry.get("reviews").get_dataset(None, "train", shuffle=False)
    first = next(bound.as_numpy_iterator())
    assert first["inputs_pretokenized"] == b"Dull.\nIs this review bad or good?"
    assert first["targets_pretokenized"] == b"bad" and first["template"] == ASK.encode()
    assert first["field/label"] == b"0" and "field/film_id" not in first
    write = load_promptsource(files[0])[1]
    row = rows_of("reviews")[1]
    written = {
        render_row([write], row, identity="r", source_id="1", context=RenderContext(variant=v)) for v in range(40)
    }
    assert written == {(f"Write a review about {tag}.", "A joy.", WRITE) for tag in ROWS[1]["tags"]}  # type: ignore[attr-defined]


def test_a_task_for_each_template(files: tuple[Path, Path]) -> None:
    names = register(files, per_template=True, keep=("film_id",))
    assert names == ["reviews/is_this_review", "reviews/write"]
    assert {i.name for i, _ in registry.mixture_info("reviews")} == set(names)
    ask, write = (rows_of(name) for name in names)
    assert [row["text"] for row in ask] == ["Dull.", "A joy."] and [row["text"] for row in write] == [
        "A joy.",
        "Seen it.",
    ]
    # Arms with one template each see the same rows in the same order: ids and identity are shared.
    assert ask[1]["id"] == write[0]["id"] and len({registry.info(name).identity for name in names}) == 1
    assert ask[0]["answer_choices"] == '["bad", "good"]' and "answer_choices" not in write[0]
    assert ask[0]["film_id"] == "7"
    assert [registry.info(name).metrics for name in names] == [("accuracy",), ("rouge_l",)]


def test_few_shot_prompts_are_the_same_prompts_with_other_rows_before_them(files: tuple[Path, Path]) -> None:
    more = [{"text": f"Film {n} was fine.", "label": n % 2, "tags": ["plot"], "film-id": n} for n in range(20, 30)]
    with open(files[1], "a") as file:
        file.writelines(json.dumps(row) + "\n" for row in more)
    names = register(files, per_template=True, few_shot=True)
    assert names == ["reviews/is_this_review", "reviews/is_this_review/fs", "reviews/write", "reviews/write/fs"]
    assert {i.name for i, _ in registry.mixture_info("reviews")} == set(names)
    counts = set()
    for alone, shown in (names[:2], names[2:]):
        (plain,), (few,) = registry.info(alone).templates, registry.info(shown).templates
        rows = rows_of(shown)
        assert few.id == plain.id and [row["id"] for row in rows] == [row["id"] for row in rows_of(alone)]
        for row, key in itertools.product(rows, range(30)):
            query, answer = plain.render(row, key)
            prompt, same = few.render(row, key)
            # Of other rows, and each once: "write" draws a tag by the key, so texts tell the rows apart.
            texts = [other["text"] for other in rows if other["text"] in prompt.replace(query, "")]
            assert same == answer and query in prompt and prompt.count(query) == 1 and row["text"] not in texts
            counts.add(len(texts))
            assert few.within(Room(tokenizer=Letters(), tokens=len(query))).render(row, key)[0] == query
    assert counts == set(range(6))


class Letters:
    def encode(self, text: str) -> list[str]:
        return list(text)


@pytest.mark.parametrize("split_by", [("text",), ()])
def test_one_file_is_split_by_text(files: tuple[Path, Path], split_by: tuple[str, ...]) -> None:
    """By default, too, labels do not part two rows of one text."""
    rows = [{"text": f"Review {i // 2}!", "label": i % 2, "tags": []} for i in range(400)]
    files[1].write_text("".join(json.dumps(row) + "\n" for row in rows + rows[:9]), encoding="utf-8")
    register(files, rows=files[1], split_by=split_by, validation_fraction=0.25)
    train, held = rows_of("reviews"), rows_of("reviews", "validation")
    assert len(train) + len(held) == 400 and 50 < len(held) < 150
    assert not {row["text"] for row in train} & {row["text"] for row in held}


def test_a_table_says_which_columns_are_json(files: tuple[Path, Path]) -> None:
    files[1].with_suffix(".csv").write_text('text,label,tags\nDull.,0,[]\n"Fun, fun.",1,"[""x""]"\n', encoding="utf-8")
    register(files, rows=files[1].with_suffix(".csv"), json_columns=("label", "tags"), validation_fraction=0.0)
    assert [row["label"] for row in rows_of("reviews")] == ["0", "1"]
    assert registry.info("reviews").templates[0].render(rows_of("reviews")[1]) == (
        "Fun, fun.\nIs this review bad or good?",
        "good",
    )


@pytest.mark.parametrize(
    ("record", "options", "message"),
    [
        ({"txt": "x", "label": 1, "tags": []}, {},
         "rows.jsonl:1: no 'text' in this record, which template 'is this review…' uses. Did you mean 'txt'?"),
        ({"text": "x", "label": "one", "tags": []}, {"json_columns": ("label",)},
         "rows.jsonl:1: 'label', one of json_columns, does not hold JSON"),
        ({"text": "x", "label": 1, "tags": [], "answer_choices": []}, {}, "promptsource's own name"),
        ({"text": "x", "label": {}, "tags": []}, {},
         "rows.jsonl:1: template 'is this review…' cannot be rendered: "),
        ({"text": "x", "label": 1, "tags": []}, {"id_key": "idx"}, "rows.jsonl:1: no 'idx' in this record."),
    ],
)  # fmt: skip
def test_faults_of_rows_are_one_line(files: tuple[Path, Path], record: dict, options: dict, message: str) -> None:
    files[1].write_text(json.dumps(record) + "\n", encoding="utf-8")
    if record["label"] == {}:
        files[0].write_text(YAML.replace("answer_choices[label]", "answer_choices[label.x.y]"), encoding="utf-8")
    register(files, **options)
    with pytest.raises(UserError) as error:
        rows_of("reviews")
    assert message in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"templates": ("wirte",)}, "templates.yaml: no template is called 'wirte'. Did you mean 'write'?"),
        ({"keep": ("id",)}, "the field 'id' has another meaning here; pass id_key='id'"),
        ({"validation_fraction": 1.0}, "validation_fraction=1.0 must be in [0, 1)"),
        ({"metrics": ("acuracy",)}, "unknown metric 'acuracy'. Did you mean 'accuracy'?"),
    ],
)
def test_faults_of_the_call(files: tuple[Path, Path], options: dict, message: str) -> None:
    with pytest.raises(UserError) as error:
        register(files, **options)
    assert message in str(error.value)


def test_errors_of_sensitive_rows_hold_no_text(files: tuple[Path, Path]) -> None:
    files[1].write_text(json.dumps({"text": "secret", "label": 0, "tags": []}) + "\n", encoding="utf-8")
    files[0].write_text(YAML.replace("answer_choices[label]", "answer_choices[text].x"), encoding="utf-8")
    register(files)
    with pytest.raises(UserError, match="secret"):
        rows_of("reviews")
    register(files, "private", sensitive=True)
    with pytest.raises(UserError) as error:
        rows_of("private")
    assert "secret" not in str(error.value) and "the reason is withheld" in str(error.value)
    assert registry.is_sensitive("private")


def test_a_row_that_no_template_renders_is_an_error_of_that_row() -> None:
    """Where rows come from a source that does not leave such rows out."""
    source = RowSource(lambda split: [{"id": "1", "a": ""}], fields=("a",))
    template = JinjaTemplate(id="t", jinja="{{a}} ||| {{a}}")
    rights: dict[str, Any] = {"cluster": "c", "licence": "l", "identity": "i"}
    add_task("jinja", source=source, templates=(template,), **rights)
    with pytest.raises(Exception, match="none of its templates renders this row"):
        list(registry.get("jinja").get_dataset(None, "train", shuffle=False))
    with pytest.raises(UserError, match="template 't' uses field {a}, which the source lacks. Did you mean 'aa'?"):
        add_task("other", source=RowSource(lambda s: [], fields=("aa",)), templates=(template,), **rights)


def test_plain_templates_render_as_before() -> None:
    """`render_row` over templates that render every row takes the one that `choose_template` takes."""
    from itune.data.templates import choose_template

    templates = [Template(f"t{i}", "{a}", str(i)) for i in range(5)]
    for row in range(50):
        for variant in range(7):
            keyed: dict[str, Any] = {"identity": "x", "source_id": str(row), "context": RenderContext(variant=variant)}
            assert render_row(templates, {"a": "q"}, **keyed)[2] == choose_template(templates, **keyed).id


def test_prepare_notices_an_edited_file(toy: Toy, files: tuple[Path, Path]) -> None:
    toy.write(f"""
        from itune.data import promptsource_tasks
        promptsource_tasks("reviews", {str(files[0])!r}, {{"train": {str(files[1])!r}}}, cluster="s", licence="l",
                           templates=("write",))
    """)
    manifest = toy.prepare(mixture="reviews", variants=3, eval_split="train")
    records = records_of(split_of(manifest, "reviews"))
    assert [r.variant for r in records] == [0, 1, 2, 0, 1, 2] and {r.template for r in records} == {WRITE}
    assert len({r.inputs_text for r in records[:3]}) > 1  # the keyed choice among tags differs by variant
    before = toy.fingerprint("reviews", mixture="reviews")
    assert before == toy.fingerprint("reviews", mixture="reviews")
    other = toy.fingerprint("reviews", mixture="reviews", prepare_seed=1)
    files[0].write_text(YAML.replace("bad ||| good", "poor ||| fine"), encoding="utf-8")
    assert toy.fingerprint("reviews", mixture="reviews") == before  # of a template that is not used
    assert manifest.still_valid() is not None
    files[0].write_text(YAML.replace("Write a review", "Invent a review"), encoding="utf-8")
    edited = toy.fingerprint("reviews", mixture="reviews")
    files[1].write_text(files[1].read_text() + "\n", encoding="utf-8")
    assert len({before, other, edited, toy.fingerprint("reviews", mixture="reviews")}) == 4


# The owners' own files, where they are at hand


def test_all_of_t0s_ag_news_prompts_are_rendered_alike(data_dir: Path) -> None:
    """The text of each prompt is found by the template's ends; wording, white space and answers must be T0's."""
    templates = {t.id: t for t in load_promptsource(data_dir / "general/promptsource/ag_news/templates.yaml")}
    seen: collections.Counter[str] = collections.Counter()
    for _, record in read_records(data_dir / "general" / "t0_prompts.jsonl.gz"):
        if record["dataset"] != "ag_news":
            continue
        template = templates[record["template"]]
        marked = template.render(encode_row({"text": "\0", "label": 0}, ("text", "label")))
        assert marked is not None
        start, end = marked[0].split("\0")
        prompt = record["prompt"]
        assert prompt.startswith(start) and prompt.endswith(end)
        options = template.options(encode_row({"text": "", "label": 0}, ("text", "label")))
        assert options is not None and len(options) == 4
        row = {"text": prompt[len(start) : len(prompt) - len(end)], "label": options.index(record["target"])}
        assert template.render(encode_row(row, ("text", "label"))) == (prompt, record["target"])
        seen[template.id] += 1
    assert seen == dict.fromkeys(templates, 120) and len(seen) == 7


RTE = {"premise": "A dog sleeps.", "hypothesis": "An animal sleeps.", "idx": 0, "label": 0}
BOOLQ = {"question": "is it wet", "passage": "Water is wet.", "idx": 0, "label": 1}
GOLDEN = [
    ("rte", RTE, 10, "guaranteed true",
     ('Given A dog sleeps. Is it guaranteed true that "An animal sleeps."? Yes or no?', "Yes")),
    ("cb", RTE | {"label": 2}, 15, "does it follow that",
     ("Given that A dog sleeps. Does it follow that An animal sleeps. Yes, no, or maybe?", "Maybe")),
    ("boolq", BOOLQ, 10, "exam",
     ("EXAM\n1. Answer by yes or no.\n\nDocument: Water is wet.\nQuestion: is it wet?", "Yes")),
]  # fmt: skip


@pytest.mark.parametrize(("subset", "row", "count", "name", "expected"), GOLDEN)
def test_super_glue(
    data_dir: Path, tmp_path: Path, subset: str, row: dict, count: int, name: str, expected: tuple[str, str]
) -> None:
    rows = tmp_path / "rows.jsonl"
    rows.write_text("".join(json.dumps(r) + "\n" for r in (row, row | {"idx": 1, "label": -1})), encoding="utf-8")
    path = data_dir / "general/promptsource/super_glue" / subset / "templates.yaml"
    (task,) = promptsource_tasks(subset, path, {"validation": rows}, cluster="nli", licence="various")
    info = registry.info(task)
    assert (len(info.templates), info.identity, info.metrics) == (count, f"super_glue_{subset}", ("accuracy",))
    (kept,) = rows_of(task, "validation")  # the row of a test set, without a label, has no target
    assert {t.id: t for t in info.templates}[name].render(kept) == expected
    assert all(t.render(kept) is not None for t in info.templates)
    assert isinstance(registry.get(task), seqio.Task)
