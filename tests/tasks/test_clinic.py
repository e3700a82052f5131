"""The synthetic clinic: what its items promise, checked on the text of notes and not on the code that wrote them."""

from __future__ import annotations

import collections
import functools
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
from tasks.synthetic_clinic.items import DOCUMENT_TYPES, FIELDS, MAKERS, make_row, rows
from tasks.synthetic_clinic.patterns import PATTERNS
from tasks.synthetic_clinic.procedures import OPERATIONS, PROCEDURES
from tasks.synthetic_clinic.wording import FREQUENCIES, HEADING_STYLES, HEADINGS, URGENCY_RULES

ROOT = Path(__file__).resolve().parents[2]
TEMPLATES = ROOT / "tasks" / "templates"
GOLDEN = ROOT / "tests" / "golden" / "clinic_prompts.json"
SPLITS = ("train", "validation")
TASKS = tuple(MAKERS)
EXTRACT = tuple(task for task in TASKS if task.startswith("clinic/extract/"))
RELATIVES = r"\b(mother|father|sister|brother)\b"
# How notes of either pool write vital signs.
_VITAL_FORMS = {
    "temp": r"(?:\bT|[Tt]emperature) (\d\d\.\d)",
    "hr": r"(?:\bHR|[Pp]ulse) (\d+)",
    "rr": r"(?:\bRR|[Bb]reaths) (\d+)",
    "spo2": r"(?:SpO2|[Oo]xygen) (\d+)%",
    "pressure": r"(?:\bBP|[Bb]lood pressure) (\d+)/(\d+)",
}


@functools.cache
def all_rows(task: str, split: str) -> tuple[dict[str, str], ...]:
    return tuple(rows(task, split))


def each_row(task: str):
    return [row for split in SPLITS for row in all_rows(task, split)]


def number_of(row: dict[str, str]) -> int:
    return int(row["encounter"].removeprefix("enc-"))


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


def allergies_in(text: str) -> list:
    """Allergens that the note records as the patient's own, read from its text."""
    marked = (
        r"(?:Allerg(?:ies:|y:|ic to)|ALLERGY|ALLERGIES:|intolerance:|Reacts badly to|To be avoided:)\n?(?: ALLERGY)?"
    )
    parts = re.findall(rf"(?:{marked}) ?([^.]*)\.", text) + re.findall(
        r"Allerg(?:ies|y)\n([^.]*)\.", text, re.IGNORECASE
    )
    own = " ".join(part for part in parts if not re.search(rf"known|denies|\bno\b|{RELATIVES}", part, re.IGNORECASE))
    return [allergen for allergen in ALLERGENS if allergen.name in own.lower()]


def medicines_in(text: str) -> list:
    """Medicines prescribed or taken: those that a dose stands beside. Relatives' do not count."""
    own = " ".join(s for s in re.split(r"(?<=\.)\s", text) if not re.search(RELATIVES, s, re.IGNORECASE))
    amount = r"\d[\d./]* (?:mg|mcg|g|units|puffs|tablet)"
    return [
        drug
        for drug in DRUGS.values()
        if re.search(rf"\b{drug.name},? \(?{amount}|{amount} of {drug.name}\b", own, re.IGNORECASE)
    ]


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


# Targets


KEYS = {
    "clinic/extract/medications": {"name", "dose", "frequency"},
    "clinic/extract/procedures": {"name", "status"},
    "clinic/extract/allergies": {"substance", "reaction"},
    "clinic/extract/diagnoses": None,
}


@pytest.mark.parametrize("task", EXTRACT)
def test_json_has_the_promised_keys_and_only_words_of_the_note(task):
    key = task.rsplit("/", 1)[1]
    for row in each_row(task):
        answer = json.loads(row["answer"])
        assert set(answer) == ({"status", key} if key == "allergies" else {key}), row["id"]
        assert bool(answer[key]) == (row["kind"] == FOUND), row["id"]
        for entry in answer[key]:
            values = {"": entry} if KEYS[task] is None else entry
            assert KEYS[task] is None or set(entry) == KEYS[task], row["id"]
            for name, value in values.items():
                assert name == "status" or value.lower() in row["note"].lower(), (row["id"], value)


def test_status_of_allergies_tells_none_from_not_documented():
    expected = {FOUND: "present", "nothing": "none known", "negated": "none known"}
    for row in each_row("clinic/extract/allergies"):
        assert json.loads(row["answer"])["status"] == expected.get(row["kind"], "not documented"), row["id"]


def test_no_denied_or_familial_illness_among_the_diagnoses():
    checked = 0
    for row in each_row("clinic/extract/diagnoses"):
        encounter = make_encounter(number_of(row))
        diagnoses = {name.lower() for name in json.loads(row["answer"])["diagnoses"]}
        others = [c.names for c in encounter.excluded] + [encounter.relative.illness]
        for name in (name.lower() for names in others for name in names.split("|")):
            checked += name in row["note"].lower()
            assert name not in diagnoses, row["id"]
    assert checked > 500


