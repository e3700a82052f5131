"""The synthetic clinic: splits, balance, doses and urgency, checked on the text of notes."""

from __future__ import annotations

import collections
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tasks.synthetic_clinic.conditions import CONDITIONS, RED_FLAGS
from tasks.synthetic_clinic.drugs import ALLERGENS, DRUGS, conflicts
from tasks.synthetic_clinic.encounter import (
    FOUND,
    NUM_ENCOUNTERS,
    URGENCY_LABELS,
    Vitals,
    make_encounter,
    numbers,
    urgency_by_rule,
)
from tasks.synthetic_clinic.items import DOCUMENT_TYPES, FIELDS, make_row, rows
from tasks.synthetic_clinic.patterns import PATTERNS
from tasks.synthetic_clinic.procedures import OPERATIONS, PROCEDURES
from tasks.synthetic_clinic.wording import FREQUENCIES, HEADING_STYLES, HEADINGS, URGENCY_RULES
from tests.tasks.clinic_rows import (
    _VITAL_FORMS,
    EXTRACT,
    GOLDEN,
    KEYS,
    ROOT,
    SPLITS,
    TASKS,
    TEMPLATES,
    all_rows,
    allergies_in,
    each_row,
    medicines_in,
)

# Determinism and splits


def digest_in_another_process(hash_seed: str, order: list[str]) -> str:
    # tasks/__init__.py registers everything with SeqIO; the generator alone is enough here, and much faster.
    code = (
        "import hashlib, json, sys, types\n"
        f"package = types.ModuleType('tasks'); package.__path__ = [{str(ROOT / 'tasks')!r}]\n"
        "sys.modules['tasks'] = package\n"
        "from tasks.synthetic_clinic.items import rows\n"
        f"order = {order!r}\n"
        "found = {(t, s): list(rows(t, s, 180)) for t in order for s in ('train', 'validation')}\n"
        "print(hashlib.sha256(json.dumps([found[k] for k in sorted(found)], sort_keys=True).encode()).hexdigest())\n"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_same_rows_in_every_process_and_order():
    assert digest_in_another_process("1", list(TASKS)) == digest_in_another_process("2", list(reversed(TASKS)))


def test_raising_the_number_of_encounters_changes_no_row():
    for task in TASKS:
        few = list(rows(task, "train", 90))
        assert few == list(all_rows(task, "train"))[: len(few)]


def test_ids_are_unique_and_fields_complete():
    for task in TASKS:
        for split in SPLITS:
            found = all_rows(task, split)
            assert len({row["id"] for row in found}) == len(found)
            for row in found:
                assert set(row) == {"id", *FIELDS[task]} and all(isinstance(value, str) for value in row.values())
                assert row["id"] == f"{row['encounter']}/{task.removeprefix('clinic/')}"


def test_an_encounter_is_in_one_split_for_all_tasks():
    seen = {split: {row["encounter"] for task in TASKS for row in all_rows(task, split)} for split in SPLITS}
    assert not seen["train"] & seen["validation"]
    assert (len(seen["train"]), len(seen["validation"])) == (1200, 150) == tuple(len(numbers(s)) for s in SPLITS)


def test_wordings_of_validation_are_never_seen_in_train():
    used = {split: set() for split in SPLITS}
    for task in TASKS:
        for split in SPLITS:
            for number in numbers(split):
                used[split] |= make_row(task, number)[1].used
    assert not used["train"] & used["validation"]
    # The choices were recorded at all, and most of both pools came up.
    for index, split in enumerate(SPLITS):
        patterns = {(key, text) for key, pools in PATTERNS.items() for text in pools[index]}
        assert len(used[split] & patterns) > 0.9 * len(patterns)


@pytest.mark.parametrize("table", [PATTERNS, HEADINGS, FREQUENCIES])
def test_pools_share_no_wording(table):
    for key, (train, validation) in table.items():
        assert train and validation and not set(train) & set(validation), key


def test_no_sentence_of_validation_is_in_train():
    # Names of tests and medicines are common; the sentence around them is not.
    tables = (CONDITIONS.values(), PROCEDURES.values(), OPERATIONS)
    terms = {f"{entry.names.split('|')[0]}." for table in tables for entry in table}

    def sentences(split: str) -> set[str]:
        return {
            re.sub(r"\d+", "#", sentence)
            for task in TASKS
            for row in all_rows(task, split)
            for line in row["note"].split("\n")[1:]
            for sentence in re.split(r"(?<=[.]) ", re.sub(r"^\[[^]]*\]", "", line).strip())
            if len(sentence.split()) > 2 and sentence[:1].lower() + sentence[1:] not in terms and sentence not in terms
        }

    assert not sentences("train") & sentences("validation")
    assert not set(HEADING_STYLES[0]) & set(HEADING_STYLES[1])


# Shares


@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("split", SPLITS)
def test_a_fifth_has_nothing_to_find(task, split):
    kinds = collections.Counter(row["kind"] for row in all_rows(task, split))
    assert 0.15 <= 1 - kinds[FOUND] / sum(kinds.values()) <= 0.25, kinds


@pytest.mark.parametrize("task", EXTRACT)
def test_every_kind_of_absence_occurs(task):
    for split in SPLITS:
        kinds = {row["kind"] for row in all_rows(task, split)}
        assert kinds == {FOUND, "nothing", "negated", "family", "not_documented"}


def test_labels_are_balanced():
    for split in SPLITS:
        types = collections.Counter(row["answer"] for row in all_rows("clinic/classify/document_type", split))
        assert set(types) == set(DOCUMENT_TYPES) and max(types.values()) - min(types.values()) <= 2
        urgency = collections.Counter(row["answer"] for row in all_rows("clinic/classify/urgency", split))
        total = sum(urgency.values())
        assert set(urgency) == set(URGENCY_LABELS) and all(0.18 <= n / total <= 0.28 for n in urgency.values())


# Medicine


def test_patients_are_plausible():
    for number in range(NUM_ENCOUNTERS):
        encounter = make_encounter(number)
        for condition in (encounter.condition, *encounter.known):
            assert encounter.sex in condition.sexes, encounter.id
            assert condition.ages[0] <= encounter.age <= condition.ages[1], encounter.id
        assert len(set(encounter.groups)) == len(encounter.groups), encounter.id
        assert not {c.group for c in encounter.excluded} & set(encounter.groups), encounter.id
        assert encounter.relative.group not in encounter.groups, encounter.id
    assert CONDITIONS["pregnancy"].sexes == "F" and CONDITIONS["bph"].sexes == "M"


def test_doses_and_frequencies_are_in_the_table():
    for number in range(NUM_ENCOUNTERS):
        for medication in (*make_encounter(number).home, *make_encounter(number).started):
            assert (medication.dose, medication.frequency) in medication.drug.regimens, number
    for row in each_row("clinic/extract/medications"):
        for entry in json.loads(row["answer"])["medications"]:
            drug = DRUGS[entry["name"]]
            codes = {code for code, pools in FREQUENCIES.items() for pool in pools if entry["frequency"] in pool}
            dose = entry["dose"].removesuffix(f" {drug.unit}")
            assert any((dose, code) in drug.regimens for code in codes), row["id"]


def test_no_medicine_against_an_allergy_unless_that_is_the_point():
    pairs = flagged = 0
    for task in TASKS:
        for row in each_row(task):
            allergens, medicines = allergies_in(row["note"]), medicines_in(row["note"])
            pairs += len(allergens) * len(medicines)
            clash = any(conflicts(drug, allergen) for allergen in allergens for drug in medicines)
            assert clash == (row.get("conflict") == "yes"), row["id"]
            flagged += clash
    assert pairs > 3000 and 20 <= flagged <= 80  # the parsers above see something, and conflicts are few


def test_conflict_answers_name_the_medicine_and_the_allergy():
    for row in each_row("clinic/qa/answer"):
        if row["conflict"] == "yes":
            drug, allergen = re.fullmatch(r"Yes: (.*) conflicts with the allergy to (.*)\.", row["answer"]).groups()
            assert drug in row["note"].lower() and allergen in row["note"].lower(), row["id"]
            assert DRUGS[drug].allergy_class == next(a.allergy_class for a in ALLERGENS if a.name == allergen)


def vitals_in(text: str) -> Vitals | None:
    found = {name: re.search(form, text) for name, form in _VITAL_FORMS.items()}
    if not any(found.values()):
        return None
    sbp, dbp = found["pressure"].groups()
    return Vitals(
        temp=float(found["temp"][1]),
        hr=int(found["hr"][1]),
        rr=int(found["rr"][1]),
        spo2=int(found["spo2"][1]),
        sbp=int(sbp),
        dbp=int(dbp),
    )


def has_red_flag(text: str) -> bool:
    denied = r"(Denies|No|Negative for|Asked about|Did not suffer) $"
    phrases = {wording for names in RED_FLAGS.values() for wording in names.split("|")[1:]}
    return any(
        not re.search(denied, text[: match.start()])
        for phrase in phrases
        for match in re.finditer(rf"\b{re.escape(phrase)}", text)
    )


def test_urgency_follows_the_rule_from_the_text_of_the_note():
    labels = set()
    for row in each_row("clinic/classify/urgency"):
        vitals, flag = vitals_in(row["note"]), has_red_flag(row["note"])
        assert urgency_by_rule(vitals, flag) == row["answer"], row["id"]
        labels.add((row["answer"], flag, vitals is None))
    assert len(labels) >= 6  # flags with and without vital signs, none of either, and so on


def test_the_printed_rule_is_the_rule():
    thresholds = ["systolic BP < 90", "HR > 130", "RR >= 30", "SpO2 < 90%"]
    thresholds += ["T >= 38.5 C", "HR > 110", "RR > 22", "SpO2 < 94%", "systolic BP >= 180"]
    calm = dict(temp=37.0, hr=80, rr=16, spo2=97, sbp=120, dbp=70)
    sign = {"BP": "sbp", "HR": "hr", "RR": "rr", "SpO2": "spo2", "T": "temp"}
    for rule in (rule for pool in URGENCY_RULES for rule in pool):
        assert [t for t in thresholds if t in rule] == thresholds and "{flags}" in rule
        printed = re.findall(r"(BP|HR|RR|SpO2|T) (<|>=|>) ([\d.]+)", rule)
        assert len(printed) == len(thresholds)
        for name, relation, value in printed:
            label = "emergent" if rule.index(f"{name} {relation} {value}") < rule.index("38.5") - 6 else "urgent"
            step = 0.1 if name == "T" else 1
            edge = float(value)
            beyond, short = {"<": (edge - step, edge), ">": (edge + step, edge), ">=": (edge, edge - step)}[relation]
            assert urgency_by_rule(Vitals(**{**calm, sign[name]: beyond}), False) == label, (name, relation, value)
            assert urgency_by_rule(Vitals(**{**calm, sign[name]: short}), False) != label, (name, relation, value)
    assert urgency_by_rule(None, False) == "not documented" and urgency_by_rule(None, True) == "emergent"


def template_file(task: str) -> Path:
    return TEMPLATES / f"{task.replace('/', '_')}.yaml"


@pytest.mark.parametrize("task", TASKS)
def test_templates(task):
    from itune.data.templates import load_templates

    templates = load_templates(template_file(task))
    assert len(templates) >= 5
    row = all_rows(task, "train")[0]
    for template in templates:
        template.check(row, task)
        prompt, target = template.render(row)
        assert row["note"] in prompt and target == row["answer"], template.id
        assert "rule" not in row or row["rule"] in prompt, template.id
        assert "question" not in row or row["question"] in prompt, template.id
        if task in EXTRACT:
            for key in {task.rsplit("/", 1)[1]} | (KEYS[task] or set()):
                assert f'"{key}"' in prompt, (template.id, key)


def test_golden_prompts():
    """Regenerate with ITUNE_UPDATE_GOLDEN=1 pytest tests/tasks/test_clinic.py -k golden."""
    from itune.data.templates import load_templates

    prompts = {}
    for task in TASKS:
        template = load_templates(template_file(task))[0]
        row = all_rows(task, "validation")[0]
        inputs, targets = template.render(row)
        prompts[task] = {"id": row["id"], "template": template.id, "inputs": inputs, "targets": targets}
    if os.environ.get("ITUNE_UPDATE_GOLDEN"):
        GOLDEN.write_text(json.dumps(prompts, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
    golden = json.loads(GOLDEN.read_text(encoding="utf-8"))
    for task in TASKS:
        assert prompts[task] == golden.get(task), (
            f"{task}: the rendered prompt differs from {GOLDEN.name}. Refactor? A bug. Intended? Update the golden and "
            "CHANGELOG, and raise VERSION in tasks/clinic.py: ITUNE_UPDATE_GOLDEN=1 pytest tests/tasks/test_clinic.py"
        )
    assert set(golden) == set(TASKS)


# Registration


def test_registered_tasks():
    pytest.importorskip("seqio")
    from itune.data import TASKS as REGISTERED
    from tasks import clinic

    assert set(clinic.TRAIN_TASKS) | set(clinic.HELD_OUT_TASKS) == set(TASKS)
    train = [REGISTERED[name] for name in clinic.TRAIN_TASKS]
    held_out = [REGISTERED[name] for name in clinic.HELD_OUT_TASKS]
    assert not {t.cluster for t in train} & {t.cluster for t in held_out}
    assert not {t.identity for t in train} & {t.identity for t in held_out}
    for info in (*train, *held_out):
        assert info.licence == "Apache-2.0" and info.identity.startswith("itune/synthetic-clinic/")
        assert info.description.startswith("Synthetic") and not info.sensitive
        drops = info.cluster in ("clinical_extraction", "clinical_summary", "clinical_qa")
        assert (info.overlong == "drop") == drops, info.name


def test_a_task_gives_seqio_examples():
    seqio = pytest.importorskip("seqio")
    from tasks import clinic

    task = seqio.TaskRegistry.get(clinic.TRAIN_TASKS[0])
    dataset = task.source.get_dataset("validation", shuffle=False)
    first = next(iter(dataset.as_numpy_iterator()))
    assert first["id"].decode() == "enc-000004/summary/soap"
