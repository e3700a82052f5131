"""Generation compiled for devices that need not be here: will weights, cache and a batch of prompts fit?"""

from __future__ import annotations

import dataclasses
import re
import time
from collections.abc import Mapping

import jax

from itune.config.run import RunConfig
from itune.costs.estimate import compiled, parts_on
from itune.errors import UserError
from itune.inference.config import SamplingConfig
from itune.inference.generate import Generator
from itune.inference.request import Request
from itune.models.config import AnyModelConfig
from itune.parallel.topology import Topology
from itune.training.abstract import Shapes, abstract_params, bytes_per_device


@dataclasses.dataclass(frozen=True, kw_only=True)
class Prompts:
    """batch: requests decoded together.  length, new: tokens of each prompt, and of each completion at most."""

    batch: int
    length: int
    new: int


@dataclasses.dataclass(frozen=True, kw_only=True)
class Generation:
    """Bytes are of one device.

    memory: {kind: bytes}: parameters and frozen parameters, the keys and values (cache) and the rest of what is known
      of each request (slots), temporaries of the program that takes most, and all programs.
    temporaries: {program: bytes}: "prefill" and "decode".
    beside_optimizer: bytes, with what a run's optimizer holds, as when a run evaluates.
    """

    prompts: Prompts
    fits: bool
    memory: Mapping[str, int]
    limit: int
    temporaries: Mapping[str, int]
    beside_optimizer: int
    compile_seconds: float

    @property
    def used(self) -> int:
        return sum(self.memory.values())


def parse(text: str) -> Prompts:
    """Of "32x512x128". Raises: UserError."""
    match = re.fullmatch(r"(\d+)x(\d+)x(\d+)", text)
    if match is None or not all(int(n) for n in match.groups()):
        raise UserError(f"--generate={text}: must be BATCHxPROMPTxNEW, as 32x512x128, each at least 1")
    batch, length, new = map(int, match.groups())
    return Prompts(batch=batch, length=length, new=new)


def generation(
    config: RunConfig,
    model: AnyModelConfig,
    shapes: Shapes,
    prompts: Prompts,
    target: Topology | None,
    optimizer: int = 0,
) -> Generation:
    """target: None for the devices at hand.  optimizer: bytes of a device that a run's optimizer holds.

    Raises: UserError where mesh and heads don't go together, or prompt and new tokens exceed the model's positions.
    """
    parts = parts_on(config, model, shapes, target.devices if target else jax.devices())
    spec, compute = parts.spec, parts.compute
    params = abstract_params(spec, compute)
    generator = Generator(spec, params, compute, batch_size=prompts.batch, prefix_lm=shapes.prefix_lm)
    started = time.perf_counter()
    request = Request(ids=[0] * prompts.length, settings=SamplingConfig(max_new_tokens=prompts.new))
    lowered, state = generator.lower(request)
    trained, frozen = spec.partition(params)
    held = {"parameters": bytes_per_device(trained), "frozen": bytes_per_device(frozen)}
    held["cache"] = bytes_per_device(state.cache)
    held["slots"] = bytes_per_device(state._replace(cache=()))
    temporaries, program, limits, fit = {}, 0, [], True
    for name, one in lowered.items():
        memory, limit, text, _ = compiled(one, held, target)
        temporaries[name] = memory["temporaries"]
        program += memory.get("program", 0)
        limits.append(limit)
        fit = fit and bool(text)
    memory = held | {"temporaries": max(temporaries.values()), "program": program}
    used, limit = sum(memory.values()), min(limits)
    return Generation(
        prompts=prompts,
        fits=fit and (not limit or used <= limit),
        memory=memory,
        limit=limit,
        temporaries=temporaries,
        beside_optimizer=used + optimizer,
        compile_seconds=time.perf_counter() - started,
    )
