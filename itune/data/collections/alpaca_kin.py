"""Alpaca and its kin from their owners' files: Stanford's rows, Dolly, Unnatural Instructions, Self-Instruct."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from itune.data.collections.instructions import Record, entries, instructions_task
from itune.data.readers import field_text
from itune.data.ready_tasks import alpaca_task
from itune.data.registry import add_mixture
from itune.data.sources import Paths
from itune.data.templates import Template
from itune.errors import UserError, nearest

if TYPE_CHECKING:
    import seqio

STANFORD_LICENCE = "CC-BY-NC-4.0"
# Categories of databricks-dolly-15k -> clusters, as other collections of itune name them where they have such tasks.
DOLLY_CLUSTERS = {
    "brainstorming": "brainstorming",
    "classification": "classification",
    "closed_qa": "closed_questions",
    "creative_writing": "creative_writing",
    "general_qa": "open_questions",
    "information_extraction": "extraction",
    "open_qa": "open_questions",
    "summarization": "summaries",
}
_WIKIPEDIA_MARK = re.compile(r"\[\d+\]")


def stanford_alpaca(
    path: Paths, *, name: str = "alpaca", licence: str = STANFORD_LICENCE, **options: Any
) -> seqio.Task:
    """Registers Stanford's alpaca_data.json, 52,002 rows written by text-davinci-003. `options`: `alpaca_task`'s."""
    return alpaca_task(name, path, licence=licence, identity=options.pop("identity", "alpaca"), **options)


def dolly_tasks(
    path: Paths,
    *,
    name: str = "dolly",
    per_category: bool = True,
    categories: Sequence[str] = tuple(DOLLY_CLUSTERS),
    strip_marks: bool = True,
    licence: str = "CC-BY-SA-3.0",
    **options: Any,
) -> list[str]:
    """Registers databricks-dolly-15k.jsonl, {instruction, context, response, category}. Returns the tasks' names.

    A task `<name>/<category>` each, whose clusters are DOLLY_CLUSTERS', and a mixture `<name>`; or, with
    per_category=False, one task `<name>` of the cluster "instructions". All share their rows' identity. "category" is a
    field of each example.

    Args:
      categories: those that are taken.
      strip_marks: take the marks of footnotes, "[12]", out of contexts, which were copied from Wikipedia.
      options: templates, metrics, validation_fraction and what `add_task` takes.
    """
    for category in categories:
        if category not in DOLLY_CLUSTERS:
            raise UserError(f"{path}: Dolly has no category {category!r}.{nearest(category, DOLLY_CLUSTERS)}")
    groups = (
        {f"{name}/{category}": (category,) for category in categories} if per_category else {name: tuple(categories)}
    )
    for task, group in groups.items():
        unfold = functools.partial(_dolly, categories=group, strip_marks=strip_marks)
        cluster = DOLLY_CLUSTERS[group[0]] if per_category else "instructions"
        common = {"cluster": cluster, "licence": licence, "identity": "dolly"} | options
        instructions_task(task, path, unfold, extra=("category",), **common)
    if per_category:
        add_mixture(name, list(groups))
    return list(groups)


def _dolly(where: str, record: Record, *, categories: Sequence[str], strip_marks: bool) -> Iterator[dict[str, str]]:
    category = field_text(record, "category", where)
    if category not in DOLLY_CLUSTERS:
        raise UserError(f"{where}: Dolly has no category {category!r:.40}.{nearest(category, DOLLY_CLUSTERS)}")
    context = field_text(record, "context", where)
    row = {
        "instruction": field_text(record, "instruction", where),
        "input": _WIKIPEDIA_MARK.sub("", context) if strip_marks else context,
        "output": field_text(record, "response", where),
        "category": category,
    }
    if category in categories:
        yield row


UNNATURAL_TEMPLATES = (Template("as_given", "{prompt}", "{output}"),)


def unnatural_instructions(
    path: Paths,
    *,
    name: str = "unnatural_instructions",
    reformulations: bool = True,
    constraints: bool = True,
    licence: str = "MIT",
    **options: Any,
) -> seqio.Task:
    """Registers Unnatural Instructions (Honovich et al. 2022, arXiv 2212.09689): core_data.jsonl or full_data.jsonl.

    A row for each of a record's instances, {instruction_with_input, input, constraints, output}, and, of the full data,
    for each of its reformulations. All rows of a record are on one side. "instruction", "input" and "form" ("instance"
    or "reformulation") are fields of each example, and "source_instruction" is the record's own; the prompt is
    instruction_with_input.

    Args:
      reformulations: take them, where there are any. constraints: add an instance's, in a line of their own.
      options: as in `dolly_tasks`.
    """
    unfold = functools.partial(_unnatural, reformulations=reformulations, constraints=constraints)
    common = {"cluster": "instructions", "licence": licence, "identity": "unnatural_instructions"}
    shown = {"templates": UNNATURAL_TEMPLATES, "metrics": ("rouge_l",)}
    fields = ("prompt", "form", "source_instruction")
    return instructions_task(
        name, path, unfold, extra=fields, split_by=("source_instruction",), **common | shown | options
    )


def _unnatural(where: str, record: Record, *, reformulations: bool, constraints: bool) -> Iterator[dict[str, str]]:
    instruction = field_text(record, "instruction", where)
    for key, form in (("instances", "instance"), ("reformulations", "reformulation")):
        if form == "reformulation" and not (reformulations and record.get(key)):
            continue
        for at, entry in entries(record, key, where):
            prompt = field_text(entry, "instruction_with_input", at)
            limits = field_text(entry, "constraints", at, optional=True).strip()
            if constraints and limits and limits.lower() not in ("none", "none."):
                prompt = f"{prompt.rstrip()}\n{limits}"
            yield {
                "instruction": field_text(entry, "instruction", at) if form == "reformulation" else instruction,
                "input": field_text(entry, "input", at, optional=True),
                "output": field_text(entry, "output", at),
                "prompt": prompt,
                "form": form,
                "source_instruction": instruction,
            }


def self_instruct_seeds(
    path: Paths, *, name: str = "self_instruct/seeds", licence: str = "Apache-2.0", **options: Any
) -> seqio.Task:
    """Registers Self-Instruct's seed_tasks.jsonl (Wang et al. 2022, arXiv 2212.10560), a row for each instance.

    {id, name, instruction, instances: [{input, output}], is_classification}. "name" and "is_classification" ("true" or
    "false") are fields of each example. `options` as in `dolly_tasks`.
    """
    common = {"cluster": "instructions", "licence": licence, "identity": "self_instruct_seeds"}
    return instructions_task(name, path, _seeds, extra=("name", "is_classification"), **common | options)


def _seeds(where: str, record: Record) -> Iterator[dict[str, str]]:
    kept = {key: field_text(record, key, where) for key in ("instruction", "name", "is_classification")}
    for at, entry in entries(record, "instances", where):
        yield kept | {"input": field_text(entry, "input", at), "output": field_text(entry, "output", at)}


def self_instruct(
    path: Paths, *, name: str = "self_instruct", licence: str = "Apache-2.0", **options: Any
) -> seqio.Task:
    """Registers what GPT-3 wrote from the seeds, all_instances_82K.jsonl: {instruction, input, output}."""
    common = {"cluster": "instructions", "licence": licence, "identity": "self_instruct"}
    return instructions_task(name, path, _plain, **common | options)


def _plain(where: str, record: Record) -> Iterator[dict[str, str]]:
    row = {key: field_text(record, key, where) for key in ("instruction", "output")}
    yield row | {"input": field_text(record, "input", where, optional=True)}


def user_oriented(
    path: str | Path,
    *,
    name: str = "user_oriented",
    licence: str = "Apache-2.0",
    split: str = "validation",
    **options: Any,
) -> seqio.Task:
    """Registers Self-Instruct's 252 expert-written instructions, user_oriented_instructions.jsonl, for evaluation.

    They have one split, `split`, and so can't be trained on. {id, motivation_app, instruction, instances}; "app" is a
    field of each example. `options` as in `dolly_tasks`.
    """
    common = {"cluster": "user_oriented", "licence": licence, "identity": "self_instruct_user_oriented"}
    return instructions_task(name, {split: path}, _user_oriented, extra=("app",), **common | options)


def _user_oriented(where: str, record: Record) -> Iterator[dict[str, str]]:
    kept = {"instruction": field_text(record, "instruction", where), "app": field_text(record, "motivation_app", where)}
    for at, entry in entries(record, "instances", where):
        yield kept | {"input": field_text(entry, "input", at), "output": field_text(entry, "output", at)}
