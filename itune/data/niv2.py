"""Super-NaturalInstructions (Wang et al. 2022, arXiv 2204.07705) as its owners lay it out: a task for each JSON file.

    tasks/task001_quoref_question_generation.json    definition, exemplars and instances of one task
    splits/default/{train,test,excluded}_tasks.txt   names of tasks, one a line; splits/xlingual/ likewise

Registering reads two short pieces of each file, never its instances; the rest is read when a task is prepared.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from itune.data.niv2_files import (
    EXCLUDED,
    TEST,
    TRAIN,
    clusters_of,
    identity_of,
    licence_of,
    listing,
    niv2_rows,
    task_name,
)
from itune.data.niv2_prompts import LAYOUTS, OFFICIAL, Niv2Layout, Niv2Template
from itune.data.registry import Rate, add_mixture, add_task, mark_unavailable
from itune.data.sources import RowSource
from itune.errors import UserError

FIELDS = ("input", "references")


def niv2_tasks(
    folder: str | Path,
    *,
    splits: str | None = "default",
    prefix: str = "niv2",
    layouts: Sequence[Niv2Layout] = LAYOUTS,
    test_layouts: Sequence[Niv2Layout] = (OFFICIAL,),
    leave_out: Sequence[str] = ("mmlu",),
    max_train_instances: int | None = None,
    max_test_instances: int | None = 100,
    validation_fraction: float = 0.0,
    test_split: str = "validation",
    metrics: Sequence[str | Callable[..., Any]] = ("rouge_l", "exact_match"),
    clusters: Mapping[str, str] | None = None,
    identities: Mapping[str, str] | None = None,
    rate: Rate = 1.0,
    **options: Any,
) -> dict[str, list[str]]:
    """Registers the tasks of a copy of natural-instructions, and the mixtures `<prefix>_train` and `<prefix>_test`.

    A task is called `<prefix>/<file's name>` ("-" becomes "_"). Its cluster is its first category ("Question
    Generation" is question_generation), its identity its Source, its licence the file's "Instance License". Prompts
    are made of the definition, up to `shots` of the positive examples (never one with the query's input), and the
    instance's input; the targets are one of its outputs. Which, is keyed by row, variant and prepare_seed. Metrics take
    the best of all outputs, which rows keep as a JSON list in "references".

    A task listed for testing has only the split `test_split`, so that it cannot be trained on. One that is excluded or
    not listed is not registered; asking for it says so.

    Args:
      folder: holds tasks/ and splits/.
      splits: a folder in splits/: "default" (English) or "xlingual"; None for no split files: all tasks are trained on.
      layouts, test_layouts: wordings for training and for testing; see `Niv2Layout`. Testing's default is the paper's.
      leave_out: data sets, by any of their names, whose tasks are not trained on. MMLU, as in FLAN 2022: it is what
        models are tested with. Told by a task's Source, or by a word of its name ("mmmlu").
      max_train_instances: of each task, chosen by keyed hash; the paper took 100, None takes all.
      max_test_instances: the first of each task's, as the owners have ordered them for this.
      validation_fraction: share of a training task's instances, by the hash of the input, that are its split
        "validation"; there is none at 0.
      clusters: category -> cluster, where it is to be called as other collections call it.
      identities: Source -> identity, likewise; "" for the task's own name, as for "synthetic".
      rate: of each training task in the mixture, see `add_mixture`. `rate_by_examples` has to read every file.
      options: to `add_task`.

    Returns: names of tasks by "train", "test" and, not registered, "excluded".

    Raises:
      UserError: no such folder, a split file that names a task which is not there, or a file whose head cannot be read;
        names the file, and all such files at once.
    """
    folder = Path(folder).expanduser()
    if not 0.0 <= validation_fraction < 1.0:
        raise UserError(f"{folder}: validation_fraction={validation_fraction} must be in [0, 1)")
    there = listing(folder, splits, leave_out)
    files, listed, heads = there.files, there.listed, there.heads
    named = clusters_of(heads, clusters or {}, folder)
    names = {name: task_name(prefix, name) for name in files}
    train_splits = ("train", "validation") if validation_fraction else ("train",)
    for use, wordings in ((TRAIN, layouts), (TEST, test_layouts)):
        for name in listed[use]:
            path = files[name]
            head = heads[path]
            identity = identity_of(head["Source"], identities) or names[name]
            rows = functools.partial(
                niv2_rows,
                path=str(path),
                identity=identity,
                first=max_test_instances if use == TEST else None,
                at_most=max_train_instances if use == TRAIN else None,
                validation_fraction=None if use == TEST else validation_fraction,
            )
            add_task(
                names[name],
                source=RowSource(rows, (test_split,) if use == TEST else train_splits, FIELDS, "1", files=(path,)),
                templates=tuple(Niv2Template(layout=layout, path=str(path)) for layout in wordings),
                cluster=named[path],
                licence=licence_of(head),
                identity=identity,
                metrics=metrics,
                postprocess_fn=references,
                **options,
            )
    for use in (TRAIN, TEST):
        if listed[use]:
            add_mixture(f"{prefix}_{use}", [names[name] for name in listed[use]], rate if use == TRAIN else 1.0)
    for name, why in there.excluded.items():
        mark_unavailable(names[name], why)
    groups = {TRAIN: listed[TRAIN], TEST: listed[TEST], EXCLUDED: there.excluded}
    return {use: [names[name] for name in group] for use, group in groups.items()}


def references(text: str, *, example: Mapping[str, Any] | None = None, is_target: bool = False, **_: Any) -> Any:
    """SeqIO's postprocess_fn: a target becomes the list of all right outputs, a prediction stays as it is."""
    example = example or {}
    coded = example.get("references", example.get("field/references"))
    return json.loads(coded) if is_target and coded is not None else text
