"""What a run showed, in sentences made from its numbers and claiming no more than they do."""

from __future__ import annotations

import dataclasses

from itune.evaluation.results import KNOWN_METRICS, Evaluation, Pooled

ALPHA = 0.01  # below this, the sign test is taken to speak for itself
GROUP_WORDS = {"held_in": "held-in", "held_out": "held-out"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class MetricCounts:
    """Of the (task, metric) pairs measured in both states: how many rose, fell and stayed."""

    rose: int
    fell: int
    same: int

    @property
    def total(self) -> int:
        return self.rose + self.fell + self.same


def findings(evaluation: Evaluation) -> list[str]:
    """A sentence or two for each group, then the metrics, then the verdict. Empty when nothing was measured twice."""
    groups = [g for g in GROUP_WORDS if g in evaluation.pooled and evaluation.pooled[g].n]
    sentences = [_group_sentence(g, evaluation.pooled[g], len(evaluation.tasks(g))) for g in groups]
    counts = count_metrics(evaluation, "before", "after")
    if counts.total:
        sentences.append(_metric_sentence(evaluation, counts))
    if groups and not any(_improved(evaluation.pooled[g]) for g in groups):
        sentences.append("So this run shows no improvement in loss that chance could not explain.")
    return sentences


def count_metrics(evaluation: Evaluation, first: str, second: str) -> MetricCounts:
    """How the task metrics of known direction moved from one state to another, over both groups."""
    earlier, later = evaluation.state(first), evaluation.state(second)
    rose = fell = same = 0
    if earlier and later:
        for group in GROUP_WORDS:
            for task, result in later.group(group).items():
                other = earlier.group(group).get(task)
                for name in KNOWN_METRICS & set(result.metrics) & set(other.metrics if other else ()):
                    change = result.metrics[name] - other.metrics[name] if other else 0.0
                    rose, fell, same = rose + (change > 0), fell + (change < 0), same + (change == 0)
    return MetricCounts(rose=rose, fell=fell, same=same)


def format_p(p: float) -> str:
    """ "p = 0.21", "p = 0.0003", "p < 1e-15" """
    if p < 1e-15:
        return "p < 1e-15"
    return f"p = {p:.2g}"


def _improved(pooled: Pooled) -> bool:
    fell = pooled.loss_before is not None and pooled.loss_after is not None and pooled.loss_after < pooled.loss_before
    return fell and pooled.sign_test_p < ALPHA


def _group_sentence(group: str, pooled: Pooled, tasks: int) -> str:
    before, after = pooled.loss_before, pooled.loss_after
    which = f"On the {_count(tasks, GROUP_WORDS[group] + ' task')}" if tasks else f"On the {GROUP_WORDS[group]} tasks"
    if before is None or after is None:
        return f"{which} the loss could not be measured."
    if f"{before:.3f}" == f"{after:.3f}":
        moved = f"the loss stayed at {after:.3f} nats per target token"
    else:
        verb = "fell" if after < before else "rose"
        moved = f"the loss {verb} from {before:.3f} to {after:.3f} nats per target token"
    ties = f", {pooled.ties} unchanged" if pooled.ties else ""
    examples = (
        f"{_count(pooled.n, 'example')}, {pooled.improved} improved, {pooled.worsened} got worse{ties}; "
        f"one-sided sign test {format_p(pooled.sign_test_p)}"
    )
    return f"{which} {moved} ({examples}).{_caution(pooled, before, after)}"


def _caution(pooled: Pooled, before: float, after: float) -> str:
    if after < before and pooled.improved <= pooled.worsened:
        return " The fall comes from a minority of the examples: most did not improve."
    if after >= before and pooled.improved > pooled.worsened:
        return " More examples improved than got worse, but those that got worse lost more."
    if after < before and pooled.sign_test_p >= ALPHA:
        return " A split this even could be chance."
    return ""


def _metric_sentence(evaluation: Evaluation, counts: MetricCounts) -> str:
    after = evaluation.after
    generated = {r.generated for g in GROUP_WORDS for r in after.group(g).values() if r.metrics} if after else set()
    sizes = sorted(generated - {0})
    each = ""
    if sizes:
        number = _count(sizes[0], "completion") if len(sizes) == 1 else f"{sizes[0]} to {sizes[-1]} completions"
        each = f" ({number} a task)"
    sentence = (
        f"Of {_count(counts.total, 'task metric')} on generated text{each}, {counts.rose} rose, {counts.fell} fell and "
        f"{counts.same} did not change"
    )
    chat = count_metrics(evaluation, "before_chat", "after")
    if chat.total:
        sentence += (
            f"; against the model before training in its own chat template, {chat.rose} of {chat.total} are higher and "
            f"{chat.fell} lower"
        )
    caution = " At so few completions a single task\u2019s change is a hint, not a result." if _few(sizes) else ""
    return f"{sentence}.{caution}"


def _few(sizes: list[int]) -> bool:
    return not sizes or sizes[0] < 100


def _count(n: int, noun: str) -> str:
    return f"{n:,} {noun}" if n == 1 else f"{n:,} {noun}s"
