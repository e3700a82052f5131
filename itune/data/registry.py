"""Tasks and mixtures: `add_task` registers a text-level SeqIO task, `bind` gives it a model's vocabulary and a variant.

SeqIO's registries hold the tasks; `TASKS` beside them holds what SeqIO has no place for (cluster, licence, identity
of the source data set, sensitivity, overlong policy). A task that some other module registered with SeqIO alone works
too.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import seqio
import tensorflow as tf

from itune.data import lazy
from itune.data.metrics import MetricFn, metric_fn
from itune.data.splits import text_key
from itune.data.templates import RenderContext, Room, RowTemplate, check_unique, render_row
from itune.data.tokenizer import Tokenizer
from itune.data.vocabularies import HFVocabulary
from itune.errors import UserError, nearest

OVERLONG = ("truncate_inputs", "drop")
SIDES = ("right", "left")
_NAME = re.compile(r"[\w.:#/]+")

# For Task.get_dataset under plain SeqIO, before any model is known. ByteVocabulary keeps 0-2 for padding, EOS, unknown.
PLACEHOLDER_FEATURES: Mapping[str, seqio.Feature] = {
    "inputs": seqio.Feature(seqio.ByteVocabulary(), add_eos=False),
    "targets": seqio.Feature(seqio.ByteVocabulary(), add_eos=True),
}

Rate = float | int | Callable[[seqio.Task], float]


@dataclasses.dataclass(frozen=True, kw_only=True)
class TaskInfo:
    """What itune knows of a task beside its SeqIO definition. Its defaults are those of a task registered elsewhere.

    Attributes:
      cluster: the kind of task; whole clusters are held out. identity: the source data set; tasks over the same rows
        share it, and the order of data is keyed by it. sensitive: protected data, see `add_task`.
      overlong: "truncate_inputs" or "drop"; truncate_side: where inputs are cut. metrics: names.
    """

    name: str
    cluster: str = "other"
    licence: str = "unknown"
    identity: str
    sensitive: bool = False
    overlong: str = "truncate_inputs"
    truncate_side: str = "right"
    templates: tuple[RowTemplate, ...] = ()
    version: str | None = None
    metrics: tuple[str, ...] = ()
    description: str = ""


TASKS: dict[str, TaskInfo] = {}
_unavailable: dict[str, str] = {}


class TextTask(seqio.Task):
    """A SeqIO task whose name may have parts ("clinic/summary/soap"), which SeqIO's own check of names refuses."""

    def __init__(self, name: str, **kwargs: Any) -> None:
        super().__init__(name.replace("/", ":"), **kwargs)
        self._name = name

    def replace(self, **kwargs: Any) -> seqio.Task:
        name: str = kwargs.get("name") or self.name
        task = super().replace(**{**kwargs, "name": name.replace("/", ":")})
        # SeqIO's replace() makes a plain Task whatever the subclass; a second replace() must know these names too.
        task.__class__ = type(self)
        task._name = name
        return task


