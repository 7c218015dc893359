"""Student-t and Laplace against float64, at ordinary values and at the ends of float32."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from exact import assert_close, elementwise, single
from scipy import integrate
from scipy import stats as sps
from scipy.special import digamma

import calibrax as cx
from calibrax.likelihoods import laplace_nll, student_t_nll

RNG = np.random.default_rng(0)


def student_t_reference(x, mean, log_scale, df):
    """The nll, and its derivatives by mean, log scale and df, in float64."""
    z = (x - mean) / np.exp(log_scale)
    slope = (df + 1) * z / (df + z**2)
    parts = np.stack(
        np.broadcast_arrays(np.log1p(z**2 / df), -slope * z / df, 1 / df, digamma(df / 2) - digamma((df + 1) / 2))
    )
    value = -sps.t.logpdf(z, df) + log_scale
    return value, -slope / np.exp(log_scale), 1 - slope * z, sum(parts) / 2, np.abs(parts).max(0)


@pytest.mark.parametrize("df", [0.5, 1.0, 2.5, 7.0, 30.0, 1e3, 1e6])
def test_student_t_equals_scipy(df):
    x, mean = (np.float64(single(RNG.uniform(0, 1, 400))) for _ in range(2))
    log_scale = np.float64(single(RNG.uniform(-4, 1, 400)))
    value, grads = elementwise(lambda *args: student_t_nll(single(x)[:, None], *args)[0], mean, log_scale, df)
    *expected, parts = student_t_reference(x, mean, log_scale, df)
    for actual, exact, scale in zip((value, *grads), expected, (1, 1, 1, parts), strict=True):
        # By df the parts cancel as df grows; what is left is known to the rounding of the largest.
        assert_close(actual, exact, rtol=1e-5, atol=2e-6 * np.minimum(1, scale))


def grid(*axes):
    return [array.ravel() for array in np.meshgrid(*axes, indexing="ij")]


def test_student_t_at_the_extremes():
    distance, log_scale, df = grid([0.0, 1e-10, 1.0, 100.0, 1e10, 1e20], [-20.0, -6.0, 0.0, 10.0], [1.0, 3.0, 1e3, 1e6])
    x = np.float64(np.float32(distance * np.exp(log_scale)))
    value, grads = elementwise(lambda *args: student_t_nll(single(x)[:, None], *args)[0], 0 * x, log_scale, df)
    expected = -sps.t.logpdf(x / np.exp(log_scale), df) + log_scale
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=5e-6)
    chex.assert_tree_all_finite(grads)


def test_student_t_tends_to_the_gaussian():
    z = np.linspace(-5, 5, 21)
    value, _ = elementwise(lambda *args: student_t_nll(single(z)[:, None], *args)[0], 0 * z, 0.0, 1e6)
    np.testing.assert_allclose(value, -sps.norm.logpdf(z), rtol=1e-5, atol=2e-4)


def test_laplace_equals_scipy():
    x, mean = (np.float64(single(RNG.uniform(0, 1, 400))) for _ in range(2))
    log_scale = np.float64(single(RNG.uniform(-4, 1, 400)))
    value, (of_mean, of_scale) = elementwise(lambda *args: laplace_nll(single(x)[:, None], *args)[0], mean, log_scale)
    np.testing.assert_allclose(value, -sps.laplace.logpdf(x, mean, np.exp(log_scale)), rtol=1e-5, atol=2e-6)
    np.testing.assert_allclose(of_mean, -np.sign(x - mean) / np.exp(log_scale), rtol=1e-5)
    np.testing.assert_allclose(of_scale, 1 - np.abs(x - mean) / np.exp(log_scale), rtol=1e-5, atol=2e-6)


def test_laplace_at_the_extremes():
    distance, log_scale = grid([0.0, 1.0, 100.0, 1e10], [-20.0, 0.0, 10.0])
    x = np.float64(np.float32(distance * np.exp(log_scale)))
    value, grads = elementwise(lambda *args: laplace_nll(single(x)[:, None], *args)[0], 0 * x, log_scale)
    expected = x / np.exp(log_scale) + log_scale + np.log(2)
    np.testing.assert_allclose(value, expected, rtol=1e-5, atol=2e-6)
    chex.assert_tree_all_finite(grads)


@pytest.mark.parametrize(
    "nll",
    [
        lambda x: student_t_nll(x, jnp.full_like(x, 0.4), -0.7, 2.5)[0],
        lambda x: laplace_nll(x, jnp.zeros_like(x), 0.3)[0],
    ],
)
def test_densities_integrate_to_one(nll):
    # The real line by x = tan(u); between -1e3 and 1e3 the tails left out hold less than 1e-6.
    u = np.linspace(-np.pi / 2 + 1e-3, np.pi / 2 - 1e-3, 20001)
    density = np.exp(-np.float64(jax.jit(nll)(single(np.tan(u))[:, None]))) / np.cos(u) ** 2
    np.testing.assert_allclose(integrate.simpson(density, x=u), 1, atol=1e-4)


def test_channels_of_student_t_are_location_log_scale_df():
    outputs = single(RNG.normal(size=(7, 4, 9)))
    x = single(RNG.uniform(0, 1, (7, 4, 3)))
    location, log_scale, raw = np.split(np.float64(outputs), 3, axis=-1)
    location, log_scale = 1 / (1 + np.exp(-location)), -6 + np.logaddexp(0, log_scale + 6)
    expected = -sps.t.logpdf(x, 1 + np.logaddexp(0, raw), location, np.exp(log_scale)).reshape(7, -1).sum(1)
    np.testing.assert_allclose(cx.student_t().nll({}, {}, outputs, x)[0], expected, rtol=1e-5)


@pytest.mark.parametrize(
    ("likelihood", "reference"),
    [
        (cx.student_t(3.0, link="identity"), sps.t(3.0, scale=np.exp(-6 + np.logaddexp(0, 6)))),  # the soft clip of 0
        (cx.laplace(link="identity"), sps.laplace()),
    ],
)
def test_samples_follow_the_density(likelihood, reference):
    # Kolmogorov-Smirnov at a false-alarm rate of 1e-4, fixed seed.
    params, state = likelihood.init((1,))
    outputs = jnp.zeros((20_000, likelihood.output_channels(1)))
    draws = np.asarray(likelihood.sample(jax.random.key(0), params, state, outputs), np.float64)[:, 0]
    assert sps.kstest(draws, reference.cdf).pvalue > 1e-4


def test_float64_stays_float64(x64):
    x = RNG.uniform(0, 1, (5, 1))
    value = student_t_nll(jnp.asarray(x), jnp.zeros((5, 1)), -1.0, 2.5)[0]
    np.testing.assert_allclose(value, -sps.t.logpdf(x[:, 0], 2.5, 0, np.exp(-1)), rtol=1e-8)


@pytest.mark.parametrize(("formula", "df"), [(student_t_nll, (4.0,)), (laplace_nll, ())])
def test_a_scale_below_the_floats_under_a_perfect_fit_is_finite(formula, df):
    zero = jnp.zeros((1, 4))

    def nll(log_scale):
        return formula(zero, zero, log_scale, *df)[0].sum()

    value, slope = jax.value_and_grad(nll)(jnp.float32(-200.0))
    assert jnp.isfinite(value)
    assert jnp.isfinite(slope)