def test_an_open_complaint_is_not_put_as_a_diagnosis():
    for row in each_row("clinic/extract/diagnoses"):
        complaint = make_encounter(number_of(row)).condition.complaint
        if complaint:
            for key, side in ((key, side) for key in ("diagnosis", "review") for side in (0, 1)):
                for pattern in PATTERNS[key][side]:
                    said = pattern.format(name=complaint, name_cap=complaint.capitalize())
                    assert said.lower() not in row["note"].lower(), row["id"]


def test_stopped_and_relatives_medicines_are_no_medications():
    checked = 0
    for row in each_row("clinic/extract/medications"):
        names = {entry["name"] for entry in json.loads(row["answer"])["medications"]}
        assert names == {drug.name for drug in medicines_in(row["note"])}, row["id"]
        checked += sum(name in row["note"].lower() and name not in names for name in DRUGS)
    assert checked > 200  # distractors there are


def test_declined_and_relatives_tests_are_no_procedures():
    for row in each_row("clinic/extract/procedures"):
        names = {entry["name"].lower() for entry in json.loads(row["answer"])["procedures"]}
        for sentence in re.split(r"(?<=\.)\s", row["note"].lower()):
            if re.search(r"declined|refuses|did not agree|turned down|mother|father|sister|brother", sentence):
                assert not any(re.search(rf"\b{re.escape(name)}\b", sentence) for name in names), row["id"]


def test_answers_to_questions_stand_in_the_note():
    said = {"Yes.", "No.", "Done.", "Planned.", "No, the patient declined it.", "No conflict is recorded."}
    said |= {"No, never.", "Not any more.", "Not documented in the note."}
    for row in each_row("clinic/qa/answer"):
        answer = row["answer"]
        assert (answer == "Not documented in the note.") == (row["kind"] == "not_documented"), row["id"]
        relative = re.search(r"patient's (mother|father|sister|brother)\.$", answer)
        plain = relative[1] if relative else re.sub(r"^In (.*)\.$", r"\1", answer)
        assert answer in said or row["conflict"] == "yes" or plain.lower() in row["note"].lower(), row["id"]


def test_evidence_is_quoted_word_for_word():
    for row in each_row("clinic/qa/evidence"):
        answer, evidence = re.fullmatch(r"Answer: (.*)\nEvidence: (.*)", row["answer"]).groups()
        if row["kind"] == "not_documented":
            assert (answer, evidence) == ("Not documented in the note.", "none"), row["id"]
        else:
            assert evidence[1:-1] in row["note"] and evidence[0] == evidence[-1] == '"', row["id"]


# Words that belong to the form of a summary.
FRAME = """
s o a p t hr bp rr spo2 admitted diagnosis tests procedures medicines at discharge allergies next complaint history
family exam assessment plan year old man woman none known no not documented illness found cause unknown ruled out
review in hospital now vital signs with for and
"""


@pytest.mark.parametrize("task", [task for task in TASKS if task.startswith("clinic/summary/")])
def test_summaries_state_only_facts_of_the_note(task):
    frame = set(FRAME.split())
    for row in each_row(task):
        note = set(re.findall(r"[\w./]+", row["note"].lower().replace("/min", " ")))
        note |= {word.strip("./") for word in note}
        words = {word.strip("./") for word in re.findall(r"[\w./]+", row["answer"].lower())}
        assert words - note - frame - {""} == set(), row["id"]
        assert len(row["answer"].split()) <= 90
        if row["kind"] != FOUND:
            status = "none known" if row["kind"] in ("nothing", "negated") else "not documented"
            assert f"Allergies: {status}" in row["answer"].replace("None", "none").replace("Not", "not"), row["id"]


def test_explanations_name_each_medicine_with_its_dose_and_use_no_jargon():
    jargon = re.compile(r"\b(PRN|BID|TID|QID|qd|PO|RTC|Rx|PMH|NKDA|HTN|NSTEMI|COPD|CAP|UTI|infarction|pulmonary)\b")
    for row in each_row("clinic/explain/plain"):
        assert not jargon.search(row["answer"]), row["id"]
        assert {d.name for d in medicines_in(row["note"])} == {
            d.name for d in DRUGS.values() if d.name in row["answer"]
        }
        for amount in re.findall(r"[\d./]+ (?:mg|mcg|g|units|puffs)\b", row["answer"]):
            assert amount in row["note"], row["id"]


def test_notes_say_that_they_are_synthetic_and_are_of_reading_length():
    for task in TASKS:
        for row in each_row(task):
            assert "SYNTHETIC" in row["note"].split("\n")[0], row["id"]
            assert len(row["note"].split()) <= 180, row["id"]


# Templates


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
