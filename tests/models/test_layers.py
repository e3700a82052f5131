"""Products with gradients of our own, against autodiff of their definition."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itune.models.products import low_rank, product

P, D, F, R = 24, 32, 40, 4


def operands(seed=0):
    keys = jax.random.split(jax.random.key(seed), 5)
    shapes = ((P, D), (D, F), (D, R), (R, F), (P, F))
    return [jax.random.normal(k, shape) for k, shape in zip(keys, shapes, strict=True)]


def gradients(function, *args):
    weight_PF = operands()[-1]
    return jax.grad(lambda *args: (function(*args) * weight_PF).sum(), argnums=tuple(range(len(args))))(*args)


@pytest.mark.parametrize(("dtype", "tolerance"), [("float32", 1e-5), ("bfloat16", 2e-2)])
def test_products_and_their_gradients_equal_autodiff(dtype, tolerance):
    x, w, a, b, _ = operands()
    for ours, plain, args in (
        (lambda x, w: product(x, w, dtype), lambda x, w: x @ w, (x, w)),
        (lambda x, a, b: low_rank(x, a, b, dtype), lambda x, a, b: (x @ a) @ b, (x, a, b)),
    ):
        found, expected = (ours(*args), *gradients(ours, *args)), (plain(*args), *gradients(plain, *args))
        for got, want in zip(found, expected, strict=True):
            assert got.dtype == jnp.float32
            np.testing.assert_allclose(got, want, atol=tolerance * np.abs(want).max())


def test_bfloat16_rounds_operands_and_nothing_else():
    x, w, *_ = operands()
    rounded = [np.asarray(o.astype(jnp.bfloat16).astype(jnp.float32)) for o in (x, w)]
    np.testing.assert_allclose(product(x, w, "bfloat16"), rounded[0] @ rounded[1], rtol=1e-5, atol=1e-5)
    assert not np.allclose(product(x, w, "bfloat16"), x @ w, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", ["forward", "backward"])
def test_wide_products_multiply_bfloat16(form):
    """What makes them quick on a CPU: a float32 operand in one of them would cost it."""
    x, w, *_ = operands()
    function = lambda x, w: product(x, w, "bfloat16")  # noqa: E731
    chosen = function if form == "forward" else lambda x, w: gradients(function, x, w)
    text = jax.jit(chosen).lower(x, w).as_text()
    dots = [line for line in text.splitlines() if "dot_general" in line]
    assert len(dots) >= (1 if form == "forward" else 2), text
    for line in dots:
        operands_of = line.split(" : ")[1].split("->")[0]
        assert operands_of.count("bf16") == 2, line
        assert line.rstrip().split("->")[1].count("xf32>"), line
