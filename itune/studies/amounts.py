"""What each arm trains on: steps, examples, tokens, supervised tokens; and arms whose steps make one of them equal."""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable, Collection, Mapping, Sequence

from itune.config.run import RunConfig
from itune.errors import UserError
from itune.models.flops import training_flops
from itune.models.spec import model_spec
from itune.studies.arms import Arm, Study
from itune.training.data_side import DataSide, data_side
from itune.training.setup import plan_record
from itune.weights.shards import weights_digest

UNITS = ("examples", "tokens", "supervised_tokens")
SHARED = "shared_examples"
MOST_TIMES = 16  # the base's steps, that an arm may take

Amounts = Mapping[str, int]  # "steps", UNITS and "pairs" or, of a decoder, "flops"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Facts:
    """What an arm trains on. weights, data: digests of what it starts from and of the rows that it draws."""

    amounts: Amounts
    weights: str
    data: str


def amounts(config: RunConfig, data: DataSide, steps: int | None = None) -> Amounts:
    """Over the run's own steps, or so many."""
    totals = plan_record(config, data, steps)["summary"]["totals"]
    return {"steps": steps or config.train.steps} | {unit: totals[unit] for unit in (*UNITS, "pairs")}


def with_flops(amount: Amounts, config: RunConfig, data: DataSide) -> Amounts:
    spec = model_spec(data.model, config.tuning)
    flops = training_flops(spec, amount["tokens"], amount["supervised_tokens"], amount["pairs"])
    said = {unit: n for unit, n in amount.items() if unit != "pairs"}
    return said if flops is None else {**said, "flops": flops}


def equalise(study: Study, echo: Callable[[str], None]) -> tuple[Study, dict[str, Facts]]:
    """(the study, each arm with the steps that hold StudyConfig.held_equal equal; what each then trains on).

    Prepares the data. The last step may go past the base's amount, by less than half a step's. Raises: UserError for an
    arm that can't reach it, and for one that draws the rows of another.
    """
    unit = study.config.held_equal
    given = {arm.name: _data(arm, echo) for arm in study.arms}
    arms = [study.base]
    for arm in study.arms[1:]:
        arms.append(arm if unit == "steps" else _with_steps(arm, given[arm.name], unit, study.base, given))
    found = {}
    for arm in arms:
        data = given[arm.name]
        found[arm.name] = Facts(
            amounts=with_flops(amounts(arm.config, data), arm.config, data),
            weights=weights_digest(data.folder),
            data=rows_digest(data),
        )
    _check_apart(arms, found)
    return dataclasses.replace(study, arms=tuple(arms)), found


def rows_digest(data: DataSide) -> str:
    """Of the plan, which knows lengths and keys alone, and of what was rendered for the tasks that it draws."""
    drawn = [task.fingerprint for task, count in zip(data.plan.tasks, data.plan.drawable, strict=True) if count]
    return hashlib.sha256("\n".join([data.plan.digest, *drawn]).encode()).hexdigest()


def _check_apart(arms: Sequence[Arm], found: Mapping[str, Facts]) -> None:
    """An arm may say something else of its data and come to the same: a task left out that had the rate 0."""
    first: dict[tuple[str, str], Arm] = {}
    for arm in arms:
        rest = dataclasses.replace(arm, config=dataclasses.replace(arm.config, data=arms[0].config.data))
        same = first.setdefault((rest.digest, found[arm.name].data), arm)
        if same is not arm:
            what = "the base" if same is arms[0] else f"the arm {same.name!r}"
            raise UserError(f"arm {arm.name!r}: trains on the same rows as {what} ({'; '.join(arm.difference)})")


def _data(arm: Arm, echo: Callable[[str], None]) -> DataSide:
    try:
        return data_side(arm.config, echo)
    except UserError as error:
        raise UserError(f"arm {arm.name!r}: {error}") from None


def _with_steps(arm: Arm, data: DataSide, unit: str, base: Arm, given: Mapping[str, DataSide]) -> Arm:
    """The arm with the number of steps whose amount is nearest to the base's."""
    low, high = 1, base.config.train.steps * MOST_TIMES
    counted = _counter(unit, _drawn(data) & _drawn(given[base.name]))
    wanted = counted(base.config, given[base.name], base.config.train.steps)

    def got(steps: int) -> int:
        data.plan.ensure_rows(steps * arm.config.train.batch_size)
        return counted(arm.config, data, steps)

    if not wanted:
        raise UserError(f"arm {arm.name!r}: shares no task with the base, whose {unit} it should have")
    if got(high) < wanted:
        raise UserError(f"arm {arm.name!r}: has fewer than the base's {wanted:,} {unit} in {high:,} steps")
    while low < high:  # the fewest steps that reach it
        middle = (low + high) // 2
        low, high = (low, middle) if got(middle) >= wanted else (middle + 1, high)
    before = got(low - 1) if low > 1 else 0
    steps = low - 1 if low > 1 and wanted - before < got(low) - wanted else low
    train = dataclasses.replace(arm.config.train, steps=steps)
    return dataclasses.replace(arm, config=dataclasses.replace(arm.config, train=train))


def _drawn(data: DataSide) -> set[str]:
    return {task.name for task, count in zip(data.plan.tasks, data.plan.drawable, strict=True) if count}


def _counter(unit: str, shared: Collection[str]) -> Callable[[RunConfig, DataSide, int], int]:
    def count(config: RunConfig, data: DataSide, steps: int) -> int:
        if unit != SHARED:
            return amounts(config, data, steps)[unit]
        tasks = plan_record(config, data, steps)["summary"]["tasks"]
        return sum(row["examples"] for name, row in tasks.items() if name in shared)

    return count


def said_amount(unit: str, amount: int) -> str:
    """ "tokens 12,345", "FLOPs 1.2e+15" """
    return f"FLOPs {amount:.3g}" if unit == "flops" else f"{unit.replace('_', ' ')} {amount:,}"


def unequal(found: Mapping[str, Amounts], base: str) -> list[str]:
    """A line for each arm that trains on other amounts than the base, saying which."""
    lines = []
    for name, amount in found.items():
        said = [
            f"{said_amount(unit, amount[unit])} ({amount[unit] / found[base][unit] - 1:+.1%})"
            for unit in amount
            if amount[unit] != found[base][unit]
        ]
        if said and name != base:
            lines.append(f"{name}: {', '.join(said)}")
    return lines


def may_stop(study: Study) -> list[str]:
    """A line where some arms need not make all their steps."""
    names = [arm.name for arm in study.arms if arm.config.evaluation.patience]
    which = "every arm" if len(names) == len(study.arms) else ", ".join(names)
    said = f"{which} may stop early (EvalConfig.patience): what is held equal is what each may take, not what it took"
    return [said] if names else []
