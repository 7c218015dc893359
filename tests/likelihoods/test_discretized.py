"""Densities over levels against 50 digits: any distance, any scale, open ends."""

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from exact import assert_close, conditioning, elementwise
from scipy import stats as sps

import calibrax as cx
from calibrax.likelihoods import discretized_gaussian_nll, discretized_logistic_nll

LEVELS = 256
GAUSSIAN = (discretized_gaussian_nll, mpmath.ncdf, mpmath.npdf)
LOGISTIC = (
    discretized_logistic_nll,
    lambda z: 1 / (1 + mpmath.exp(-z)),
    lambda z: 1 / (2 * mpmath.cosh(z / 2)) ** 2,
)
families = pytest.mark.parametrize(("formula", "cdf", "pdf"), [GAUSSIAN, LOGISTIC], ids=["gaussian", "logistic"])


def one_reference(cdf, pdf, level, mean, log_scale):
    """-log P(level) and its derivatives by mean and log scale."""
    rate = mpmath.exp(-log_scale)
    lo, hi = (((mpmath.mpf(int(level)) + shift) / (LEVELS - 1) - mean) * rate for shift in (-0.5, 0.5))
    below, above = level > 0, level < LEVELS - 1  # whether the bin ends there
    if not below:
        mass = cdf(hi)
    elif not above:
        mass = cdf(-lo)
    else:  # from the side where both tails are small
        mass = cdf(-lo) - cdf(-hi) if lo + hi > 0 else cdf(hi) - cdf(lo)
    at_lo, at_hi = (pdf(lo) if below else 0), (pdf(hi) if above else 0)
    by_scale = (hi * at_hi if above else 0) - (lo * at_lo if below else 0)
    return -mpmath.log(mass), (at_hi - at_lo) * rate / mass, by_scale / mass


def reference(cdf, pdf, levels):
    def of(mean, log_scale):
        with mpmath.workdps(50):
            rows = [
                one_reference(cdf, pdf, level, mpmath.mpf(float(m)), mpmath.mpf(float(s)))
                for level, m, s in zip(levels, mean, log_scale, strict=True)
            ]
        return [np.array([float(row[i]) for row in rows]) for i in range(3)]

    return of


def compare(formula, cdf, pdf, levels, means, log_scales, **tolerance):
    levels, means, log_scales = (a.ravel() for a in np.meshgrid(levels, np.float32(means), np.float32(log_scales)))
    x = jnp.asarray(levels, jnp.uint8)[:, None]
    value, (by_mean, by_scale) = elementwise(lambda m, s: formula(x, m, s)[0], means, log_scales)
    exact = reference(cdf, pdf, levels)
    means, log_scales = np.float64(means), np.float64(log_scales)
    for actual, expected, spread in zip(
        (value, by_mean, by_scale), exact(means, log_scales), conditioning(exact, means, log_scales), strict=True
    ):
        assert_close(actual, expected, spread=spread, **tolerance)


@families
def test_ordinary_values_and_gradients(formula, cdf, pdf):
    compare(formula, cdf, pdf, [0, 1, 60, 128, 254, 255], np.linspace(0, 1, 7), [-5, -3.3, -2, -1, 0, 1], atol=1e-6)


@families
def test_extreme_scales_and_distances(formula, cdf, pdf):
    means = [0.0, 1e-4, 0.5 / 255, 0.3, 0.5, 254.4 / 255, 1.0]
    compare(formula, cdf, pdf, [0, 1, 77, 128, 254, 255], means, [-20, -12, -8, -6, 4, 7, 10], atol=2e-6)


