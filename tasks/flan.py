"""FLAN's mixtures, with the papers' numbers, over the data sets of tasks/library and the owners' collections.

    flan2021          12 clusters, zero-shot: rates are numbers of examples, at most 3,000 (Wei et al. 2021, 2.1). With
                      DataConfig.max_examples = 30_000, as there, no more than so many examples of a data set.
    flan2021/nli, flan2021/without_nli, ...
                      one of its clusters, and all but that and its relatives: what the paper trains on to evaluate it
    muffin            the same data sets, few-shot too, and dialog (Chung et al. 2022; it had program synthesis as well)
    cot, dialog       reasoning; conversations
    t0                P3's prompts over T0's training sets, as far as they are in tasks/library
    niv2              Super-NaturalInstructions' training tasks
    flan2022          .40 muffin's data sets without dialog, .32 t0, .20 niv2, .05 cot, .03 dialog (Longpre et al. 2023)
    flan2022_library  the same without t0 and niv2, whose files are not in the project

Within flan2022 a data set's examples count up to a cap that differs by part, an inverted prompt for 0.3 of a plain one,
and half of the prompts are few-shot. The counts are the data's own. tasks/papers.yaml has the papers' shares;
`python -m itune.tasks show flan2022` prints both.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from itune.data import (
    Published,
    Summary,
    TaskInfo,
    add_mixture,
    load_declaration,
    locate,
    mark_unavailable,
    mixture_info,
    promptsource_tasks,
    provide,
    publish,
    rate_by_examples,
)
from itune.errors import UserError
from tasks import LIBRARY, collections

Rated = tuple[str, Callable[[Any], float]]

COLLECTION = "mixtures"
REASONING, DIALOG = "chain_of_thought", "dialog"  # clusters of their own parts
WEIGHTS = {"flan2021": 0.40, "t0": 0.32, "niv2": 0.20, "cot": 0.05, "dialog": 0.03}
CAPS = {"flan2021": 30_000, "t0": 20_000, "niv2": 5_000, "cot": 100_000, "dialog": 200_000}
INVERTED = 0.3
FLAN2021_RATE_CAP = 3_000
T0_LARGE = 500_000  # examples; of a larger data set each prompt counts as its share of so many (Sanh et al. 2022, 4)
DESCRIPTIONS = {
    "flan2021": "Wei et al. 2021: 12 clusters, zero-shot, rates up to 3,000 examples",
    "muffin": "Chung et al. 2022: the same data sets, few-shot too, and dialog",
    "cot": "reasoning, zero- and few-shot",
    "dialog": "conversations, zero- and few-shot",
    "t0": "P3's prompts over T0's training sets (needs collections/promptsource)",
    "niv2": "Super-NaturalInstructions, rates up to 5,000 (needs collections/natural-instructions)",
    "flan2022": "Longpre et al. 2023: .40 flan2021, .32 t0, .20 niv2, .05 cot, .03 dialog (needs both)",
    "flan2022_library": "flan2022 without t0 and niv2",
}
# Clusters that share a task with another are left out with it (Wei et al. 2021, footnote 1).
RELATED = {
    "nli": ("paraphrase",),
    "paraphrase": ("nli",),
    "reading_comprehension_with_commonsense": ("reading_comprehension", "commonsense"),
    "reading_comprehension": ("reading_comprehension_with_commonsense",),
    "commonsense": ("reading_comprehension_with_commonsense",),
}
WITHOUT = "flan2021/without_"
# T0's training sets (Sanh et al. 2022, table 5) that tasks/library has: the name here -> promptsource's folder.
PROMPTSOURCE = "promptsource"
# FLAN 2021's data sets by cluster (Wei et al. 2021, figure 3), 62 in all; nearly all have more than 3,000 rows.
FLAN2021_DATA_SETS = {
    "summarisation": 11,
    "translation": 8,
    "nli": 7,
    "miscellaneous": 7,
    "reading_comprehension": 5,
    "commonsense": 4,
    "sentiment": 4,
    "paraphrase": 4,
    "structure_to_text": 4,
    "closed_book_qa": 3,
    "coreference": 3,
    "reading_comprehension_with_commonsense": 2,
}
T0_TRAINING = {
    "ag_news": "ag_news",
    "cnn_dailymail": "cnn_dailymail/3.0.0",
    "common_gen": "common_gen",
    "commonsense_qa": "commonsense_qa",
    "cosmos_qa": "cosmos_qa",
    "imdb": "imdb",
    "mrpc": "glue/mrpc",
    "paws": "paws/labeled_final",
    "qqp": "glue/qqp",
    "samsum": "samsum",
    "social_i_qa": "social_i_qa",
    "trec": "trec",
    "xsum": "xsum",
}


def provide_flan() -> None:
    """Makes the mixtures known; each is registered, with its tasks, when it is asked for."""
    for name in DESCRIPTIONS:
        provide([name], functools.partial(_register, name), functools.partial(list, [summary(name)]))
    parts = [f"flan2022/{name}" for name in WEIGHTS]
    for cluster in FLAN2021_DATA_SETS:
        parts += [f"flan2021/{cluster}", f"{WITHOUT}{cluster}"]
    for name in parts:
        provide([name], functools.partial(_register, name), list)

    flan2021 = {cluster: n / sum(FLAN2021_DATA_SETS.values()) for cluster, n in FLAN2021_DATA_SETS.items()}
    said = "Wei et al. 2021, figure 3: the cluster's share of the 62 data sets"
    publish("flan2021", Published(source=said, shares=flan2021, part_of=lambda info: info.cluster))
    said = "Longpre et al. 2023: the weights of the mixture that was released"
    publish("flan2022", Published(source=said, shares=WEIGHTS, part_of=part_of))


def part_of(info: TaskInfo) -> str:
    """Which part of flan2022 a task belongs to."""
    for name, below in (("t0", "p3/"), ("niv2", "niv2/")):
        if info.name.startswith(below):
            return name
    return {REASONING: "cot", DIALOG: "dialog"}.get(info.cluster, "flan2021")


def summary(name: str) -> Summary:
    return Summary(name=name, collection=COLLECTION, mixture=True, description=DESCRIPTIONS[name])


def _register(name: str) -> None:
    try:
        add_mixture(name, _members(name))
    except UserError as error:
        mark_unavailable(name, str(error))


def _members(name: str) -> Sequence[Rated]:
    if name == "flan2021":
        return _flan2021(FLAN2021_DATA_SETS)
    if name.startswith(WITHOUT):
        left_out = name.removeprefix(WITHOUT)
        return _flan2021([c for c in FLAN2021_DATA_SETS if c != left_out and c not in RELATED.get(left_out, ())])
    if name.startswith("flan2021/"):
        return _flan2021([name.removeprefix("flan2021/")])
    if name == "muffin":
        return [*part("flan2021"), *part("dialog")]
    if name == "t0":
        zero_shot = {task: prompts for task, prompts in p3_tasks().items() if not task.endswith("/fs")}
        return [(task, functools.partial(_t0_rate, prompts=prompts)) for task, prompts in zero_shot.items()]
    if name == "flan2022":
        return _weighted(WEIGHTS)
    if name == "flan2022_library":
        return _weighted({k: WEIGHTS[k] for k in ("flan2021", "cot", "dialog")})
    return part(name.removeprefix("flan2022/"))


# Parts


def data_sets() -> dict[str, str]:
    """The library's data sets: name -> cluster."""
    return {name: path.parent.name for name, path in LIBRARY.items()}


