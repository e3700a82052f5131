"""The clinical tasks over public data: what registers where, templates, and that no text is on both sides."""

from __future__ import annotations

import functools
import importlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import seqio

from itune.data import load_templates, normalise, registry
from tasks import clinic_public
from tasks.clinical_sources.sides import passages
from tasks.formats import DATA_DIR_VARIABLE

PROJECT = Path(__file__).parents[2]
OPTIONAL = {name for name, use in clinic_public.FILE_TASKS.items() if use.optional}
HERE = tuple(name for name in clinic_public.FILE_TASKS if name not in OPTIONAL)
SPLITS = ("train", "validation")


@pytest.fixture(scope="module")
def names(data_dir: Path) -> Iterator[tuple[str, ...]]:
    """The tasks and the mixtures over the real data, in registries of this module's own."""
    formats, mixtures = (importlib.import_module(f"tasks.{name}") for name in ("formats", "mixtures"))
    mine = {*clinic_public.FILE_TASKS, *formats.OTHER_TASKS, "clinic", "clinic_held_out"}
    with pytest.MonkeyPatch.context() as patch:
        for name in ("TASKS", "_unavailable"):
            patch.setattr(registry, name, {k: v for k, v in getattr(registry, name).items() if k not in mine})
        for theirs in (seqio.TaskRegistry, seqio.MixtureRegistry):
            patch.setattr(theirs, "_REGISTRY", {k: v for k, v in theirs._REGISTRY.items() if k not in mine})
        formats._register_pubmedqa(data_dir / "clinical" / "pubmedqa")
        found = clinic_public.register(data_dir)
        mixtures.register_clinic(found)
        yield found


@functools.cache  # the library remembers few sources, and each test goes through all
def rows(name: str, split: str) -> list[dict[str, str]]:
    source = registry.get(name).source
    return source.checked_rows(split) if split in source.splits else []


def run(code: str, **environment: str) -> list[str]:
    kept = {k: v for k, v in os.environ.items() if k != DATA_DIR_VARIABLE}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, cwd=PROJECT, env=kept | environment
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout.splitlines()


def test_without_the_variable_the_names_say_what_to_set() -> None:
    found = run(
        "import tasks\nfrom itune.data import registry\nfrom itune.errors import UserError\n"
        f"for name in {[*clinic_public.FILE_TASKS, 'clinic', 'clinic_held_out']}:\n"
        "    try: registry.mixture_info(name)\n"
        "    except UserError as error: print(error)\n"
        "print(registry.info('clinic/explain/term').licence)"
    )
    assert len(found) == len(clinic_public.FILE_TASKS) + 3
    assert all("is not available" in line and "set ITUNE_DATA_DIR" in line for line in found[:-1])
    assert found[-1] == "Apache-2.0"


def test_registering_reads_nothing_and_optional_sets_wait_for_their_files(tmp_path: Path) -> None:
    code = (
        "import tasks.clinic_public\nfrom itune.data import registry\nfrom itune.errors import UserError\n"
        "print(*tasks.clinic_public.FILE_TASK_NAMES)\n"
        "for name in ('medqa/choice', 'mtsamples/document_type'):\n"
        "    try: print(registry.info(name).cluster)\n"
        "    except UserError as error: print(error)"
    )
    listed, medqa, mtsamples = run(code, ITUNE_DATA_DIR=str(tmp_path))
    assert set(listed.split()) == set(HERE)
    assert medqa.startswith("'medqa/choice' is not available: its files are not there:") and "train.jsonl" in medqa
    folder = tmp_path / "clinical" / "medqa" / "US"
    folder.mkdir(parents=True)
    for name in ("train.jsonl", "test.jsonl"):
        (folder / name).write_bytes(b"\xff not JSON")
    listed, medqa, mtsamples = run(code, ITUNE_DATA_DIR=str(tmp_path))
    assert set(listed.split()) == {*HERE, "medqa/choice"}
    assert medqa == "medical_exam_questions" and "is not available" in mtsamples


