"""The formula of operations against the compiler's own count, on a model that is not looped over."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from itune.models.compute import Compute
from itune.models.config import FullConfig, LayerKind, LoRAConfig
from itune.models.flops import training_flops
from itune.models.spec import model_spec
from itune.training.step import batch_loss
from tests import tiny

ROWS, LENGTH, SUPERVISED = 4, 128, 64  # 256 positions: one chunk of the head's, which the compiler counts once
WIDE = dataclasses.replace(
    tiny.CONFIG, vocab_size=512, width=256, head_dim=64, mlp_width=512, layers=(LayerKind(),) * 4
)


@pytest.mark.parametrize("tuning", [FullConfig(), LoRAConfig(rank=8)], ids=["full", "lora"])
def test_the_formula_counts_what_the_compiler_does(tuning):
    """The reference attention computes what is masked, too: all pairs of a row.

    Elementwise work is not in the formula; gradients of what goes into the first layer, under LoRA, not in the count.
    """
    spec = model_spec(WIDE, tuning)
    params = jax.eval_shape(lambda: tiny.params(spec))
    batch = tiny.pack([[(list(range(3, 67)), list(range(3, 67)))]] * ROWS)
    compute = Compute(scan=False, attention="reference", remat="none")

    def loss(train, frozen):
        return batch_loss(spec, {**frozen, **train}, batch, compute)[0]

    compiled = jax.jit(jax.grad(loss)).lower(*spec.partition(params)).compile()
    counted = compiled.cost_analysis()["flops"]
    said = training_flops(spec, ROWS * LENGTH, ROWS * SUPERVISED, ROWS * LENGTH**2)
    assert said is not None and 0.97 * said < counted < 1.08 * said, (said, counted, counted / said)
    causal = training_flops(spec, ROWS * LENGTH, ROWS * SUPERVISED, ROWS * LENGTH * (LENGTH + 1) // 2)
    assert 0.8 < causal / said < 0.999


def test_a_window_bounds_what_a_query_sees():
    layers = (LayerKind(window=16), LayerKind())
    windowed, whole = (
        model_spec(dataclasses.replace(WIDE, layers=kinds), None) for kinds in (layers, (LayerKind(),) * 2)
    )
    pairs = np.int64(100) * 101 // 2
    left = [training_flops(spec, 100, 10, int(pairs)) for spec in (windowed, whole)]
    assert left[1] - left[0] == 12 * (pairs - 100 * 16) * WIDE.num_heads * WIDE.head_dim
