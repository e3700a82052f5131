"""PMC-LLaMA's instructions (Wu et al. 2023, arXiv 2304.14454), from axiong/pmc_llama_instructions. Not medicine."""

from __future__ import annotations

import functools
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from itune.data.collections.instructions import Record, instructions_task
from itune.data.collections.medical import MEADOW_TEMPLATES, triple
from itune.data.readers import field_text
from itune.data.registry import Rate, add_mixture
from itune.data.sources import Paths
from itune.errors import UserError, nearest

if TYPE_CHECKING:
    import seqio

# `source` -> cluster, metrics, identity. The owners took the training halves of the first three.
PMC_SOURCES: dict[str, tuple[str, tuple[str, ...], str]] = {
    "medqa_train": ("medical_exams", ("rouge_l",), "medqa"),
    "medmcqa": ("medical_exams", ("rouge_l",), "medmcqa"),
    "pubmedqa.ori_pqaa": ("abstract_questions", ("rouge_l", "token_f1"), "pubmedqa_artificial"),
    "liveqa": ("health_questions", ("rouge_l", "token_f1"), "liveqa"),
    "medicationqa": ("health_questions", ("rouge_l", "token_f1"), "medicationqa"),
    "umls": ("medical_terms", ("rouge_l", "token_f1"), "umls"),
    "umls_relation": ("medical_terms", ("rouge_l", "token_f1"), "umls"),
}


def pmc_llama_instructions(
    path: Paths,
    *,
    name: str = "pmc_llama",
    per_source: bool = False,
    sources: Sequence[str] = tuple(PMC_SOURCES),
    licence: str = "openrail; the sources' terms vary",
    rate: Rate = 1.0,
    **options: Any,
) -> list[str]:
    """Registers axiong/pmc_llama_instructions, release.json: {source, instruction, input, output, sample_id}.

    One task `<name>`, whose identity is the collection and whose examples have their "source" as a field; or, with
    per_source=True, a task `<name>/<source>` each, with the cluster, metrics and identity of `PMC_SOURCES`, and a
    mixture `<name>`. Questions of one text, which come with several wordings of the instruction, are on one side.
    Returns the tasks' names.

    Args:
      sources: those that are taken. options: templates, metrics, validation_fraction and what `add_task` takes.
    """
    for source in sources:
        if source not in PMC_SOURCES:
            raise UserError(f"{path}: PMC-LLaMA's rows have no source {source!r}.{nearest(source, PMC_SOURCES)}")
    if not per_source:
        whole = {"cluster": "medical_instructions", "licence": licence, "identity": "pmc_llama_instructions"}
        _pmc_task(name, path, tuple(sources), whole | options)
        return [name]
    names = [f"{name}/{source}" for source in sources]
    for task, source in zip(names, sources, strict=True):
        cluster, metrics, identity = PMC_SOURCES[source]
        own = {"cluster": cluster, "metrics": metrics, "identity": identity, "licence": licence}
        _pmc_task(task, path, (source,), own | options)
    add_mixture(name, names, rate)
    return names


def _pmc_task(name: str, path: Paths, sources: tuple[str, ...], facts: dict[str, Any]) -> seqio.Task:
    unfold = functools.partial(_pmc, sources=sources)
    settings = {"templates": MEADOW_TEMPLATES} | facts
    return instructions_task(name, path, unfold, extra=("source",), split_by=("input",), **settings)


def _pmc(where: str, record: Record, *, sources: Sequence[str]) -> Iterator[dict[str, str]]:
    source = field_text(record, "source", where)
    if source not in PMC_SOURCES:
        raise UserError(f"{where}: source {source!r:.40} is none of PMC-LLaMA's.{nearest(source, PMC_SOURCES)}")
    for row in triple(where, record):
        if source in sources:
            yield row | {"source": source}
