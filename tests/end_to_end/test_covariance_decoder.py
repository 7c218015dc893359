"""The decoder of `examples/covariance_decoder.py`: its formula, its running average, and what training with it does."""

import jax
import jax.numpy as jnp
import numpy as np
from scipy.stats import multivariate_normal

import calibrax as cx
from examples.covariance_decoder import calibrated, covariance_nll, fit, measure, optimal_covariance, picture

COVARIANCE = np.array([[0.04, 0.03, 0.02], [0.03, 0.05, 0.03], [0.02, 0.03, 0.04]])


def draw(num: int, seed: int = 0) -> jax.Array:
    """Images around grey, [N, 6, 6, 3], with correlated channels."""
    noise = np.random.default_rng(seed).multivariate_normal(np.zeros(3), COVARIANCE, (num, 6, 6))
    return jnp.asarray(0.5 + noise, jnp.float32)


def test_nll_equals_scipy():
    x = draw(4)
    exact = -multivariate_normal(cov=COVARIANCE).logpdf(np.asarray(x, np.float64) - 0.5).sum(axis=(1, 2))
    nll = covariance_nll(x, jnp.full_like(x, 0.5), jnp.asarray(COVARIANCE, jnp.float32))
    np.testing.assert_allclose(nll, exact, rtol=2e-3)  # the floor adds exp(-12) to variances of 0.01 and more


def test_covariance_is_that_of_the_residuals_and_its_average_is_used_at_test_time():
    x, likelihood = draw(2000), optimal_covariance()
    params, state = likelihood.init((6, 6, 3))
    outputs = jnp.zeros_like(x)  # a mean of 0.5
    in_training, stats = likelihood.nll(params, state, outputs, x)
    np.testing.assert_allclose(stats["covariance"], COVARIANCE, atol=1e-3)
    state = likelihood.update(state, stats)
    at_test, _ = likelihood.nll(params, state, outputs, x, train=False)
    np.testing.assert_allclose(at_test, in_training, rtol=1e-5)
    drawn = likelihood.sample(jax.random.key(0), params, state, outputs) - 0.5
    np.testing.assert_allclose(np.cov(drawn.reshape(-1, 3).T), COVARIANCE, atol=2e-3)


def test_better_than_one_sigma_by_the_logarithm_of_the_determinants():
    x = draw(2000)
    outputs = jnp.zeros_like(x)
    nll, _ = optimal_covariance().nll({}, {}, outputs, x)
    by_sigma, _ = cx.optimal_sigma().nll({}, cx.optimal_sigma().init((6, 6, 3))[1], outputs, x)
    variance = np.trace(COVARIANCE) / 3
    gain = 36 * 0.5 * (3 * np.log(variance) - np.linalg.slogdet(COVARIANCE)[1])
    np.testing.assert_allclose(jnp.mean(by_sigma - nll), gain, rtol=0.03)


def test_fit_after_training_keeps_the_means():
    x = jnp.clip(draw(64), 0, 1)
    sigma, covariance = cx.optimal_sigma(), optimal_covariance()
    with jax.numpy_dtype_promotion("standard"):  # optax's Adam promotes
        by_sigma = fit(sigma, x, steps=3, batch_size=16)
    after = calibrated(by_sigma, covariance, x)
    before, then = measure(by_sigma, sigma, x), measure(after, covariance, x)
    np.testing.assert_allclose(then["mse"], before["mse"], rtol=1e-5)
    assert then["neg_elbo"] < before["neg_elbo"]
    picture({"one": (after, covariance)}, x[:3])