def add_task(
    name: str,
    *,
    source: seqio.DataSource,
    templates: Sequence[RowTemplate],
    cluster: str,
    licence: str,
    identity: str,
    metrics: Sequence[str | MetricFn] = ("exact_match",),
    sensitive: bool = False,
    preprocessors: Sequence[Callable[[tf.data.Dataset], tf.data.Dataset]] = (),
    postprocess_fn: Callable[..., Any] | None = None,
    overlong: str = "truncate_inputs",
    truncate_side: str = "right",
    version: str | None = None,
    description: str = "",
) -> seqio.Task:
    """Registers a text-level task: source -> preprocessors -> one of `templates` -> tokens, EOS on the targets.

    Its examples have inputs and targets (int32), "id", "template" (the template's id) and every field of the source as
    "field/<name>", for metrics and reports. Tokens are the placeholder's bytes until `bind` puts in a model's
    vocabulary.

    Args:
      name: parts divided by "/" or ":".
      source: a `RowSource`, or any SeqIO source of scalar features; without an "id" feature a row's id is a hash of it.
      templates: at least one. Which one a row gets is a keyed hash of (prepare_seed, identity, id, variant).
      cluster: the kind of task, for example "extraction". licence: of the data. identity: the data set's name, shared
        by all tasks over the same rows.
      metrics: names in itune.data.metrics.METRICS, or functions (targets, predictions) -> {name: value}.
      sensitive: protected data: private files and caches, no example text in logs and reports. Spreads to every mixture
        that holds the task.
      preprocessors: SeqIO preprocessors on the raw rows, before the template.
      postprocess_fn: SeqIO's: what metrics get for a target or a prediction, given the example's fields.
      overlong: what happens to an example beyond the feature lengths: "truncate_inputs" (cut at `truncate_side`) or
      "drop".
      version: changes when preprocessors would give something else for a reason that their code does not show.

    Raises:
      UserError: the name is taken or malformed, a template uses a field that the source lacks, or an unknown metric.
    """
    where = f"task {name!r}"
    if not _NAME.fullmatch(name):
        raise UserError(f"{where}: a name has letters, digits and . : # _ / only")
    if name in TASKS or name in seqio.TaskRegistry.names() or name in seqio.MixtureRegistry.names():
        raise UserError(f"{where} is registered already; give this one another name")
    if overlong not in OVERLONG:
        raise UserError(f"{where}: overlong={overlong!r} must be one of {OVERLONG}.{nearest(overlong, OVERLONG)}")
    if truncate_side not in SIDES:
        raise UserError(f"{where}: truncate_side={truncate_side!r} must be one of {SIDES}")
    for field, value in (("cluster", cluster), ("licence", licence), ("identity", identity)):
        if not value.strip():
            raise UserError(f"{where}: {field} must say something")
    if not templates:
        raise UserError(f"{where} needs at least one template")
    templates = tuple(templates)
    check_unique(templates, where)
    fields = getattr(source, "fields", None)
    if fields is not None and not preprocessors:  # otherwise known only when the data is opened: `render` checks then
        for template in templates:
            template.check((*fields, "id"), where)
    metric_fns = [metric_fn(metric, where) for metric in metrics]
    rendering = functools.partial(render, task=name, templates=templates, identity=identity, context=RenderContext())
    task = seqio.TaskRegistry.add(
        name,
        source=source,
        output_features=PLACEHOLDER_FEATURES,
        preprocessors=[*preprocessors, rendering, seqio.preprocessors.tokenize, seqio.preprocessors.append_eos],
        postprocess_fn=postprocess_fn,
        metric_fns=metric_fns,
        task_cls=TextTask,
    )
    _unavailable.pop(name, None)
    TASKS[name] = TaskInfo(
        name=name,
        cluster=cluster,
        licence=licence,
        identity=identity,
        sensitive=sensitive,
        overlong=overlong,
        truncate_side=truncate_side,
        templates=templates,
        version=version,
        metrics=tuple(m if isinstance(m, str) else _function_name(m) for m in metrics),
        description=description,
    )
    return task


def add_mixture(name: str, tasks: Sequence[str | tuple[str, Rate]], default_rate: Rate = 1.0) -> seqio.Mixture:
    """Registers a SeqIO mixture of tasks and mixtures, each with a rate: a number, or a function of the task.

    Rates are relative numbers of examples. UserError where the name is taken or a member is not registered.
    """
    if name in seqio.MixtureRegistry.names() or name in seqio.TaskRegistry.names():
        raise UserError(f"mixture {name!r} is registered already; give this one another name")
    if not tasks:
        raise UserError(f"mixture {name!r} has no tasks")
    pairs = [(t, default_rate) if isinstance(t, str) else t for t in tasks]
    seen: set[str] = set()
    for member, rate in pairs:
        if member == name:
            raise UserError(f"mixture {name!r} lists itself")
        get(member, where=f"mixture {name!r}: ")
        if member in seen:
            raise UserError(f"mixture {name!r} lists {member!r} twice")
        seen.add(member)
        if not callable(rate) and not (isinstance(rate, int | float) and math.isfinite(rate) and rate > 0):
            raise UserError(f"mixture {name!r}: rate of {member!r} is {rate!r}, must be a number above 0")
    mixture = seqio.MixtureRegistry.add(name, pairs)
    _unavailable.pop(name, None)
    return mixture


def mark_unavailable(name: str, reason: str) -> None:
    """Asking for `name` then gives `reason` as its UserError: for tasks whose data is not on this machine."""
    _unavailable[name] = reason


def get(name: str, where: str = "") -> seqio.Task | seqio.Mixture:
    """The registered task or mixture. UserError with the nearest registered name for an unknown one."""
    if name in seqio.MixtureRegistry.names():
        return seqio.MixtureRegistry.get(name)
    if name in seqio.TaskRegistry.names():
        return seqio.TaskRegistry.get(name)
    if name in _unavailable:
        raise UserError(f"{where}{name!r} is not available: {_unavailable[name]}")
    if lazy.load(name):
        return get(name, where)
    from itune.data import views  # which needs what is above it

    if views.register(name):
        return get(name, where)
    if (whole := name.partition("/")[0]) in _unavailable:
        raise UserError(f"{where}{name!r} is not available: {_unavailable[whole]}")
    known = [*seqio.MixtureRegistry.names(), *seqio.TaskRegistry.names(), *lazy.pending()]
    there = ", ".join(sorted(seqio.MixtureRegistry.names())[:10])
    hint = nearest(name, known) or (
        f" Mixtures: {there}." if there else " `python -m itune.tasks list` shows what there is."
    )
    raise UserError(f"{where}no task or mixture is called {name!r}.{hint}")


