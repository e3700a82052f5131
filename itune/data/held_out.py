"""What is held out stays out: a training mixture that reaches it, by any name and however nested, is an error.

Three things are compared. A task's name and its cluster as they are written; its source data set by its canonical name
(itune.data.identities), so that "super_glue/rte" and "glue:rte" meet. Rates play no part: a task at rate 0 is still in
the mixture.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, NamedTuple

from itune.data import catalogue, identities
from itune.data.identities import canonical
from itune.data.manifest import Request
from itune.errors import UserError, nearest

if TYPE_CHECKING:
    import seqio

    from itune.data.registry import TaskInfo

# What tasks get that don't say which cluster they are of: it holds nothing together.
NO_CLUSTER = "other"


class _Rule(NamedTuple):
    """Why something must not be trained on: `what` is held out by the config's `field`. source: as it was written."""

    field: str
    what: str
    source: str = ""


class _Rules(NamedTuple):
    """By name, by cluster, by canonical source. For each the first rule that says so."""

    names: dict[str, _Rule]
    clusters: dict[str, _Rule]
    sources: dict[str, _Rule]


def check_held_out(request: Request, groups: Mapping[str, Sequence[tuple[TaskInfo, float]]]) -> None:
    """UserError if the training mixture holds a held-out task, cluster or source data set.

    groups: "held_out": the tasks that are evaluated and held out, each with a rate. The message names the path through
    nested mixtures to the first such task, and what it has in common with what is held out. UserError, too, for a
    cluster or source that no registered task has (and, of sources, that the table of data sets' names lacks).
    """
    from itune.data import registry

    _check_names(request)
    rules = _rules(request, [info for info, _ in groups["held_out"]])
    faults = []
    for path, name in paths(request.mixture):
        if found := _fault(rules, registry.info(name)):
            faults.append((path, *found))
    if faults:
        path, rule, why = faults[0]
        more = f" ({len(faults) - 1} more like it)" if len(faults) > 1 else ""
        raise UserError(f"EvalConfig.{rule.field}: {rule.what} is held out, but training reaches {path}{why}{more}")


def paths(name: str) -> Iterator[tuple[str, str]]:
    """Every task of a mixture, once: the shortest path to it, "mixture 'a' > 'b' > task 'c'", and its name."""
    from itune.data import registry

    level: list[tuple[tuple[str, ...], seqio.Task | seqio.Mixture]] = [((), registry.get(name))]
    seen = set()
    while level:
        deeper = []
        for mixtures, found in level:
            members = registry.members(found)
            if (members is None, found.name) in seen:
                continue
            seen.add((members is None, found.name))
            if members is None:
                through = f"mixture {' > '.join(map(repr, mixtures))} > " if mixtures else ""
                yield f"{through}task {found.name!r}", found.name
            else:
                deeper += [((*mixtures, found.name), member) for member in members]
        level = deeper


def _rules(request: Request, held: Sequence[TaskInfo]) -> _Rules:
    rules = _Rules({}, {}, {})
    for cluster in request.held_out_clusters:
        rules.clusters.setdefault(cluster, _Rule("held_out_clusters", f"cluster {cluster!r}"))
    for source in request.held_out_sources:
        rules.sources.setdefault(canonical(source), _Rule("held_out_sources", f"source {source!r}", source))
    for info in held:
        rule = _Rule("held_out", f"task {info.name!r}", info.identity)
        rules.names.setdefault(info.name, rule)
        if info.cluster != NO_CLUSTER:
            rules.clusters.setdefault(info.cluster, rule)
        for source in _sources(info):
            rules.sources.setdefault(canonical(source), rule._replace(source=source))
    return rules


def _fault(rules: _Rules, info: TaskInfo) -> tuple[_Rule, str] | None:
    """The rule that the task breaks, and in what; None if it may be trained on."""
    if rule := rules.names.get(info.name):
        return rule, ""
    for source in _sources(info):
        known = canonical(source)
        if rule := rules.sources.get(known):
            same = (
                f"its source is {source!r}" if source in (known, rule.source) else f"its source {source!r} is {known!r}"
            )
            also = "" if rule.source in (source, known) else f", and so is {rule.source!r}"
            return rule, f": {same}{also}"
    if rule := rules.clusters.get(info.cluster):
        return rule, f": its cluster is {info.cluster!r}"
    return None


def _sources(info: TaskInfo) -> list[str]:
    """The names that a task's source data set goes by: its identity, and the TFDS data set that it reads."""
    from itune.data import registry

    return [info.identity, *registry.tfds_names(registry.get(info.name))]


def _check_names(request: Request) -> None:
    """UserError for held-out clusters and sources that nothing registered has: a typo would hold nothing out."""
    if not (request.held_out_clusters or request.held_out_sources):
        return
    from itune.data import registry

    tasks = registry.registered_info()
    others = catalogue.known()  # what is registered by SeqIO alone is no part of it
    clusters = {info.cluster for info in tasks} | {summary.cluster for summary in others if summary.cluster}
    for cluster in request.held_out_clusters:
        if cluster not in clusters:
            hint = nearest(cluster, clusters) or f" Clusters: {', '.join(sorted(clusters))}."
            raise UserError(f"EvalConfig.held_out_clusters: no registered task is of cluster {cluster!r}.{hint}")
    sources = {source for info in tasks for source in _sources(info)} | {s.identity for s in others if s.identity}
    known = {canonical(source) for source in sources}
    for source in request.held_out_sources:
        if canonical(source) not in known and not identities.is_known(source):
            hint = identities.unknown_hint(source, sorted(sources))
            raise UserError(
                f"EvalConfig.held_out_sources: no registered task and no known data set is called {source!r}.{hint}"
            )
