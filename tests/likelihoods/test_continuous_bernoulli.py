"""The continuous Bernoulli against extended precision, near logit 0 and far from it."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate
from scipy import stats as sps

import calibrax as cx
from calibrax.likelihoods import continuous_bernoulli_nll

LOGITS = np.float64(
    np.float32([0.0, 1e-8, 1e-4, 0.01, 0.3, 0.999, 1.0, 1.001, 3.0, 10.0, 50.0, 300.0, 1e4])
)  # and their negatives


def reference(x, logits):
    """-l·x + log((exp(l) - 1) / l) in extended precision, from the end that does not overflow; and d/dl."""
    x, logits = np.longdouble(x), np.longdouble(logits)
    size = np.where(logits == 0, np.longdouble(1), np.abs(logits))
    rest = np.where(logits > 0, 1 - x, x)
    value = np.where(logits == 0, 0, size * rest + np.log(-np.expm1(-size) / size))
    mean = -1 / np.expm1(-size) - 1 / size
    near = 0.5 + logits / 12 - logits**3 / 720 + logits**5 / 30240
    mean = np.where(np.abs(logits) < 0.02, near, np.where(logits > 0, mean, 1 - mean))
    return np.float64(value), np.float64(mean - x), np.float64(mean)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("x", [0.0, 0.25, 0.5, 1.0])
def test_values_and_gradients(x, sign):
    logits = jnp.asarray(sign * LOGITS, jnp.float32)[:, None]
    data = jnp.full_like(logits, x)
    value = continuous_bernoulli_nll(data, logits)[0]
    grad = jax.grad(lambda logits: jnp.sum(continuous_bernoulli_nll(data, logits)[0]))(logits)[:, 0]
    expected, slope, _ = reference(x, sign * LOGITS)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(grad, slope, rtol=1e-5, atol=2e-7)


def test_at_logit_zero_it_is_uniform():
    nll, _ = continuous_bernoulli_nll(jnp.linspace(0, 1, 12).reshape(4, 3), jnp.zeros((4, 3)))
    np.testing.assert_array_equal(nll, np.zeros(4))


@pytest.mark.parametrize("logit", [-30.0, -2.0, -0.5, 1e-3, 0.9, 8.0])
def test_it_integrates_to_one(logit):
    x = np.linspace(0, 1, 4001)
    nll, _ = continuous_bernoulli_nll(jnp.asarray(x, jnp.float32)[:, None], jnp.full((4001, 1), logit, jnp.float32))
    np.testing.assert_allclose(integrate.simpson(np.exp(-np.float64(nll)), x=x), 1, atol=1e-4)


def test_mean_is_that_of_the_distribution():
    logits = np.concatenate([LOGITS, -LOGITS])
    mean = cx.continuous_bernoulli().mean({}, {}, jnp.asarray(logits, jnp.float32)[:, None])[:, 0]
    np.testing.assert_allclose(mean, reference(0.0, logits)[2], rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("logit", [-40.0, -3.0, -1e-5, 5e-4, 2.0, 1e3])
def test_samples_follow_the_density_and_stay_in_range(logit):
    # Kolmogorov-Smirnov at a false-alarm rate of 1e-4, fixed seed.
    outputs = jnp.full((20_000, 1), logit, jnp.float32)
    draws = np.asarray(cx.continuous_bernoulli().sample(jax.random.key(0), {}, {}, outputs), np.float64)[:, 0]
    assert draws.min() >= 0
    assert draws.max() <= 1
    size = abs(logit)
    from_zero = 1 - draws if logit > 0 else draws
    assert sps.kstest(np.expm1(-size * from_zero) / np.expm1(-size), "uniform").pvalue > 1e-4


def test_gradients_are_finite_at_the_ends():
    outputs = jnp.asarray([[-1e4, 0.0, 1e4, 1.0]])
    for x in (0.0, 1.0):
        grad = jax.grad(lambda o, x=x: jnp.sum(continuous_bernoulli_nll(jnp.full_like(o, x), o)[0]))(outputs)
        chex.assert_tree_all_finite(grad)
