"""Real data in the formats that people bring, read where it lies: set ITUNE_DATA_DIR to the folder that holds it.

Nothing is read on import. Without ITUNE_DATA_DIR these tasks are not registered, and asking for one says so. How each
is split into train and validation:

- t0_prompts: its templates share source rows, and which rows belong together is not recorded. Rows of a data set that
  share a passage of source text (`itune.data.passage_groups`) go to one side together; whole clusters are held out
  besides, in tasks/mixtures.py.
- gsm8k, pubmedqa: the published test sets are validation; a training row that repeats a test question is left out.
- alpaca_en_demo, medical_meadow_small: by a keyed hash of the question's normalised text.
"""

from __future__ import annotations

import functools
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import yaml

from itune.data import (
    CLINICAL_METRICS,
    JsonSource,
    RowSource,
    Template,
    add_task,
    alpaca_task,
    field_text,
    find_file,
    hold_out,
    load_templates,
    mark_unavailable,
    normalise,
    passage_groups,
    read_json,
    read_records,
    source_reference,
    text_key,
)
from itune.errors import UserError

DATA_DIR_VARIABLE = "ITUNE_DATA_DIR"
UNSET = f"its data is not in the project; set {DATA_DIR_VARIABLE} to the folder that holds it (see tasks/formats.py)"

_HERE = Path(__file__).parent
_T0: dict[str, Any] = yaml.safe_load((_HERE / "t0_prompts.yaml").read_text(encoding="utf-8"))
T0_CLUSTERS: dict[str, tuple[str, ...]] = {name: tuple(c["datasets"]) for name, c in _T0["clusters"].items()}
T0_DATASETS: tuple[str, ...] = tuple(sorted(d for datasets in T0_CLUSTERS.values() for d in datasets))
T0_TASKS: dict[str, tuple[str, ...]] = {c: tuple(f"t0/{d}" for d in ds) for c, ds in T0_CLUSTERS.items()}
OTHER_TASKS = ("alpaca_en_demo", "gsm8k", "medical_meadow_small", "pubmedqa/decision", "pubmedqa/long_answer")
VALIDATION_FRACTION = 0.1

_GSM8K_ANNOTATION = re.compile(r"<<.*?>>")


def register(folder: Path) -> None:
    """Registers every real-data task over the files in `folder`; reads none of them."""
    _register_t0(folder / "general" / "t0_prompts.jsonl.gz")
    alpaca_task(
        "alpaca_en_demo",
        folder / "general" / "alpaca_en_demo.json",
        licence="Apache-2.0",
        metrics=("rouge_l", "token_f1"),
        description="short instructions and answers, a demonstration set in Alpaca's layout",
    )
    _register_gsm8k(folder / "general" / "gsm8k")
    _register_medical_meadow(folder / "clinical" / "medical_meadow_small.json")
    _register_pubmedqa(folder / "clinical" / "pubmedqa")


# t0_prompts


def _register_t0(path: Path) -> None:
    for cluster, settings in _T0["clusters"].items():
        for dataset in settings["datasets"]:
            add_task(
                f"t0/{dataset}",
                source=RowSource(
                    functools.partial(_t0_rows, path=str(path), dataset=dataset),
                    fields=("prompt", "target", "t0_template"),
                    version="1",
                    files=(path,),
                ),
                templates=(Template("as_given", "{prompt}", "{target}"),),
                cluster=cluster,
                licence=_T0["licences"].get(dataset, _T0["licences"]["default"]),
                identity=f"t0/{dataset}",
                metrics=settings["metrics"],
                overlong=settings["overlong"],
                description=f"{dataset} through T0's prompts",
            )


def _t0_rows(split: str, *, path: str, dataset: str) -> Iterator[dict[str, str]]:
    stamp = find_file(path).stat().st_mtime_ns
    seen = set()
    for row, held in zip(_t0_file(path, stamp)[dataset], _t0_held(path, stamp, dataset), strict=True):
        row_id = text_key(*row.values())
        if held == (split == "validation") and row_id not in seen:
            seen.add(row_id)
            yield {"id": row_id, **row}


@functools.lru_cache(maxsize=1)
def _t0_file(path: str, stamp: int) -> dict[str, list[dict[str, str]]]:
    """Rows by data set. UserError where the file's data sets are not those of t0_prompts.yaml."""
    rows: dict[str, list[dict[str, str]]] = {name: [] for name in T0_DATASETS}
    for where, record in read_records(path, encoding="utf-8"):
        dataset = field_text(record, "dataset", where)
        if dataset not in rows:
            raise UserError(f"{where}: data set {dataset!r} is not in tasks/t0_prompts.yaml; add it to a cluster there")
        fields = {"prompt": "prompt", "target": "target", "t0_template": "template"}
        rows[dataset].append({name: field_text(record, key, where) for name, key in fields.items()})
    missing = [name for name, found in rows.items() if not found]
    if missing:
        raise UserError(f"{path}: no rows of {', '.join(missing)}, which tasks/t0_prompts.yaml lists")
    return rows


