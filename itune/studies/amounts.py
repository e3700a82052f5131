"""What each arm trains on: steps, examples, tokens, supervised tokens; and arms whose steps make one of them equal."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping

from itune.config.run import RunConfig
from itune.errors import UserError
from itune.models.flops import training_flops
from itune.models.spec import model_spec
from itune.studies.arms import Arm, Study
from itune.training.data_side import DataSide, data_side
from itune.training.setup import plan_record
from itune.weights.shards import weights_digest

UNITS = ("examples", "tokens", "supervised_tokens")
MOST_TIMES = 16  # the base's steps, that an arm may take

Amounts = Mapping[str, int]  # "steps", UNITS and "pairs" or, of a decoder, "flops"


def amounts(config: RunConfig, data: DataSide, steps: int | None = None) -> Amounts:
    """Over the run's own steps, or so many."""
    totals = plan_record(config, data, steps)["summary"]["totals"]
    return {"steps": steps or config.train.steps} | {unit: totals[unit] for unit in (*UNITS, "pairs")}


def with_flops(amount: Amounts, config: RunConfig, data: DataSide) -> Amounts:
    spec = model_spec(data.model, config.tuning)
    flops = training_flops(spec, amount["tokens"], amount["supervised_tokens"], amount["pairs"])
    said = {unit: n for unit, n in amount.items() if unit != "pairs"}
    return said if flops is None else {**said, "flops": flops}


def equalise(study: Study, echo: Callable[[str], None]) -> tuple[Study, dict[str, Amounts], str]:
    """(the study, each arm with the steps that hold StudyConfig.held_equal equal; what each then trains on; a digest of
    the base's weights).

    Prepares the data. The last step may go past the base's amount, by less than half a step's. Raises: UserError for an
    arm that can't reach it.
    """
    unit = study.config.held_equal
    given = {arm.name: _data(arm, echo) for arm in study.arms}
    base = amounts(study.base.config, given[study.base.name])
    arms = [study.base]
    for arm in study.arms[1:]:
        arms.append(arm if unit == "steps" else _with_steps(arm, given[arm.name], unit, base))
    found = {}
    for arm in arms:
        data = given[arm.name]
        found[arm.name] = with_flops(amounts(arm.config, data), arm.config, data)
    return dataclasses.replace(study, arms=tuple(arms)), found, weights_digest(given[study.base.name].folder)


def _data(arm: Arm, echo: Callable[[str], None]) -> DataSide:
    try:
        return data_side(arm.config, echo)
    except UserError as error:
        raise UserError(f"arm {arm.name!r}: {error}") from None


def _with_steps(arm: Arm, data: DataSide, unit: str, base: Amounts) -> Arm:
    """The arm with the number of steps whose amount is nearest to the base's."""
    low, high = 1, base["steps"] * MOST_TIMES

    def got(steps: int) -> int:
        data.plan.ensure_rows(steps * arm.config.train.batch_size)
        return amounts(arm.config, data, steps)[unit]

    if got(high) < base[unit]:
        raise UserError(f"arm {arm.name!r}: has fewer than the base's {base[unit]:,} {unit} in {high:,} steps")
    while low < high:  # the fewest steps that reach it
        middle = (low + high) // 2
        low, high = (low, middle) if got(middle) >= base[unit] else (middle + 1, high)
    before = got(low - 1) if low > 1 else 0
    steps = low - 1 if low > 1 and base[unit] - before < got(low) - base[unit] else low
    train = dataclasses.replace(arm.config.train, steps=steps)
    return dataclasses.replace(arm, config=dataclasses.replace(arm.config, train=train))


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
