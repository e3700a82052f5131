"""Ready tasks over the formats that most users bring: Alpaca's, and prompts with their completions.

Those over conversations are in itune/data/sources.py.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from itune.data.readers import Table
from itune.data.registry import add_task
from itune.data.sources import JsonSource, Paths
from itune.data.templates import Template

if TYPE_CHECKING:
    import seqio

Row = Mapping[str, str]

ALPACA_TEMPLATES = (
    Template("plain", "{request}", "{output}"),
    Template("labelled", "Instruction: {instruction}\n{labelled_input}Response:", "{output}"),
    Template("request_last", "{input_first}Carry out this instruction: {instruction}", "{output}"),
)
PROMPT_COMPLETION_TEMPLATES = (Template("as_given", "{prompt}", "{completion}"),)


def _request(row: Row) -> str:
    return row["instruction"] + ("\n\n" + row["input"] if row["input"].strip() else "")


def _labelled_input(row: Row) -> str:
    return f"Input: {row['input']}\n" if row["input"].strip() else ""


def _input_first(row: Row) -> str:
    return f"{row['input']}\n\n" if row["input"].strip() else ""


# Fields that templates over Alpaca's rows may use beside their own.
ALPACA_FORMS = {"request": _request, "labelled_input": _labelled_input, "input_first": _input_first}


def alpaca_task(
    name: str,
    path: Paths,
    *,
    licence: str,
    cluster: str = "instructions",
    identity: str | None = None,
    templates: Sequence[Template] = ALPACA_TEMPLATES,
    metrics: Sequence[str | Callable[..., Any]] = ("rouge_l",),
    validation_fraction: float = 0.1,
    encoding: str = "utf-8-sig",
    table: Table | None = None,
    **options: Any,
) -> seqio.Task:
    """Registers {instruction, input, output} rows of any file that `read_records` reads as a task.

    Templates may use {instruction}, {input}, {output}, and {request} (instruction and input, a blank line between),
    {labelled_input} ("Input: ...", a line or nothing), {input_first} (the input and a blank line, or nothing). The
    split is by the text of instruction and input, unless `path` is {split: path}. `table` is for tables that are not
    plain CSV or TSV. `options` go to `add_task`.
    """
    source = JsonSource(
        path,
        fields=("instruction", "input", "output"),
        optional=("input",),
        required=("instruction", "output"),
        split_by=("instruction", "input"),
        identity=identity or name,
        derive=ALPACA_FORMS,
        validation_fraction=validation_fraction,
        encoding=encoding,
        table=table,
    )
    return add_task(
        name,
        source=source,
        templates=templates,
        cluster=cluster,
        licence=licence,
        identity=identity or name,
        metrics=metrics,
        **options,
    )


def prompt_completion_task(
    name: str,
    path: Paths,
    *,
    licence: str,
    cluster: str = "instructions",
    identity: str | None = None,
    prompt_key: str = "prompt",
    completion_key: str = "completion",
    templates: Sequence[Template] = PROMPT_COMPLETION_TEMPLATES,
    metrics: Sequence[str | Callable[..., Any]] = ("rouge_l",),
    validation_fraction: float = 0.1,
    encoding: str = "utf-8-sig",
    table: Table | None = None,
    **options: Any,
) -> seqio.Task:
    """Registers rows of a prompt and its completion in any file that `read_records` reads, prompts as they stand.

    The split is by the prompt's text, unless `path` is {split: path}. `table` is for tables that are not plain CSV or
    TSV. `options` go to `add_task`.
    """
    source = JsonSource(
        path,
        fields={"prompt": prompt_key, "completion": completion_key},
        required=("prompt", "completion"),
        split_by=("prompt",),
        identity=identity or name,
        validation_fraction=validation_fraction,
        encoding=encoding,
        table=table,
    )
    return add_task(
        name,
        source=source,
        templates=templates,
        cluster=cluster,
        licence=licence,
        identity=identity or name,
        metrics=metrics,
        **options,
    )
