"""Held-out: nothing that is held out is reached by a training mixture, whatever it is called and however nested.

The property test compares with an oracle that walks a plain dictionary and knows by hand which names mean one data set.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from typing import Any

import pytest
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st

from itune.data import identities, lazy
from itune.data.config import DataConfig
from itune.data.manifest import Request
from itune.data.prepare_failures import Failures
from itune.errors import UserError
from itune.evaluation.config import EvalConfig
from tests.data.toy import TASKS, Toy

pytestmark = pytest.mark.usefixtures("registries")

# What people call them. "own" is made known by add_alias; the last three are known to nobody, and are all different.
NAMES = {
    "rte": ("rte", "super_glue/rte", "glue:rte", "SuperGLUE RTE", "super_glue_rte", "glue/rte:1.0.2"),
    "mnli": ("mnli", "multi_nli", "MultiNLI", "glue/mnli", "task199_mnli_classification"),
    "squad_v1": ("squad", "squad_v1", "squad/v1.1:3.0.0"),
    "squad_v2": ("squad_v2", "squad/v2.0:3.0.0"),
    "own": ("ward_b/notes", "Ward B notes", "our_notes"),
    "glue": ("glue", "GLUE"),
    "part_1/2": ("part_1/2",),
    "part_12": ("part_12", "Part 12"),
}
GROUP = {name: group for group, names in NAMES.items() for name in names}
SOURCES = sorted(GROUP)
CLUSTERS = ("nli", "reading", "notes", "other")


@pytest.fixture(autouse=True)
def _aliases(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(lazy, "_pending", {})  # another test may have imported tasks/
    identities.add_alias("ward_b/notes", "our_notes")
    yield
    identities._table.cache_clear()


def empty_registries() -> None:
    import seqio

    from itune.data import registry

    for known in (seqio.TaskRegistry._REGISTRY, seqio.MixtureRegistry._REGISTRY, registry.TASKS):
        known.clear()


def register(tasks: dict[str, tuple[str, str, str]], mixtures: dict[str, list[str]]) -> None:
    """tasks: name -> (kind, cluster, source). kind "tfds": a SeqIO task whose TFDS source alone says what it reads."""
    import seqio

    from itune.data import RowSource, Template, add_mixture, add_task, registry

    empty_registries()
    for name, (kind, cluster, source) in tasks.items():
        if kind == "tfds":
            seqio.TaskRegistry.add(
                name,
                source=seqio.TfdsDataSource(source, splits=["train"]),
                preprocessors=[],
                output_features=registry.PLACEHOLDER_FEATURES,
            )
        else:
            rows = RowSource(lambda split: iter(()), fields=("q", "a"))
            template = Template("t", "{q}", "{a}")
            add_task(name, source=rows, templates=(template,), cluster=cluster, licence="CC0-1.0", identity=source)
    for name, inside in mixtures.items():
        add_mixture(name, inside)


def check(mixture: str, **held: Any) -> str:
    """The message of the error that building the mixture ends in; "" where it builds."""
    from itune.data import prepare

    request = Request.from_config(DataConfig(mixture=mixture), EvalConfig(**held), "model", cache="cache")  # type: ignore[arg-type]
    try:
        prepare.check_held_out(request, prepare.resolve_groups(request, Failures(request)))
    except UserError as error:
        return str(error)
    return ""


@st.composite
def worlds(draw: st.DrawFn) -> dict[str, Any]:
    tasks = {}
    for number in range(draw(st.integers(2, 7))):
        kind = draw(st.sampled_from(["itune", "itune", "tfds"]))
        source = draw(st.sampled_from(SOURCES if kind == "itune" else [s for s in SOURCES if ":" in s]))
        cluster = draw(st.sampled_from(CLUSTERS)) if kind == "itune" else "other"
        tasks[f"t{number}"] = (kind, cluster, source)
    mixtures: dict[str, list[str]] = {}
    for number in range(draw(st.integers(2, 6))):  # later ones hold earlier ones, several times over
        choice = st.sampled_from([*tasks, *mixtures])
        mixtures[f"m{number}"] = draw(st.lists(choice, min_size=1, max_size=4, unique=True))
    some = lambda names, most: tuple(draw(st.lists(st.sampled_from(sorted(names)), max_size=most, unique=True)))  # noqa: E731
    return {
        "tasks": tasks,
        "mixtures": mixtures,
        "top": draw(st.sampled_from([*mixtures, *mixtures, *tasks])),
        "held_out": some([*tasks, *mixtures], draw(st.sampled_from([0, 1, 1]))),
        "held_out_clusters": some({cluster for _, cluster, _ in tasks.values()}, draw(st.sampled_from([0, 0, 1, 1]))),
        "held_out_sources": some([s for s in SOURCES if _can_be_named(s, tasks)], draw(st.sampled_from([0, 1, 2, 3]))),
    }


def _can_be_named(source: str, tasks: dict[str, tuple[str, str, str]]) -> bool:
    """Other names are typos for the check: neither table nor task has them."""
    known = GROUP[source] in ("rte", "mnli", "squad_v1", "squad_v2", "own")
    return known or GROUP[source] in {GROUP[of] for _, _, of in tasks.values()}


class Oracle:
    def __init__(self, world: dict[str, Any]):
        self.tasks, self.mixtures = world["tasks"], world["mixtures"]
        held = {task for name in world["held_out"] for task in self.reached(name)}
        self.bad = {task for task in self.reached(world["top"]) if self._bad(task, held, world)}

    def reached(self, name: str) -> set[str]:
        if name in self.tasks:
            return {name}
        return {task for member in self.mixtures[name] for task in self.reached(member)}

    def _bad(self, task: str, held: set[str], world: dict[str, Any]) -> bool:
        _, cluster, source = self.tasks[task]
        if cluster in world["held_out_clusters"]:
            return True
        if any(GROUP[source] == GROUP[other] for other in world["held_out_sources"]):
            return True
        for other in held:
            _, other_cluster, other_source = self.tasks[other]
            if task == other or GROUP[source] == GROUP[other_source]:
                return True
            if cluster == other_cluster and cluster != "other":
                return True
        return False

    def follow(self, message: str, top: str) -> str:
        """The task at the end of the path that the message names, each step of which is looked up."""
        found = re.search(r"training reaches (?:mixture (.+) > )?task '(\w+)'", message)
        assert found, message
        steps = [*re.findall(r"'(\w+)'", found[1] or ""), found[2]]
        assert steps[0] == top
        for outer, inner in itertools.pairwise(steps):
            assert inner in self.mixtures[outer], message
        assert steps[-1] in self.tasks
        return steps[-1]


@given(worlds())
@settings(
    max_examples=60,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
def test_a_mixture_builds_if_and_only_if_nothing_held_out_is_reached(world: dict[str, Any]) -> None:
    register(world["tasks"], world["mixtures"])
    oracle = Oracle(world)
    held = {name: world[name] for name in ("held_out", "held_out_clusters", "held_out_sources")}
    message = check(world["top"], **held)
    event(f"bad: {min(len(oracle.bad), 3)}")
    assert bool(message) == bool(oracle.bad), (message, oracle.bad)
    if message:
        assert "\n" not in message
        assert oracle.follow(message, world["top"]) in oracle.bad
        more = re.search(r"\((\d+) more like it\)$", message)
        assert len(oracle.bad) == (int(more[1]) + 1 if more else 1)
        field, what = re.match(r"EvalConfig\.(\w+): \w+ '(.+?)' is held out", message).groups()  # type: ignore[union-attr]
        assert what in held[field] or field == "held_out" and any(what in oracle.reached(h) for h in held[field])


# Messages

NESTED = (
    {
        "a": ("itune", "nli", "super_glue_rte"),
        "b": ("itune", "reading", "squad_v1"),
        "c": ("tfds", "", "glue/rte:1.0.2"),
        "d": ("itune", "nli", "glue:rte"),
        "e": ("itune", "notes", "ward_b/notes"),
        "f": ("tfds", "", "squad/v1.1:3.0.0"),
    },
    {"inner": ["a"], "middle": ["inner", "b"], "outer": ["middle", "b"], "seqio": ["b", "c"], "both": ["inner", "c"]},
)


@pytest.mark.parametrize(
    ("mixture", "held", "message"),
    [
        ("outer", {}, ""),
        ("f", {"held_out": ("c",)}, ""),  # neither states a cluster: that holds nothing together
        ("outer", {"held_out_sources": ("squad_v2", "mnli")}, ""),
        (
            "outer",
            {"held_out_sources": ("rte",)},
            "EvalConfig.held_out_sources: source 'rte' is held out, but training reaches "
            "mixture 'outer' > 'middle' > 'inner' > task 'a': its source 'super_glue_rte' is 'rte'",
        ),
        (
            "both",
            {"held_out_sources": ("SuperGLUE RTE",)},
            "EvalConfig.held_out_sources: source 'SuperGLUE RTE' is held out, but training reaches "
            "mixture 'both' > task 'c': its source 'glue/rte:1.0.2' is 'rte', and so is 'SuperGLUE RTE' "
            "(1 more like it)",
        ),
        (
            "outer",
            {"held_out_sources": ("squad",)},
            "EvalConfig.held_out_sources: source 'squad' is held out, but training reaches "
            "mixture 'outer' > task 'b': its source is 'squad_v1', and so is 'squad'",
        ),
        (
            "e",
            {"held_out_sources": ("Our Notes",)},
            "EvalConfig.held_out_sources: source 'Our Notes' is held out, but training reaches "
            "task 'e': its source 'ward_b/notes' is 'wardbnotes', and so is 'Our Notes'",
        ),
        (
            "e",
            {"held_out_sources": ("ward_b/notes",)},
            "EvalConfig.held_out_sources: source 'ward_b/notes' is held out, but training reaches "
            "task 'e': its source is 'ward_b/notes'",
        ),
        (
            "outer",
            {"held_out_clusters": ("notes", "nli")},
            "EvalConfig.held_out_clusters: cluster 'nli' is held out, but training reaches "
            "mixture 'outer' > 'middle' > 'inner' > task 'a': its cluster is 'nli'",
        ),
        (
            "seqio",
            {"held_out_clusters": ("other",)},
            "EvalConfig.held_out_clusters: cluster 'other' is held out, but training reaches "
            "mixture 'seqio' > task 'c': its cluster is 'other'",
        ),
        (
            "outer",
            {"held_out": ("inner",)},
            "EvalConfig.held_out: task 'a' is held out, but training reaches "
            "mixture 'outer' > 'middle' > 'inner' > task 'a'",
        ),
        (
            "inner",
            {"held_out": ("d",)},
            "EvalConfig.held_out: task 'd' is held out, but training reaches "
            "mixture 'inner' > task 'a': its source 'super_glue_rte' is 'rte', and so is 'glue:rte'",
        ),
        (
            "d",
            {"held_out": ("c",)},
            "EvalConfig.held_out: task 'c' is held out, but training reaches "
            "task 'd': its source 'glue:rte' is 'rte', and so is 'glue/rte:1.0.2'",
        ),
        (
            "outer",
            {"held_out_clusters": ("nil",)},
            "EvalConfig.held_out_clusters: no registered task is of cluster 'nil'. Did you mean 'nli'?",
        ),
        (
            "outer",
            {"held_out_clusters": ("zzz",)},
            "EvalConfig.held_out_clusters: no registered task is of cluster 'zzz'. "
            "Clusters: nli, notes, other, reading.",
        ),
        (
            "outer",
            {"held_out_sources": ("ward_b/note",)},
            "EvalConfig.held_out_sources: no registered task and no known data set is called 'ward_b/note'. "
            "Did you mean 'ward_b/notes'?",
        ),
        (
            "outer",
            {"held_out_sources": ("hellaswig",)},
            "EvalConfig.held_out_sources: no registered task and no known data set is called 'hellaswig'. "
            "Did you mean 'hellaswag'?",
        ),
        (
            "outer",
            {"held_out_sources": ("GLUE",)},
            "EvalConfig.held_out_sources: no registered task and no known data set is called 'GLUE'. "
            "It is a suite; name its data sets: cola, mnli, mrpc, qnli, qqp, rte, sst2, stsb, wnli.",
        ),
    ],
)
def test_what_is_said(mixture: str, held: dict[str, Any], message: str) -> None:
    register(*NESTED)
    assert check(mixture, **held) == message


def test_a_member_that_is_registered_nowhere_by_name_is_reached_too() -> None:
    """SeqIO takes a mixture itself for its name."""
    import seqio

    register(*NESTED)
    hidden = seqio.Mixture("hidden", [("a", 1.0)])
    seqio.MixtureRegistry.add("shown", [(hidden, 1.0), ("b", 1.0)])
    assert check("shown", held_out_sources=("rte",)).endswith(
        "mixture 'shown' > 'hidden' > task 'a': its source 'super_glue_rte' is 'rte'"
    )


def test_a_tfds_source_by_split_is_looked_into() -> None:
    import seqio

    from itune.data import registry

    register(*NESTED)
    splits = {"train": seqio.TfdsSplit(dataset="glue/rte:2.0.0", split="train")}
    seqio.TaskRegistry.add(
        "by_split",
        source=seqio.TfdsDataSource(splits=splits),
        preprocessors=[],
        output_features=registry.PLACEHOLDER_FEATURES,
    )
    assert "its source 'glue/rte:2.0.0' is 'rte'" in check("by_split", held_out=("d",))


def test_a_diamond_of_mixtures_is_walked_once() -> None:
    """40 levels of two ways each: a walk that follows every way would not end."""
    from itune.data import add_mixture
    from itune.data.held_out import paths

    register(NESTED[0], {})
    add_mixture("left0", ["a"])
    add_mixture("right0", ["a"])
    import seqio

    left, right = (seqio.MixtureRegistry.get(name) for name in ("left0", "right0"))
    for level in range(1, 40):
        pair = [(left, 1.0), (right, 1.0)]
        left, right = (_mixture(f"{side}{level}", pair) for side in ("left", "right"))
    seqio.MixtureRegistry._REGISTRY["top"] = left
    ((path, task),) = paths("top")
    assert task == "a" and path.count(">") == 40 and path.endswith("> 'left0' > task 'a'")


def _mixture(name: str, pairs: list[Any]) -> Any:
    """SeqIO's own constructor follows every way."""
    import seqio

    made = seqio.Mixture.__new__(seqio.Mixture)
    made._name, made._tasks, made._sub_mixtures = name, [], [mixture for mixture, _ in pairs]
    return made


