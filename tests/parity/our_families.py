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
from itune.models.compute import Compute
from itune.models.config import EncoderDecoderConfig, FullConfig
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
    eos_id = families.T5_SIZES["eos_token_id"] if folder.name in families.T5S else families.SIZES["eos_token_id"]
    return ours.worst(results(spec, params, compute), theirs), greedy(spec, params, rows, compute, eos_id)


def results(spec: ModelSpec, params: Params, compute: Compute) -> dict[str, np.ndarray]:
    """Logits, loss and gradients, under the reference's names and in its layouts."""
    batch = encoder_decoder_batch() if isinstance(spec.config, EncoderDecoderConfig) else packed()

    def loss(params):
        total, _ = batch_loss(spec, params, batch, compute)
        return total / batch.loss_weights.sum()

    value, grads = jax.jit(jax.value_and_grad(loss))(params)
    return gradients(spec, grads) | {"logits": logits(spec, params, batch, compute), "loss": np.asarray(value)}


def logits(spec: ModelSpec, params: Params, batch: Batch, compute: Compute) -> np.ndarray:
    """[B, L, V] at every token of the batch."""
    model = spec.merge(params)
    hidden_BLD = model.batch_hidden(batch, compute)
    found = model.head_logits(hidden_BLD.reshape(-1, hidden_BLD.shape[-1]), compute)
    return np.asarray(found).reshape(*batch.tokens.shape, -1)


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


def encoder_decoder_batch() -> Batch:
    """The batch of families.py for encoder-decoders, one example a row, padded on both sides."""
    tokens, labels = families.encoder_batch()
    (B, M), L = tokens.shape, labels.shape[1]
    pad = lambda a, more: np.pad(a, ((0, 0), (0, more))).astype(np.int32)  # noqa: E731
    places = lambda n: np.broadcast_to(np.arange(n), (B, n)).astype(np.int32)  # noqa: E731
    learnt = labels != families.IGNORED
    batch = Batch(
        tokens=families.decoder_inputs(labels).astype(np.int32),
        segment_ids=np.ones((B, L), np.int32),
        positions=places(L),
        loss_index=places(L),
        loss_targets=np.where(learnt, labels, 0).astype(np.int32),
        loss_weights=learnt.astype(np.float32),
        loss_task=np.zeros((B, L), np.int32),
        row_ids=np.zeros((B, 2), np.int32),
        encoder_tokens=pad(tokens, 3),
        encoder_positions=pad(places(M), 3),
        encoder_segment_ids=pad(np.ones((B, M)), 3),
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


def greedy(spec: ModelSpec, params: Params, rows: list[dict], compute: Compute, eos_id: int) -> list[str]:
    found = Generator(spec, params, compute).generate([row["prompt"] for row in rows], families.NEW_TOKENS, [eos_id])
    faults = [ours.greedy_difference(new, row, eos_id) for new, row in zip(found, rows, strict=True)]
    return [fault for fault in faults if fault]


def write_folder(folder: Path, name: str) -> Path:
    """A family's tiny checkpoint, as transformers would save it."""
    folder.mkdir(parents=True, exist_ok=True)
    fields = (families.CONFIGS | families.T5S)[name]
    (folder / "config.json").write_text(json.dumps(fields), "utf-8")
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