@functools.cache
def part(name: str) -> tuple[Rated, ...]:
    """The tasks of a part of flan2022, each with its rate in it. Raises: UserError where its files are not there."""
    cap = CAPS[name]
    if name == "t0":
        return tuple((task, rate_by_examples(cap, share=0.5)) for task in p3_tasks())  # zero- and few-shot
    if name == "niv2":
        # The tasks of the training list, whatever rates that mixture gives them.
        return tuple((info.name, rate_by_examples(cap)) for info, _ in mixture_info("niv2_train"))
    wanted = {"cot": (REASONING,), "dialog": (DIALOG,)}
    found: list[Rated] = []
    for data_set, cluster in data_sets().items():
        if cluster in wanted.get(name, ()) or (name == "flan2021" and cluster not in (REASONING, DIALOG)):
            shares = variant_shares(load_declaration(LIBRARY[data_set]).variants, reasoning=name == "cot")
            found += [(f"{data_set}/{v}", rate_by_examples(cap, share=share)) for v, share in shares.items()]
    return tuple(found)


def variant_shares(variants: Sequence[str] | Mapping[str, Any], *, reasoning: bool = False) -> dict[str, float]:
    """How a data set's share is divided: half few-shot, options shown in half; inverted prompts for 0.3 of the plain.

    reasoning: of the plain prompts those that ask for it only.
    """
    plain = {"zs": ("zs_cot",), "fs": ("fs_cot",)} if reasoning else {"zs": ("zs", "zs_opt"), "fs": ("fs", "fs_opt")}
    shares: dict[str, float] = {}
    for names, inverted in ((plain["zs"], "inv"), (plain["fs"], "fs_inv")):
        there = [name for name in names if name in variants]
        shares |= {name: 0.5 / len(there) for name in there}
        if inverted in variants:
            shares[inverted] = 0.5 * INVERTED
    return shares


