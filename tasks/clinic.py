"""The synthetic clinic: five clinical uses on invented encounters, ready without a download. Nobody in it exists.

clinic/summary/*   SOAP, history and physical, discharge      clinic/extract/*   JSON: medicines, diagnoses, ...
clinic/qa/*        answers from the note, with evidence       clinic/explain/*   plain words for the patient
clinic/classify/*  type of document, urgency by a printed rule

An encounter is in one split for all tasks, and each split has wordings of its own (tasks/synthetic_clinic/wording.py).
The questions are the held-out cluster: what they take (reading a note, copying from it, saying that something is not
documented) is practised by the other tasks, but nothing there looks like a question.
"""

from __future__ import annotations

import functools
from pathlib import Path

from itune.data import CLINICAL_METRICS, RowSource, add_task, load_templates, source_reference
from tasks.synthetic_clinic.items import FIELDS, rows

# Raised when a release writes other rows; the digests of the generator's files catch what is in between.
VERSION = "1"
LICENCE = "Apache-2.0"

_HERE = Path(__file__).parent
_GENERATOR = sorted((_HERE / "synthetic_clinic").glob("*.py"))

_SUMMARY = (
    "rouge_l",
    "token_f1",
    "section_scores",
    "unsupported",
    "negation_errors",
    "missed_allergies",
    "not_documented",
)
_JSON = ("json_field_f1", "exact_match", "entity_f1")

# part of the name: (cluster, what to do with overlong examples, {task: (metrics, description)})
_PARTS: dict[str, tuple[str, str, dict[str, tuple[tuple[str, ...], str]]]] = {
    "summary": (
        "clinical_summary",
        "drop",
        {
            "soap": (_SUMMARY, "SOAP summary of a dictated visit"),
            "hp": (_SUMMARY, "history and physical from a dictated visit"),
            "discharge": (_SUMMARY, "discharge summary from a dictated hospital stay"),
        },
    ),
    "extract": (
        "clinical_extraction",
        "drop",
        {
            "medications": (
                (*_JSON, "regimens", "unsupported"),
                "current and new medicines with dose and frequency, as JSON",
            ),
            "diagnoses": (_JSON, "the patient's own confirmed diagnoses, as JSON"),
            "procedures": (_JSON, "tests and procedures done or planned, as JSON"),
            "allergies": (
                (*_JSON, "missed_allergies", "not_documented"),
                "allergies with reactions, or none, or not documented, as JSON",
            ),
        },
    ),
    "qa": (
        "clinical_qa",
        "drop",
        {
            "answer": (
                ("exact_match", "token_f1", "not_documented", "unsupported"),
                "short answer from the note alone",
            ),
            "evidence": (
                ("exact_match", "token_f1", "evidence", "not_documented"),
                "short answer with the sentence that shows it",
            ),
        },
    ),
    "explain": (
        "clinical_explanation",
        "truncate_inputs",
        {
            "plain": (
                ("rouge_l", "token_f1", "readability", "unsupported"),
                "assessment and plan in plain words for the patient",
            )
        },
    ),
    "classify": (
        "clinical_classification",
        "truncate_inputs",
        {
            "document_type": (("exact_match", "token_f1"), "type of a clinical document, or none"),
            "urgency": (("exact_match", "token_f1", "triage"), "urgency by the rule in the prompt"),
        },
    ),
}
_HELD_OUT_PART = "qa"


def _register(part: str) -> tuple[str, ...]:
    cluster, overlong, tasks = _PARTS[part]
    names = []
    for short, (metrics, description) in tasks.items():
        name = f"clinic/{part}/{short}"
        add_task(
            name,
            # The generator's own files are digested, so that no change of a table or a wording goes unnoticed.
            source=RowSource(functools.partial(rows, name), fields=FIELDS[name], version=VERSION, files=_GENERATOR),
            templates=load_templates(_HERE / "templates" / f"clinic_{part}_{short}.yaml"),
            cluster=cluster,
            licence=LICENCE,
            # One identity a cluster: a held-out task may share none with a training task.
            identity=f"itune/synthetic-clinic/{part}",
            metrics=[CLINICAL_METRICS.get(metric, metric) for metric in metrics],
            postprocess_fn=source_reference("note"),
            overlong=overlong,
            version=VERSION,
            description=f"Synthetic: {description}.",
        )
        names.append(name)
    return tuple(names)


_TASKS = {part: _register(part) for part in _PARTS}
TRAIN_TASKS = tuple(name for part, names in _TASKS.items() if part != _HELD_OUT_PART for name in names)
HELD_OUT_TASKS = _TASKS[_HELD_OUT_PART]
