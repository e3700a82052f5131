"""Tasks, mixtures and late binding: golden renderings, template choice, and every error that a task author can make."""

from __future__ import annotations

import collections
import functools
from pathlib import Path

import pytest
import seqio
import tensorflow as tf
import tokenizers
from tokenizers import decoders, models, pre_tokenizers

from itune.data import RowSource, Template, add_mixture, add_task, load_templates, registry
from itune.data.templates import RenderContext, choose_template
from itune.data.tokenizer import Tokenizer
from itune.data.vocabularies import HFVocabulary
from itune.errors import UserError

TEMPLATES = (
    Template("ask", "{question}\nAnswer:", "{answer}"),
    Template("json", '{question} Reply as {{"answer": ...}}.', '{{"answer": "{answer}"}}'),
    Template("last", "Answer this. {question}", "{answer}\n"),
)
LENGTHS = {"inputs": 64, "targets": 64}


@pytest.fixture(autouse=True)
def _own_registries(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry, "TASKS", dict(registry.TASKS))
    monkeypatch.setattr(registry, "_unavailable", dict(registry._unavailable))
    for theirs in (seqio.TaskRegistry, seqio.MixtureRegistry):
        monkeypatch.setattr(theirs, "_REGISTRY", dict(theirs._REGISTRY))


