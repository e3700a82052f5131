"""Our side of make_families.py. Runs in .venv, without torch."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np

from itune.batch import Batch
from itune.inference.generate import Generator
from itune.models.config import FullConfig
from itune.models.decoder import Compute, logits
from itune.models.families import read_config
from itune.models.spec import ModelSpec, Params, model_spec
from itune.training.step import batch_loss
from itune.weights.names import TABLES
from tests.parity import families, ours

TOLERANCE = 1e-4  # of the largest of the reference's numbers, tensor by tensor


def differences(folder: Path, compute: Compute) -> tuple[dict[str, float], list[str]]:
    """(name -> relative difference of logits, loss and gradients; what differs in greedy generation)."""
    spec, params = ours.load(folder, FullConfig())
    theirs = dict(np.load(folder / "refs.npz"))
    rows = json.loads((folder / "greedy.json").read_text())
    return ours.worst(results(spec, params, compute), theirs), greedy(spec, params, rows, compute)


def results(spec: ModelSpec, params: Params, compute: Compute) -> dict[str, np.ndarray]:
    """Logits, loss and gradients, under the reference's names and in its layouts."""
    batch = packed()

    def loss(params):
        total, _ = batch_loss(spec, params, batch, compute)
        return total / batch.loss_weights.sum()

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    found = logits(spec.merge(params), batch.tokens, batch.segment_ids, batch.positions, compute)
    return gradients(spec, grads) | {"logits": np.asarray(found), "loss": np.asarray(value)}


def packed() -> Batch:
    """The batch of families.py, one example a row."""
    tokens, labels = families.batch()
    B, L = tokens.shape
    weights = np.pad(labels[:, 1:] != families.IGNORED, ((0, 0), (0, 1)))
    places = np.broadcast_to(np.arange(L), (B, L)).astype(np.int32)
    targets = np.where(weights, np.pad(labels[:, 1:], ((0, 0), (0, 1))), 0)
    batch = Batch(
        tokens=tokens.astype(np.int32),
        segment_ids=np.ones((B, L), np.int32),
        positions=places,
        loss_index=places,
        loss_targets=targets.astype(np.int32),
        loss_weights=weights.astype(np.float32),
        loss_task=np.zeros((B, L), np.int32),
        row_ids=np.zeros((B, 2), np.int32),
    )
    fields = {f.name: getattr(batch, f.name) for f in dataclasses.fields(batch)}
    return Batch(**{name: None if a is None else jnp.asarray(a) for name, a in fields.items()})


def gradients(spec: ModelSpec, grads: Params) -> dict[str, np.ndarray]:
    out = {}
    for path, theirs, transposed in TABLES[spec.config.family]:
        if path not in grads:
            continue
        array = np.asarray(grads[path])
        for n, one in enumerate(array) if "{n}" in theirs else [(0, array)]:
            out["grad/" + theirs.format(n=n)] = one.T if transposed else one
    return out


def greedy(spec: ModelSpec, params: Params, rows: list[dict], compute: Compute) -> list[str]:
    found = Generator(spec, params, compute).generate([row["prompt"] for row in rows], families.NEW_TOKENS, 2)
    faults = [ours.greedy_difference(new, row, 2) for new, row in zip(found, rows, strict=True)]
    return [fault for fault in faults if fault]


def write_folder(folder: Path, name: str) -> Path:
    """A family's tiny checkpoint, as transformers would save it."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(families.CONFIGS[name]), "utf-8")
    return families.write_folder(folder, name, shapes(model_spec(read_config(folder))))


def shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """{Hugging Face's name: shape} of a model's parameters."""
    found = {}
    for path, theirs, transposed in TABLES[spec.config.family]:
        if path not in spec.shapes:
            continue
        shape = spec.shapes[path][1:] if "{n}" in theirs else spec.shapes[path]
        for n in range(spec.shapes[path][0]) if "{n}" in theirs else [0]:
            found[theirs.format(n=n)] = shape[::-1] if transposed else shape
    return found
