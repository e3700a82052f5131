"""`itune.preflight`: a recipe against topologies, and the best arrangement of it on each."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from itune.config.run import RunConfig
from itune.costs import report
from itune.costs.estimate import Estimate, Load, estimate, full_rows
from itune.costs.generation import Generation, Prompts, generation, parse
from itune.errors import UserError
from itune.evaluation.results import write_text
from itune.models.config import AnyModelConfig, EncoderDecoderConfig
from itune.models.families import read_config
from itune.models.rules import rules_for
from itune.parallel.topology import Topology, topology
from itune.training.abstract import Shapes

EXIT_DOES_NOT_FIT = 4
REMATS = ("none", "cheap", "dots", "full")
TENSORS = (1, 2, 4, 8)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """steps, price: of the whole run, of a chip's hour.  tasks: of the plan; {} where no data was looked at."""

    config: RunConfig
    model: AnyModelConfig
    shapes: Shapes
    load: Load
    tasks: dict[str, Any]


def preflight(
    config: RunConfig,
    topologies: Sequence[str],
    *,
    model_config: str = "",
    search: int = 0,
    price: float = 0.0,
    generate: str = "",
    output_format: str = "text",
    picture: str = "",
    echo: Callable[[str], None] = lambda line: None,
) -> int:
    """0 if the run fits on every topology (none: the devices at hand), else 4. Raises: UserError.

    model_config: a config.json to take the model from; no weights and no data are needed then.  search: compile at most
    so many arrangements for each topology, and tell the best.  generate: "32x512x128", a batch of prompts, their length
    and the new tokens of each, whose programs are compiled as well.  picture: an SVG file to write.
    """
    prompts = parse(generate) if generate else None
    targets: list[Topology | None] = [
        topology(name) for name in topologies
    ]  # a slip in a name comes before minutes of data
    asked = _asked(config, model_config, echo)
    found = []
    for target in targets or [None]:
        found.append(best(asked, target, search, echo) if search else measure(asked, target, echo))
    written = [write(asked, one, prompts, target, echo) for one, target in zip(found, targets or [None], strict=True)]
    if picture:
        write_text(Path(picture), report.picture(found, written))
    _tell(asked, found, written, price, output_format)
    return 0 if all(one is None or one.fits for one in [*found, *written]) else EXIT_DOES_NOT_FIT


def _tell(
    asked: Asked,
    found: Sequence[Estimate],
    written: Sequence[Generation | None],
    price: float,
    output_format: str,
) -> None:
    steps = asked.config.train.steps
    if output_format == "json":
        topologies = [
            report.as_json(e, steps=steps, price=price) | {"generation": report.generation_json(g) if g else None}
            for e, g in zip(found, written, strict=True)
        ]
        print(json.dumps({"topologies": topologies, "tasks": asked.tasks}, indent=1))
        return
    for one, text in zip(found, written, strict=True):
        print("\n".join(report.lines(one, steps=steps, price=price)))
        if text is not None:
            print("\n".join(report.generation_lines(text)))
    if asked.tasks:
        print("\n".join([f"over {steps:,} steps:", *report.task_lines(asked.tasks)]))
    if len(found) > 1:
        print("\n".join(["", *report.table(found, steps=steps, price=price)]))
    if said := report.assumptions(found):
        print("\n".join(said))


def _asked(config: RunConfig, model_config: str, echo: Callable[[str], None]) -> Asked:
    data, train = config.data, config.train
    if model_config:
        path = Path(model_config)
        path = path / "config.json" if path.is_dir() else path
        if path.name != "config.json" or not path.is_file():
            raise UserError(f"--model_config={model_config}: must be a model's config.json, or the folder it is in")
        model = read_config(path.parent)
        whole = isinstance(model, EncoderDecoderConfig)
        shapes = Shapes(
            rows=train.batch_size,
            row_length=data.row_length,
            supervised=data.supervised_per_row or data.row_length,
            segments=data.segments_per_row or 16,
            encoder_length=data.encoder_row_length if whole else 0,
            prefix_lm=data.converter == "prefix_lm",
        )
        return Asked(config=config, model=model, shapes=shapes, load=full_rows(shapes), tasks={})
    from itune.training.data_side import data_side
    from itune.training.setup import plan_record

    side = data_side(config, echo)
    plan = side.plan
    shapes = Shapes(
        rows=train.batch_size,
        row_length=plan.L,
        supervised=plan.T,
        segments=plan.S,
        encoder_length=plan.Le,
        prefix_lm=data.converter == "prefix_lm",
        num_tasks=len(side.manifest.train),
    )
    summary = plan_record(config, side)["summary"]
    mean = {name: math.ceil(n / train.steps) for name, n in summary["totals"].items()}
    load = Load(tokens=mean["tokens"], supervised=mean["supervised_tokens"], pairs=mean["pairs"], assumed=False)
    if plan.Le:  # its examples' halves are not counted apart
        load = full_rows(shapes)
    return Asked(config=config, model=side.model, shapes=shapes, load=load, tasks=summary["tasks"])


