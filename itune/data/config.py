"""What a run may say about its data. Plain dataclasses: importing this loads neither TensorFlow nor JAX."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Mapping

PROMPT_FORMATS = ("plain", "chat", "seq2seq", "continued")
CONVERTERS = ("causal", "prefix_lm", "encoder_decoder")
CONTAMINATION = ("off", "report", "drop", "stop")
RATE_UNITS = ("examples", "tokens", "supervised_tokens")
ON_FAILED_SOURCE = ("stop", "skip")


@dataclasses.dataclass(frozen=True, kw_only=True)
class DataConfig:
    """Which tasks, how they become tokens, how they are packed.

    Attributes:
      mixture: name of a SeqIO task or mixture (MIXTURE_OR_TASK_NAME).
      modules: Python modules that register tasks when imported (MIXTURE_OR_TASK_MODULE).
      split: the split to train on.
      feature_lengths: at most this many tokens for {"inputs": n, "targets": m} (TASK_FEATURE_LENGTHS). A longer
        example is cut or dropped by its task's policy, counted and reported.
      row_length: L, tokens a packed row; of an encoder-decoder, its decoder's.
      encoder_row_length: Le, encoder tokens a packed row; encoder-decoders only.
      converter: how an example fills a row: "causal", "prefix_lm" (the tokens of a prompt see each other in both
        directions) or "encoder_decoder" (prompts to the encoder, answers to the decoder).
      supervised_per_row: T, supervised tokens a row; 0 chooses the smallest that costs under 1 % of fill.
      segments_per_row: S, examples a row at most; 0 chooses from the lengths.
      window: examples planned and packed together.
      prompt_format: "plain" (inputs, a newline, targets, EOS), "chat" (the tokenizer's own chat template), "seq2seq"
        (inputs, EOS, targets, EOS: an encoder-decoder's) or "continued" (inputs, a blank, targets, EOS: as test suites
        have it; options are ranked without EOS).
      variants: V keyed renderings of each example (template choice) written by prepare.
      prepare_seed: keys the renderings. The run's seed never reaches prepare, so seeds share shards.
      rates: rates that replace the mixture's, by task name, pattern, cluster or source data set: {"clinic/*": 2.0,
        "sums": 0.0, "cluster:nli": 1.0, "source:super_glue/rte": 0.0}.
      rate_factors: what the mixture's rates, or those, are multiplied with, named as in `rates`: {"*/fs*": 0.0}.
      rate_cap: in place of the mixture's rates, numbers of examples, at most so many a task (Raffel et al. 2020,
        3.5.2); 0 keeps the mixture's. A task that has the rate 0 there keeps that.
      rate_unit: what rates are shares of: "examples", "tokens" or "supervised_tokens".
      curriculum: stages before these rates hold, each (until this many examples are drawn, rates that replace them):
        ((20_000, {"*": 0.0, "sums": 1.0}),).
      max_epochs: stop drawing from a task after this many epochs; 0 means no limit.
      max_tasks: train on so many of the mixture's tasks, chosen by their names' hashes, so that fewer are a subset of
        more; 0 means all. max_clusters: the same of whole clusters.
      max_examples: train on at most so many examples of each task, chosen by key; 0 means all. It limits which are
        drawn, not how often the task is: that is its rate.
      max_templates: train on the renderings of at most so many templates of each task, chosen by their ids' hashes; 0
        means all. It needs each example prepared in all of them: `variants`.
      task_epochs: other limits for some tasks, by name or pattern: {"sums": 2}.
      contamination: what to do about evaluation text in training examples: "off", "report", "drop" or "stop".
      allowed_licences: what the tasks that are trained on may be under (ALLOWED_LICENSES): terms ("commercial",
        "share-alike", "unknown", "non-commercial"), licences or patterns ("CC-BY-*"); a mixture with any other is not
        prepared. () allows all.
      max_bad_records: examples a split that may fail, be left out and counted before it is an error.
      on_failed_source: tasks that can't be prepared, once all others are: "stop", with a list of them, or "skip" them
        and train on the rest.
    """

    mixture: str
    modules: tuple[str, ...] = ("tasks",)
    split: str = "train"
    feature_lengths: dict[str, int] = dataclasses.field(default_factory=lambda: {"inputs": 384, "targets": 128})
    row_length: int = 512
    supervised_per_row: int = 0
    segments_per_row: int = 0
    window: int = 1024
    prompt_format: str = "plain"
    variants: int = 1
    prepare_seed: int = 0
    converter: str = "causal"
    encoder_row_length: int = 0
    rates: dict[str, float] = dataclasses.field(default_factory=dict)
    rate_factors: dict[str, float] = dataclasses.field(default_factory=dict)
    rate_cap: int = 0
    rate_unit: str = "examples"
    curriculum: tuple[tuple[int, dict[str, float]], ...] = ()
    max_epochs: int = 0
    max_tasks: int = 0
    max_clusters: int = 0
    max_examples: int = 0
    max_templates: int = 0
    task_epochs: dict[str, int] = dataclasses.field(default_factory=dict)
    contamination: str = "report"
    allowed_licences: tuple[str, ...] = ()
    max_bad_records: int = 0
    on_failed_source: str = "stop"

    def __post_init__(self) -> None:
        for name, options in (
            ("prompt_format", PROMPT_FORMATS),
            ("converter", CONVERTERS),
            ("rate_unit", RATE_UNITS),
            ("contamination", CONTAMINATION),
            ("on_failed_source", ON_FAILED_SOURCE),
        ):
            if getattr(self, name) not in options:
                raise ValueError(f"DataConfig.{name}={getattr(self, name)!r} must be one of {options}")
        if set(self.feature_lengths) != {"inputs", "targets"}:
            raise ValueError(
                f"DataConfig.feature_lengths={self.feature_lengths} must name exactly 'inputs' and 'targets'"
            )
        if self.prompt_format == "seq2seq" and self.converter != "encoder_decoder":
            raise ValueError("DataConfig.prompt_format='seq2seq' is for converter='encoder_decoder'")
        self._check_lengths()
        self._check_rates()
        for name in ("row_length", "window", "variants"):
            if getattr(self, name) < 1:
                raise ValueError(f"DataConfig.{name}={getattr(self, name)} must be at least 1")
        counts = ("rate_cap", "max_tasks", "max_clusters", "max_examples", "max_templates")
        for name in ("prepare_seed", "max_epochs", *counts, "max_bad_records"):
            if getattr(self, name) < 0:
                raise ValueError(f"DataConfig.{name}={getattr(self, name)} must not be negative")

    def _check_lengths(self) -> None:
        inputs, targets = self.feature_lengths["inputs"], self.feature_lengths["targets"]
        if self.converter != "encoder_decoder":
            if self.encoder_row_length:
                raise ValueError("DataConfig.encoder_row_length is for converter='encoder_decoder' only")
            if inputs + targets > self.row_length:
                raise ValueError(
                    f"DataConfig.feature_lengths sum to {inputs + targets}, more than row_length={self.row_length}: "
                    "an example of full length would fit in no row"
                )
        elif inputs > self.encoder_row_length or targets > self.row_length:
            raise ValueError(
                f"DataConfig.feature_lengths={self.feature_lengths} do not fit in encoder_row_length="
                f"{self.encoder_row_length} and row_length={self.row_length}"
            )

    def _check_rates(self) -> None:
        stages = [("rates", self.rates), ("rate_factors", self.rate_factors)]
        before = 0
        for number, (until, rates) in enumerate(self.curriculum):
            stages.append((f"curriculum[{number}]", rates))
            if until <= before:
                raise ValueError(f"DataConfig.curriculum[{number}] holds until {until}, must be more than {before}")
            before = until
        for where, rates in stages:
            check_rates(rates, f"DataConfig.{where}")
        for name, epochs in self.task_epochs.items():
            if epochs < 1:
                raise ValueError(f"DataConfig.task_epochs[{name!r}]={epochs} must be at least 1")


def check_rates(rates: Mapping[str, float], where: str) -> None:
    """Raises ValueError for a rate that is negative, infinite or not a number."""
    for name, rate in rates.items():
        if not (math.isfinite(rate) and rate >= 0):
            raise ValueError(f"{where}[{name!r}]={rate} must be a number, 0 or more")
