"""P3's prompts over rows of one's own: promptsource's templates.yaml, as tasks."""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from itune.data.jinja_templates import JSON_FIELDS, OPTIONS, SEPARATOR, JinjaTemplate
from itune.data.library.shots import FewShot, set_pool
from itune.data.promptsource_rows import Records, promptsource_rows
from itune.data.readers import Table, read_text, require
from itune.data.registry import add_mixture, add_task
from itune.data.sources import RowSource
from itune.data.templates import RowTemplate, check_unique
from itune.errors import UserError, nearest

_TAGS = ("!Template", "!TemplateMetadata")
_SPLITS = ("train", "validation")
# How the files spell metrics that itune has; others are passed over.
_METRICS = {"Accuracy": ("accuracy",), "ROUGE": ("rouge_l",), "Squad": ("exact_match", "token_f1")}


class _Loader(getattr(yaml, "CSafeLoader", yaml.SafeLoader)):  # type: ignore[misc]
    """YAML's safe loader, to which promptsource's two tags are plain mappings. Other tags stay errors."""


for _tag in _TAGS:
    _Loader.add_constructor(_tag, lambda loader, node: loader.construct_mapping(node, deep=True))


def load_promptsource(path: str | Path, max_field_chars: int | None = None) -> tuple[JinjaTemplate, ...]:
    """The templates of a promptsource file, in its order; each one's id is its name.

    Nothing in the file is run here, and its Jinja only ever in a sandbox. `max_field_chars`: see `JinjaTemplate`.

    Raises:
      UserError: not such a file; names file and template, and the line of a YAML fault.
    """
    return _load(path, max_field_chars)[1]


def _load(path: str | Path, max_field_chars: int | None) -> tuple[str, tuple[JinjaTemplate, ...]]:
    """("super_glue_rte", its templates)."""
    try:
        entries = yaml.load(read_text(path), _Loader)  # a subclass of the safe loader
    except yaml.YAMLError as error:
        raise UserError(f"{_place(path, error)}: {_fault(error)}") from None
    listed = entries.get("templates") if isinstance(entries, dict) else None
    if not isinstance(listed, dict) or not listed:
        raise UserError(f"{path}: expected promptsource's layout, a mapping of ids to !Template under 'templates'")
    templates = tuple(_template(entry, f"{path}: template {uuid!r}", max_field_chars) for uuid, entry in listed.items())
    check_unique(templates, str(path))
    named = [str(entries[key]) for key in ("dataset", "subset") if entries.get(key)]
    return "_".join(named) or Path(path).parent.name, templates


def _place(path: str | Path, error: yaml.YAMLError) -> str:
    mark = getattr(error, "problem_mark", None)
    return str(path) if mark is None else f"{path}:{mark.line + 1}"


def _fault(error: yaml.YAMLError) -> str:
    problem = getattr(error, "problem", None) or str(error)
    tag = re.search(r"constructor for the tag '(.+)'", problem)
    if tag is None:
        return f"not YAML: {' '.join(problem.split())}"
    return f"tag {tag[1]!r} is none of promptsource's, {' and '.join(_TAGS)}.{nearest(tag[1], _TAGS)}"


def _template(entry: Any, where: str, max_field_chars: int | None) -> JinjaTemplate:
    if not isinstance(entry, dict):
        raise UserError(f"{where}: is not a !Template")
    for key in ("name", "jinja"):
        require(entry, key, where)
        if not isinstance(entry[key], str):
            raise UserError(f"{where}: {key!r} is a {type(entry[key]).__name__}, must be text")
    # Early files call it answer_choices_key.
    choices = entry.get("answer_choices") or entry.get("answer_choices_key") or None
    if not isinstance(choices, str | None):
        raise UserError(f"{where}: 'answer_choices' is a {type(choices).__name__}, must be text")
    if SEPARATOR not in entry["jinja"]:
        raise UserError(f"{where}, {entry['name']!r}: no {SEPARATOR} between inputs and targets in its jinja")
    says = entry.get("metadata") or {}
    if not isinstance(says, dict):
        raise UserError(f"{where}: 'metadata' is not a !TemplateMetadata")
    try:
        return JinjaTemplate(
            id=entry["name"],
            jinja=entry["jinja"],
            answer_choices=choices,
            max_field_chars=max_field_chars,
            metrics=tuple(says.get("metrics") or ()),
            original_task=says.get("original_task"),
            choices_in_prompt=says.get("choices_in_prompt"),
            languages=tuple(says.get("languages") or ()),
        )
    except UserError as error:
        raise UserError(f"{where}: {error}") from None


# Tasks


