"""Poisson, negative binomial and binomial against mpmath over all of their range, and their draws."""

import functools

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from exact import assert_close, elementwise, single
from scipy import stats as sps

import calibrax as cx
from calibrax.likelihoods import binomial_nll, negative_binomial_nll, poisson_nll

COUNTS = [0, 1, 2, 7, 100, 12345, 10**6, 10**7]
AROUND_THE_FIT = [0.0, 1e-4, -1e-4, 1e-2, -0.3, 0.69]
DISPERSIONS = np.log([1e-6, 1e-3, 0.1, 1.0, 3.0, 50.0, 1e4, 1e6, 1e8])
ULP = 2.0**-24  # the relative rounding of a float32
TINY = 1e-36  # products of float32 underflow near it


def grid(*axes):
    return [array.ravel() for array in np.meshgrid(*axes, indexing="ij")]


def rounded(array):
    return np.float64(np.float32(array))


def exactly(formula, *arrays):
    """The results of a formula of mpmath numbers, each an array over the elements."""
    with mpmath.workdps(50):
        rows = [formula(*(mpmath.mpf(float(value)) for value in values)) for values in zip(*arrays, strict=True)]
        return np.array([[float(value) for value in row] for row in rows]).T


def by_moments(log_means, *others):
    """Counts and log means: all pairs, and means near each count."""
    x, log_mean, *rest = grid(COUNTS, log_means, *others)
    near_x, distance, *near_rest = grid(COUNTS[1:], AROUND_THE_FIT, *others)
    log_mean = np.concatenate([log_mean, np.log(near_x) + distance])
    both = [rounded(np.concatenate(pair)) for pair in zip(rest, near_rest, strict=True)]
    return np.concatenate([x, near_x]), rounded(log_mean), *both


LOG_MEANS = [-40.0, -10.0, -1.0, 0.0, 2.0, 5.0, 10.0, 14.0, 16.118, 20.0, 40.0]


def test_poisson_is_exact_over_all_of_its_range():
    x, log_rate = by_moments(LOG_MEANS)

    def reference(x, log_rate):
        rate = mpmath.exp(log_rate)
        return rate - x * log_rate + mpmath.loggamma(x + 1), rate - x, rate

    expected, slope, rate = exactly(reference, x, log_rate)
    value, (by_log_rate,) = elementwise(lambda log_rate: poisson_nll(single(x)[:, None], log_rate)[0], log_rate)
    # A log rate near 16 is itself only known to 1e-6.
    assert_close(value, expected, rtol=2e-6, spread=2 * np.abs(slope * log_rate) * ULP)
    assert_close(by_log_rate, slope, rtol=1e-6, spread=rate * (2 + np.abs(log_rate)) * ULP)


def test_negative_binomial_is_exact_over_all_of_its_range():
    x, log_mean, log_dispersion = by_moments(LOG_MEANS, DISPERSIONS)

    def reference(x, log_mean, log_dispersion):
        m, r = mpmath.exp(log_mean), mpmath.exp(log_dispersion)
        value = mpmath.loggamma(r) + mpmath.loggamma(x + 1) - mpmath.loggamma(x + r)
        value += (x + r) * mpmath.log(m + r) - r * log_dispersion - x * log_mean
        u = (x - m) / (m + r)
        deviance = r * (u - mpmath.log((x + r) / (m + r)))
        by_r = r * (mpmath.digamma(r) - mpmath.digamma(x + r) + mpmath.log(m + r) - log_dispersion + u)
        # What the derivatives change with the rounding of log m; the parts of that by log r.
        of_rounding = r * (x + r) * m / (m + r) ** 2
        return value, r * (m - x) / (m + r), by_r, of_rounding, deviance + x / (x + r), r * u * m / (m + r)

    expected, by_m, by_r, of_rounding, parts, crossed = exactly(reference, x, log_mean, log_dispersion)
    value, (by_log_mean, by_log_dispersion) = elementwise(
        lambda *parameters: negative_binomial_nll(single(x)[:, None], *parameters)[0], log_mean, log_dispersion
    )
    sizes = np.abs(log_mean) * ULP, np.abs(log_dispersion) * ULP
    assert_close(value, expected, rtol=2e-6, spread=2 * (np.abs(by_m) * sizes[0] + np.abs(by_r) * sizes[1]))
    spread = 2 * of_rounding * (sizes[0] + ULP) + 2 * np.abs(by_m) * sizes[1]
    assert_close(by_log_mean, by_m, rtol=2e-6, spread=spread)
    # By log r the parts cancel as r grows: what is left is known to the rounding of the largest.
    spread = 2 * np.abs(crossed) * (sizes[0] + ULP) + 2 * parts * (sizes[1] + 8 * ULP)
    assert_close(by_log_dispersion, by_r, rtol=2e-6, atol=TINY, spread=spread)


