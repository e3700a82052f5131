"""Our side of make_sampling.py."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from itune.inference.config import GREEDY
from itune.inference.generate import Generator
from itune.inference.request import Request
from itune.inference.sampling import Settings, penalise, warp
from itune.models.compute import Compute
from tests.parity import ours

TOLERANCE = 1e-6


def probability_difference(rows: Sequence[dict]) -> float:
    """The largest, of all rows computed in one call."""
    logits = np.array([row["logits"] for row in rows], np.float32)
    seen = np.zeros(logits.shape, bool)
    for n, row in enumerate(rows):
        seen[n, row["seen"]] = True
    settings = Settings.of([GREEDY.updated(row["settings"]) for row in rows])
    found = jax.nn.softmax(warp(penalise(jnp.asarray(logits), seen, settings.penalty), settings), axis=1)
    return float(np.abs(np.asarray(found) - np.array([row["probabilities"] for row in rows])).max())


def search_faults(rows: Sequence[dict], folder: Path) -> list[str]:
    """The searches whose tokens differ. A model's rows of like stop tokens run together."""
    faults = []
    for (name, stops), group in itertools.groupby(rows, key=lambda row: (row["model"], tuple(row["stops"]))):
        chosen = list(group)
        generator = Generator(*ours.load(folder / name), Compute(), batch_size=4)
        requests = [Request(ids=row["prompt"], settings=GREEDY.updated(row["settings"])) for row in chosen]
        for row, found in zip(chosen, generator.complete(requests, stops), strict=True):
            if found.tokens != row["new"]:
                what = f"{name} {row['settings']}, {len(row['prompt'])} tokens"
                faults.append(f"{what}: {found.tokens} for {row['new']}")
    return faults
