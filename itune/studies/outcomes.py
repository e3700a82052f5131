"""What the runs of a study came to: losses by arm, seed, task and example; effects; a table. No JAX."""

from __future__ import annotations

import collections
import csv
import dataclasses
import io
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from itune.evaluation.results import write_text
from itune.studies.arms import Arm, Study
from itune.studies.measures import LOSSES, Example, Measure
from itune.studies.statistics import FEWEST_SEEDS, Effect, Verdict, effect, judge, smallest_effect

DONE, DIVERGED, MISSING = "done", "diverged", "not run"
FAILED_MARK = "failed.txt"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """An arm's runs. state: of each seed.  values: of each seed that is done, what StudyConfig.measure says of each
    example of the endpoint."""

    arm: Arm
    state: Mapping[int, str]
    values: Mapping[int, Mapping[Example, float]]


def state_of(folder: Path) -> str:
    if (folder / LOSSES).is_file() and (folder / "evaluation.json").is_file():
        return DONE
    return DIVERGED if (folder / FAILED_MARK).is_file() else MISSING


def outcomes(study: Study) -> dict[str, Outcome]:
    found, measure = {}, Measure.of(study.config.measure)
    for arm in study.arms:
        folders = {seed: Path(arm.run(study.folder, seed).model_dir) for seed in study.config.seeds}
        state = {seed: state_of(folder) for seed, folder in folders.items()}
        values = {s: measure.values(folders[s], study.config.endpoint) for s in folders if state[s] == DONE}
        found[arm.name] = Outcome(arm=arm, state=state, values=values)
    return found


def differences(base: Outcome, arm: Outcome) -> tuple[dict[str, np.ndarray], list[str]]:
    """(arm minus base by task, float [seeds, examples]; what could not be compared, in words).

    Seeds that both have, and examples that all of these runs have.
    """
    seeds = [seed for seed in base.values if seed in arm.values]
    notes = gaps(base, arm)
    if not seeds:
        return {}, notes
    runs = [values for seed in seeds for values in (base.values[seed], arm.values[seed])]
    shared = set(runs[0]).intersection(*runs[1:])
    shared = {e for e in shared if all(math.isfinite(values[e]) for values in runs)}
    if not any(runs):
        notes.append("no example was measured so")
    if lost := len(set().union(*runs) - shared):
        notes.append(f"{lost} examples have no finite value in every run")
    by_task: dict[str, list[Example]] = collections.defaultdict(list)
    for example in sorted(shared):
        by_task[example[0]].append(example)
    return {
        task: np.array([[arm.values[s][e] - base.values[s][e] for e in examples] for s in seeds])
        for task, examples in by_task.items()
    }, notes


def gaps(base: Outcome, arm: Outcome) -> list[str]:
    """Why seeds are left out, in words: "seeds 1, 2 not run", "seed 3 diverged", "seed 4 diverged in the base"."""
    why: dict[str, list[int]] = {}
    for seed, state in arm.state.items():
        if state != DONE:
            why.setdefault(state, []).append(seed)
        elif base.state[seed] != DONE:
            why.setdefault(f"{base.state[seed]} in the base", []).append(seed)
    return _by_state(why)


def undone(outcome: Outcome) -> list[str]:
    """ "seeds 1, 2 not run", "seed 3 diverged": of the arm's own runs."""
    why: dict[str, list[int]] = {}
    for seed, state in outcome.state.items():
        if state != DONE:
            why.setdefault(state, []).append(seed)
    return _by_state(why)


def _by_state(why: Mapping[str, Sequence[int]]) -> list[str]:
    return [f"seed{'s' * (len(seeds) > 1)} {', '.join(map(str, seeds))} {state}" for state, seeds in why.items()]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Answer:
    """An arm against the base. verdict: None where nothing can be compared.  by_task: each task alone, uncorrected."""

    arm: Arm
    verdict: Verdict | None
    by_task: Mapping[str, Effect]
    notes: Sequence[str]


def answers(study: Study, found: Mapping[str, Outcome]) -> dict[str, Answer]:
    """Every arm against the base, corrected for their number."""
    base = found[study.base.name]
    compared = {name: differences(base, outcome) for name, outcome in found.items() if outcome is not base}
    effects = {name: effect(d, tasks_sampled=study.config.tasks_sampled) for name, (d, _) in compared.items() if d}
    verdicts = judge(effects)
    return {
        name: Answer(
            arm=found[name].arm,
            verdict=verdicts.get(name),
            by_task={task: effect({task: values}) for task, values in d.items()},
            notes=notes,
        )
        for name, (d, notes) in compared.items()
    }


def resolution(answered: Mapping[str, Answer]) -> float:
    """The effect that a study like this one finds with a probability of 80 %, by the errors that it had, or nan."""
    sizes = [
        smallest_effect(a.verdict.effect.se, a.verdict.effect.df, len(answered)) for a in answered.values() if a.verdict
    ]
    known = [size for size in sizes if math.isfinite(size)]
    return float(np.median(known)) if known else math.nan


COLUMNS = ("kind", "arm", "seed", "task", "examples", "value", "difference", "low", "high", "p", "p_corrected", "state")
Row = dict[str, str | int | float | None]