def test_the_known_traps():
    # A hundred scales away: the mass of a bin at a distance of 100, by its density; naive float32 gives inf.
    logistic = discretized_logistic_nll(jnp.full((1, 1), 200 / 255), jnp.full((1, 1), 0.0), np.log(2 / 255))[0]
    with mpmath.workdps(50):
        exact = [float(one_reference(*family[1:], level, mean, scale)[0]) for family, level, mean, scale in (
            (LOGISTIC, 200, mpmath.mpf(0), mpmath.log(mpmath.mpf(2) / 255)),
            (GAUSSIAN, 128, mpmath.mpf("0.5"), mpmath.mpf(10)),
        )]  # fmt: skip
    gaussian = discretized_gaussian_nll(jnp.full((1, 1), 128 / 255), jnp.full((1, 1), 0.5), 10.0)[0]
    np.testing.assert_allclose([logistic[0], gaussian[0]], exact, rtol=1e-5)


@families
def test_level_254_is_a_closed_bin(formula, cdf, pdf):
    # A mean above 1 puts most of the mass into the last level; as an open end, 254 would have it too.
    x = jnp.asarray([[254]], jnp.uint8)
    nll = formula(x, jnp.full((1, 1), 1.1), -3.0)[0]
    with mpmath.workdps(50):
        expected = one_reference(cdf, pdf, 254, mpmath.mpf(float(np.float32(1.1))), mpmath.mpf(-3))[0]
    np.testing.assert_allclose(nll, float(expected), rtol=1e-5)
    assert nll > -np.log(0.05)


@families
def test_x64_is_wider(formula, cdf, pdf, x64):
    x = jnp.asarray([[3], [128], [255]], jnp.uint8)
    for log_scale in (-7.0, -3.0, 2.0):
        nll = jax.jit(formula)(x, jnp.full((3, 1), 0.52), log_scale)[0]
        assert nll.dtype == jnp.float64
        exact = reference(cdf, pdf, np.array([3, 128, 255]))(np.full(3, 0.52), np.full(3, log_scale))[0]
        np.testing.assert_allclose(nll, exact, rtol=1e-11)


@pytest.mark.parametrize("levels", [2, 5, 256])
@pytest.mark.parametrize("name", ["discretized_gaussian", "discretized_logistic"])
def test_mean_and_samples_of_a_decoder_follow_its_probabilities(name, levels):
    likelihood = getattr(cx, name)(levels)
    (key,) = likelihood.init((1,))[0]
    logit = 1.3
    for log_scale in (-7.0, -4.0, -0.5):
        params = {key: jnp.asarray(log_scale)}
        grid = (jnp.arange(levels, dtype=jnp.float32) / (levels - 1))[:, None]
        outputs = jnp.full((levels, 1), logit)
        prob = np.exp(-np.float64(jax.jit(likelihood.nll)(params, {}, outputs, grid)[0]))
        expected = np.sum(prob * np.arange(levels) / (levels - 1))
        np.testing.assert_allclose(jax.jit(likelihood.mean)(params, {}, outputs[:1])[0, 0], expected, atol=2e-6)
        assert_frequencies(likelihood, params, jnp.full((20_000, 1), logit), prob)


def assert_frequencies(likelihood, params, outputs, prob):
    """Pearson's chi-squared test with a false-alarm rate of 1e-4; levels expected under 5 times are taken together."""
    draws = np.float64(jax.jit(likelihood.sample)(jax.random.key(0), params, {}, outputs)) * (len(prob) - 1)
    np.testing.assert_allclose(draws, np.round(draws), atol=1e-4)
    counts = np.bincount(np.round(draws).astype(int).ravel(), minlength=len(prob))
    assert len(counts) == len(prob)
    expected = prob / prob.sum() * counts.sum()
    rare = expected < 5
    counts = np.append(counts[~rare], counts[rare].sum())
    expected = np.append(expected[~rare], expected[rare].sum())
    if expected[-1] < 5:  # together still too few for the test: they must be few
        assert counts[-1] < 30
        counts, expected = counts[:-1], expected[:-1] * counts[:-1].sum() / expected[:-1].sum()
    if len(counts) > 1:
        assert sps.chisquare(counts, expected).pvalue > 1e-4