def example_row(name: str) -> dict[str, str]:
    """A row with all fields, each its own name, for templates of sets that are not here."""
    use = {**clinic_public.FILE_TASKS, **{k: u for k, (_, u) in clinic_public.SYNTHETIC_TASKS.items()}}[name]
    return {"id": "1", **{field: f"<{field}>" for field in use.fields}}


TARGETS = {
    "mts_dialog/section": "note",
    "mts_dialog/header": "section",
    "aci_bench/note": "note",
    "medquad/answer": "answer",
    "medqa/choice": "letter",
    "ade/effects": "answer",
    "ade/doses": "answer",
    "ncbi_disease/mentions": "answer",
    "medical_abstracts/condition": "condition",
    "mtsamples/document_type": "document_type",
    "nursesim/urgency": "urgency",
    "avey/diagnosis": "diagnosis",
    "cochrane_plain/summary": "summary",
    "clinic/classify/acuity": "answer",
    "clinic/explain/term": "answer",
}


@pytest.mark.parametrize("name", TARGETS)
def test_every_task_has_seven_prompts_that_ask_about_its_source_and_hide_the_answer(name: str) -> None:
    path = PROJECT / "tasks" / "templates" / f"{name.replace('/', '_')}.yaml"
    templates = load_templates(path)
    use = {**clinic_public.FILE_TASKS, **{k: u for k, (_, u) in clinic_public.SYNTHETIC_TASKS.items()}}[name]
    row = example_row(name)
    prompts = set()
    for template in templates:
        template.check((*use.fields, "id"), name)
        prompt, target = template.render(row)
        assert target == f"<{TARGETS[name]}>", template.id
        assert f"<{TARGETS[name]}>" not in prompt, template.id
        assert all(f"<{field}>" in prompt for field in use.source), template.id
        assert "  " not in prompt and prompt == prompt.strip(), template.id
        prompts.add(normalise(prompt))
    assert len(prompts) == len(templates) >= 7
    assert set(TARGETS) == {*clinic_public.FILE_TASKS, *clinic_public.SYNTHETIC_TASKS}


def test_sizes(names: tuple[str, ...]) -> None:
    assert set(names) == set(HERE)
    assert {name: tuple(len(rows(name, split)) for split in SPLITS) for name in names} == {
        "mts_dialog/section": (1189, 100),
        "mts_dialog/header": (1189, 100),
        "aci_bench/note": (67, 20),
        "medquad/answer": (14741, 1618),
        "ade/effects": (7527, 838),
        "ade/doses": (193, 20),
        "ncbi_disease/mentions": (5394, 923),
        "medical_abstracts/condition": (2390, 265),
        "nursesim/urgency": (144, 16),
        "avey/diagnosis": (0, 400),
        "cochrane_plain/summary": (370, 41),
    }


def test_no_text_is_on_both_sides_of_any_two_sets(names: tuple[str, ...]) -> None:
    """No 13 words in a row, sets compared with each other too. MedQuAD and ACI-Bench repeat stock sentences."""
    stock = {"medquad/answer", "aci_bench/note"}
    sides: dict[str, dict[str, str]] = {split: {} for split in SPLITS}
    for name in (*(n for n in names if n not in stock), "pubmedqa/long_answer"):
        use = clinic_public.FILE_TASKS.get(name)
        fields = (*use.source, TARGETS[name]) if use else ("contexts", "long_answer")
        for split in SPLITS:
            for row in rows(name, split):
                for passage in passages(*(row[field] for field in fields if len(row[field].split()) > 12)):
                    sides[split].setdefault(passage, name)
    both = sides["train"].keys() & sides["validation"].keys()
    assert len(sides["validation"]) > 50_000
    assert not {(sides["train"][p], sides["validation"][p], p) for p in both}


