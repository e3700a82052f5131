"""What the runs of one process have in common, so that the next one starts sooner: the base's weights, compiled
functions, the evaluation before step 1, the console."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console

from itune.config.run import RunConfig
from itune.evaluation.evaluate import Evaluator
from itune.evaluation.results import GROUPS
from itune.models.spec import Params
from itune.parallel.peers import ALONE, Peers
from itune.training.data_side import DataSide
from itune.training.setup import ModelSide, model_side, slots
from itune.weights.load import load_base

T = TypeVar("T")
MOST = 8  # things of a kind that are kept: a study's arms differ in few of what is compiled


class Session:
    """One run alone uses it as well as many, one after the other or in one step.

    console: lines for people.  before: a folder in which runs that start from the same model and evaluate alike share
    the evaluation before step 1; None for one that shares none.  peers: the processes of the run; all call alike, and
    process 0 writes what is written once.
    """

    def __init__(self, *, console: Console | None = None, before: Path | None = None, peers: Peers = ALONE):
        self.console = console or Console(stderr=True, quiet=not peers.main)
        self.peers = peers
        self.before = before
        self._kept: dict[str, list[tuple[Any, Any]]] = {}

    def model_side(self, config: RunConfig, data: DataSide) -> ModelSide:
        """That of an earlier run which computes the same step; else a new one, over the base that is loaded already."""

        def load(folder: Path, spec: Any, place: Any, *, frozen_dtype: str) -> Params:
            def fresh() -> Params:
                for known in self._kept.values():
                    known.clear()  # what holds the base before: two of them need not fit
                return load_base(folder, spec, place, frozen_dtype=frozen_dtype)

            trains = [path for path in spec.paths if path in spec.trainable and path not in spec.adapter_paths()]
            return self.kept("base", (folder, spec.config, spec.quantise, frozen_dtype, trains, config.mesh), fresh)

        return self.kept("model", step_key(config, data), lambda: model_side(config, data, load))

    def evaluator(self, config: RunConfig, data: DataSide, model: ModelSide) -> Evaluator:
        """That of an earlier run which measures the same examples with the same kind of model, for this run."""
        d, tasks = config.data, [(g, task.name, task.splits) for g in GROUPS for task in getattr(data.manifest, g)]
        lengths = (d.row_length, d.feature_lengths, d.converter, d.encoder_row_length, d.prompt_format)
        kind = (data.folder, data.tokenizer.digest, config.weights, config.tuning, config.mesh, config.evaluation)
        make = lambda: Evaluator(config, data.tokenizer, data.manifest, model)  # noqa: E731
        own = copy.copy(self.kept("evaluator", (kind, lengths, tasks), make))
        own.config, own.model = config, model
        return own

    def kept(self, kind: str, key: Any, make: Callable[[], T]) -> T:
        """What was made for an equal key before, or `make()`; the least lately used goes where there are too many."""
        known = self._kept.setdefault(kind, [])
        place = next((n for n, (other, _) in enumerate(known) if other == key), None)
        found = known.pop(place) if place is not None else (key, make())
        known.append(found)
        del known[:-MOST]
        return found[1]


def step_key(config: RunConfig, data: DataSide) -> tuple[Hashable | Any, ...]:
    """Equal where the compiled step is: whatever rows are drawn, and how many steps are made at what rate."""
    train = dataclasses.replace(config.train, steps=1, log_every=1, on_nonfinite="stop")
    sizes = (len(data.manifest.train), slots(data.plan.S))
    return (data.folder, data.model, config.weights, config.tuning, config.optimizer, train, config.mesh, sizes)
