"""Runs the arms of a study in turn, and goes on where it was stopped."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from itune.config.run import RunConfig
from itune.errors import UserError
from itune.evaluation.results import write_text
from itune.studies.amounts import equalise
from itune.studies.arms import Arm, Study
from itune.studies.outcomes import (
    DIVERGED,
    DONE,
    FAILED_MARK,
    MISSING,
    answers,
    outcomes,
    rows,
    state_of,
    summary,
    undone,
    write_tables,
)
from itune.studies.propose import write_proposal
from itune.studies.record import write_record
from itune.studies.report import write_report
from itune.terminal import say
from itune.training.loop import EXIT_NONFINITE, train
from itune.training.metrics import SharedConsole, new_progress
from itune.training.session import Session
from itune.training.stacked import shape_of, train_together

EXIT_DIVERGED = 3


def runs(study: Study) -> Iterator[tuple[Arm, int, RunConfig]]:
    """Seed by seed, so that what has been run at any time is as balanced as it can be."""
    for seed in study.config.seeds:
        for arm in study.arms:
            yield arm, seed, arm.run(study.folder, seed)


@dataclasses.dataclass(frozen=True)
class Part:
    """Of so many processes that share a study's folder, the one of this index: it takes every count-th run."""

    index: int = 0
    count: int = 1

    @classmethod
    def read(cls, text: str) -> Part:
        """ "3/8" is the fourth of eight. Raises: UserError."""
        index, _, count = text.partition("/")
        if index.isdecimal() and count.isdecimal() and int(index) < int(count):
            return cls(int(index), int(count))
        raise UserError(f"--part={text}: must be INDEX/COUNT with INDEX from 0 to COUNT - 1, such as 0/4")


def run_study(study: Study, part: Part = Part()) -> int:
    """Runs what has not been run, of `part`; writes study.json and the answers. Returns the exit code.

    0: every run is done; 3: some diverged, and are marked so; a signal's own code where one stopped it: the same
    command goes on. Raises: UserError, of an arm's own run too, which it names.
    """
    console = SharedConsole(stderr=True)
    study, every = opened(study, console)
    session = Session(console=console, before=study.folder / "before")
    mine = every[part.index :: part.count]
    with one_display(console, len(mine), _left(mine)) as advance:
        for group in grouped(mine, study.config.together):
            say_states(group, len(every), console)
            advance(0, _said(group))
            left = _left(group)
            if code := run_group(group, session):
                return code
            advance(left, "")
    return finish(study, console)


@contextlib.contextmanager
def one_display(console: SharedConsole, runs: int, left: int) -> Iterator[Callable[[int, str], None]]:
    """The study's bar, over which the bar of the run that is made comes and goes: (runs more that ended, what is made).

    The time left is estimated from the runs that end while it is shown.
    """
    with new_progress(console, memory=1e9) as progress:
        console.progress = progress
        line = progress.add_task("study", total=runs, completed=runs - left, status="")
        try:
            yield lambda count, said: progress.update(line, advance=count, status=said)
        finally:
            console.progress = None


def _left(group: Sequence[Numbered]) -> int:
    return sum(state_of(Path(config.model_dir)) not in (DONE, DIVERGED) for *_, config in group)


def _said(group: Sequence[Numbered]) -> str:
    _, arm, seed, _ = group[0]
    return f"{arm.name}, seed {seed}" + (f" and {len(group) - 1} more" if len(group) > 1 else "")


Numbered = tuple[int, Arm, int, RunConfig]  # the run's number, from 1, its arm, seed and configuration


def opened(study: Study, console: Console) -> tuple[Study, list[Numbered]]:
    """(the study with the steps that hold its unit equal; all its runs). Prepares data, makes folder and study.json."""
    study.folder.mkdir(parents=True, exist_ok=True)
    study, found = equalise(study, lambda line: say(console, line))
    write_record(study, found)
    return study, [(number, *run) for number, run in enumerate(runs(study), 1)]


def say_states(group: Sequence[Numbered], count: int, console: Console) -> None:
    """ "study: run 3 of 12: without gsm8k, seed 0: not run", a line each."""
    for number, arm, seed, config in group:
        state = state_of(Path(config.model_dir))
        say(console, f"study: run {number} of {count}: {arm.name}, seed {seed}: {state}", "bold")


def grouped(numbered: Sequence[Numbered], together: int) -> Iterator[list[Numbered]]:
    """Each run with the next ones that may share its step, up to `together`; one that is done or begun is alone."""
    left = list(numbered)
    while left:
        first, *left = left
        group, shape = [first], _open_shape(first[3]) if together > 1 else None
        if shape is not None:
            group += [run for run in left if _open_shape(run[3]) == shape][: together - 1]
            left = [run for run in left if run not in group]
        yield group


def _open_shape(config: RunConfig) -> Any:
    folder = Path(config.model_dir)
    begun = state_of(folder) != MISSING or (folder / "checkpoints").is_dir()
    return None if begun else shape_of(config)


def run_group(group: Sequence[Numbered], session: Session) -> int:
    """Trains what is left of the group. Returns 0, or the exit code of a signal; a run that diverges is marked.

    Raises: UserError, which says whose.
    """
    left = [run for run in group if state_of(Path(run[3].model_dir)) not in (DONE, DIVERGED)]
    if not left:
        return 0
    try:
        if len(left) == 1:
            codes = [train(left[0][3], session=session)]
        else:
            codes = train_together([run[3] for run in left], session=session)
    except UserError as error:
        who = "; ".join(f"arm {arm.name!r}, seed {seed}" for _, arm, seed, _ in left)
        raise UserError(f"{who}: {error}") from None
    for (_, _, _, config), code in zip(left, codes, strict=True):
        if code == EXIT_NONFINITE:
            mark = Path(config.model_dir) / FAILED_MARK
            write_text(mark, "a loss or a gradient was not finite; delete this file to try again\n")
    return next((code for code in codes if code not in (0, EXIT_NONFINITE)), 0)


def finish(study: Study, console: Console) -> int:
    """Writes results.csv and .parquet, summary.txt and report.html from what there is, and prints the summary."""
    found = outcomes(study)
    answered = answers(study, found)
    lines = summary(study, answered)
    write_tables(study.folder, rows(found, answered))
    write_text(study.folder / "summary.txt", "\n".join(lines) + "\n")
    report = write_report(study, found, answered)
    for line in lines:
        say(console, line)
    say(console, f"Report: {report}")
    diverged = any(state == DIVERGED for outcome in found.values() for state in outcome.state.values())
    for name, outcome in found.items():
        if why := undone(outcome):
            say(console, f"study: {name}: {'; '.join(why)}", "red")
    return EXIT_DIVERGED if diverged else 0


def say_proposal(study: Study) -> None:
    """Prints what `itune.studies.propose` makes of the runs that are done. Raises: as `equalise`."""
    # An arm's runs lie under the steps that hold its unit equal.
    console = Console(stderr=True)
    study, _ = equalise(study, lambda line: say(console, line))
    study = dataclasses.replace(study, config=dataclasses.replace(study.config, measure="loss"))
    for line in write_proposal(study, outcomes(study)):
        print(line)