@functools.cache
def tokenizer() -> Tokenizer:
    """One token a byte; 0 ends a text."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = tokenizers.Tokenizer(models.BPE({"</s>": 0} | {c: i for i, c in enumerate(alphabet, 1)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    return Tokenizer(tokenizer.to_str(), {"eos_token": "</s>"})


def rows(split: str, count: int = 40, backwards: bool = False) -> list[dict[str, str]]:
    made = [{"id": f"{split}-{i}", "question": f"Is {i} høy?", "answer": f"yes {i}"} for i in range(count)]
    return made[::-1] if backwards else made


def add(name: str = "demo/one", **changes) -> seqio.Task:
    settings = {
        "source": RowSource(rows, fields=("question", "answer"), version="1"),
        "templates": TEMPLATES,
        "cluster": "demo",
        "licence": "CC0-1.0",
        "identity": "demo_rows",
    }
    return add_task(name, **(settings | changes))


def examples(task: seqio.Task, split: str = "train") -> list[dict]:
    return list(task.get_dataset(None, split, shuffle=False).as_numpy_iterator())


def bound(name: str, variant: int = 0, prepare_seed: int = 0) -> seqio.Task:
    return registry.bind(name, tokenizer(), variant=variant, prepare_seed=prepare_seed, feature_lengths=LENGTHS)


def template_of(name: str, **key: int) -> dict[str, str]:
    return {ex["id"].decode(): ex["template"].decode() for ex in examples(bound(name, **key))}


# Rendering


def test_golden_renderings() -> None:
    row = {"id": "1", "question": "Is 3 < 4 {really}?", "answer": "yes"}
    assert [t.render(row) for t in TEMPLATES] == [
        ("Is 3 < 4 {really}?\nAnswer:", "yes"),
        ('Is 3 < 4 {really}? Reply as {"answer": ...}.', '{"answer": "yes"}'),
        ("Answer this. Is 3 < 4 {really}?", "yes"),
    ]
    indented = Template("code", "\n{question}  \n", "{answer}")
    assert indented.render({"question": "x", "answer": "    return 1\n"}) == ("x", "    return 1")


def test_an_example_has_texts_tokens_and_every_field() -> None:
    add(templates=TEMPLATES[:1])
    (first, *_) = examples(bound("demo/one"))
    ids = tokenizer().encode("Is 0 høy?\nAnswer:")
    assert first.pop("inputs").tolist() == ids
    assert first.pop("targets").tolist() == [*tokenizer().encode("yes 0"), tokenizer().eos_id]
    assert first == {
        "id": b"train-0",
        "template": b"ask",
        "inputs_pretokenized": "Is 0 høy?\nAnswer:".encode(),
        "targets_pretokenized": b"yes 0",
        "field/question": "Is 0 høy?".encode(),
        "field/answer": b"yes 0",
    }


def test_runs_under_plain_seqio_with_the_placeholder_vocabulary() -> None:
    add()
    dataset = seqio.TaskRegistry.get("demo/one").get_dataset({"inputs": 8, "targets": 8}, "validation", shuffle=False)
    first = next(dataset.as_numpy_iterator())
    text = first["targets_pretokenized"].decode()
    assert first["targets"].tolist() == [*seqio.ByteVocabulary().encode(text), seqio.ByteVocabulary().eos_id][:8]


# Template choice


def test_same_id_same_template_whatever_the_order_split_or_task() -> None:
    add()
    add(
        "demo/backwards",
        source=RowSource(functools.partial(rows, backwards=True, count=90), fields=("question", "answer")),
    )
    forward, backward = template_of("demo/one"), template_of("demo/backwards")
    assert list(forward) != list(backward)[:40]
    assert forward == {row_id: backward[row_id] for row_id in forward}


def test_variants_take_all_templates_in_turn_and_seeds_deal_anew() -> None:
    add()
    per_variant = [template_of("demo/one", variant=v) for v in range(4)]
    for row_id in per_variant[0]:
        assert {chosen[row_id] for chosen in per_variant[:3]} == {"ask", "json", "last"}
    assert per_variant[3] == per_variant[0]
    assert template_of("demo/one", prepare_seed=1) != per_variant[0]
    assert template_of("demo/one") == per_variant[0]


def test_templates_are_dealt_evenly_and_by_identity() -> None:
    context = RenderContext()
    ids = [str(i) for i in range(3000)]
    one, other = (
        [choose_template(TEMPLATES, identity=name, source_id=i, context=context).id for i in ids] for name in "ab"
    )
    for count in collections.Counter(one).values():
        assert 900 < count < 1100  # 1000 expected, standard deviation 26
    assert sum(x == y for x, y in zip(one, other, strict=True)) < 1150


def test_a_new_template_moves_only_what_it_wins() -> None:
    more = (*TEMPLATES, Template("new", "{question}", "{answer}"))
    choose = functools.partial(choose_template, identity="d", context=RenderContext())
    moved = [
        (before.id, after.id)
        for i in map(str, range(400))
        if (before := choose(TEMPLATES, source_id=i)) != (after := choose(more, source_id=i))
    ]
    assert 60 < len(moved) < 140 and {after for _, after in moved} == {"new"}


def test_choice_is_pinned() -> None:
    """Shards are keyed by it. Refactor? A bug. Intended? Update this, FORMAT in prepare_task and CHANGELOG."""
    chosen = [
        choose_template(
            TEMPLATES, identity="demo_rows", source_id=f"train-{i}", context=RenderContext(prepare_seed=7)
        ).id
        for i in range(8)
    ]
    assert " ".join(chosen) == "last ask ask ask last ask json last"


# Binding


def test_bind_leaves_the_registered_task_and_takes_slashes() -> None:
    task = add()
    one = bound("demo/one", variant=1)
    assert one is not task and one.name == "demo/one"
    assert isinstance(task.output_features["inputs"].vocabulary, seqio.ByteVocabulary)
    assert one.output_features["inputs"].vocabulary == HFVocabulary(tokenizer())
    assert one.output_features["targets"].add_eos and not one.output_features["inputs"].add_eos
    assert one.replace(name="demo/two").name == "demo/two"


def _foreign(name: str, features: dict[str, seqio.Feature]) -> None:
    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices({"inputs": ["a b"], "targets": ["c"], "weights": [[1, 2, 3]]})

    seqio.TaskRegistry.add(
        name,
        source=seqio.FunctionDataSource(dataset, splits=["train"]),
        preprocessors=[seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        output_features=features,
        metric_fns=[_count],
    )


def _count(targets, predictions):
    return {"count": len(targets)}


def test_a_plain_seqio_task_gets_the_vocabulary_and_nothing_else() -> None:
    features = {
        "inputs": seqio.Feature(seqio.ByteVocabulary(), add_eos=False),
        "targets": seqio.Feature(seqio.ByteVocabulary()),
        "weights": seqio.Feature(seqio.PassThroughVocabulary(9), add_eos=False),
    }
    _foreign("foreign_task", features)
    task = registry.bind(
        "foreign_task", tokenizer(), variant=0, prepare_seed=0, feature_lengths=LENGTHS | {"weights": 4}
    )
    (example,) = examples(task)
    assert example["inputs"].tolist() == tokenizer().encode("a b")
    assert example["targets"].tolist() == [*tokenizer().encode("c"), 0]
    assert example["weights"].tolist() == [1, 2, 3]
    assert task.output_features["weights"] == features["weights"]
    info = registry.info("foreign_task")
    assert (info.cluster, info.licence, info.identity, info.metrics) == (
        "other",
        "unknown",
        "foreign_task",
        ("_count",),
    )


def test_bind_refuses_what_it_cannot_bind() -> None:
    _foreign("inputs_only", {"inputs": seqio.Feature(seqio.ByteVocabulary())})
    _foreign("extra", {n: seqio.Feature(seqio.ByteVocabulary()) for n in ("inputs", "targets", "weights")})
    add()
    add_mixture("mix", ["demo/one"])
    with pytest.raises(UserError, match="'inputs_only' has no 'targets' feature"):
        bound("inputs_only")
    with pytest.raises(UserError, match="'extra': no length for feature 'weights'"):
        bound("extra")
    with pytest.raises(UserError, match="'mix' is a mixture"):
        bound("mix")
    with pytest.raises(UserError, match="no task or mixture is called 'demo/on'. Did you mean 'demo/one'?"):
        bound("demo/on")


def test_any_seqio_source_works_and_ids_default_to_the_rows_hash() -> None:
    def dataset(split: str, shuffle_files: bool, seed: int | None = None) -> tf.data.Dataset:
        return tf.data.Dataset.from_tensor_slices({"question": ["a", "b"], "answer": [1, 2], "vector": [[0.5], [0.25]]})

    source = seqio.FunctionDataSource(dataset, splits=["train"])
    add(source=source, templates=TEMPLATES[:1])
    first, second = examples(bound("demo/one"))
    assert first["targets_pretokenized"] == b"1" and first["field/vector"].tolist() == [0.5]
    assert len(first["id"]) == 16 and first["id"] != second["id"]
    add("demo/wrong", source=source, templates=[Template("t", "{quesion}", "{answer}")])
    with pytest.raises(
        UserError, match="task 'demo/wrong': template 't' uses field {quesion}.*Did you mean 'question'?"
    ):
        examples(bound("demo/wrong"))


def test_preprocessors_run_before_the_template() -> None:
    def shout(dataset: tf.data.Dataset) -> tf.data.Dataset:
        return dataset.map(lambda row: row | {"loud": tf.strings.upper(row["answer"])})

    add(preprocessors=[shout], templates=[Template("t", "{question}", "{loud}")])
    assert examples(bound("demo/one"))[3]["targets_pretokenized"] == b"YES 3"


# Errors of a task's author


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"templates": [Template("t", "{qestion}", "{answer}")]},
            r"template 't' uses field {qestion}.*mean 'question'\?",
        ),
        ({"templates": []}, "at least one template"),
        ({"templates": [TEMPLATES[0], TEMPLATES[0]]}, "two templates are called 'ask'"),
        ({"metrics": ["exact_mach"]}, r"unknown metric 'exact_mach'.*Did you mean 'exact_match'\?"),
        ({"overlong": "dropp"}, r"overlong='dropp' must be one of .*Did you mean 'drop'\?"),
        ({"truncate_side": "top"}, "truncate_side='top'"),
        ({"licence": " "}, "licence must say something"),
        ({"name": "demo one"}, "a name has letters"),
    ],
)
def test_add_task_refuses(changes: dict, message: str) -> None:
    with pytest.raises(UserError, match=message):
        add(**changes)
    assert "demo/one" not in registry.TASKS and "demo/one" not in seqio.TaskRegistry.names()


def test_registering_twice_is_an_error() -> None:
    add()
    with pytest.raises(UserError, match="task 'demo/one' is registered already"):
        add()
    add_mixture("mix", ["demo/one"])
    with pytest.raises(UserError, match="mixture 'mix' is registered already"):
        add_mixture("mix", ["demo/one"])
    with pytest.raises(UserError, match="'mix' is registered already"):
        add("mix")


@pytest.mark.parametrize("text", ["{a.b}", "{a[0]}", "{a!r}", "{a:>5}", "{}", "{0}", "{a b}", "{a", "a}"])
def test_templates_hold_plain_fields_only(text: str) -> None:
    with pytest.raises(UserError, match="template 't', inputs: .*brace"):
        Template("t", text, "{answer}")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- {id: a, inputs: '{q}', targets: '{t}', weight: 1}", "entry 1 has an unknown key 'weight'"),
        ("- {id: a, input: '{q}', targets: '{t}'}", "unknown key 'input'. Did you mean 'inputs'?"),
        ("- {id: a, inputs: '{q}'}", "entry 1 needs 'targets'"),
        ("- {id: 1, inputs: '{q}', targets: '{t}'}", "entry 1 needs 'id', as a string"),
        ("- {id: a, inputs: '{q', targets: '{t}'}", "template 'a', inputs"),
        ("- {id: a, inputs: x, targets: y}\n- {id: a, inputs: x, targets: y}", "two templates are called 'a'"),
        ("a: b", "expected a YAML list"),
        ("- [", "cannot read templates"),
    ],
)
def test_template_files(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text(text, encoding="utf-8")
    with pytest.raises(UserError) as error:
        load_templates(path)
    assert str(error.value).startswith(f"{path}: ") and message in str(error.value) and "\n" not in str(error.value)


def test_template_file_golden(tmp_path: Path) -> None:
    path = tmp_path / "templates.yaml"
    path.write_text('- id: a\n  inputs: "{q}\\nFørst"\n  targets: |\n    {t}\n', encoding="utf-8")
    assert load_templates(path) == (Template("a", "{q}\nFørst", "{t}\n"),)


# Mixtures


def test_rates_are_resolved_and_nested_mixtures_flattened() -> None:
    add("a")
    add("b", source=RowSource(functools.partial(rows, count=7), fields=("question", "answer")))
    add("c")
    add_mixture("inner", [("a", 1), ("b", 3)])
    add_mixture("outer", [("inner", 2.0), "c"], default_rate=registry.rate_by_examples(16, temperature=2))
    assert [(i.name, r) for i, r in registry.mixture_info("outer")] == [("a", 0.5), ("b", 1.5), ("c", 4.0)]
    add_mixture("by_size", ["a", "b"], default_rate=registry.rate_by_examples(20))
    assert [(i.name, r) for i, r in registry.mixture_info("by_size")] == [("a", 20.0), ("b", 7.0)]
    assert registry.mixture_info("b") == [(registry.TASKS["b"], 1.0)]


def test_sensitivity_spreads() -> None:
    add("open")
    add("closed", sensitive=True)
    add_mixture("inner", ["closed", "open"])
    add_mixture("outer", ["inner"])
    add_mixture("clear", ["open"])
    sensitive = {n: registry.is_sensitive(n) for n in ("open", "closed", "inner", "outer", "clear")}
    assert sensitive == {"open": False, "closed": True, "inner": True, "outer": True, "clear": False}


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        (["demo/two"], "mixture 'mix': no task or mixture is called 'demo/two'. Did you mean 'demo/one'?"),
        ([("demo/one", 0)], "rate of 'demo/one' is 0, must be a number above 0"),
        ([("demo/one", float("nan"))], "rate of 'demo/one' is nan"),
        (["demo/one", ("demo/one", 2)], "lists 'demo/one' twice"),
        ([], "has no tasks"),
    ],
)
def test_add_mixture_refuses(tasks: list, message: str) -> None:
    add()
    with pytest.raises(UserError) as error:
        add_mixture("mix", tasks)
    assert message in str(error.value) and "mix" not in seqio.MixtureRegistry.names()


def test_bad_callable_rates_and_unknown_names() -> None:
    add()
    add_mixture("mix", [("demo/one", lambda task: -1)])
    with pytest.raises(UserError, match="rate of 'demo/one' is -1.0"):
        registry.mixture_info("mix")
    with pytest.raises(UserError, match="no task or mixture is called 'mixx'. Did you mean 'mix'?"):
        registry.mixture_info("mixx")


def test_what_is_not_here_says_why() -> None:
    registry.mark_unavailable("real", "set SOME_DIR to where it lies")
    with pytest.raises(UserError, match="'real' is not available: set SOME_DIR to where it lies"):
        registry.mixture_info("real")
    add("real")
    assert registry.get("real").name == "real"