def info(name: str) -> TaskInfo:
    """What is known of a task; the defaults for one that another module registered with SeqIO alone."""
    task = get(name)
    if isinstance(task, seqio.Mixture):
        raise UserError(f"{name!r} is a mixture, not a task")
    metrics = tuple(_function_name(fn) for fn in task.metric_fns) if name not in TASKS else ()
    return TASKS.get(name) or TaskInfo(name=name, identity=name, metrics=metrics)


def mixture_info(
    name: str, on_error: Callable[[TaskInfo, UserError], None] | None = None
) -> list[tuple[TaskInfo, float]]:
    """The tasks of a mixture (or the one task) with their rates, nested mixtures flattened and callable rates called.

    Rates are as SeqIO resolves them: a nested mixture's own rate is divided among its tasks. Sorted by name.
    UserError for an unknown name, a rate that is no finite number above 0, or one that can't be worked out; the last
    goes to `on_error` instead, where given, and the task is left out.
    """
    found = get(name)
    if isinstance(found, seqio.Task):
        return [(info(name), 1.0)]
    resolved = []
    for task in _tasks_of(found):
        try:
            rate = float(found.get_rate(task))
        except Exception as error:  # whatever a callable rate, or the source that it asks, raises
            lost = UserError(f"mixture {name!r}: the rate of {task.name!r} cannot be worked out: {_said(task, error)}")
            if on_error is None:
                raise lost from error
            on_error(info(task.name), lost)
            continue
        if not (math.isfinite(rate) and rate > 0):
            raise UserError(f"mixture {name!r}: rate of {task.name!r} is {rate}, must be a number above 0")
        resolved.append((info(task.name), rate))
    return resolved


def _said(task: seqio.Task, error: Exception) -> str:
    if isinstance(error, UserError):
        return str(error)
    said = "the message is withheld" if info(task.name).sensitive else " ".join(str(error).split())[:300]
    return said if isinstance(error, TypeError | ValueError | AssertionError) else f"{type(error).__name__}: {said}"


def _tasks_of(mixture: seqio.Mixture) -> list[seqio.Task]:
    try:
        return list(mixture.tasks)
    except RecursionError:
        raise UserError(f"mixture {mixture.name!r} holds itself, through the mixtures in it") from None


def registered_info() -> list[TaskInfo]:
    """What is known of every registered task; of those that wait to be, `catalogue.known` tells."""
    return [info(name) for name in seqio.TaskRegistry.names()]


def mixture_names() -> list[str]:
    """Of every registered mixture, sorted."""
    return sorted(seqio.MixtureRegistry.names())


def members(provider: seqio.Task | seqio.Mixture) -> list[seqio.Task | seqio.Mixture] | None:
    """What a mixture lists itself, its nested mixtures not flattened; None for a task."""
    if not isinstance(provider, seqio.Mixture):
        return None
    # SeqIO's public properties have the direct members' names only, and a member need not be registered.
    return [*provider._tasks, *provider._sub_mixtures]


def tfds_names(task: seqio.Task) -> list[str]:
    """The TFDS data sets that the task reads, as its source names them; [] for one of another kind."""
    if not isinstance(task.source, seqio.TfdsDataSource):
        return []
    loader = task.source.tfds_dataset
    names = [loader.name, *(split.dataset for split in (loader.tfds_splits or {}).values())]
    return sorted({name for name in names if name})


def is_sensitive(name: str) -> bool:
    """Whether a task is sensitive, or a mixture holds one that is."""
    found = get(name)
    tasks = _tasks_of(found) if isinstance(found, seqio.Mixture) else [found]
    return any(info(task.name).sensitive for task in tasks)


def rate_by_examples(cap: int, temperature: float = 1.0, share: float = 1.0) -> Callable[[seqio.Task], float]:
    """A rate: examples in the train split, at most `cap`, to the power 1/temperature (Raffel et al. 2020, 3.5.2).

    share: times that, where several tasks are one data set's.
    """
    return functools.partial(_rate_by_examples, cap=cap, temperature=temperature, share=share)


def _rate_by_examples(task: seqio.Task, cap: int, temperature: float, share: float) -> float:
    examples = task.num_input_examples("train")
    if examples is None:
        raise ValueError("its source does not say how many examples it has")
    return share * float(min(cap, examples)) ** (1.0 / temperature)


