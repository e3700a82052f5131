"""Our side of make_metrics.py. Runs in .venv."""

from __future__ import annotations

from collections.abc import Mapping

from itune.data.metrics import METRICS
from tests.parity.texts import LABELS, PREDICTIONS, TARGETS

TOLERANCE = 1e-6


def faults(references: Mapping[str, float]) -> list[str]:
    found = []
    for name, theirs in references.items():
        chosen = LABELS if name == "macro_f1" else slice(None)
        ours = METRICS[name](TARGETS[chosen], PREDICTIONS[chosen])[name]
        if not abs(ours - theirs) <= TOLERANCE:
            found.append(f"{name}: {ours}, not {theirs}")
    return found
