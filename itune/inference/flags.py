"""The flags of `python -m itune.generate`. Loads neither JAX nor numpy."""

from __future__ import annotations

import argparse
import dataclasses
from typing import Any

from itune.data.config import PROMPT_FORMATS
from itune.errors import UserError
from itune.inference.config import GREEDY, SamplingConfig
from itune.parallel.config import MeshConfig

# (a field of SamplingConfig, metavar, help)
SAMPLING = (
    ("max_new_tokens", "N", "most that a completion has"),
    ("temperature", "T", "divides the logits; 0 is greedy"),
    ("top_k", "N", "draw among the N best tokens; 0 is off"),
    ("top_p", "P", "draw among the fewest best tokens of probability P; 1 is off"),
    ("min_p", "P", "draw among tokens at least P times as probable as the best; 0 is off"),
    ("repetition_penalty", "X", "logits of tokens that were seen are divided by it; 1 is off"),
    ("seed", "N", "of the draws; a prompt's completion depends on it alone, not on its neighbours"),
    ("beams", "N", "beam search, for encoder-decoders; 1 is off"),
)


def add_model_flags(parser: argparse.ArgumentParser, source: str, adapter: str) -> None:
    """source, adapter: what commands say of such flags."""
    models = f"{source}; give two to see both"
    parser.add_argument("--model", action="append", required=True, metavar="RUN_DIR|SOURCE", help=models)
    parser.add_argument("--adapter", action="append", metavar="FOLDER|FILE:NAME", help=adapter)
    mesh = "of the devices, as MeshConfig divides them in training; -1 takes what is left; default: one device"
    parser.add_argument("--mesh", default="", metavar="DATA,FSDP,TENSOR", help=mesh)
    steps = "of a run: the checkpoint's step (default: the newest); once for all models, or once each"
    parser.add_argument("--step", action="append", metavar="N|best", help=steps)


def add_prompt_flags(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--prompt", action="append", default=[], metavar="TEXT", help="may be repeated")
    files = "one prompt a line; .jsonl: {prompt} or {instruction, input}, with temperature, seed, ... of its own"
    parser.add_argument("--prompts", metavar="FILE", help=f"{files}; - is standard input")
    parser.add_argument("--chat", action="store_true", help="a conversation, line by line; /quit ends it")
    formats = "default: the run's own; of other weights chat if they have a template"
    parser.add_argument("--prompt_format", choices=PROMPT_FORMATS, help=formats)
    parser.add_argument("--batch_size", type=int, default=8, metavar="N", help="prompts decoded together; default: 8")


def add_sampling_flags(parser: argparse.ArgumentParser) -> None:
    for name, metavar, about in SAMPLING:
        default = getattr(GREEDY, name)
        parser.add_argument(
            f"--{name}", type=type(default), default=default, metavar=metavar, help=f"{about}; default: {default}"
        )
    stop = "a completion ends before this text; may be repeated"
    parser.add_argument("--stop", action="append", default=[], metavar="TEXT", help=stop)


def sampling(flags: argparse.Namespace) -> SamplingConfig:
    """Raises: UserError naming the flag."""
    values = {field.name: getattr(flags, field.name) for field in dataclasses.fields(SamplingConfig)}
    try:
        return GREEDY.updated(values)
    except UserError as error:
        raise UserError(f"--{error}") from None


def models(flags: argparse.Namespace) -> list[dict[str, Any]]:
    """The arguments of `session.load` but for the first, of each --model. Raises: UserError."""
    found: list[dict[str, Any]] = [{"source": source} for source in flags.model]
    for name, absent in (("step", None), ("adapter", "")):
        given = getattr(flags, name) or [absent]
        if len(given) not in (1, len(found)):
            raise UserError(f"--{name} was given {len(given)} times for {len(found)} models: once, or once each")
        for n, one in enumerate(found):
            one[name] = given[n % len(given)]
    return [one | {"prompt_format": flags.prompt_format, "mesh": mesh(flags.mesh)} for one in found]


def mesh(text: str) -> MeshConfig | None:
    """ "1,4,2" -> MeshConfig(data=1, fsdp=4, tensor=2); None for "". Raises: UserError."""
    if not text:
        return None
    sizes = [part.strip() for part in text.split(",")]
    if len(sizes) != 3 or not all(size == "-1" or (size.isdecimal() and int(size)) for size in sizes):
        raise UserError(f"--mesh={text}: three numbers are needed, data, fsdp and tensor, such as --mesh=1,4,2")
    return MeshConfig(data=int(sizes[0]), fsdp=int(sizes[1]), tensor=int(sizes[2]))
