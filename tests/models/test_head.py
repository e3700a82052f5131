"""The chunked head against a plain softmax cross-entropy."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from itune.models.head import Objective, head_loss

P, D, V = 150, 24, 61


def data():
    keys = jax.random.split(jax.random.key(1), 4)
    hidden = jax.random.normal(keys[0], (P, D))
    head = jax.random.normal(keys[1], (V, D))
    targets = jax.random.randint(keys[2], (P,), 0, V)
    weights = jnp.where(jax.random.uniform(keys[3], (P,)) < 0.4, 0.0, jax.random.uniform(keys[3], (P,)))
    return hidden, head, targets, weights


def plain(hidden, head, targets, weights):
    log_probs = jax.nn.log_softmax(hidden @ head.T)
    nll = -jnp.take_along_axis(log_probs, targets[:, None], axis=1)[:, 0]
    return (nll * weights).sum(), nll


@pytest.mark.parametrize("chunk", [16, 64, 256])
@pytest.mark.parametrize("train_head", [True, False])
def test_value_and_gradients_equal_the_plain_loss(chunk, train_head):
    hidden, head, targets, weights = data()
    ours = lambda h, e: head_loss(h, e, targets, weights, chunk=chunk, train_head=train_head)  # noqa: E731
    (total, nll), (dh, de) = jax.value_and_grad(
        lambda h, e: (lambda t: (3.0 * t[0], t[1]))(ours(h, e)), argnums=(0, 1), has_aux=True
    )(hidden, head)
    (want, want_nll), (want_dh, want_de) = jax.value_and_grad(
        lambda h, e: (lambda t: (3.0 * t[0], t[1]))(plain(h, e, targets, weights)), argnums=(0, 1), has_aux=True
    )(hidden, head)
    np.testing.assert_allclose(total, want, rtol=1e-6)
    np.testing.assert_allclose(nll, jnp.where(weights > 0, want_nll, 0), atol=1e-5)
    np.testing.assert_allclose(dh, want_dh, atol=2e-5)
    np.testing.assert_allclose(de, want_de if train_head else jnp.zeros_like(de), atol=2e-5)


def test_without_gradient_the_value_is_the_same():
    hidden, head, targets, weights = data()
    total, _ = head_loss(hidden, head, targets, weights, chunk=32, train_head=False)
    np.testing.assert_allclose(total, plain(hidden, head, targets, weights)[0], rtol=1e-6)


def test_all_padding_is_zero_and_finite():
    hidden, head, targets, _ = data()
    total, nll = head_loss(hidden, head, targets, jnp.zeros(P), chunk=32, train_head=False)
    assert float(total) == 0 and not np.asarray(nll).any()


OBJECTIVES = [
    Objective(softcap=2.0),
    Objective(label_smoothing=0.1),
    Objective(z_loss=0.01),
    Objective(softcap=3.0, label_smoothing=0.2, z_loss=0.1),
]


@pytest.mark.parametrize("objective", OBJECTIVES, ids=str)
def test_objectives_equal_optax_smoothed_labels_and_the_squared_log_of_the_sum(objective):
    hidden, head, targets, weights = data()

    def expected(hidden, head):
        logits = hidden @ head.T
        if objective.softcap:
            logits = objective.softcap * jnp.tanh(logits / objective.softcap)
        labels = optax.smooth_labels(jax.nn.one_hot(targets, V), objective.label_smoothing)
        loss = optax.softmax_cross_entropy(logits, labels)
        loss += objective.z_loss * jnp.square(jax.nn.logsumexp(logits, axis=-1))
        nll = optax.softmax_cross_entropy_with_integer_labels(logits, targets)
        return (weights * loss).sum(), nll

    def ours(hidden, head):
        return head_loss(hidden, head, targets, weights, chunk=64, train_head=True, objective=objective)

    (total, nll), grads = jax.value_and_grad(ours, argnums=(0, 1), has_aux=True)(hidden, head)
    (want, want_nll), want_grads = jax.value_and_grad(expected, argnums=(0, 1), has_aux=True)(hidden, head)
    np.testing.assert_allclose(total, want, rtol=1e-6)
    np.testing.assert_allclose(ours(hidden, head)[0], want, rtol=1e-6)
    np.testing.assert_allclose(nll, jnp.where(weights > 0, want_nll, 0), atol=1e-5)
    for grad, want_grad in zip(grads, want_grads, strict=True):
        np.testing.assert_allclose(grad, want_grad, atol=5e-5)
