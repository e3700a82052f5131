"""Runs the arms of a study in turn, and goes on where it was stopped."""

from __future__ import annotations

import dataclasses
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

import itune
from itune.config.run import RunConfig
from itune.errors import UserError
from itune.evaluation.results import write_text
from itune.studies.amounts import Amounts, equalise
from itune.studies.arms import Arm, Study, difference
from itune.studies.outcomes import (
    DIVERGED,
    DONE,
    FAILED_MARK,
    LOSSES,
    MISSING,
    answers,
    outcomes,
    rows,
    state_of,
    summary,
    write_tables,
)
from itune.studies.propose import write_proposal
from itune.studies.report import write_report
from itune.terminal import say
from itune.training.loop import EXIT_NONFINITE, train
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
    console = Console(stderr=True)
    study, every = opened(study, console)
    for group in grouped(every[part.index :: part.count], study.config.together):
        say_states(group, len(every), console)
        if code := run_group(study, group):
            return code
    return finish(study, console)


Numbered = tuple[int, Arm, int, RunConfig]  # the run's number, from 1, its arm, seed and configuration


def opened(study: Study, console: Console) -> tuple[Study, list[Numbered]]:
    """(the study with the steps that hold its unit equal; all its runs). Prepares data, makes folder and study.json."""
    study.folder.mkdir(parents=True, exist_ok=True)
    study, found, weights = equalise(study, lambda line: say(console, line))
    _record(study, found, weights)
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


def run_group(study: Study, group: Sequence[Numbered]) -> int:
    """Trains what is left of the group. Returns 0, or the exit code of a signal; a run that diverges is marked.

    Raises: UserError, which says whose.
    """
    left = [run for run in group if state_of(Path(run[3].model_dir)) not in (DONE, DIVERGED)]
    if not left:
        return 0
    try:
        if len(left) == 1:
            codes = [train(left[0][3], before=study.folder / "before")]
        else:
            codes = train_together([run[3] for run in left], before=study.folder / "before")
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
    diverged = [f"{name}, seed {s}" for name, o in found.items() for s, state in o.state.items() if state == DIVERGED]
    if diverged:
        say(console, f"diverged: {'; '.join(diverged)}", "red")
    return EXIT_DIVERGED if diverged else 0


def _record(study: Study, found: Mapping[str, Amounts], weights: str) -> None:
    """study.json: the arms and what they differ in.

    Raises: UserError where other code, or other weights, made the runs that are there.
    """
    path = study.folder / "study.json"
    record = {
        "code": code_digest(),
        "base_weights": weights,
        "study": dataclasses.asdict(study.config),
        "arms": {
            arm.name: {
                "bindings": list(arm.difference),
                "digest": arm.digest,
                "amounts": dict(found[arm.name]),
                "differs": {k: [repr(a), repr(b)] for k, (a, b) in difference(study.base.config, arm.config).items()},
            }
            for arm in study.arms
        },
    }
    if path.is_file() and any(study.folder.glob(f"runs/*/*/{LOSSES}")):
        before = json.loads(path.read_text("utf-8"))
        for key, what in (("code", "code of itune's"), ("base_weights", "weights")):
            if before.get(key) != record[key]:
                raise UserError(
                    f"{path}: its runs were made with other {what} ({str(before.get(key))[:12]}, now "
                    f"{str(record[key])[:12]}), and arms of both are no comparison. Give another --workdir"
                )
    write_text(path, json.dumps(record, indent=1) + "\n")


def code_digest() -> str:
    """Of itune's own sources, those that read results aside: an arm that other code trained is another arm."""
    package = Path(itune.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(package.rglob("*.py")):
        if path.relative_to(package).parts[0] != "studies":
            digest.update(path.relative_to(package).as_posix().encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()[:12]


def say_proposal(study: Study) -> None:
    """Prints what `itune.studies.propose` makes of the runs that are done."""
    for line in write_proposal(study, outcomes(study)):
        print(line)