def measure(asked: Asked, target: Topology | None, echo: Callable[[str], None]) -> Estimate:
    """The recipe as it is."""
    echo(f"compiling for {target.name if target else 'the devices at hand'} ...")
    return estimate(asked.config, asked.model, asked.shapes, asked.load, target)


def write(
    asked: Asked, one: Estimate, prompts: Prompts | None, target: Topology | None, echo: Callable[[str], None]
) -> Generation | None:
    """Generation on the mesh that the step was compiled for; None where none is asked for."""
    if prompts is None:
        return None
    echo(f"compiling generation for {target.name if target else 'the devices at hand'} ...")
    sizes: dict[str, Any] = dict(one.mesh)
    config = dataclasses.replace(asked.config, mesh=dataclasses.replace(asked.config.mesh, **sizes))
    return generation(config, asked.model, asked.shapes, prompts, target, one.memory["optimizer"])


def best(asked: Asked, target: Topology | None, most: int, echo: Callable[[str], None]) -> Estimate:
    """Of at most `most` arrangements the one to be expected quickest that fits; of none that fits, the smallest.

    What is learnt is the same in all: rows are split over devices and microbatches, and what is kept for the backward
    pass differs. On each mesh the first that fits ends the search there, for those after it compute more.
    """
    found: list[Estimate] = []
    done: set[tuple[int, int]] = set()
    for config in _arrangements(asked, target):
        mesh = (config.mesh.fsdp, config.mesh.tensor)
        if mesh in done or len(found) >= most:
            continue
        echo(
            f"compiling for {target.name if target else 'the devices at hand'}: fsdp {config.mesh.fsdp}, tensor "
            f"{config.mesh.tensor}, {config.train.accumulation} parts, remat {config.weights.remat} ..."
        )
        one = estimate(config, asked.model, asked.shapes, asked.load, target)
        found.append(one)
        if one.fits:
            done.add(mesh)
    if not found:
        raise UserError(f"TrainConfig.batch_size={asked.shapes.rows}: no mesh of these devices divides it")
    fitting = [e for e in found if e.fits]
    if not fitting:
        return min(found, key=lambda e: e.used)
    return min(fitting, key=lambda e: e.expected if math.isfinite(e.expected) else e.executed)


def _divides(asked: Asked, tensor: int) -> bool:
    try:
        rules_for(asked.model, tensor, asked.config.mesh.rules)
    except ValueError:
        return False
    return True


def _arrangements(asked: Asked, target: Topology | None) -> Iterator[RunConfig]:
    """Fewest parts first, and what computes least; every mesh at each."""
    import jax

    devices = len(target.devices if target else jax.devices())
    slices = target.slices if target else 1
    rows = asked.shapes.rows
    meshes = []
    for tensor in TENSORS:
        over = devices // slices // tensor
        if over and devices % (slices * tensor) == 0 and _divides(asked, tensor):
            meshes.append(dataclasses.replace(asked.config.mesh, data=slices, fsdp=over, tensor=tensor))
    parts = 1
    while parts <= rows:
        for remat in REMATS:
            for mesh in meshes:
                if rows % (mesh.data * mesh.fsdp * parts) == 0:
                    yield dataclasses.replace(
                        asked.config,
                        mesh=mesh,
                        train=dataclasses.replace(asked.config.train, accumulation=parts),
                        weights=dataclasses.replace(asked.config.weights, remat=remat),
                    )
        parts *= 2