@functools.lru_cache(maxsize=64)
def _t0_held(path: str, stamp: int, dataset: str) -> list[bool]:
    """Which of the data set's rows are validation: whole groups of rows that share source text."""
    rows = _t0_file(path, stamp)[dataset]
    # Targets count too: where a template asks for the passage or the question itself, it stands there.
    prompts, targets, templates = ([row[name] for row in rows] for name in ("prompt", "target", "t0_template"))
    keys = [text_key(*row.values()) for row in rows]
    groups = passage_groups(prompts, targets, templates)
    return hold_out(groups, keys, identity=f"t0/{dataset}", fraction=VALIDATION_FRACTION)


# The others


def _register_gsm8k(folder: Path) -> None:
    files = (folder / "train.jsonl", folder / "test.jsonl")
    add_task(
        "gsm8k",
        source=RowSource(
            functools.partial(_gsm8k_rows, train=str(files[0]), test=str(files[1])),
            fields=("question", "reasoning", "answer"),
            version="1",
            files=files,
        ),
        templates=load_templates(_HERE / "templates" / "gsm8k.yaml"),
        cluster="arithmetic",
        licence="MIT",
        identity="gsm8k",
        metrics=("final_number",),
        overlong="drop",
        description="grade-school problems with worked answers; validation is the published test set",
    )


def _gsm8k_rows(split: str, *, train: str, test: str) -> Iterator[dict[str, str]]:
    tested = {normalise(field_text(record, "question", where)) for where, record in read_records(test)}
    seen = set()
    for where, record in read_records(train if split == "train" else test):
        question, worked = field_text(record, "question", where), field_text(record, "answer", where)
        reasoning, mark, answer = _GSM8K_ANNOTATION.sub("", worked).rpartition("####")
        if not mark:
            raise UserError(f"{where}: no '#### number' at the end of 'answer'")
        row = {"question": question, "reasoning": reasoning.strip(), "answer": answer.strip()}
        key = normalise(question)
        if key not in seen and not (split == "train" and key in tested):
            seen.add(key)
            yield {"id": text_key(question), **row}


def _register_medical_meadow(path: Path) -> None:
    add_task(
        "medical_meadow_small",
        source=JsonSource(
            path,
            fields={"instruction": "instruction", "question": "input", "answer": "output"},
            split_by=("question",),
            required=("question", "answer"),
            identity="medical_meadow_small",
            validation_fraction=VALIDATION_FRACTION,
        ),
        templates=load_templates(_HERE / "templates" / "medical_meadow.yaml"),
        cluster="health_questions",
        licence="GPL-3.0 repository; the sources' terms vary",
        identity="medical_meadow_small",
        metrics=("rouge_l", "token_f1"),
        description="health questions and their answers (not advice)",
    )


def _register_pubmedqa(folder: Path) -> None:
    files = (folder / "ori_pqal.json", folder / "test_ground_truth.json")
    source = RowSource(
        functools.partial(_pubmedqa_rows, articles=str(files[0]), test=str(files[1])),
        fields=("question", "contexts", "decision", "long_answer"),
        version="1",
        files=files,
    )
    for form, metrics, text in (
        ("decision", ("accuracy",), "yes, no or maybe, from an abstract"),
        (
            "long_answer",
            ("rouge_l", "token_f1", "grounding", "unsupported"),
            "the conclusion of an abstract, from the rest of it",
        ),
    ):
        add_task(
            f"pubmedqa/{form}",
            source=source,
            templates=load_templates(_HERE / "templates" / f"pubmedqa_{form}.yaml"),
            cluster="abstract_questions",
            licence="MIT",
            identity="pubmedqa",
            metrics=[CLINICAL_METRICS.get(metric, metric) for metric in metrics],
            postprocess_fn=source_reference("contexts"),
            overlong="drop",  # from an abstract that is cut, an answer is invented
            description=text,
        )


def _pubmedqa_rows(split: str, *, articles: str, test: str) -> Iterator[dict[str, str]]:
    found, tested = _object(articles), _object(test)
    for pmid in tested:
        if pmid not in found:
            raise UserError(f"{test}: article {pmid!r} is not in {articles}")
    questions = {normalise(field_text(found[pmid], "QUESTION", f"{articles}: {pmid}")) for pmid in tested}
    for pmid, article in found.items():
        where = f"{articles}: {pmid}"
        question = field_text(article, "QUESTION", where)
        if (pmid in tested) != (split == "validation") or (split == "train" and normalise(question) in questions):
            continue
        if not isinstance(article.get("CONTEXTS"), list):
            raise UserError(f"{where}: 'CONTEXTS' must be a list of paragraphs")
        yield {
            "id": pmid,
            "question": question,
            "contexts": "\n".join(article["CONTEXTS"]),
            "decision": field_text(article, "final_decision", where),
            "long_answer": field_text(article, "LONG_ANSWER", where),
        }


def _object(path: str) -> Mapping[str, Any]:
    value = read_json(path)
    if not isinstance(value, dict):
        raise UserError(f"{path}: expected a JSON object keyed by PMID, found {type(value).__name__}")
    return value


if os.environ.get(DATA_DIR_VARIABLE):
    register(Path(os.environ[DATA_DIR_VARIABLE]).expanduser())
else:
    for _task in (*(t for tasks in T0_TASKS.values() for t in tasks), *OTHER_TASKS):
        mark_unavailable(_task, UNSET)
