"""A step compiled for devices that need not be here, and what follows for memory and time.

RunConfig, model, topology ──▶ abstract step ──▶ XLA ──▶ does it fit, bytes, collectives
                                    └─ formula ──▶ FLOPs ──▶ the least time, and a time to expect
"""

from __future__ import annotations

import dataclasses
import math
import re
import time
from collections.abc import Mapping, Sequence
from typing import Any

import jax

from itune.config.run import RunConfig
from itune.errors import UserError
from itune.models.attention import choose_backend
from itune.models.config import AnyModelConfig, EncoderDecoderConfig
from itune.models.flops import MATRICES, forward_attention, training_flops
from itune.models.split_head import is_split
from itune.parallel.collectives import by_kind, collectives
from itune.parallel.mesh import check_rows, make_mesh
from itune.parallel.topology import SLICE_RATE, Chip, Topology, compile_for_topology
from itune.training.abstract import Shapes, abstract_step, bytes_per_device
from itune.training.setup import StepParts, step_parts

EFFICIENCY = 0.6  # of the chip's rate that products of these shapes are taken to reach
# What the backward pass makes again: (wide products, attention).
RECOMPUTED = {"full": (True, True), "dots": (False, True), "cheap": (False, False), "none": (False, False)}
# The two ways in which the TPU's compiler says so.
_SIZES = (
    re.compile(r"Used ([\d.]+)([KMGT]?) of ([\d.]+)([KMGT]?) \w*"),
    re.compile(r"temporaries \(([\d.]+)([KMGT]?)\) exceeds available HBM \(([\d.]+)([KMGT]?)\)"),
)
_UNIT = {"": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Load:
    """What a step trains on, on average: of the plan, or (`assumed`) of rows that one example each fills.

    pairs, encoder_tokens, encoder_pairs: as `itune.models.flops.training_flops` takes them.
    """

    tokens: int
    supervised: int
    pairs: int
    encoder_tokens: int = 0
    encoder_pairs: int = 0
    assumed: bool = True


def full_rows(shapes: Shapes) -> Load:
    """Of rows that one example each fills."""
    B, L, Le = shapes.rows, shapes.row_length, shapes.encoder_length
    pairs = B * (L * (L + 1) // 2 + L * Le)
    return Load(
        tokens=B * L, supervised=B * shapes.supervised, pairs=pairs, encoder_tokens=B * Le, encoder_pairs=B * Le**2
    )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Estimate:
    """Bytes are of one device; seconds of one step.

    memory: {kind: bytes}: parameters, optimizer, frozen, batch, temporaries, program.  limit: what there is; 0 if that
      is not known.
    flops: of the model's products in a step, by formula, on all devices.  executed: with what is computed again or
      masked.  counted: the compiler's count of one device, a loop's body counted once.
    sent: {(kind, axes): (times, bytes of a device)}.
    least: {"products", "memory", "links", "slices"}: seconds that each takes at its chip's rate.
    """

    topology: str
    devices: int
    chips: int
    chip: Chip | None
    mesh: Mapping[str, int]
    rows: int
    accumulation: int
    remat: str
    attention: str
    fits: bool
    memory: Mapping[str, int]
    limit: int
    flops: int
    executed: int
    counted: float
    sent: Mapping[tuple[str, str], tuple[int, int]]
    least: Mapping[str, float]
    compile_seconds: float
    load: Load

    @property
    def bound(self) -> float:
        """Seconds that a step can't be quicker than, if all overlaps: the longest of `least`."""
        return max(self.least.values(), default=math.nan)

    @property
    def expected(self) -> float:
        """Seconds, with products at EFFICIENCY of the chip's rate and all else beside them."""
        if not self.least:
            return math.nan
        return max(self.least["products"] / EFFICIENCY, *(self.least[k] for k in ("memory", "links", "slices")))

    @property
    def mfu(self) -> float:
        """Of the formula's operations, over the expected time at the chips' rate."""
        return self.flops / (self.expected * self.chips * self.chip.flops) if self.chip else math.nan

    @property
    def used(self) -> int:
        return sum(self.memory.values())


def estimate(config: RunConfig, model: AnyModelConfig, shapes: Shapes, load: Load, target: Topology | None) -> Estimate:
    """target: None for the devices at hand. Raises: UserError where mesh, rows and heads don't go together."""
    devices = target.devices if target else jax.devices()
    parts = parts_on(config, model, shapes, devices)
    mesh = parts.compute.mesh
    assert mesh is not None
    arguments = abstract_step(parts, shapes)
    started = time.perf_counter()
    state, frozen, batch = arguments[:3]
    held = {
        "parameters": bytes_per_device(state.params),
        "optimizer": bytes_per_device(state.opt_state),
        "frozen": bytes_per_device(frozen),
        "batch": bytes_per_device(batch),
    }
    memory, limit, text, counted = compiled(parts.jitted().lower(*arguments), held, target)
    seconds = time.perf_counter() - started
    sent = by_kind(collectives(text, mesh)) if text else {}
    flops, executed = _flops(config, parts, shapes, load)
    chip, chips = (target.chip, target.chips) if target else (None, len(devices))
    return Estimate(
        topology=target.name if target else f"{len(devices)} x {devices[0].device_kind}",
        devices=len(devices),
        chips=chips,
        chip=chip,
        mesh=dict(mesh.shape),
        rows=shapes.rows,
        accumulation=config.train.accumulation,
        remat=config.weights.remat,
        attention=config.weights.attention,
        fits=bool(text) and (not limit or sum(memory.values()) <= limit),
        memory=memory,
        limit=limit,
        flops=flops,
        executed=executed,
        counted=counted,
        sent=sent,
        least=_least(chip, chips, executed, memory, sent, target) if chip else {},
        compile_seconds=seconds,
        load=load,
    )


def parts_on(config: RunConfig, model: AnyModelConfig, shapes: Shapes, devices: Sequence[Any]) -> StepParts:
    """A step's parts on the recipe's mesh. Raises: UserError where mesh, rows and heads don't go together."""
    try:
        mesh = make_mesh(config.mesh, devices)
        check_rows(mesh, batch_size=shapes.rows, accumulation=config.train.accumulation)
        return step_parts(config, model, mesh, num_tasks=shapes.num_tasks, num_segments=shapes.segments)
    except ValueError as error:
        raise UserError(str(error)) from None


def compiled(lowered: Any, held: Mapping[str, int], target: Topology | None) -> tuple[dict[str, int], int, str, float]:
    """(memory by kind, the limit, the program's text, "" where it does not fit, the compiler's FLOPs).

    held: bytes of a device by kind, of the program's arguments.
    """
    memory = dict(held)
    limit = target.chip.hbm // target.chip.devices if target else _limit_here()
    try:
        program = compile_for_topology(lowered) if target else lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        if "RESOURCE_EXHAUSTED" not in str(error):
            raise
        used, limit = _sizes(str(error)) or (limit + 1, limit)
        return memory | {"temporaries": max(0, used - sum(memory.values()))}, limit, "", math.nan
    found = program.memory_analysis()
    memory["temporaries"] = found.temp_size_in_bytes + found.output_size_in_bytes - found.alias_size_in_bytes
    memory["program"] = found.generated_code_size_in_bytes
    counted = (program.cost_analysis() or {}).get("flops", math.nan)
    return memory, limit, program.as_text(), counted


def _sizes(message: str) -> tuple[int, int] | None:
    """(used, there), of "Used 20.51G of 15.75G hbm"."""
    match = next((found for size in _SIZES if (found := size.search(message))), None)
    if match is None:
        return None
    return int(float(match[1]) * _UNIT[match[2]]), int(float(match[3]) * _UNIT[match[4]])


def _limit_here() -> int:
    """Of an accelerator what its driver says; of a CPU the machine's memory, which its devices share."""
    import os

    devices = jax.devices()
    stats = devices[0].memory_stats() or {}
    if devices[0].platform == "cpu":
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // len(devices)
    return int(stats.get("bytes_limit", 0))


def _flops(config: RunConfig, parts: StepParts, shapes: Shapes, load: Load) -> tuple[int, int]:
    """(of the model's products; executed: padding, what attention masks and what is computed again included)."""
    spec, model = parts.spec, parts.spec.config
    more = {"encoder_tokens": load.encoder_tokens, "encoder_pairs": load.encoder_pairs}
    flops = training_flops(spec, load.tokens, load.supervised, load.pairs, **more) or 0
    # Rows are computed whole; the reference attention computes what is masked, too.
    B, L, Le = shapes.rows, shapes.row_length, shapes.encoder_length
    pairs = B * L * (L + Le) if _dense(parts, L, shapes.prefix_lm) else load.pairs
    more = {"encoder_tokens": B * Le, "encoder_pairs": B * Le**2}
    executed = training_flops(spec, B * L, load.supervised, pairs, **more) or 0
    if is_split(parts.compute.mesh, (model.vocab_size, model.width), parts.compute.rules):
        executed += 2 * load.supervised * model.vocab_size * model.width  # its logits are made twice
    products, attention = RECOMPUTED[config.weights.remat]
    if products or attention:
        if isinstance(model, EncoderDecoderConfig):
            layers, seen = B * (L + Le), model.encoder_layers * B * Le**2 + model.decoder_layers * pairs
        else:
            layers, seen = B * L, model.num_layers * pairs
        inside = spec.count([p for p in spec.paths if p.rpartition("/")[2] in MATRICES])
        executed += products * 2 * layers * inside + attention * forward_attention(model, seen)
    return flops, executed


def _dense(parts: StepParts, length: int, bidirectional: bool) -> bool:
    """Whether attention computes all pairs of a row."""
    if isinstance(parts.spec.config, EncoderDecoderConfig):
        return True
    compute, model = parts.compute, parts.spec.config
    backend = choose_backend(
        compute.attention,
        length,
        compute.platform,
        bidirectional,
        window=any(kind.window for kind in model.layers),
        softcap=bool(model.attention_softcap),
        width=model.head_dim,
    )
    return backend == "reference"


def _least(
    chip: Chip, chips: int, executed: int, memory: Mapping[str, int], sent: Mapping, target: Topology | None
) -> dict[str, float]:
    between = "data" if target and target.slices > 1 else ""  # the axis that slices lie along
    links = sum(size for (_, axes), (_, size) in sent.items() if not between or between not in axes.split("+"))
    slices = sum(size for (_, axes), (_, size) in sent.items() if between and between in axes.split("+"))
    once = sum(memory.values()) - memory.get("program", 0)
    return {
        "products": executed / (chips * chip.flops),
        "memory": 2 * once * chip.devices / chip.hbm_rate,  # all that is held is read and written once, at least
        "links": links * chip.devices / chip.link_rate,
        "slices": slices * chip.devices / SLICE_RATE,
    }
