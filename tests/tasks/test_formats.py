"""The real-data tasks: what registers where, golden prompts, splits that leak nothing. Skips without the data."""

from __future__ import annotations

import importlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import seqio

from itune.data import normalise, registry
from itune.errors import UserError

PROJECT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def tasks(data_dir: Path) -> Iterator[tuple]:
    """tasks.formats and tasks.mixtures registered over the real data, in registries of this module's own."""
    with pytest.MonkeyPatch.context() as patch:
        formats, mixtures = (importlib.import_module(f"tasks.{name}") for name in ("formats", "mixtures"))
        mine = {*formats.OTHER_TASKS, "real_data", "real_data_held_out"}
        for name in ("TASKS", "_unavailable"):
            kept = {k: v for k, v in getattr(registry, name).items() if k not in mine and not k.startswith("t0/")}
            patch.setattr(registry, name, kept)
        for theirs in (seqio.TaskRegistry, seqio.MixtureRegistry):
            kept = {k: v for k, v in theirs._REGISTRY.items() if k not in mine and not k.startswith("t0/")}
            patch.setattr(theirs, "_REGISTRY", kept)
        formats.register(data_dir)
        mixtures.register_real_data()
        yield formats, mixtures


def rows(name: str, split: str) -> list[dict[str, str]]:
    return registry.get(name).source.checked_rows(split)


def rendered(name: str, split: str, where: str) -> dict[str, tuple[str, str]]:
    """Prompts and answers of the row whose first field starts with `where`, by template."""
    task = registry.get(name)
    first = task.source.fields[0]
    (row,) = [r for r in rows(name, split) if r[first].startswith(where)]
    return {t.id: t.render(row) for t in registry.info(name).templates}


def test_without_the_variable_the_tasks_say_what_to_set() -> None:
    code = (
        "import tasks\nfrom itune.data import registry\nfrom itune.errors import UserError\n"
        "for name in ('real_data', 'real_data_held_out', 'gsm8k', 't0/xsum'):\n"
        "    try: registry.mixture_info(name)\n"
        "    except UserError as error: print(error)\n"
        "print(len(registry.mixture_info('quickstart')) > 0)"
    )
    environment = {k: v for k, v in os.environ.items() if k != "ITUNE_DATA_DIR"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, env=environment)
    lines = done.stdout.splitlines()
    assert len(lines) == 5, done.stderr
    assert all("is not available" in line and "set ITUNE_DATA_DIR" in line for line in lines[:4])
    assert lines[4] == "True"


def test_registering_reads_nothing(tmp_path: Path) -> None:
    code = "import tasks\nfrom itune.data import registry\nprint(registry.info('gsm8k').licence)"
    environment = os.environ | {"ITUNE_DATA_DIR": str(tmp_path / "absent")}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, env=environment)
    assert done.stdout.strip() == "MIT", done.stderr


def test_mixtures_share_no_source_and_rates_are_capped(tasks: tuple) -> None:
    _, mixtures = tasks
    train = registry.mixture_info("real_data")
    held_out = registry.mixture_info("real_data_held_out")
    assert len(train) == 30 - 5 + 5 and len(held_out) == 5
    assert not {i.identity for i, _ in train} & {i.identity for i, _ in held_out}
    assert not {i.cluster for i, _ in train} & {i.cluster for i, _ in held_out}
    assert {i.cluster for i, _ in held_out} == set(mixtures.HELD_OUT_T0_CLUSTERS)
    rates = {i.name: rate for i, rate in train}
    assert rates["gsm8k"] == 2000 and rates["t0/adversarial_qa"] == 800 and rates["t0/wiki_qa"] == 42
    assert not registry.is_sensitive("real_data")


def test_every_task_has_both_sides_with_no_row_on_both(tasks: tuple) -> None:
    formats, _ = tasks
    for name in (*(f"t0/{d}" for d in formats.T0_DATASETS), *formats.OTHER_TASKS):
        train, held = rows(name, "train"), rows(name, "validation")
        assert train and held, name
        assert not {r["id"] for r in train} & {r["id"] for r in held}, name
        first = registry.get(name).source.fields[0]
        if name != "medical_meadow_small":  # its first field is the one instruction that all rows have
            assert not {normalise(r[first]) for r in train} & {normalise(r[first]) for r in held}, name
        for template in registry.info(name).templates:
            for row in held[:20]:
                assert all(side.strip() for side in template.render(row)), (name, template.id)


def passages(text: str, run: int) -> set[tuple[str, ...]]:
    words = normalise(text).split()
    return {tuple(words[i : i + run]) for i in range(len(words) - run + 1)}


