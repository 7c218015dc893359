"""For any parameters, densities on the real line and on [0, 1] integrate to 1 and probabilities of levels sum to 1."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import DECODERS
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import integrate

import calibrax as cx
from calibrax.likelihoods import (
    binomial_nll,
    continuous_bernoulli_nll,
    discretized_gaussian_nll,
    discretized_logistic_nll,
    gaussian_nll,
    laplace_nll,
    negative_binomial_nll,
    poisson_nll,
    student_t_nll,
    von_mises_nll,
)

NUM = 4001
means, log_scales = st.floats(-3, 3, width=32), st.floats(-6, 6, width=32)
each = settings(max_examples=40, deadline=None)


def integral(nll, mean, log_scale, grid):
    """The integral of exp(-nll) over `grid`, points in scales from the mean that grow like sinh."""
    steps = np.linspace(-1, 1, NUM)
    points, slope = grid(steps)
    x = jnp.asarray(mean + points * np.exp(log_scale), jnp.float32)[:, None]
    density = np.exp(-np.float64(jax.jit(nll)(x, jnp.full_like(x, mean))))
    return integrate.simpson(density * slope * np.exp(log_scale), x=steps)


def sinh_grid(reach):
    rate = np.arcsinh(reach)
    return lambda steps: (np.sinh(rate * steps), rate * np.cosh(rate * steps))


@each
@given(means, log_scales)
def test_gaussian(mean, log_scale):
    value = integral(lambda x, m: gaussian_nll(x, m, log_scale)[0], mean, log_scale, sinh_grid(7.0))
    np.testing.assert_allclose(value, 1, atol=1e-4)


@each
@given(log_scales)
def test_laplace(log_scale):
    value = integral(lambda x, m: laplace_nll(x, m, log_scale)[0], 0.0, log_scale, sinh_grid(20.0))
    np.testing.assert_allclose(value, 1, atol=1e-4)


@each
@given(log_scales, st.floats(1, 1e4, width=32))
def test_student_t(log_scale, df):
    # Beyond a distance of 10^5 scales a tail of df = 1 holds 3e-6.
    value = integral(lambda x, m: student_t_nll(x, m, log_scale, df)[0], 0.0, log_scale, sinh_grid(1e5))
    np.testing.assert_allclose(value, 1, atol=1e-4)


@each
@given(st.floats(-200, 200, width=32))
def test_continuous_bernoulli(logit):
    x = np.linspace(0, 1, NUM)
    nll, _ = continuous_bernoulli_nll(jnp.asarray(x, jnp.float32)[:, None], jnp.full((NUM, 1), logit, jnp.float32))
    np.testing.assert_allclose(integrate.simpson(np.exp(-np.float64(nll)), x=x), 1, atol=1e-4)


@each
@given(st.floats(-14, 14, width=32), st.floats(-3, 3, width=32))
def test_von_mises(log_concentration, angle):
    # A concentrated density is within 10 standard deviations of its angle.
    reach = min(np.pi, 10 * np.exp(-0.5 * log_concentration))
    x = np.linspace(angle - reach, angle + reach, NUM)
    direction = jnp.broadcast_to(jnp.asarray([np.cos(angle), np.sin(angle)], jnp.float32), (NUM, 1, 2))
    nll, _ = von_mises_nll(jnp.asarray(x, jnp.float32)[:, None], direction, log_concentration)
    # At κ = e^14 the width of the density is 1e-3, of which the rounding of an angle is 1e-4.
    np.testing.assert_allclose(integrate.simpson(np.exp(-np.float64(nll)), x=x), 1, atol=2e-4)


def mass_of_counts(nll, *parameters, num=2**16):
    """The sum of the probabilities of counts from 0 to num - 1; compiled once per formula."""
    x = jnp.arange(num, dtype=jnp.float32)[:, None]
    columns = [jnp.full_like(x, parameter) for parameter in parameters]
    return np.exp(-np.float64(nll(x, *columns)[0])).sum()


@each
@given(st.floats(-20, 10.75, width=32))
def test_probabilities_of_poisson_counts_sum_to_one(log_rate):
    np.testing.assert_allclose(mass_of_counts(jax.jit(poisson_nll), log_rate), 1, atol=1e-4)


@each
@given(st.floats(-20, 7.5, width=32), st.floats(-1, 18, width=32))
def test_probabilities_of_negative_binomial_counts_sum_to_one(log_mean, log_dispersion):
    mass = mass_of_counts(jax.jit(negative_binomial_nll), log_mean, log_dispersion)
    np.testing.assert_allclose(mass, 1, atol=1e-4)


@each
@given(st.floats(-40, 40, width=32), st.sampled_from([1, 2, 16, 255, 60_000]))
def test_probabilities_of_binomial_counts_sum_to_one(logit, total):
    x = jnp.arange(total + 1, dtype=jnp.float32)[:, None]
    nll, _ = jax.jit(binomial_nll, static_argnums=2)(x, jnp.full_like(x, logit), total)
    np.testing.assert_allclose(np.exp(-np.float64(nll)).sum(), 1, atol=1e-4)


@settings(max_examples=60, deadline=None)
@given(mean=st.floats(-2, 3, width=32), log_scale=st.floats(-20, 10, width=32), levels=st.sampled_from([2, 3, 32, 256]))
@pytest.mark.parametrize("formula", [discretized_gaussian_nll, discretized_logistic_nll])
def test_probabilities_of_bins_sum_to_one(formula, mean, log_scale, levels):
    x = (jnp.arange(levels, dtype=jnp.float32) / (levels - 1))[:, None]
    nll, _ = formula(x, jnp.full((levels, 1), mean, jnp.float32), log_scale, levels=levels)
    np.testing.assert_allclose(np.exp(-np.float64(nll)).sum(), 1, atol=1e-5)


OVER_LEVELS = [name for name, decoder in DECODERS.items() if decoder.levels and not decoder.likelihood.init((1,))[0]]


@pytest.mark.parametrize("name", OVER_LEVELS)
@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 2**32 - 1), scale=st.floats(0, 30))
def test_probabilities_of_levels_sum_to_one(name, seed, scale):
    likelihood, num = DECODERS[name].likelihood, DECODERS[name].levels
    assert num is not None
    outputs = jnp.asarray(
        scale * np.random.default_rng(seed).normal(size=(1, likelihood.output_channels(1))), jnp.float32
    )
    x = (jnp.arange(num, dtype=jnp.float32) / (num - 1))[:, None]
    nll, _ = likelihood.nll({}, {}, jnp.broadcast_to(outputs, (num, outputs.shape[1])), x)
    np.testing.assert_allclose(np.exp(-np.float64(nll)).sum(), 1, atol=1e-5)


# Combinators

BIJECTORS = {"symlog": cx.symlog, "log": cx.log, "logit": cx.logit, "affine": cx.affine(-2.5, 0.3)}


@pytest.mark.parametrize("name", BIJECTORS)
@each
@given(mean=st.floats(-2, 2, width=32), log_scale=st.floats(-3, 0, width=32))
def test_transformed_densities(name, mean, log_scale):
    """The integral over x, with x = bijector⁻¹(y) on a grid of y."""
    likelihood = cx.transformed(cx.shared_sigma(link="identity"), BIJECTORS[name])
    y = mean + np.exp(log_scale) * np.linspace(-7, 7, NUM)
    with jax.enable_x64(True):
        x = np.asarray(BIJECTORS[name].inverse(jnp.asarray(y)))
    nll, _ = jax.jit(likelihood.nll)(
        {"log_sigma": jnp.float32(log_scale)}, {}, jnp.full((NUM, 1), mean, jnp.float32), single(x)
    )
    value = integrate.simpson(np.exp(-np.float64(nll)), x=x)
    np.testing.assert_allclose(value, 1, atol=1e-3)


def single(x):
    """[N, 1]"""
    return jnp.asarray(x, jnp.float32)[:, None]


@each
@given(seed=st.integers(0, 2**32 - 1), spread=st.floats(0, 3))
@pytest.mark.parametrize("over", ["position", "event"])
def test_mixtures_of_densities(over, seed, spread):
    likelihood = cx.mixture(cx.pixel_sigma(link="identity"), 3, over)
    outputs = np.float32(spread * np.random.default_rng(seed).normal(size=9))
    means, widths = outputs[3::2], np.logaddexp(-6, outputs[4::2])  # outputs: three logits, then mean and log σ of each
    points, _ = sinh_grid(7.0)(np.linspace(-1, 1, NUM))
    x = np.unique(means[:, None] + np.exp(widths)[:, None] * points)
    outputs = jnp.broadcast_to(outputs, (x.size, 9))
    nll, _ = jax.jit(likelihood.nll)({}, {}, outputs, single(x))
    np.testing.assert_allclose(integrate.trapezoid(np.exp(-np.float64(nll)), x=x), 1, atol=1e-3)


@each
@given(st.floats(-30, 30, width=32), st.floats(-10, 7, width=32))
def test_zero_inflated_counts(logit, log_rate):
    likelihood = cx.zero_inflated(cx.poisson())
    outputs = jnp.broadcast_to(jnp.array([logit, log_rate], jnp.float32), (4096, 2))
    nll, _ = jax.jit(likelihood.nll)({}, {}, outputs, jnp.arange(4096.0)[:, None])
    np.testing.assert_allclose(np.exp(-np.float64(nll)).sum(), 1, atol=1e-4)


@each
@given(st.floats(-30, 30, width=32), st.floats(-2, 2, width=32), st.floats(-3, 0, width=32))
def test_zero_inflated_densities(logit, mean, log_scale):
    """The mass at 0 and the integral over the positive numbers."""
    likelihood = cx.zero_inflated(cx.transformed(cx.shared_sigma(link="identity"), cx.log))
    x = np.exp(mean + np.exp(log_scale) * np.linspace(-7, 7, NUM))
    outputs = jnp.broadcast_to(jnp.array([logit, mean], jnp.float32), (NUM + 1, 2))
    params = {"log_sigma": jnp.float32(log_scale)}
    nll, _ = jax.jit(likelihood.nll)(params, {}, outputs, single(np.append(x, 0)))
    density = np.exp(-np.float64(nll))
    np.testing.assert_allclose(density[-1] + integrate.simpson(density[:-1], x=x), 1, atol=1e-3)