def test_prepare_stops_and_a_task_module_can_add_aliases(toy: Toy) -> None:
    module = TASKS.replace("add_task\n", "add_alias, add_task\n").replace('identity="one"', 'identity="our_rte"')
    toy.write(module + '    add_alias("super_glue/rte", "our_rte")\n')
    wrong = "mixture 'sums' > task 'sums/one': its source 'our_rte' is 'rte'$"
    with pytest.raises(UserError, match=wrong):
        toy.prepare(held_out_sources=("rte",))
    with pytest.raises(UserError, match="^EvalConfig.held_out_clusters: .* task 'sums/one'.* more like it"):
        toy.prepare(held_out_clusters=("sums",))
    manifest = toy.prepare(held_out_sources=("mnli",), held_out_clusters=("apart",))
    assert manifest.train[0].identity == "our_rte", "the order of data is keyed by what the task states"
    assert manifest.request["held_out_sources"] == ["mnli"]


def test_what_is_held_out_is_part_of_what_a_manifest_answers(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """Else a cached manifest would pass for a run that holds more out, or after the table of names has grown."""
    asked: tuple[dict[str, Any], ...] = ({}, {"held_out_clusters": ("sums",)}, {"held_out_sources": ("sums",)})
    found = {toy.request(**held).manifest_path() for held in asked}
    table = toy.folder / "names.yaml"
    table.write_text("another")
    monkeypatch.setattr("itune.data.manifest.TABLE", table)
    assert len(found | {toy.request().manifest_path()}) == 4