def promptsource_tasks(
    name: str,
    yaml_path: str | Path,
    rows: str | Path | Mapping[str, str | Path] | Records,
    *,
    cluster: str,
    licence: str,
    identity: str | None = None,
    templates: Sequence[str] | None = None,
    per_template: bool = False,
    few_shot: bool = False,
    metrics: Sequence[str | Callable[..., Any]] | None = None,
    max_field_chars: int | None = None,
    id_key: str | None = None,
    split_by: Sequence[str] = (),
    validation_fraction: float = 0.1,
    row_splits: Sequence[str] = _SPLITS,
    optional: Sequence[str] = (),
    json_columns: Sequence[str] = (),
    keep: Sequence[str] = (),
    encoding: str = "utf-8-sig",
    table: Table | None = None,
    sensitive: bool = False,
    **options: Any,
) -> list[str]:
    """Registers rows under the prompts of a promptsource file. Returns the names of the tasks.

    One task, of whose templates each row gets one by the usual keyed choice, another in each variant; or, with
    per_template=True, a task `name/<template>` each, and a mixture `name` of them. These share the identity, so that
    arms with different templates see the same rows in the same order; each row has its "answer_choices" (a JSON list)
    for rank classification.

    With few_shot=True there is `<task>/fs` beside each: the same prompts with 0 to 5 training rows before them, in the
    same prompt, never the query.

    A template that leaves the inputs or the targets of a row empty, or makes more than two parts, is not used for that
    row, and a row that no template is left for is left out; log lines say how many. The YAML file is read here, the
    rows when they are asked for. Rows have the fields that the templates use, with their types; `-` in a column's name
    is `_` in templates.

    Args:
      rows: a file or pattern that `read_records` reads, split by the hash of `split_by` (or else of all text that the
        templates use); or a file for each split; or a function of the split that yields records, with `row_splits`.
      identity: the data set; by default the file's own dataset and subset.
      templates: names of those to use, all by default.
      metrics: by default those that the templates' metadata names, where itune has them, else exact_match.
      max_field_chars: T0's data was made with 2,048; see `JinjaTemplate`.
      id_key: key of a stable id in the record; by default the id is a hash of the whole record. Exact duplicates are
        kept once.
      optional: fields that a record may lack (None then). keep: further fields, for metrics and reports.
      json_columns: columns of a table that hold JSON, numbers say: "2" is a text, which `answer_choices[label]` does
        not take.
      options: to `add_task`.

    Raises:
      UserError: names the file and the template.
    """
    data_set, known = _load(yaml_path, max_field_chars)
    chosen = _select(known, templates, str(yaml_path))
    identity = identity or data_set
    where = f"task {name!r}"
    for field in sorted({f for t in chosen for f in t.fields} | set(keep)):
        if field in (JSON_FIELDS, OPTIONS) or (field == "id" and id_key != "id"):
            hint = "; pass id_key='id'" if field == "id" else ""
            raise UserError(f"{where}: the field {field!r} has another meaning here{hint}")
    if not 0.0 <= validation_fraction < 1.0:
        raise UserError(f"{where}: validation_fraction={validation_fraction} must be in [0, 1)")
    settings = dict(
        rows=_paths(rows),
        identity=identity,
        id_key=id_key,
        split_by=tuple(split_by),
        validation_fraction=validation_fraction,
        optional=tuple(optional),
        json_columns=tuple(json_columns),
        encoding=encoding,
        table=table,
        sensitive=sensitive,
        fields=tuple(sorted(({f for t in chosen for f in t.fields} | {*keep, *split_by}) - {"id"})),
    )
    row_splits = _SPLITS if isinstance(rows, str | Path) else tuple(rows) if isinstance(rows, Mapping) else row_splits
    groups = {f"{name}/{_slug(t.id)}": (t,) for t in chosen} if per_template else {name: chosen}
    if per_template and len(groups) < len(chosen):
        raise UserError(f"{where}: two of its templates have names that give tasks one name; use templates=")
    names: list[str] = []
    for task, members in groups.items():
        source = _source(members, row_splits, settings, with_options=per_template)
        asked: dict[str, Sequence[RowTemplate]] = {task: members}
        if few_shot:
            set_pool(task, functools.partial(source.checked_rows, "train"))
            asked[f"{task}/fs"] = [FewShot(template=template, family=task) for template in members]
        for registered, wordings in asked.items():
            add_task(
                registered,
                source=source,
                templates=wordings,
                cluster=cluster,
                licence=licence,
                identity=identity,
                metrics=_metrics(members) if metrics is None else metrics,
                sensitive=sensitive,
                **options,
            )
        names += asked
    if per_template:
        add_mixture(name, names)
    return names


def _select(known: Sequence[JinjaTemplate], names: Sequence[str] | None, where: str) -> tuple[JinjaTemplate, ...]:
    by_name = {template.id: template for template in known}
    for name in names or ():
        if name not in by_name:
            hint = nearest(name, by_name) or f" It has {', '.join(by_name)}."
            raise UserError(f"{where}: no template is called {name!r}.{hint}")
    return tuple(known) if names is None else tuple(by_name[name] for name in names)


def _paths(rows: Any) -> Any:
    """Paths as text, so that the fingerprint of a task is that of its values."""
    if isinstance(rows, Mapping):
        return {split: str(path) for split, path in rows.items()}
    return str(rows) if isinstance(rows, Path) else rows


def _slug(template: str) -> str:
    """ "Does it follow that…" -> "Does_it_follow_that"."""
    return re.sub(r"[^\w.]+", "_", template).strip("_")


def _metrics(templates: Sequence[JinjaTemplate]) -> tuple[str, ...]:
    named = [metric for template in templates for said in template.metrics for metric in _METRICS.get(said, ())]
    return tuple(dict.fromkeys(named)) or ("exact_match",)


def _source(
    templates: Sequence[JinjaTemplate], row_splits: Sequence[str], settings: dict[str, Any], *, with_options: bool
) -> RowSource:
    rows, fields = settings["rows"], (*settings["fields"], JSON_FIELDS)
    files = () if callable(rows) else tuple(rows.values()) if isinstance(rows, dict) else (rows,)
    with_options = with_options and templates[0].answer_choices is not None
    function = functools.partial(promptsource_rows, templates=tuple(templates), with_options=with_options, **settings)
    return RowSource(function, row_splits, (*fields, OPTIONS) if with_options else fields, "1", files=files)