def rows(found: Mapping[str, Outcome], answered: Mapping[str, Answer]) -> list[Row]:
    """By kind: "run", the measure's mean of an arm, seed and task; "task", a task's difference from the base; "arm",
    the arm's; "gap", a run that is not done, with its state."""
    made: list[Row] = []
    for name, outcome in found.items():
        for seed, by_example in outcome.values.items():
            tasks = collections.defaultdict(list)
            for (task, _), value in by_example.items():
                tasks[task].append(value)
            for task, values in sorted(tasks.items()):
                known = {"examples": len(values), "value": float(np.mean(values))}
                made.append({"kind": "run", "arm": name, "seed": seed, "task": task, **known})
        undone = {seed: state for seed, state in outcome.state.items() if state != DONE}
        made += [{"kind": "gap", "arm": name, "seed": seed, "state": state} for seed, state in undone.items()]
    for name, answer in answered.items():
        for task, e in answer.by_task.items():
            made.append({"kind": "task", "arm": name, "task": task, **_told(e)})
        if answer.verdict is not None:
            told = {**_told(answer.verdict.effect), "p_corrected": answer.verdict.p_corrected}
            made.append({"kind": "arm", "arm": name, **told})
    return [{column: row.get(column) for column in COLUMNS} for row in made]


def _told(e: Effect) -> Row:
    low, high = e.interval
    return {"examples": e.examples, "difference": e.estimate, "low": low, "high": high, "p": e.p}


def write_tables(folder: Path, made: Sequence[Row]) -> None:
    """results.csv and results.parquet."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    out = io.StringIO()
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(made)
    write_text(folder / "results.csv", out.getvalue())
    kinds = dict.fromkeys(("kind", "arm", "task", "state"), pa.string()) | dict.fromkeys(
        ("seed", "examples"), pa.int64()
    )
    schema = pa.schema([(column, kinds.get(column, pa.float64())) for column in COLUMNS])
    pq.write_table(pa.Table.from_pylist(list(made), schema=schema), folder / "results.parquet")


def summary(study: Study, answered: Mapping[str, Answer]) -> list[str]:
    """What was found, in plain words, the most important first. Says significant of nothing that is not."""
    group, measure = study.config.endpoint.replace("_", "-"), Measure.of(study.config.measure)
    told = [(a, a.verdict) for a in answered.values() if a.verdict is not None]
    told.sort(key=lambda pair: (not pair[1].significant, -abs(pair[1].effect.estimate)))
    lines = [_headline([verdict for _, verdict in told], measure) if told else "No arm can be compared with the base."]
    lines += [_sentence(answer, verdict, group, measure) for answer, verdict in told]
    lines += [
        f"{a.arm.name}: cannot be compared with the base: {'; '.join(a.notes)}."
        for a in answered.values()
        if a.verdict is None
    ]
    if math.isfinite(size := resolution(answered)):
        lines.append(f"A study like this one finds an effect of {measure.say(size)} with a probability of 80 %.")
    return lines


def _headline(verdicts: Sequence[Verdict], measure: Measure) -> str:
    sure = [v.effect.estimate * measure.better for v in verdicts if v.significant]
    if not sure:
        seeds = max(v.effect.seeds for v in verdicts)
        few = f" Under {FEWEST_SEEDS} seeds nothing is called significant; there are {seeds}."
        return "No arm differs from the base beyond noise." + (few if seeds < FEWEST_SEEDS else "")
    worse, better = sum(e < 0 for e in sure), sum(e > 0 for e in sure)
    said = [f"{n} of {len(verdicts)} arms {'is' if n == 1 else 'are'} {how}" for n, how in _counts(worse, better) if n]
    rest = "" if worse and better else f" No arm is {'better' if worse else 'worse'} beyond noise."
    return f"Beyond noise, {' and '.join(said)} than the base.{rest}"


def _counts(worse: int, better: int) -> Sequence[tuple[int, str]]:
    return (worse, "worse"), (better, "better")


def _sentence(answer: Answer, verdict: Verdict, group: str, measure: Measure) -> str:
    e = verdict.effect
    low, high = e.interval
    between = f"interval {low:+.3f} to {high:+.3f}" if math.isfinite(low) else f"no interval {_why_none(e)}"
    mark = ", beyond noise" if verdict.significant else ", within noise" if math.isfinite(low) else ""
    most = ""
    if verdict.significant and len(answer.by_task) > 1:
        task, found = max(answer.by_task.items(), key=lambda item: item[1].estimate * math.copysign(1, e.estimate))
        most = f"; the most on {task} ({found.estimate:+.3f})"
    does = "raises" if e.estimate > 0 else "lowers" if e.estimate < 0 else "changes"
    what = f"{does} the {measure.words} on the {group} tasks by {measure.say(abs(e.estimate))}"
    left = f" Left out: {'; '.join(answer.notes)}." if answer.notes else ""
    return f"{answer.arm.name}: {what} ({between}{most}){mark}.{left}"


def _why_none(e: Effect) -> str:
    if e.seeds < 2:
        return "with one seed"
    if e.tasks_sampled and e.tasks < 2:
        return "with one task, for StudyConfig.tasks_sampled"
    return "where every difference is the same"