def test_the_stock_sets_share_no_question_topic_or_dialogue(names: tuple[str, ...]) -> None:
    for name, fields in {
        "medquad/answer": ("question", "answer", "topic"),
        "aci_bench/note": ("dialogue", "note"),
    }.items():
        for field in fields:
            train, held = ({normalise(row[field]) for row in rows(name, split) if row[field]} for split in SPLITS)
            assert not train & held, (name, field)


def test_what_is_extracted_stands_in_the_sentence(names: tuple[str, ...]) -> None:
    seen = 0
    for name in ("ade/effects", "ade/doses", "ncbi_disease/mentions"):
        for split in SPLITS:
            for row in rows(name, split):
                (entries,) = json.loads(row["answer"]).values()
                for entry in entries:
                    for text in entry.values() if isinstance(entry, dict) else [entry]:
                        assert text in row["sentence"], (name, row["id"])
                        seen += 1
    assert seen > 15_000


def test_the_mixtures_hold_whole_clusters_and_sources_out(names: tuple[str, ...]) -> None:
    train, held = registry.mixture_info("clinic"), registry.mixture_info("clinic_held_out")
    assert {i.name for i, _ in held} == {"avey/diagnosis", "clinic/qa/answer", "clinic/qa/evidence"}
    assert not {i.identity for i, _ in train} & {i.identity for i, _ in held}
    assert not {i.cluster for i, _ in train} & {i.cluster for i, _ in held}
    rates = {i.name: rate for i, rate in train}
    assert set(rates) >= {n for n in HERE if n != "avey/diagnosis"} | set(clinic_public.SYNTHETIC_TASKS)
    assert rates["medquad/answer"] == 1000 and rates["aci_bench/note"] == 67 and rates["pubmedqa/decision"] == 500
    uses = ("summary", "extraction", "explanation", "classification")
    assert {i.cluster for i, _ in train} >= {f"clinical_{use}" for use in uses}


def test_a_perfect_output_does_no_harm(names: tuple[str, ...]) -> None:
    """Each task's own functions on its own targets, through SeqIO's example: the fields reach the metrics."""
    best = {"under_triage": 0, "over_triage": 0, "triage_exact": 100, "valid_json": 100, "accuracy": 100, "named": 100}
    met = set()
    for name in (*names, *clinic_public.SYNTHETIC_TASKS):
        task = registry.get(name)
        examples = list(task.get_dataset(None, "validation", shuffle=False).take(20).as_numpy_iterator())
        targets = [e["targets_pretokenized"].decode() for e in examples]
        references = [task.postprocess_fn(t, example=e, is_target=True) for t, e in zip(targets, examples, strict=True)]
        for function in task.metric_fns:
            for key, value in function(references, targets).items():
                if key in best:
                    assert value == best[key], (name, key)
                    met.add(key)
    assert met == set(best)


def test_golden_prompts(names: tuple[str, ...]) -> None:
    templates = {t.id: t for t in registry.info("ade/effects").templates}
    (row,) = [r for s in SPLITS for r in rows("ade/effects", s) if r["sentence"].startswith("Intravenous azithromycin")]
    assert templates["task_input"].render(row) == (
        'Task: adverse drug effects. Format: {"relations": [{"drug": ..., "adverse_effect": ...}]}, '
        'or {"relations": []}.\n'
        "Input: Intravenous azithromycin-induced ototoxicity.\nOutput:",
        '{"relations": [{"drug": "azithromycin", "adverse_effect": "ototoxicity"}]}',
    )
    templates = {t.id: t for t in registry.info("mts_dialog/section").templates}
    (row,) = [r for r in rows("mts_dialog/section", "train") if r["note"] == "Burn, right arm."]
    assert templates["task_input"].render(row) == (
        "Task: dialogue to note section\nSection: chief complaint\nDialogue:\n"
        "Doctor: Hi, how are you? \nPatient: I burned my hand.\nDoctor: Oh, I am sorry. Wow!\nPatient: Yeah.\n"
        "Doctor: Is it only right arm?\nPatient: Yes.\nNote:",
        "Burn, right arm.",
    )
