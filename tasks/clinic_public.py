"""Public clinical data sets, read where they lie under ITUNE_DATA_DIR/clinical; and two uses that no open set has.

Nothing is read on import. Without ITUNE_DATA_DIR the tasks over files are not registered, and asking for one says so.
MedQA and MTSamples are registered where their files are. What is real, simulated or machine-written, the licences and
the splits: docs/clinic.md. Readers: tasks/clinical_sources/. None of this is for the care of anybody.
"""

from __future__ import annotations

import dataclasses
import functools
import os
from pathlib import Path

from itune.data import mark_unavailable
from tasks.clinical_sources import (
    aci_bench,
    acuity,
    ade,
    avey,
    cochrane_plain,
    medical_abstracts,
    medqa,
    medquad,
    mts_dialog,
    mtsamples,
    ncbi_disease,
    nursesim,
    terms,
)
from tasks.clinical_sources.use import Use, add
from tasks.formats import DATA_DIR_VARIABLE, UNSET

CLINICAL = "clinical"  # the folder of ITUNE_DATA_DIR

_HERE = Path(__file__).parent
_SYNTHETIC = "Apache-2.0"

_ADE_FILES = {"effects": "ade/DRUG-AE.rel", "doses": "ade/DRUG-DOSE.rel", "negatives": "ade/ADE-NEG.txt.gz"}
_MTS_FILES = {"train": "mts_dialog/MTS-Dialog-TrainingSet.csv", "test": "mts_dialog/MTS-Dialog-ValidationSet.csv"}
_MTS = Use(
    rows=mts_dialog.rows,
    fields=mts_dialog.FIELDS,
    files=_MTS_FILES,
    source=("dialogue",),
    cluster="clinical_summary",
    licence="CC BY 4.0",
    metrics=("rouge_l", "token_f1", "unsupported", "negation_errors", "grounding"),
    text="a section of the note, from a doctor-patient dialogue",
)
_ADE = Use(
    rows=ade.rows,
    fields=ade.FIELDS,
    files=_ADE_FILES,
    source=("sentence",),
    cluster="clinical_extraction",
    licence="not stated; sentences of MEDLINE abstracts",
    metrics=("json_field_f1", "entity_f1", "unsupported"),
    settings={"task": "effects", "identity": "ade"},
    text="drugs and their adverse effects",
)

