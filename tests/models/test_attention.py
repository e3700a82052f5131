"""Every backend against the definition, and the definition against the promise: packed is separate."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from itune.models import attention
from itune.models.attention import attend, choose_backend
from itune.models.splash import splash_attention
from itune.models.triton import WIDTHS, triton_attention

B, L, H, G, K = 2, 512, 6, 2, 16


def inputs(seed=0):
    keys = jax.random.split(jax.random.key(seed), 3)
    return [jax.random.normal(k, (B, L, n, K)) for k, n in zip(keys, (H, G, G), strict=True)]


def segments(*lengths_of_rows):
    out = np.zeros((B, L), np.int32)
    for b, lengths in enumerate(lengths_of_rows):
        at = 0
        for s, n in enumerate(lengths):
            out[b, at : at + n] = s + 1
            at += n
    return jnp.asarray(out)


LAYOUTS = {
    "many": segments((5, 200, 100, 130, 1), (512,)),
    "padding": segments((130, 20), (3,)),
    "empty row": segments((), (100, 300)),
    "on block edges": segments((128, 256, 128), (127, 129, 256)),
}


def prompts(seg, share=0.6):
    """The first tokens of each segment, as a prefix-LM's prompts; none of every third segment."""
    out = np.zeros(seg.shape, bool)
    for b, row in enumerate(np.asarray(seg)):
        for s in set(row.tolist()) - {0}:
            at = np.flatnonzero(row == s)
            out[b, at[: int(share * len(at)) if s % 3 else 0]] = True
    return jnp.asarray(out)


EXTRAS = {
    "plain": {},
    "window": {"window": 70},
    "short window": {"window": 1},
    "soft-cap": {"softcap": 1.5, "scale": 0.4},
    "both": {"window": 129, "softcap": 2.0},
}
CASES = [(layout, prefix, "plain") for layout in LAYOUTS for prefix in (False, True)]
CASES += [(layout, prefix, extra) for extra in EXTRAS if extra != "plain" for layout, prefix in (("many", False),)]
CASES += [("padding", True, "window"), ("on block edges", True, "both")]


@pytest.mark.parametrize(("layout", "prefix", "extra"), CASES, ids=str)
def test_blockwise_equals_reference_in_value_and_gradient(layout, prefix, extra):
    seg = LAYOUTS[layout]
    bidirectional = prompts(seg) if prefix else None
    weight = jnp.cos(jnp.arange(B * L * H * K, dtype=jnp.float32)).reshape(B, L, H, K)

    def run(backend):
        def loss(q, k, v):
            out = attend(q, k, v, seg, bidirectional, backend=backend, **EXTRAS[extra])
            return (out * weight).sum(), out

        (_, out), grads = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2), has_aux=True))(*inputs())
        return out, *grads

    for name, got, want in zip(("out", "dq", "dk", "dv"), run("blockwise"), run("reference"), strict=True):
        np.testing.assert_allclose(got, want, atol=2e-5, err_msg=f"{name} in layout {layout!r}")


@pytest.mark.parametrize("backend", ["reference", "blockwise"])
def test_a_segment_sees_itself_alone(backend):
    q, k, v = inputs()
    seg = LAYOUTS["many"]
    packed = attend(q, k, v, seg, backend=backend)
    for start, n in ((5, 200), (205, 100)):
        alone = attend(*(x[:1, start : start + n] for x in (q, k, v)), jnp.ones((1, n), jnp.int32), backend="reference")
        np.testing.assert_allclose(packed[:1, start : start + n], alone, atol=2e-6)


@pytest.mark.parametrize("backend", ["reference", "blockwise"])
def test_a_prompt_sees_all_of_itself_and_nothing_of_its_answer(backend):
    q, k, v = inputs()
    seg = segments((300, 212), (512,))
    bidirectional = jnp.arange(L)[None] < jnp.array([[150], [400]])

    def changed(at, marks):
        """Which positions of row 0 notice that token `at` of it is another one."""
        here = jnp.zeros((B, L, 1, 1)).at[0, at].set(3.0)
        one, other = (attend(q, k + d, v + d, seg, marks, backend=backend)[0] for d in (0.0, here))
        return set(np.flatnonzero(np.abs(np.asarray(one - other)).max(axis=(1, 2)) > 1e-6).tolist())

    assert changed(140, bidirectional) == set(range(300)), "the whole prompt, and the answer"
    assert changed(200, bidirectional) == set(range(200, 300)), "an answer is causal"
    assert changed(140, None) == set(range(140, 300))
    alone = attend(*(x[:1, :150] for x in (q, k, v)), jnp.ones((1, 150), jnp.int32), jnp.ones((1, 150), bool))
    packed = attend(q, k, v, seg, bidirectional, backend=backend)
    np.testing.assert_allclose(packed[:1, :150], alone, atol=2e-6)


def test_padding_yields_zero_not_nan():
    q, k, v = inputs()
    out = attend(q, k, v, LAYOUTS["empty row"], backend="blockwise")
    assert np.all(np.asarray(out[0]) == 0)


def test_first_key_block_skips_what_packing_masks():
    first = attention._first_key_block(LAYOUTS["on block edges"])
    assert first.tolist() == [[0, 0, 2, 2, 2, 2, 6, 6], [0, 0, 1, 1, 4, 4, 4, 4]]
    marks = jnp.arange(L)[None] < jnp.array([[0], [100]])
    end = attention._end_key_block(segments((512,), (512,)), marks)
    assert end.tolist() == [[1, 2, 3, 4, 5, 6, 7, 8], [2, 2, 3, 4, 5, 6, 7, 8]]


