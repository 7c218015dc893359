"""KL, ELBO, importance bound and conversions against closed forms in higher precision."""

import math

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest

from calibrax import objectives


def test_kl_equals_the_closed_form_in_float64_small_values_included():
    rng = np.random.default_rng(0)
    for scale in (1e-4, 1e-2, 1.0, 5.0):
        mean, log_var = np.float32(rng.normal(0, scale, (2, 9, 4, 3)))
        wide_mean, wide = np.longdouble(mean), np.longdouble(log_var)
        expected = 0.5 * (wide_mean**2 + np.expm1(wide) - wide).reshape(9, -1).sum(1)
        kl = objectives.gaussian_kl(jnp.asarray(mean), jnp.asarray(log_var))
        np.testing.assert_allclose(kl, np.float64(expected), rtol=1e-6)


@pytest.mark.parametrize("log_var", [0.0, 1e-10, 1e-4, -1e-4, 0.1, -0.4999, 0.5, -0.5, 3.0, -30.0, 80.0])
def test_kl_and_its_gradient_where_the_terms_cancel(log_var):
    def kl(log_var):
        return objectives.gaussian_kl(jnp.zeros((1, 1)), log_var)[0]

    value, grad = jax.value_and_grad(kl)(jnp.full((1, 1), log_var))
    with mpmath.workdps(50):
        exact = mpmath.mpf(float(np.float32(log_var)))
        expected = (mpmath.expm1(exact) - exact) / 2, mpmath.expm1(exact) / 2
    np.testing.assert_allclose([value, grad[0, 0]], [float(e) for e in expected], rtol=1e-6)


def test_kl_of_the_prior_is_zero_and_of_bfloat16_is_float32():
    kl = objectives.gaussian_kl(jnp.zeros((2, 5), jnp.bfloat16), jnp.zeros((2, 5), jnp.bfloat16))
    chex.assert_trees_all_equal(kl, jnp.zeros(2, jnp.float32))


def test_elbo_and_importance_bound():
    np.testing.assert_array_equal(objectives.elbo(jnp.array([1.0, -2.0]), jnp.array([3.0, 4.0])), [-4, -2])
    log_weights = np.random.default_rng(0).normal(0, 30, (50, 7))
    expected = np.logaddexp.reduce(log_weights, 0) - np.log(50)
    np.testing.assert_allclose(objectives.importance_bound(jnp.asarray(log_weights)), expected, rtol=1e-5)
    np.testing.assert_allclose(objectives.importance_bound(jnp.asarray(log_weights.T), axis=1), expected, rtol=1e-5)
    np.testing.assert_allclose(objectives.importance_bound(jnp.asarray(log_weights[:1])), log_weights[0], rtol=1e-6)


def test_bits_per_dim():
    np.testing.assert_allclose(objectives.bits_per_dim(9179.0, (28, 28, 3)), 5.63, atol=5e-3)  # facts of Table 2


@pytest.mark.parametrize(("convention", "beta"), [("sse", 2.0), ("half_sse", 1.0)])
def test_unit_sigma_in_both_conventions(convention, beta):
    np.testing.assert_allclose(objectives.effective_beta(0.0, convention), beta)
    np.testing.assert_allclose(objectives.beta_to_sigma(beta, convention), 1.0)
    np.testing.assert_allclose(
        objectives.effective_beta(jnp.log(objectives.beta_to_sigma(0.3, convention)), convention), 0.3, rtol=1e-6
    )


def test_bad_arguments():
    with pytest.raises(ValueError, match="convention is 'mse'; expected 'sse' or 'half_sse'"):
        objectives.effective_beta(0.0, "mse")
    with pytest.raises(ValueError, match="beta is -1; expected a positive"):
        objectives.beta_to_sigma(-1)
    with pytest.raises(ValueError, match="log_var has shape"):
        objectives.gaussian_kl(jnp.zeros((2, 3)), jnp.zeros((2, 4)))
    with pytest.raises(ValueError, match="kl has shape"):
        objectives.elbo(jnp.zeros(2), jnp.zeros(3))
    with pytest.raises(ValueError, match="event_shape is"):
        objectives.bits_per_dim(1.0, (0, 3))


def test_bits_per_dim_of_a_density_adds_the_width_of_a_bin():
    """A uniform density on [0, 1], of 0 nats, has 8 bits in 256 bins; on [-1, 1], of log 2 each, too."""
    np.testing.assert_allclose(objectives.bits_per_dim(jnp.zeros(3), (4, 2), bin_width=1 / 256), 8, rtol=1e-6)
    nats = jnp.full(3, 8 * math.log(2))
    np.testing.assert_allclose(objectives.bits_per_dim(nats, (4, 2), bin_width=2 / 256), 8, rtol=1e-6)
    np.testing.assert_allclose(objectives.bits_per_dim(nats, (4, 2)), 1, rtol=1e-6)
    np.testing.assert_allclose(objectives.bits_per_dim(math.log(4), ()), 2, rtol=1e-6)


@pytest.mark.parametrize("width", [0, -1.0, math.nan, math.inf, "1"])
def test_a_bin_width_is_a_positive_number(width):
    with pytest.raises(ValueError, match=r"^bin_width is [^\n]*; expected a number in \(0, inf\)$"):
        objectives.bits_per_dim(1.0, (2,), bin_width=width)
