"""Data: tasks and their registry, prepared shards, the schedule, the feed.

Task modules import from here. Names load on first use, so that the trainer, which needs the schedule and the feed only,
never imports SeqIO or TensorFlow.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from itune.data.clinical_metrics import CLINICAL_METRICS
    from itune.data.clinical_reference import source_reference
    from itune.data.collections.alpaca_kin import (
        dolly_tasks,
        self_instruct,
        self_instruct_seeds,
        stanford_alpaca,
        unnatural_instructions,
        user_oriented,
    )
    from itune.data.collections.flan import flan_collection
    from itune.data.collections.flan_index import flan_index, split_flan
    from itune.data.collections.medical import medical_meadow
    from itune.data.collections.open_assistant import open_assistant
    from itune.data.collections.pmc_llama import pmc_llama_instructions
    from itune.data.collections.suites import bbh_tasks, mgsm_tasks, mmlu_tasks, tydiqa_tasks
    from itune.data.identities import add_alias, canonical
    from itune.data.jinja_templates import JinjaTemplate
    from itune.data.lazy import Summary, load_all, provide, provide_catalogue, provide_module
    from itune.data.library.declaration import load_declaration
    from itune.data.library.provider import provide_library
    from itune.data.library.rows import locate
    from itune.data.library.tasks import declare
    from itune.data.licences import strictest, terms_of
    from itune.data.metrics import METRICS, PER_EXAMPLE
    from itune.data.niv2 import niv2_tasks
    from itune.data.niv2_prompts import Niv2Layout
    from itune.data.niv2_provider import provide_niv2
    from itune.data.promptsource import load_promptsource, promptsource_tasks
    from itune.data.published import Published, publish
    from itune.data.readers import Table, field_text, find_file, find_files, read_json, read_records, read_text
    from itune.data.ready_tasks import alpaca_task, prompt_completion_task
    from itune.data.registry import (
        TASKS,
        TaskInfo,
        add_mixture,
        add_task,
        bind,
        is_sensitive,
        mark_unavailable,
        mixture_info,
        rate_by_examples,
    )
    from itune.data.sources import (
        JsonSource,
        RowSource,
        StreamedSource,
        oasst_task,
        openai_task,
        sharegpt_task,
    )
    from itune.data.splits import hold_out, normalise, passage_groups, split_of, text_key
    from itune.data.templates import Template, load_templates
    from itune.data.tokenizer import Tokenizer
    from itune.data.turns import Turn, write_turns
    from itune.data.vocabularies import HFVocabulary

_MODULES = {
    "clinical_metrics": ("CLINICAL_METRICS",),
    "clinical_reference": ("source_reference",),
    "collections.alpaca_kin": (
        "dolly_tasks",
        "self_instruct",
        "self_instruct_seeds",
        "stanford_alpaca",
        "unnatural_instructions",
        "user_oriented",
    ),
    "collections.flan": ("flan_collection",),
    "collections.flan_index": ("flan_index", "split_flan"),
    "collections.medical": ("medical_meadow",),
    "collections.open_assistant": ("open_assistant",),
    "collections.pmc_llama": ("pmc_llama_instructions",),
    "collections.suites": ("bbh_tasks", "mgsm_tasks", "mmlu_tasks", "tydiqa_tasks"),
    "identities": ("add_alias", "canonical"),
    "jinja_templates": ("JinjaTemplate",),
    "lazy": ("Summary", "load_all", "provide", "provide_catalogue", "provide_module"),
    "library.declaration": ("load_declaration",),
    "library.provider": ("provide_library",),
    "library.rows": ("locate",),
    "library.tasks": ("declare",),
    "licences": ("strictest", "terms_of"),
    "metrics": ("METRICS", "PER_EXAMPLE"),
    "niv2": ("niv2_tasks",),
    "niv2_prompts": ("Niv2Layout",),
    "niv2_provider": ("provide_niv2",),
    "promptsource": ("load_promptsource", "promptsource_tasks"),
    "published": ("Published", "publish"),
    "readers": ("Table", "field_text", "find_file", "find_files", "read_json", "read_records", "read_text"),
    "ready_tasks": ("alpaca_task", "prompt_completion_task"),
    "registry": (
        "TASKS",
        "TaskInfo",
        "add_mixture",
        "add_task",
        "bind",
        "is_sensitive",
        "mark_unavailable",
        "mixture_info",
        "rate_by_examples",
    ),
    "sources": (
        "JsonSource",
        "RowSource",
        "StreamedSource",
        "oasst_task",
        "openai_task",
        "sharegpt_task",
    ),
    "splits": ("hold_out", "normalise", "passage_groups", "split_of", "text_key"),
    "templates": ("Template", "load_templates"),
    "tokenizer": ("Tokenizer",),
    "turns": ("Turn", "write_turns"),
    "vocabularies": ("HFVocabulary",),
}
_HOMES = {name: module for module, names in _MODULES.items() for name in names}

__all__ = [
    "CLINICAL_METRICS",
    "METRICS",
    "PER_EXAMPLE",
    "TASKS",
    "HFVocabulary",
    "JinjaTemplate",
    "JsonSource",
    "Niv2Layout",
    "Published",
    "RowSource",
    "StreamedSource",
    "Summary",
    "Table",
    "TaskInfo",
    "Template",
    "Tokenizer",
    "Turn",
    "add_alias",
    "add_mixture",
    "add_task",
    "alpaca_task",
    "bbh_tasks",
    "bind",
    "canonical",
    "declare",
    "dolly_tasks",
    "field_text",
    "find_file",
    "find_files",
    "flan_collection",
    "flan_index",
    "hold_out",
    "is_sensitive",
    "load_all",
    "load_declaration",
    "load_promptsource",
    "load_templates",
    "locate",
    "mark_unavailable",
    "medical_meadow",
    "mgsm_tasks",
    "mixture_info",
    "mmlu_tasks",
    "niv2_tasks",
    "normalise",
    "oasst_task",
    "open_assistant",
    "openai_task",
    "passage_groups",
    "pmc_llama_instructions",
    "prompt_completion_task",
    "promptsource_tasks",
    "provide",
    "provide_catalogue",
    "provide_library",
    "provide_module",
    "provide_niv2",
    "publish",
    "rate_by_examples",
    "read_json",
    "read_records",
    "read_text",
    "self_instruct",
    "self_instruct_seeds",
    "sharegpt_task",
    "source_reference",
    "split_flan",
    "split_of",
    "stanford_alpaca",
    "strictest",
    "terms_of",
    "text_key",
    "tydiqa_tasks",
    "unnatural_instructions",
    "user_oriented",
    "write_turns",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
