"""From gin files to arms: the base's RunConfig and one for each arm, with the difference in words. No JAX."""

from __future__ import annotations

import dataclasses
import itertools
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from fnmatch import fnmatchcase
from pathlib import Path

from itune.config import parse, resolve
from itune.config.load import with_modules
from itune.config.parse import Statement
from itune.config.run import RunConfig
from itune.config.save import config_digest
from itune.errors import UserError
from itune.storage import names
from itune.studies.config import BASE, StudyConfig
from itune.studies.measures import Measure

STUDY = "StudyConfig"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Arm:
    """name: "base", or the arm's.  difference: bindings, as on the command line; () of the base.  config: of seed 0."""

    name: str
    difference: tuple[str, ...]
    config: RunConfig

    @property
    def digest(self) -> str:
        """Names its directory: an arm that is edited is another arm. The seed is no part of it."""
        return config_digest(dataclasses.replace(self.config, seed=0))[:12]

    def run(self, folder: Path, seed: int) -> RunConfig:
        """The run of one seed, in its directory below the study's."""
        where = folder / "runs" / f"{_slug(self.name)}-{self.digest}" / f"seed-{seed}"
        return dataclasses.replace(self.config, seed=seed, model_dir=str(where))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Study:
    """arms: the base first. folder: where everything of it lives."""

    config: StudyConfig
    arms: tuple[Arm, ...]
    folder: Path

    @property
    def base(self) -> Arm:
        return self.arms[0]


def load_study(
    gin_files: Sequence[str | Path],
    bindings: Sequence[str] = (),
    workdir: str | None = None,
    modules: Sequence[str] = (),
) -> Study:
    """The study that the files describe: those of a recipe, with bindings of StudyConfig.

    modules: see `itune.config.load.load_run`.

    Raises: UserError for anything that the files or an arm's bindings say wrong, for an arm that differs in nothing,
    and for arms that come to the same run.
    """
    if not gin_files:
        raise UserError("--gin_file is required, such as --gin_file=gin_configs/studies/leave_one_source_out.gin.")
    last = len(gin_files)
    statements = [*parse.read_files(gin_files), *(parse.read_binding(text, last) for text in bindings)]
    mine = [s for s in statements if s.key.partition(".")[0] == STUDY]
    rest = [s for s in statements if s.key.partition(".")[0] != STUDY]
    config = resolve.build(StudyConfig, [*(s for s in rest if s.is_macro), *mine], gin_files)
    model_dir = (
        [Statement(key="MODEL_DIR", value=workdir, where=f"--workdir={workdir}", source=last)] if workdir else []
    )
    base = with_modules(resolve.resolve([*rest, *model_dir], gin_files), modules)
    names.on_disk("MODEL_DIR", base.model_dir)
    Measure.of(config.measure).check(base)
    made = [Arm(name=BASE, difference=(), config=base)]
    for name, said in _arms(config, base):
        try:
            changes = [parse.read_binding(text, last) for text in said]
            run = with_modules(resolve.resolve([*rest, *changes, *model_dir], gin_files), modules)
        except UserError as error:
            raise UserError(f"arm {name!r}: {error}") from None
        made.append(Arm(name=name, difference=said, config=run))
    _check(made)
    return Study(config=config, arms=tuple(made), folder=Path(made[0].config.model_dir))


def _arms(config: StudyConfig, base: RunConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    seen = {BASE}
    drawn = _mixtures(config, base)
    made = (config.arms.items(), _left_out(config, base), _added(config, base), _along(config), drawn)
    for name, difference in itertools.chain(*made):
        if name in seen:
            raise UserError(f"StudyConfig: two arms are called {name!r}")
        seen.add(name)
        yield name, tuple(difference)


def _left_out(config: StudyConfig, base: RunConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    for task in config.leave_out:
        factors = {task: 0.0} | _other_factors(base, (task,))
        yield f"without {task}", (f"DataConfig.rate_factors={factors!r}",)


def _added(config: StudyConfig, base: RunConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    for name in config.add:
        yield f"with {name}", (f"MIXTURE_OR_TASK_NAME={base.data.mixture + '+' + name!r}",)


def _mixtures(config: StudyConfig, base: RunConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Factors from a quarter to four times, mostly; the same for the same number, so that more of them add arms."""
    for number in range(1, config.random_mixtures + 1):
        drawn = random.Random(number)
        factors = {name: round(2 ** drawn.gauss(0.0, 1.0), 3) for name in config.mix}
        yield f"mixture {number}", (f"DataConfig.rate_factors={factors | _other_factors(base, config.mix)!r}",)


def _other_factors(base: RunConfig, patterns: Sequence[str]) -> dict[str, float]:
    """The base's, of what the patterns do not name: a task's own name would go before its pattern."""
    own = base.data.rate_factors
    return {name: by for name, by in own.items() if not any(fnmatchcase(name, pattern) for pattern in patterns)}


def _along(config: StudyConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    settings = [[(binding, value) for value in values] for binding, values in config.axes.items()]
    if not settings:
        return
    points: Iterable[tuple[tuple[str, str], ...]]
    if config.combine == "each":
        points = [(setting,) for values in settings for setting in values]
    else:
        points = zip(*settings, strict=True) if config.combine == "zip" else itertools.product(*settings)
    for point in points:
        name = ", ".join(f"{binding.rpartition('.')[2]}={value}" for binding, value in point)
        yield name, tuple(f"{binding}={value}" for binding, value in point)


def _check(arms: Sequence[Arm]) -> None:
    if len(arms) < 2:
        raise UserError("StudyConfig: there are no arms; say arms=, leave_out=, add= or axes=")
    first: dict[str, Arm] = {}
    for arm in arms:
        if same := first.get(arm.digest):
            what = "the base: its bindings change nothing" if same.name == BASE else f"the arm {same.name!r}"
            raise UserError(f"arm {arm.name!r}: comes to the same run as {what} ({'; '.join(arm.difference)})")
        first[arm.digest] = arm


def difference(base: RunConfig, arm: RunConfig) -> dict[str, tuple[object, object]]:
    """{"DataConfig.rates": (the base's, the arm's)}: what really differs, whatever was said."""
    found: dict[str, tuple[object, object]] = {}
    for field in dataclasses.fields(base):
        a, b = getattr(base, field.name), getattr(arm, field.name)
        if field.name in ("model_dir", "seed") or a == b:
            continue
        if type(a) is type(b) and dataclasses.is_dataclass(a):
            names = [f.name for f in dataclasses.fields(a)]
            changed: Mapping[str, tuple[object, object]] = {
                f"{type(a).__name__}.{n}": (getattr(a, n), getattr(b, n))
                for n in names
                if getattr(a, n) != getattr(b, n)
            }
            found |= changed
        else:
            found[f"RunConfig.{field.name}"] = (a, b)
    return found


def _slug(name: str) -> str:
    """ "without gsm8k" -> "without_gsm8k"; what a directory may be called."""
    return "".join(c if c.isalnum() or c in "-=." else "_" for c in name)[:60]