# The source data set is what stands before "/": it keys the split and the order of the data.
FILE_TASKS: dict[str, Use] = {
    "mts_dialog/section": _MTS,
    "mts_dialog/header": dataclasses.replace(
        _MTS,
        cluster="clinical_classification",
        metrics=("accuracy",),
        text="which section of a note a dialogue belongs to",
    ),
    "aci_bench/note": Use(
        rows=aci_bench.rows,
        fields=aci_bench.FIELDS,
        files={"train": "aci_bench/train.csv", "test": "aci_bench/valid.csv"},
        source=("dialogue",),
        cluster="clinical_summary",
        licence="CC BY 4.0",
        metrics=("rouge_l", "section_scores", "unsupported", "negation_errors", "missed_allergies", "grounding"),
        text="the whole note of a visit, from its dialogue (long)",
    ),
    "medquad/answer": Use(
        rows=medquad.rows,
        fields=medquad.FIELDS,
        files={"path": "medquad.jsonl.gz"},
        settings={"identity": "medquad"},
        source=("question",),
        cluster="health_questions",
        licence="CC BY 4.0",
        metrics=("rouge_l", "token_f1", "readability"),
        text="consumer health questions with answers from NIH pages (not advice)",
    ),
    "medqa/choice": Use(
        rows=medqa.rows,
        fields=medqa.FIELDS,
        files={"train": "medqa/US/train.jsonl", "test": "medqa/US/test.jsonl"},
        source=("question",),
        cluster="medical_exam_questions",
        licence="MIT repository; the questions' terms are not stated",
        metrics=("accuracy",),
        optional=True,
        text="exam questions with options",
    ),
    "ade/effects": _ADE,
    "ade/doses": dataclasses.replace(_ADE, settings={"task": "doses", "identity": "ade"}, text="drugs and their doses"),
    "ncbi_disease/mentions": Use(
        rows=ncbi_disease.rows,
        fields=ncbi_disease.FIELDS,
        files={"train": "ncbi_disease/train.tsv", "test": "ncbi_disease/devel.tsv"},
        source=("sentence",),
        cluster="clinical_extraction",
        licence="public domain",
        metrics=("json_field_f1", "entity_f1"),
        text="mentions of diseases",
    ),
    "medical_abstracts/condition": Use(
        rows=medical_abstracts.rows,
        fields=medical_abstracts.FIELDS,
        files={
            "path": "medical_abstracts/medical_tc_test.csv.gz",
            "labels": "medical_abstracts/medical_tc_labels.csv",
            "ade_files": tuple(_ADE_FILES.values()),
        },
        settings={"identity": "medical_abstracts"},
        source=("abstract",),
        cluster="clinical_classification",
        licence="CC BY-SA 3.0",
        metrics=("accuracy",),
        text="what class of conditions an abstract is about",
    ),
    "mtsamples/document_type": Use(
        rows=mtsamples.rows,
        fields=mtsamples.FIELDS,
        files={"path": "mtsamples/mtsamples.csv", "mts": tuple(_MTS_FILES.values())},
        settings={"identity": "mtsamples"},
        source=("report",),
        cluster="clinical_classification",
        licence="not stated (mtsamples.com)",
        metrics=("accuracy",),
        optional=True,
        text="type of a transcribed report",
    ),
    "nursesim/urgency": Use(
        rows=nursesim.rows,
        fields=nursesim.FIELDS,
        files={"path": "triage/nursesim_scenarios.json"},
        settings={"identity": "nursesim"},
        source=("complaint", "vitals", "history"),
        cluster="clinical_classification",
        licence="MIT",
        metrics=("accuracy", "triage"),
        text="urgency 1 to 5 of machine-written scenarios: a check of form, not of triage",
    ),
    "avey/diagnosis": Use(
        rows=avey.rows,
        fields=avey.FIELDS,
        files={"path": "triage/avey_vignettes.jsonl"},
        source=("complaint", "presentation"),
        cluster="differential_diagnosis",
        licence="MIT",
        metrics=("accuracy", "token_f1", "named"),
        splits=("validation",),
        text="the diagnosis that fits a vignette best (a benchmark: never trained on)",
    ),
    "cochrane_plain/summary": Use(
        rows=cochrane_plain.rows,
        fields=cochrane_plain.FIELDS,
        files={"source": "cochrane_plain/val.source", "target": "cochrane_plain/val.target"},
        settings={"identity": "cochrane_plain"},
        source=("abstract",),
        cluster="clinical_explanation",
        licence="not stated; Cochrane's own terms hold for its texts",
        metrics=("rouge_l", "readability", "unsupported", "grounding"),
        text="plain-language summary of a review's abstract",
    ),
}

# By name: the source data set, and the task.
SYNTHETIC_TASKS: dict[str, tuple[str, Use]] = {
    "clinic/classify/acuity": (
        "itune/synthetic-clinic/acuity",
        Use(
            rows=acuity.rows,
            fields=acuity.FIELDS,
            source=("note",),
            cluster="clinical_classification",
            licence=_SYNTHETIC,
            metrics=("accuracy",),
            text="synthetic: whether a patient's problem is acute or chronic",
        ),
    ),
    "clinic/explain/term": (
        terms.IDENTITY,
        Use(
            rows=terms.rows,
            fields=terms.FIELDS,
            source=("term",),
            cluster="clinical_explanation",
            licence=_SYNTHETIC,
            metrics=("rouge_l", "token_f1", "readability"),
            text="synthetic: a clinical term in plain words",
        ),
    ),
}


def register(folder: Path) -> tuple[str, ...]:
    """Registers the tasks over the files in `folder`/clinical, and returns their names; reads none of the files."""
    names = []
    for name, use in FILE_TASKS.items():
        paths = {key: _under(folder / CLINICAL, value) for key, value in use.files.items()}
        named = [path for value in paths.values() for path in ([value] if isinstance(value, str) else value)]
        if use.optional and not all(Path(path).exists() for path in named):
            mark_unavailable(name, f"its files are not there: {', '.join(named)}")
            continue
        add(name, name.partition("/")[0], use, functools.partial(use.rows, **paths, **use.settings), named)
        names.append(name)
    return tuple(names)


def _under(folder: Path, value: str | tuple[str, ...]) -> str | tuple[str, ...]:
    return str(folder / value) if isinstance(value, str) else tuple(str(folder / path) for path in value)


for _name, (_identity, _use) in SYNTHETIC_TASKS.items():
    add(_name, _identity, _use, _use.rows, sorted((_HERE / "synthetic_clinic").glob("*.py")))

if os.environ.get(DATA_DIR_VARIABLE):
    FILE_TASK_NAMES = register(Path(os.environ[DATA_DIR_VARIABLE]).expanduser())
else:
    FILE_TASK_NAMES = ()
    for _name in FILE_TASKS:
        mark_unavailable(_name, UNSET)