@pytest.mark.parametrize("total", [1, 2, 16, 255, 10**6, 10**7])
def test_binomial_is_exact_over_all_of_its_range(total):
    x, logits = grid(sorted({0, 1, total // 3, total // 2, total - 1, total}), [-40, -12, -3, -0.5, 0, 0.1, 1, 8, 40])
    logits = rounded(logits)

    def reference(x, logit):
        value = mpmath.loggamma(x + 1) + mpmath.loggamma(total - x + 1) - mpmath.loggamma(total + 1)
        value += x * mpmath.log1p(mpmath.exp(-logit)) + (total - x) * mpmath.log1p(mpmath.exp(logit))
        smaller = 1 / (1 + mpmath.exp(abs(logit)))
        return value, (total * smaller - x if logit < 0 else total - x - total * smaller), total * smaller

    expected, slope, smaller = exactly(reference, x, logits)
    value, (by_logits,) = elementwise(lambda logits: binomial_nll(single(x)[:, None], logits, total)[0], logits)
    # Of the logit and of the probability, which are rounded.
    assert_close(value, expected, rtol=2e-6, spread=2 * np.abs(slope) * (1 + np.abs(logits)) * ULP)
    assert_close(by_logits, slope, rtol=1e-6, spread=smaller * (4 + np.abs(logits)) * ULP)


def test_negative_binomial_tends_to_poisson():
    x, log_mean = np.float64(np.arange(40)), np.linspace(-1, 3, 40)
    poisson, _ = elementwise(lambda log_rate: poisson_nll(single(x)[:, None], log_rate)[0], log_mean)
    value, (_, by_log_dispersion) = elementwise(
        lambda *parameters: negative_binomial_nll(single(x)[:, None], *parameters)[0], log_mean, np.log(1e8)
    )
    np.testing.assert_allclose(value, poisson, rtol=1e-5)
    assert np.abs(by_log_dispersion).max() < 1e-5


def test_negative_binomial_has_the_variance_of_its_dispersion():
    x = np.arange(4000.0)
    nll, _ = negative_binomial_nll(single(x)[:, None], jnp.full((4000, 1), np.log(30.0), jnp.float32), np.log(2.5))
    prob = np.exp(-np.float64(nll))
    mean = np.sum(prob * x)
    np.testing.assert_allclose([prob.sum(), mean, np.sum(prob * (x - mean) ** 2)], [1, 30, 30 + 30**2 / 2.5], rtol=1e-4)


def test_float64_stays_float64(x64):
    x = np.array([0.0, 1.0, 17.0, 1e6])
    log_mean, log_r = np.log([0.3, 2.0, 11.0, 1.1e6]), 0.4
    args = jnp.asarray(x[:, None]), jnp.asarray(log_mean[:, None])
    np.testing.assert_allclose(poisson_nll(*args)[0], -sps.poisson.logpmf(x, np.exp(log_mean)), rtol=1e-9)
    expected = -sps.nbinom.logpmf(x, np.exp(log_r), 1 / (1 + np.exp(log_mean - log_r)))
    np.testing.assert_allclose(negative_binomial_nll(*args, log_r)[0], expected, rtol=1e-9)
    expected = -sps.binom.logpmf(x, 2 * 10**6, 1 / (1 + np.exp(-log_mean)))
    np.testing.assert_allclose(binomial_nll(*args, 2 * 10**6)[0], expected, rtol=1e-9)


FORMULAS = {
    "poisson": (lambda x, outputs: poisson_nll(x, outputs)[0]),
    "negative binomial": (lambda x, outputs: negative_binomial_nll(x, outputs, -0.3)[0]),
    "binomial": (lambda x, outputs: binomial_nll(x, outputs, 255)[0]),
}


@pytest.mark.parametrize("name", FORMULAS)
def test_counts_of_any_dtype_are_what_they_say(name):
    outputs = jnp.array([[0.3, -1.0, 0.1]])
    expected = FORMULAS[name](jnp.array([[7.0, 0.0, 1.0]]), outputs)
    for dtype in (jnp.uint8, jnp.int8, jnp.uint16, jnp.int32, jnp.uint32, jnp.bfloat16, jnp.float16):
        np.testing.assert_array_equal(FORMULAS[name](jnp.array([[7, 0, 1]], dtype), outputs), expected)
    np.testing.assert_array_equal(FORMULAS[name](np.array([[7, 0, 1]]), outputs), expected)  # int64 of NumPy
    flags = jnp.array([[True, False, True]])
    np.testing.assert_array_equal(FORMULAS[name](flags, outputs), FORMULAS[name](flags.astype(jnp.int32), outputs))


@pytest.mark.parametrize("name", FORMULAS)
@pytest.mark.parametrize("value", [-1, 0.5, np.nan, np.inf])
def test_known_values_that_are_no_counts_are_one_line(name, value):
    x = jnp.array([[1.0, value]])
    with pytest.raises(ValueError, match=r"^x has the value [^ ]*; expected counts, whole numbers from 0[^\n]*$"):
        FORMULAS[name](x, jnp.zeros((1, 2)))
    hidden = poisson_nll(x, jnp.zeros((1, 2)), mask=jnp.array([[True, False]]))[0]
    np.testing.assert_allclose(hidden, [1.0], rtol=1e-6)


def test_a_binomial_count_above_the_total_is_an_error():
    with pytest.raises(ValueError, match=r"^x has the value 17; expected counts, whole numbers from 0 to 16$"):
        binomial_nll(jnp.array([[3, 17]]), jnp.zeros((1, 2)), 16)
    for total in (0, 2.5, True, 2**24 + 1):
        with pytest.raises(ValueError, match=r"^total is [^\n]*; expected an integer from 1 to 16777216$"):
            cx.binomial(total)


def test_a_dispersion_of_another_source_is_an_error():
    for source in ("pixel", None, 3):
        with pytest.raises(ValueError, match=r"^dispersion is [^\n]*; expected 'shared', 'channel' or 'emitted'$"):
            cx.negative_binomial(source)


@pytest.mark.parametrize("log_rate", [61.0, 1e3, 1e6])
def test_beyond_the_largest_rate_the_gradient_still_points_back(log_rate):
    for name in ("poisson", "negative binomial"):
        nll = functools.partial(FORMULAS[name], jnp.ones((1, 1)))
        value, (slope,) = jax.value_and_grad(lambda outputs, nll=nll: nll(outputs).sum())(jnp.full((1, 1), log_rate))
        chex.assert_tree_all_finite((value, slope))
        assert slope > 0


def test_the_dispersion_of_channels_and_the_emitted_one():
    x = jnp.asarray(np.random.default_rng(0).integers(0, 9, (5, 4, 3)))
    log_mean = jnp.asarray(np.random.default_rng(1).normal(size=(5, 4, 3)), jnp.float32)
    r = jnp.array([-1.0, 0.0, 2.0])
    by_channel, emitted = cx.negative_binomial("channel"), cx.negative_binomial("emitted")
    params, _ = by_channel.init((4, 3))
    chex.assert_trees_all_equal(params, {"log_dispersion": jnp.zeros(3)})
    expected = negative_binomial_nll(x, log_mean, r)[0]
    np.testing.assert_array_equal(by_channel.nll({"log_dispersion": r}, {}, log_mean, x)[0], expected)
    outputs = jnp.concatenate([log_mean, jnp.broadcast_to(r, log_mean.shape)], -1)
    np.testing.assert_allclose(emitted.nll({}, {}, outputs, x)[0], expected, rtol=1e-6)
    with pytest.raises(ValueError, match=r"^log_dispersion has shape \(3,\); expected \(\)$"):
        cx.negative_binomial().nll({"log_dispersion": r}, {}, log_mean, x)


NUM = 40_000
POISSON = [(cx.poisson(), {}, np.log(rate), sps.poisson(rate)) for rate in (1e-3, 0.7, 40.0, 999.0, 1500.0, 1e6)]
NEGATIVE = [
    (cx.negative_binomial(), {"log_dispersion": np.float32(np.log(r))}, np.log(m), sps.nbinom(r, r / (r + m)))
    for r, m in [(0.05, 3.0), (2.5, 30.0), (1e8, 12.0), (4.0, 1e5)]
]
BINOMIAL = [
    (cx.binomial(n), {}, np.log(p / (1 - p)), sps.binom(n, p)) for n, p in [(16, 0.3), (255, 0.99), (10**6, 0.5)]
]


@pytest.mark.parametrize(("likelihood", "params", "output", "reference"), [*POISSON, *NEGATIVE, *BINOMIAL])
def test_draws_follow_the_distribution(likelihood, params, output, reference):
    """Chi-square over some 20 cells of equal mass, at a false-alarm rate of 1e-4, fixed seed."""
    outputs = jnp.full((NUM, 1), output, jnp.float32)
    draws = np.asarray(likelihood.sample(jax.random.key(0), params, {}, outputs), np.float64)[:, 0]
    np.testing.assert_array_equal(draws, np.round(draws))
    edges = np.unique(reference.ppf(np.linspace(0.05, 0.95, 19)))
    expected = NUM * np.diff(np.concatenate([[0], reference.cdf(edges), [1]]))
    seen = np.bincount(np.searchsorted(edges, draws), minlength=len(expected))
    kept = expected > 5
    assert sps.chi2.sf(np.sum((seen - expected)[kept] ** 2 / expected[kept]), kept.sum() - 1) > 1e-4
    np.testing.assert_allclose(likelihood.mean(params, {}, outputs)[0, 0], reference.mean(), rtol=1e-5)


def test_draws_at_the_ends_of_the_range():
    outputs = jnp.array([[-1e4, -40.0, 0.0, 40.0, 1e4]])
    for likelihood in (cx.poisson(), cx.negative_binomial(), cx.binomial(10**7)):
        for log_dispersion in (-1e4, -14.0, 18.0, 1e4):
            params = {"log_dispersion": jnp.float32(log_dispersion)}
            draws = likelihood.sample(jax.random.key(1), params, {}, outputs)
            assert jnp.isfinite(draws).all()
            assert (draws >= 0).all()
    assert cx.poisson().sample(jax.random.key(1, impl="rbg"), {}, {}, outputs).shape == outputs.shape
    some = cx.poisson().sample(jax.random.PRNGKey(1), {}, {}, jnp.full((1, 5), 40.0))
    np.testing.assert_allclose(some, np.exp(40.0), rtol=1e-5)
