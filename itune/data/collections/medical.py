"""Medical Meadow (Han et al. 2023, arXiv 2304.08247), from the files that medalpaca has on the hub. Not medicine."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from itune.data.collections.instructions import FIELDS, Record, instructions_task
from itune.data.readers import field_text
from itune.data.registry import Rate, add_mixture, mark_unavailable
from itune.data.templates import Template
from itune.errors import UserError, nearest

# Instructions of these sets say the same for each row; they stand first, as the owners have them.
MEADOW_TEMPLATES = (
    Template("plain", "{request}", "{output}"),
    Template("labelled", "Instruction: {instruction}\n{labelled_input}Response:", "{output}"),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class MeadowSet:
    """A data set of medalpaca's on the hub, medical_meadow_<name>.

    Attributes:
      files: what its file is called, without an ending. contaminates: the test that its rows are from, if any.
    """

    files: tuple[str, ...]
    cluster: str
    metrics: tuple[str, ...]
    licence: str
    identity: str
    contaminates: str = ""


_NOT_STATED = "unknown: none stated"
MEADOW: dict[str, MeadowSet] = {
    "medical_flashcards": MeadowSet(
        files=("medical_meadow_wikidoc_medical_flashcards", "medical_meadow_medical_flashcards"),
        cluster="health_questions",
        metrics=("rouge_l", "token_f1"),
        licence="unknown: Creative Commons, which is not stated",
        identity="medical_meadow_flashcards",
    ),
    "wikidoc": MeadowSet(
        files=("medical_meadow_wikidoc",),
        cluster="health_questions",
        metrics=("rouge_l", "token_f1"),
        licence="unknown: Creative Commons, which is not stated",
        identity="medical_meadow_wikidoc",
    ),
    "wikidoc_patient_information": MeadowSet(
        # medAlpaca's repository has the same rows as medical_meadow_small.json.
        files=(
            "medical_meadow_wikidoc_patient_information",
            "medical_meadow_wikidoc_patient_info",
            "medical_meadow_small",
        ),
        cluster="health_questions",
        metrics=("rouge_l", "token_f1"),
        licence="unknown: Creative Commons, which is not stated",
        identity="medical_meadow_small",
    ),
    "medqa": MeadowSet(
        files=("medical_meadow_medqa",),
        cluster="medical_exams",
        metrics=("exact_match",),
        licence=_NOT_STATED,
        identity="medqa",
    ),
    "mediqa": MeadowSet(
        files=("medical_meadow_mediqa",),
        cluster="health_answers_from_text",
        metrics=("rouge_l", "token_f1"),
        licence=_NOT_STATED,
        identity="mediqa_ans",
    ),
    "pubmed_causal": MeadowSet(
        files=("medical_meadow_pubmed_causal",),
        cluster="abstract_classification",
        metrics=("exact_match",),
        licence=_NOT_STATED,
        identity="pubmed_causal",
    ),
    "cord19": MeadowSet(
        files=("medical_meadow_cord19",),
        cluster="titles",
        metrics=("rouge_l",),
        licence="unknown: each article has its own",
        identity="cord19",
    ),
    "health_advice": MeadowSet(
        files=("medical_meadow_health_advice", "health_advice"),
        cluster="abstract_classification",
        metrics=("exact_match",),
        licence=_NOT_STATED,
        identity="health_advice",
    ),
    "mmmlu": MeadowSet(
        files=("medical_meadow_mmmlu",),
        cluster="medical_exams",
        metrics=("exact_match",),
        licence="MIT",
        identity="mmlu",
        contaminates="MMLU",
    ),
}
_FORMATS = (".json", ".jsonl", ".parquet", ".json.gz", ".jsonl.gz", ".json.zst", ".jsonl.zst")


def medical_meadow(
    folder: str | Path,
    *,
    sets: Sequence[str] | None = None,
    prefix: str = "medical_meadow",
    contaminating: bool = False,
    rate: Rate = 1.0,
    **options: Any,
) -> list[str]:
    """Registers the data sets of Medical Meadow that a folder holds, and the mixture `<prefix>`. Returns the tasks.

    {instruction, input, output} rows in JSON lists, JSONL or Parquet, at any depth: the hub's files as they are called
    there, or whatever lies in a folder named as their repository, such as medical_meadow_medqa/. A task is
    `<prefix>/<set>`, with the cluster, metrics, licence and identity of `MEADOW`. Reads names of files only.

    Args:
      sets: those that are taken, all that are there by default.
      contaminating: have sets in the mixture whose rows are a test's. "mmmlu" is of MMLU; it is registered either way.
      rate: of each task in the mixture.
      options: templates, validation_fraction and what `add_task` takes.

    Raises:
      UserError: no such set, one that is not there or is there twice, or a folder without any.
    """
    folder = Path(folder).expanduser()
    for name in sets or ():
        if name not in MEADOW:
            raise UserError(f"{folder}: Medical Meadow has no set {name!r}.{nearest(name, MEADOW)}")
    there = _meadow_files(folder)
    for name in sets or ():
        if name not in there:
            raise UserError(
                f"{folder}: holds no file of {name!r}, {MEADOW[name].files[0]}.json or a folder of that name"
            )
    taken = [name for name in MEADOW if name in there and (sets is None or name in sets)]
    if not taken:
        raise UserError(f"{folder}: holds no file of Medical Meadow, such as medical_meadow_wikidoc.json")
    for name in taken:
        about = MEADOW[name]
        facts = {"cluster": about.cluster, "licence": about.licence, "metrics": about.metrics}
        if about.contaminates:
            facts["description"] = f"its rows are of the test {about.contaminates}: a model that learns them knows it"
        settings: dict[str, Any] = facts | {"templates": MEADOW_TEMPLATES, "identity": about.identity} | options
        instructions_task(f"{prefix}/{name}", str(there[name]), triple, split_by=("input",), **settings)
    mixed = [f"{prefix}/{name}" for name in taken if contaminating or not MEADOW[name].contaminates]
    if mixed:
        add_mixture(prefix, mixed, rate)
    else:
        mark_unavailable(prefix, "all of its sets hold a test's rows; say contaminating=True to have them trained on")
    return [f"{prefix}/{name}" for name in taken]


def _meadow_files(folder: Path) -> dict[str, Path]:
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder")
    found: dict[str, Path] = {}
    for path in sorted(folder.rglob("*")):
        if not path.name.endswith(_FORMATS) or not path.is_file():
            continue
        places = (path.name.partition(".")[0], *reversed(path.relative_to(folder.parent).parts[:-1]))
        name = next((name for place in places for name, about in MEADOW.items() if place in about.files), None)
        if name is not None and found.setdefault(name, path) != path:
            raise UserError(f"{folder}: {name!r} is there twice, as {found[name].name} and {path.name}; take one away")
    return found


def triple(where: str, record: Record) -> Iterator[dict[str, str]]:
    yield {key: field_text(record, key, where, key == "input") for key in FIELDS}
