"""From a RunConfig to its data: tokenizer, prepared tasks, plan, reader. Loads neither JAX nor SeqIO."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

from itune.cache import cache_dir
from itune.config.run import RunConfig
from itune.data import decontaminate
from itune.data.contamination import Report
from itune.data.launch import ensure_prepared
from itune.data.lint import lint, stop_on_errors
from itune.data.manifest import Manifest
from itune.data.reader import Reader
from itune.data.schedule import Plan
from itune.data.tokenizer import Tokenizer, check_vocabulary
from itune.errors import UserError
from itune.models.config import AnyModelConfig, EncoderDecoderConfig
from itune.models.families import read_config
from itune.weights import resolve


@dataclasses.dataclass(frozen=True)
class DataSide:
    """What is to be learned: known before JAX does any work. No array of it lives on a device."""

    folder: Path
    model: AnyModelConfig
    tokenizer: Tokenizer
    manifest: Manifest
    plan: Plan
    reader: Reader
    contamination: Report | None

    @property
    def task_names(self) -> list[str]:
        return [task.name for task in self.manifest.train]


def data_side(
    config: RunConfig, echo: Callable[[str], None], first: Callable[[Callable[[], Any]], Any] = lambda call: call()
) -> DataSide:
    """Fetches weights if they aren't cached, prepares tasks if their shards aren't, and plans the run.

    first: calls what fills the cache, in one process of several before the others.

    Raises: UserError for anything a user can mend.
    """
    folder = first(lambda: resolve(config.weights.source))
    model = read_config(folder)
    _check_kind(config, model)
    tokenizer = Tokenizer.from_folder(folder)
    check_vocabulary(tokenizer, model.vocab_size, folder)
    if config.data.row_length > model.max_positions:
        raise UserError(
            f"DataConfig.row_length={config.data.row_length} exceeds the model's {model.max_positions} positions"
        )
    prepare = lambda: ensure_prepared(config.data, config.evaluation, folder, cache=cache_dir(), echo=echo)  # noqa: E731
    manifest = first(prepare)
    report, policy = None, config.data.contamination
    if policy != "off":
        report = first(lambda: decontaminate.find(manifest, cache_dir()))
        if policy == "stop":
            decontaminate.stop(report)
    excluded = decontaminate.excluded(report, manifest) if report is not None and policy == "drop" else None
    plan = Plan.from_manifest(manifest, config.data, seed=config.seed, excluded=excluded)
    rows = config.train.steps * config.train.batch_size
    if plan.ensure_rows(rows) < rows:
        raise UserError(
            f"TrainConfig.steps={config.train.steps} x batch_size={config.train.batch_size} need {rows} rows; with "
            f"DataConfig.max_epochs={config.data.max_epochs} the mixture gives {plan.num_rows}"
        )
    return DataSide(folder, model, tokenizer, manifest, plan, Reader(plan.tasks), report)


def _check_kind(config: RunConfig, model: AnyModelConfig) -> None:
    """Model, converter and prompt format belong together. Raises: UserError."""
    given = (config.data.converter, config.data.prompt_format)
    source, family = config.weights.source, model.family
    if isinstance(model, EncoderDecoderConfig):
        if given != ("encoder_decoder", "seq2seq"):
            raise UserError(
                f"{source} is an encoder-decoder ({family}): it needs DataConfig.converter='encoder_decoder' and "
                f"prompt_format='seq2seq', not {given[0]!r} and {given[1]!r}"
            )
        if config.weights.attention in ("blockwise", "splash", "triton"):
            raise UserError(
                f"WeightsConfig.attention={config.weights.attention!r} can't add T5's relative positions; 'auto' can"
            )
    elif given[0] == "encoder_decoder":
        raise UserError(
            f"DataConfig.converter='encoder_decoder' needs an encoder-decoder; {source} is a decoder ({family}): "
            "'causal' or 'prefix_lm'"
        )


def look_over(config: RunConfig, data: DataSide, echo: Callable[[str], None]) -> None:
    """Tells what `lint` finds at a quick look, and what is contaminated. Raises UserError for an error among it."""
    findings = lint(data.manifest, data.plan, data.reader, data.tokenizer, quick=True)
    for finding in findings:
        if finding.level != "error":
            echo(f"itune: {finding}")
    if data.contamination is not None:
        for line in decontaminate.lines(data.contamination, config.data.contamination):
            echo(f"itune: {line}")
    stop_on_errors(findings)
