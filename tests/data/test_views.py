"""Tasks without their instructions, and examples in fewer of their templates."""

from __future__ import annotations

import dataclasses
import itertools

import numpy as np
import pytest

from itune.data import plan_tasks
from itune.data.config import DataConfig
from itune.data.plan_tasks import with_templates
from itune.data.templates import RenderContext, Template
from itune.errors import UserError
from tests.data.test_schedule import all_segments, make_plan, make_task

NAMES = ["direct", "polite", "question", "short"]


@pytest.fixture
def registered(registries):
    import seqio  # noqa: F401

    from itune.data import RowSource, add_mixture, add_task

    rows = lambda split: ({"id": f"{split}-{n}", "text": f"{{{n}}}", "answer": str(n)} for n in range(4))  # noqa: E731
    source = RowSource(rows, fields=("text", "answer"))
    ask = [Template("ask", "Read {text}\nNow repeat it.", "{answer}"), Template("say", "Say: {text}", "{answer}")]
    known = {"source": source, "licence": "CC0-1.0", "cluster": "copies"}
    add_task("copy", templates=ask, identity="owner/copy", **known)
    add_task("guess", templates=[Template("guess", "Guess!", "{answer}")], identity="guess", **known)
    add_mixture("both", [("copy", 3.0), ("guess", 1.0)])
    add_mixture("copies", [("copy", lambda task: 5.0)])


def test_a_prompt_without_instructions_is_its_fields(registered):
    from itune.data import registry

    row = {"id": "0", "text": "{x}", "answer": "y"}
    for name, prompt in (("without_instructions/copy", "{x}"), ("names_only/copy", "[copies: owner/copy]\n{x}")):
        task, info = registry.get(name), registry.info(name)
        assert len(info.templates) == 1, "two wordings of one field are one prompt"
        assert info.identity == "owner/copy" and info.cluster == "copies", "drawn in the order of the task's own rows"
        texts = registry.render_texts(row, info.templates, info.identity, RenderContext())
        assert texts[:2] == (prompt, "y")
        first = next(task.get_dataset(split="train", shuffle=False).as_numpy_iterator())
        assert first["inputs_pretokenized"].decode() == prompt.replace("{x}", "{0}")
    assert registry.mixture_info("names_only/copies") == [(registry.info("names_only/copy"), 5.0)]


def test_what_has_no_text_without_instructions_is_told(registered):
    from itune.data import registry

    with pytest.raises(UserError, match="'guess' has no templates whose fields could stand without instructions"):
        registry.get("names_only/both")
    with pytest.raises(UserError, match="no task or mixture is called 'coppy'. Did you mean"):
        registry.get("names_only/coppy")


def task_in_templates(monkeypatch, variants: int = 4):
    """20 examples in a permutation of the templates each."""
    monkeypatch.setattr(plan_tasks, "template_names", lambda task: NAMES)
    task = make_task("rte/zs", 20, identity="rte", variants=variants)
    order = np.argsort(np.random.default_rng(0).random((20, 4)), axis=1)[:, :variants]
    index = dataclasses.replace(task.index, template=order.reshape(-1).astype(np.int16))
    return dataclasses.replace(task, index=index)


def test_fewer_templates_are_the_same_examples_in_a_subset(monkeypatch):
    task = task_in_templates(monkeypatch)
    used, drawn = {}, {}
    for most in range(5):
        plan = make_plan([with_templates(task, most)], max_epochs=4)
        segments = all_segments(plan)
        used[most] = {int(task.index.template[s.record]) for s in segments}
        drawn[most] = [s.record // 4 for s in segments]
        assert sorted(drawn[most]) == sorted([*range(20)] * 4), "each once an epoch"
    assert [len(used[n]) for n in range(1, 5)] == [1, 2, 3, 4] and used[0] == used[4]
    assert all(used[a] < used[b] for a, b in itertools.pairwise(range(1, 5)))
    digests = {make_plan([with_templates(task, n)]).digest for n in range(1, 5)}
    assert len(digests) == 4 and make_plan([task]).digest in digests


def test_fewer_templates_need_every_example_in_all(monkeypatch):
    with pytest.raises(UserError, match=r"max_templates=1: task 'rte/zs' has 4 templates, .* DataConfig.variants=4$"):
        with_templates(task_in_templates(monkeypatch, variants=2), 1)
    with pytest.raises(ValueError, match="DataConfig.max_templates=-1 must not be negative"):
        DataConfig(mixture="m", max_templates=-1)


def test_mixtures_and_tasks_are_joined_at_their_own_rates(registered):
    from itune.data import registry

    found = {info.name: rate for info, rate in registry.mixture_info("both+guess+copies")}
    assert found == {"copy": 8.0, "guess": 2.0}
    with pytest.raises(UserError, match="Did you mean 'copies'"):
        registry.get("both+copeis")