def bind(
    task_name: str,
    tokenizer: Tokenizer,
    *,
    variant: int,
    prepare_seed: int,
    feature_lengths: Mapping[str, int],
    shots: int | None = None,
) -> seqio.Task:
    """The task with a model's vocabulary in its features and one rendering chosen; the registered one is left as it is.

    Features with a PassThroughVocabulary (and those without a vocabulary) stay. A task that SeqIO alone knows gets the
    vocabulary only. Nothing is cut here: `feature_lengths` is checked against the task's features, and goes to
    `get_dataset(sequence_length=...)` for preprocessors that read it. shots: exemplars before each question, where not
    as many as the task's own templates have.

    Raises:
      UserError: a mixture's or unknown name, no "targets" feature, a required feature without a length, or `shots` for
        templates that know no exemplars.
    """
    task = get(task_name)
    if isinstance(task, seqio.Mixture):
        raise UserError(f"{task_name!r} is a mixture; bind its tasks one by one")
    if "targets" not in task.output_features:
        raise UserError(f"task {task_name!r} has no 'targets' feature, only {', '.join(task.output_features)}")
    for feature, spec in task.output_features.items():
        if spec.required and feature not in feature_lengths:
            hint = nearest(feature, feature_lengths) or f" There are lengths for {', '.join(feature_lengths)}."
            raise UserError(f"task {task_name!r}: no length for feature {feature!r}.{hint}")
    preprocessors = task.preprocessors if shots is None else _with_shots(task, shots)
    vocabulary = HFVocabulary(tokenizer)
    context = RenderContext(prepare_seed=prepare_seed, variant=variant)
    longest = feature_lengths.get("inputs", 0)
    room = Room(tokenizer=tokenizer, tokens=longest - max(16, longest // 16)) if longest else None
    return task.replace(
        output_features={k: _rebound(spec, vocabulary) for k, spec in task.output_features.items()},
        preprocessors=[_with_context(step, context, room) for step in preprocessors],
    )


def _rebound(feature: seqio.Feature, vocabulary: HFVocabulary) -> seqio.Feature:
    current = getattr(feature, "vocabulary", None)
    if current is None or isinstance(current, seqio.PassThroughVocabulary):
        return feature
    return dataclasses.replace(feature, vocabulary=vocabulary)


def _with_shots(task: seqio.Task, shots: int) -> list[Any]:
    steps, found = [], False
    for step in task.preprocessors:
        if isinstance(step, functools.partial) and step.func is render:
            templates = step.keywords["templates"]
            if all(hasattr(t, "with_shots") for t in templates):
                found = True
                step = functools.partial(
                    render, **{**step.keywords, "templates": tuple(t.with_shots(shots) for t in templates)}
                )
        steps.append(step)
    if not found:
        raise UserError(f"EvalConfig.shots={shots}: task {task.name!r} has no exemplars to show before its questions")
    return steps


def _with_context(step: Any, context: RenderContext, room: Room | None) -> Any:
    if isinstance(step, functools.partial) and step.func is render:
        templates = step.keywords["templates"]
        if room is not None:
            templates = tuple(t.within(room) if hasattr(t, "within") else t for t in templates)
        return functools.partial(render, **{**step.keywords, "context": context, "templates": templates})
    return step


def render(
    dataset: tf.data.Dataset, task: str, templates: tuple[RowTemplate, ...], identity: str, context: RenderContext
) -> tf.data.Dataset:
    """Raw rows -> {"inputs", "targets", "id", "template": string [], "field/<name>": as in the source}.

    A row's rendering depends on its own id and `context`, never on its position or on random state.
    """
    spec = dataset.element_spec
    names = sorted(k for k, v in spec.items() if v.shape.rank == 0 and not v.dtype.is_floating)
    for template in templates:
        template.check(names, f"task {task!r}")

    def one_row(*values: Any) -> tuple[bytes, ...]:
        row = dict(zip(names, map(_as_text, values), strict=True))
        return tuple(text.encode("utf-8") for text in render_texts(row, templates, identity, context))

    def add_rendering(row: dict[str, tf.Tensor]) -> dict[str, tf.Tensor]:
        rendered = tf.numpy_function(one_row, [row[name] for name in names], [tf.string] * 4, stateful=False)
        for text in rendered:
            text.set_shape([])
        fields = {f"field/{name}": value for name, value in row.items() if name != "id"}
        return dict(zip(("inputs", "targets", "id", "template"), rendered, strict=True)) | fields

    return dataset.map(add_rendering)


def render_texts(
    row: Mapping[str, str], templates: tuple[RowTemplate, ...], identity: str, context: RenderContext
) -> tuple[str, str, str, str]:
    """(inputs, targets, id, the template's id) of a raw row. Without an id, it is a hash of the row."""
    row_id = row.get("id") or text_key(*(part for name in sorted(row) for part in (name, row[name])))
    inputs, targets, chosen = render_row(templates, row, identity=identity, source_id=row_id, context=context)
    return inputs, targets, row_id, chosen


def _as_text(value: Any) -> str:
    return value.decode("utf-8") if isinstance(value, bytes) else str(np.asarray(value).item())


def _function_name(function: Any) -> str:
    while isinstance(function, functools.partial):
        function = function.func
    return getattr(function, "__name__", type(function).__name__)