@pytest.mark.parametrize(
    ("dataset", "run", "across"),
    [
        *((name, 12, True) for name in ("glue_qqp", "samsum", "sciq", "xsum")),
        # One movie plot or passage of these stands in up to a quarter of all prompts; wording never runs to 50 words.
        *((name, 50, False) for name in ("duorc", "quoref")),
    ],
)
def test_t0_sources_are_on_one_side(tasks: tuple, dataset: str, run: int, across: bool) -> None:
    """No `run` words in a row of a held-out prompt stand in a training prompt (across: of another template)."""

    held: dict[tuple[str, ...], set[str]] = {}
    for row in rows(f"t0/{dataset}", "validation"):
        for passage in passages(row["prompt"], run):
            held.setdefault(passage, set()).add(row["t0_template"])
    assert len(held) > 500
    for row in rows(f"t0/{dataset}", "train"):
        for passage in passages(row["prompt"], run):
            seen = held.get(passage, set()) - ({row["t0_template"]} if across else set())
            assert not seen, (" ".join(passage), row["t0_template"], seen)


def test_t0_is_as_given_with_its_template_kept(tasks: tuple) -> None:
    task = registry.get("t0/ag_news")
    example = next(task.get_dataset(None, "train", shuffle=False).as_numpy_iterator())
    assert example["inputs_pretokenized"] == example["field/prompt"].strip()
    assert example["template"] == b"as_given" and example["field/t0_template"] == b"classify"


def test_a_file_with_other_data_sets_is_refused(tasks: tuple, tmp_path: Path) -> None:
    formats, _ = tasks
    path = tmp_path / "t0.jsonl"
    path.write_text('{"dataset": "ag_nws", "template": "t", "prompt": "p", "target": "t"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="t0.jsonl:1: data set 'ag_nws' is not in tasks/t0_prompts.yaml"):
        formats._t0_file(str(path), 0)
    path.write_text('{"dataset": "ag_news", "template": "t", "prompt": "p", "target": "t"}\n', encoding="utf-8")
    with pytest.raises(UserError, match="no rows of adversarial_qa, amazon_polarity"):
        formats._t0_file(str(path), 1)


def test_gsm8k_golden(tasks: tuple) -> None:
    question = (
        "A robe takes 2 bolts of blue fiber and half that much white fiber.  How many bolts in total does it take?"
    )
    answer = (
        "It takes 2/2=1 bolt of white fiber\nSo the total amount of fabric is 2+1=3 bolts of fabric\nThe answer is 3."
    )
    assert rendered("gsm8k", "validation", "A robe takes 2 bolts") == {
        "question": (question, answer),
        "step_by_step": (f"Work this out step by step, then give the number.\n\n{question}", answer),
        "problem_solution": (f"Problem: {question}\nSolution:", answer),
    }
    assert len(rows("gsm8k", "validation")) == 1319
    (fn,) = registry.get("gsm8k").metric_fns
    assert fn([answer], ["... so 3 bolts"]) == {"final_number": 100.0}


def test_pubmedqa_golden(tasks: tuple) -> None:
    question = "Do mitochondria play a role in remodelling lace plant leaves during programmed cell death?"
    (row,) = [r for s in ("train", "validation") for r in rows("pubmedqa/decision", s) if r["id"] == "21645374"]
    start = "Programmed cell death (PCD) is the regulated death of cells within an organism."
    assert row["contexts"].startswith(start) and row["contexts"].count("\n") == 1
    templates = {t.id: t for name in ("decision", "long_answer") for t in registry.info(f"pubmedqa/{name}").templates}
    prompt, answer = templates["question_first"].render(row)
    assert answer == "yes"
    assert prompt.startswith(
        f"{question}\nDecide from this abstract whether the answer is yes, no or maybe.\n\nProgrammed cell"
    )
    prompt, answer = templates["conclude"].render(row)
    assert prompt.startswith(f"{question}\nWrite the conclusion that this abstract supports.\n\nProgrammed cell")
    assert answer.startswith("Results depicted mitochondrial dynamics in vivo") and answer not in prompt
    assert {r["decision"] for r in rows("pubmedqa/decision", "validation")} == {"yes", "no", "maybe"}
    assert len(rows("pubmedqa/decision", "validation")) == 500


def test_medical_meadow_golden(tasks: tuple) -> None:
    found = {
        t.id: t.render(row)[0]
        for split in ("train", "validation")
        for row in rows("medical_meadow_small", split)
        if row["question"] == "What are the symptoms of Chondrosarcoma?"
        for t in registry.info("medical_meadow_small").templates
    }
    assert found == {
        "question": "What are the symptoms of Chondrosarcoma?",
        "as_published": "Answer this question truthfully\n\nWhat are the symptoms of Chondrosarcoma?",
        "reader_asks": (
            "A reader of a health site asks: What are the symptoms of Chondrosarcoma?\nWrite a factual answer."
        ),
    }
    sides = [{normalise(r["question"]) for r in rows("medical_meadow_small", s)} for s in ("train", "validation")]
    assert not sides[0] & sides[1]