def test_blockwise_refuses_a_length_it_cannot_take():
    with pytest.raises(ValueError, match="multiple of 64.*'reference'"):
        choose_backend("blockwise", 100, "cpu")


@pytest.mark.parametrize(
    ("layout", "window", "windows", "more"),
    [
        ("many", None, (0,), {}),
        ("padding", None, (0,), {"softcap": 1.5, "scale": 0.4}),
        ("on block edges", 70, (70,), {}),
        ("many", 130, (0, 130), {}),
        ("many", 2**30, (0, 130), {}),
    ],
    ids=str,
)
def test_the_kernel_for_tpus_equals_the_reference_in_value_and_gradient(layout, window, windows, more):
    """Its operations, interpreted: no TPU is needed, nor shown to be quick."""
    seg, width = LAYOUTS[layout], None if window is None else jnp.int32(window)
    weight = jnp.cos(jnp.arange(B * L * H * K, dtype=jnp.float32)).reshape(B, L, H, K)

    def splash(q, k, v):
        given = {"scale": K**-0.5} | more
        return splash_attention(q, k, v, seg, width, windows=windows, interpret=True, **given)

    def reference(q, k, v):
        return attend(q, k, v, seg, window=width, backend="reference", **more)

    def run(function):
        loss = lambda *qkv: (function(*qkv) * weight).sum()  # noqa: E731
        return function(*inputs()), *jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*inputs())

    for name, got, want in zip(("out", "dq", "dk", "dv"), run(splash), run(reference), strict=True):
        np.testing.assert_allclose(got, want, atol=3e-5, err_msg=name)


@pytest.mark.parametrize("layout", ["many", "padding"])
def test_the_kernel_for_gpus_equals_the_reference_in_value_and_gradient(layout):
    """Its operations, interpreted: no GPU is needed, nor shown to be quick."""
    seg = LAYOUTS[layout]
    wide = [jnp.concatenate([x, jnp.cos(x)], axis=-1) for x in inputs()]
    weight = jnp.cos(jnp.arange(B * L * H * 2 * K, dtype=jnp.float32)).reshape(B, L, H, 2 * K)
    kernel = lambda q, k, v: triton_attention(q, k, v, seg, scale=0.2, interpret=True)  # noqa: E731
    reference = lambda q, k, v: attend(q, k, v, seg, scale=0.2, backend="reference")  # noqa: E731

    def run(function):
        loss = lambda *qkv: (function(*qkv) * weight).sum()  # noqa: E731
        return jax.jit(function)(*wide), *jax.jit(jax.grad(loss, argnums=(0, 1, 2)))(*wide)

    for name, got, want in zip(("out", "dq", "dk", "dv"), run(kernel), run(reference), strict=True):
        np.testing.assert_allclose(got, want, atol=5e-5, err_msg=name)


@pytest.mark.parametrize("width", WIDTHS)
def test_the_kernel_for_gpus_lowers_for_cuda(width):
    """As far as this goes without a GPU: to Triton's own program, forward and backward."""

    def loss(q, k, v, seg):
        return triton_attention(q, k, v, seg, scale=0.125).astype(jnp.float32).sum()

    q, k = (jax.ShapeDtypeStruct((B, L, n, width), jnp.bfloat16) for n in (H, G))
    arguments = (q, k, k, jax.ShapeDtypeStruct((B, L), jnp.int32))
    lowered = jax.jit(jax.grad(loss, argnums=(0, 1, 2))).trace(*arguments).lower(lowering_platforms=("cuda",))
    text = lowered.as_text()
    assert 'name = "mha_forward"' in text and 'name = "mha_backward"' in text


def test_each_platform_has_its_backend_and_no_request_is_dropped():
    assert choose_backend("auto", 512, "tpu") == "splash"
    assert choose_backend("auto", 512, "tpu", bidirectional=True) == "reference"
    assert choose_backend("auto", 100, "tpu") == choose_backend("auto", 100, "gpu") == "reference"
    assert choose_backend("auto", 512, "gpu") == "triton"
    for request, words in {
        "window": "without windows",
        "softcap": "without a soft-cap",
        "bidirectional": "no later one",
    }.items():
        assert choose_backend("auto", 512, "gpu", **{request: True}) == "reference"
        with pytest.raises(ValueError, match=f"'triton' needs .*{words}"):
            choose_backend("triton", 512, "gpu", **{request: True})
    assert choose_backend("auto", 512, "gpu", width=256) == "reference"
    with pytest.raises(ValueError, match="'triton' needs heads 32 or 64 or 128 wide, not 80"):
        choose_backend("triton", 512, "gpu", width=80)
    with pytest.raises(ValueError, match="a GPU's kernel, and this runs on cpu"):
        choose_backend("triton", 512, "cpu")
    assert choose_backend("auto", 512, "cpu") == "blockwise"
    with pytest.raises(ValueError, match="a TPU's kernel, and this runs on cpu"):
        choose_backend("splash", 512, "cpu")
    with pytest.raises(ValueError, match="tokens that see no later one"):
        choose_backend("splash", 512, "tpu", bidirectional=True)
    with pytest.raises(ValueError, match="multiple of 128 tokens, not 192"):
        choose_backend("splash", 192, "tpu")