def _flan2021(clusters: Collection[str]) -> list[Rated]:
    """A prompt of each kind as often as there are wordings of it: FLAN 2021 had inverted ones among its ten."""
    found: list[Rated] = []
    for data_set, cluster in data_sets().items():
        if cluster not in clusters:
            continue
        variants = load_declaration(LIBRARY[data_set]).variants
        plain = "zs_opt" if "zs_opt" in variants else "zs"
        used = {name: len(variants[name]) for name in (plain, "inv") if name in variants}
        found += [
            (f"{data_set}/{name}", rate_by_examples(FLAN2021_RATE_CAP, share=n / sum(used.values())))
            for name, n in used.items()
        ]
    return found


@functools.cache
def p3_tasks() -> dict[str, int]:
    """Registers T0's training sets under P3's prompts: p3/<data set>/<prompt>, and with "/fs", few-shot.

    Returns the number of prompts of its data set by task.
    """
    below = collections.folder()
    if below is None or not (below / PROMPTSOURCE).is_dir():
        raise UserError(collections.missing(PROMPTSOURCE))
    found: dict[str, int] = {}
    for name, where in T0_TRAINING.items():
        path = below / PROMPTSOURCE / where / "templates.yaml"
        if name in LIBRARY and path.is_file():
            names = _register_p3(name, path)
            found |= dict.fromkeys(names, len(names) // 2)
    if not found:
        raise UserError(f"{below / PROMPTSOURCE}: holds no templates.yaml of {', '.join(T0_TRAINING.values())}")
    return found


def _register_p3(name: str, path: Path) -> list[str]:
    d = load_declaration(LIBRARY[name])
    return promptsource_tasks(
        f"p3/{name}",
        path,
        {split: locate(d, split) for split, _ in d.splits},
        cluster=d.cluster,
        licence=d.licence,
        identity=d.identity,
        per_template=True,
        few_shot=True,
        description=f"{name} through P3's prompts",
    )


def _t0_rate(task: Any, *, prompts: int) -> float:
    examples = task.num_input_examples("train")
    return float(examples if examples <= T0_LARGE else T0_LARGE / prompts)


# Weights


def _weighted(weights: Mapping[str, float]) -> list[Rated]:
    return [
        (task, functools.partial(_share, part_name=name, own=rate, weight=weight))
        for name, weight in weights.items()
        for task, rate in part(name)
    ]


def _share(task: Any, *, part_name: str, own: Callable[[Any], float], weight: float) -> float:
    return weight * own(task) / _total(part_name)


@functools.cache
def _total(name: str) -> float:
    """Sum of a part's rates, over the tasks whose data are there: the others fail when their own rate is asked for."""
    return sum(rate for _, rate in mixture_info(f"flan2022/{name}", on_error=lambda info, error: None))


provide_flan()
