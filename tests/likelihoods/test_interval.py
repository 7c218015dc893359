"""`interval` and the marginals: SciPy's quantiles, distribution functions and moments of every family that has them."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from decoders import trained
from scipy import stats
from scipy.special import expit

import calibrax as cx

RNG = np.random.default_rng(0)
N = 40
LOC = np.float32(RNG.normal(size=(N, 2)))
LOG_SCALE = np.float32(RNG.normal(size=(N, 2)))
BOTH = jnp.asarray(np.concatenate([LOC, LOG_SCALE], -1))
WIDE = np.logaddexp(0, LOG_SCALE + np.float64(20)) - 20  # the soft clip


def continuous():
    """Likelihoods with params, outputs and SciPy's distribution."""
    yield cx.gaussian(0.7, link="identity"), {}, LOC, stats.norm(LOC, 0.7)
    yield cx.gaussian(0.7), {}, LOC, stats.norm(expit(LOC), 0.7)
    yield cx.shared_sigma(link="identity"), {"log_sigma": jnp.float32(0.4)}, LOC, stats.norm(LOC, np.exp(0.4))
    yield cx.pixel_sigma(-20.0, link="identity"), {}, BOTH, stats.norm(LOC, np.exp(WIDE))
    yield cx.laplace(link="identity"), {"log_scale": jnp.float32(-0.3)}, LOC, stats.laplace(LOC, np.exp(-0.3))
    for df in (1.5, 4.0, 50.0, 1e6):
        decoder = cx.student_t(df, link="identity", min_log_scale=-20.0)
        yield decoder, {}, BOTH, stats.t(df, LOC, np.exp(WIDE))
    log_normal = cx.transformed(cx.gaussian(0.7, link="identity"), cx.log)
    yield log_normal, {}, LOC, stats.lognorm(0.7, scale=np.exp(LOC))
    affine = cx.transformed(cx.gaussian(0.7, link="identity"), cx.affine(2.0, 3.0))
    yield affine, {}, LOC, stats.norm(2 + 3 * LOC, 2.1)


@pytest.mark.parametrize("case", list(continuous()), ids=lambda case: repr(case[0]))
def test_continuous_families_against_scipy(case):
    likelihood, params, outputs, reference = case
    outputs = jnp.asarray(outputs)
    for level in (0.01, 0.5, 0.9, 0.9999):
        low, high = cx.interval(likelihood, params, {}, outputs, level)
        expected_low, expected_high = reference.interval(level)
        np.testing.assert_allclose(low, expected_low, rtol=2e-5, atol=2e-5 * np.max(np.abs(expected_low)))
        np.testing.assert_allclose(high, expected_high, rtol=2e-5, atol=2e-5 * np.max(np.abs(expected_high)))
    marginal, x = likelihood.marginal, np.float32(reference.ppf(RNG.uniform(0.02, 0.98, LOC.shape)))
    found = marginal.cdf(params, {}, outputs, jnp.asarray(x))
    np.testing.assert_allclose(found, reference.cdf(np.float64(x)), rtol=2e-5, atol=1e-6)
    np.testing.assert_allclose(
        marginal.nll(params, {}, outputs, jnp.asarray(x)), -reference.logpdf(np.float64(x)), rtol=2e-5, atol=2e-5
    )
    if marginal.variance is not None:
        np.testing.assert_allclose(marginal.variance(params, {}, outputs), reference.var(), rtol=1e-4)
        mode = marginal.mode(params, {}, outputs)
        assert np.all(reference.pdf(np.float64(mode)) >= reference.pdf(np.float64(mode) + 0.01))
    q = jnp.asarray(RNG.uniform(0.01, 0.99, LOC.shape), jnp.float32)
    by_array = marginal.quantile(params, {}, outputs, q)
    np.testing.assert_allclose(by_array, reference.ppf(np.float64(q)), rtol=1e-4, atol=1e-5)


def masses(likelihood, params, outputs, levels):
    """[levels, N, C]: the probability of each level by the nll of values on their own, or by the nll."""
    every = [jnp.full((len(outputs), 1), i, jnp.int32) for i in range(levels)]
    return np.stack([np.exp(-np.float64(likelihood.nll(params, {}, outputs, x)[0])) for x in every])[..., None]


DISCRETE = {
    "categorical": (cx.categorical(6), 6),
    "bitwise": (cx.bitwise_categorical(3), 8),
    "bernoulli": (cx.bernoulli(), 2),
    "discretized gaussian": (cx.discretized_gaussian(9), 9),
    "discretized logistic": (cx.discretized_logistic(9), 9),
    "logistic mixture": (cx.logistic_mixture(3, levels=7), 7),
}


@pytest.mark.parametrize("name", DISCRETE)
def test_discrete_families_against_their_own_masses(name):
    likelihood, levels = DISCRETE[name]
    outputs = jnp.asarray(2 * RNG.normal(size=(N, likelihood.output_channels(1))), jnp.float32)
    params, _ = likelihood.init((1,))
    params = jax.tree.map(lambda leaf: leaf - 1.5, params)
    mass = masses(likelihood, params, outputs, levels)
    values = np.arange(levels) / (levels - 1)
    cumulative = np.cumsum(mass, 0)
    for level in (0.1, 0.5, 0.9, 0.99):
        ends = cx.interval(likelihood, params, {}, outputs, level)
        for found, q in zip(ends, ((1 - level) / 2, (1 + level) / 2), strict=True):
            at = np.rint(np.float64(found) * (levels - 1)).astype(int)[None]
            np.testing.assert_allclose(found, values[at[0]], atol=1e-6)
            assert np.all(np.take_along_axis(cumulative, at, 0) >= q - 1e-5)  # it holds the mass asked for
            assert np.all(np.take_along_axis(cumulative - mass, at, 0) < q + 1e-5)  # and the level below does not
    marginal = likelihood.marginal
    assert marginal.is_discrete
    expected = np.einsum("lnc,l->nc", mass, values)
    if marginal.variance is not None:
        variance = np.einsum("lnc,lnc->nc", mass, np.square(values[:, None, None] - expected))
        np.testing.assert_allclose(marginal.variance(params, {}, outputs), variance, rtol=1e-4, atol=1e-6)
        mode = np.rint(np.float64(marginal.mode(params, {}, outputs)) * (levels - 1)).astype(int)[None]
        np.testing.assert_allclose(np.take_along_axis(mass, mode, 0)[0], mass.max(0), rtol=1e-5)
    if marginal.cdf is not None:
        for i in range(levels):
            x = jnp.full((N, 1), i / (levels - 1), jnp.float32)
            np.testing.assert_allclose(marginal.cdf(params, {}, outputs, x), cumulative[i], atol=1e-5)


def test_continuous_bernoulli_has_the_quantiles_of_its_density():
    outputs = jnp.asarray([[-30.0], [-1.0], [-1e-4], [0.0], [1e-4], [2.0], [30.0]])
    x = np.float32(np.linspace(0, 1, 200_001))
    nll = jax.jit(jax.vmap(lambda x: cx.continuous_bernoulli().nll({}, {}, outputs, jnp.full((7, 1), x))[0]))(x)
    below = np.cumsum(np.exp(-np.float64(nll)), 0) / 200_000
    for level in (0.5, 0.9):
        ends = cx.interval(cx.continuous_bernoulli(), {}, {}, outputs, level)
        for end, q in zip(ends, ((1 - level) / 2, (1 + level) / 2), strict=True):
            at = np.rint(np.float64(end[:, 0]) * 200_000).astype(int)
            np.testing.assert_allclose(below[at, np.arange(7)], q, atol=1e-3)


def test_zero_inflated_quantiles():
    """0 fills a part of the distribution; below and above it the rest is that of the likelihood."""
    likelihood = cx.zero_inflated(cx.gaussian(1.0, link="identity"))
    outputs = jnp.asarray([[0.0, 0.5]])  # half of the mass is at 0
    for q in (0.05, 0.2, 0.5, 0.6, 0.9):
        found = float(likelihood.marginal.quantile({}, {}, outputs, q)[0, 0])
        below = 0.5 * stats.norm(0.5).cdf(0)
        expected = 0.0
        if q < below:
            expected = stats.norm(0.5).ppf(2 * q)
        elif q > below + 0.5:
            expected = stats.norm(0.5).ppf(2 * q - 1)
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5)
        if expected:
            at = likelihood.marginal.cdf({}, {}, outputs, jnp.full((1, 1), expected, jnp.float32))
            np.testing.assert_allclose(at, q, rtol=1e-5)


def test_by_draws_where_there_is_no_closed_form():
    likelihood = cx.mixture(cx.pixel_sigma(link="identity"), 2)
    outputs = jnp.broadcast_to(jnp.asarray([0.0, 0.0, -3.0, -1.0, 3.0, -1.0]), (1, 6))
    with pytest.raises(
        ValueError, match=r"^key is None; expected a key, because mixture\([^\n]* needs draws for an inte"
    ):
        cx.interval(likelihood, {}, {}, outputs)
    low, high = cx.interval(likelihood, {}, {}, outputs, 0.9, key=jax.random.key(0), num_draws=20_000)
    for end, q in ((low, 0.05), (high, 0.95)):  # by the exact distribution function
        np.testing.assert_allclose(likelihood.marginal.cdf({}, {}, outputs, end), q, atol=0.006)


def test_intervals_of_combinators():
    outputs = jnp.asarray(RNG.normal(size=(4, 3, 2)), jnp.float32)
    inner = cx.optimal_sigma("channel", link="identity")
    params, state = trained(inner, outputs[:, 0], jnp.asarray(RNG.normal(size=(4, 2)), jnp.float32))
    expected = cx.interval(inner, params, state, outputs.reshape(12, 2))
    scale = np.sqrt(np.float64(cx.running_average.value(state["mse"], initial=np.nan)))
    np.testing.assert_allclose(expected[0], stats.norm(outputs.reshape(12, 2), scale).ppf(0.05), rtol=1e-4, atol=1e-5)
    for likelihood in (cx.batched(inner), cx.framewise(inner), cx.masked(cx.tempered(cx.batched(inner), 2.0))):
        found = cx.interval(likelihood, params, state, outputs)
        for end, reference in zip(found, expected, strict=True):
            np.testing.assert_allclose(end.reshape(12, 2), reference, rtol=1e-6)
    joint = cx.joint({"a": inner, "b": cx.bernoulli()})
    low, high = jax.jit(lambda o: cx.interval(joint, {}, {"a": state}, {"a": o, "b": o}, 0.5))(outputs[:, 0])
    np.testing.assert_allclose(low["a"], cx.interval(inner, {}, state, outputs[:, 0], 0.5)[0], rtol=1e-6)
    np.testing.assert_array_equal(high["b"], (expit(outputs[:, 0]) > 0.25).astype(np.float32))
    numbers = cx.interval(cx.gaussian(link="identity"), {}, {}, jnp.zeros(5))
    np.testing.assert_allclose(numbers[1], np.full(5, stats.norm.ppf(0.95)), rtol=1e-6)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"level": 0.0}, "level is 0.0; expected a number in (0, 1)"),
        ({"level": 90}, "level is 90; expected a number in (0, 1)"),
        ({"level": "0.9"}, "level is '0.9'; expected a number in (0, 1)"),
        ({"num_draws": 1}, "num_draws is 1; expected an integer from 2"),
    ],
)
def test_mistakes_are_one_line(settings, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}[^\n]*$"):
        cx.interval(cx.gaussian(), {}, {}, jnp.zeros((2, 3)), **settings)
    with pytest.raises(ValueError, match=r"^likelihood is a function; expected a Likelihood"):
        cx.interval(cx.gaussian, {}, {}, jnp.zeros((2, 3)))


@pytest.mark.parametrize("q", [0.0, 0.05, 0.5, 0.95])
def test_quantiles_of_counts_are_scipy_s(q):
    logits = np.float32(np.linspace(-4, 6, 21))[:, None]
    mean, r = np.exp(np.float64(logits)), np.exp(-0.7)
    cases = [
        (cx.poisson(), {}, stats.poisson(mean)),
        (cx.negative_binomial(), {"log_dispersion": jnp.float32(-0.7)}, stats.nbinom(r, r / (r + mean))),
        (cx.binomial(40), {}, stats.binom(40, mean / (1 + mean))),
    ]
    for likelihood, params, expected in cases:
        found = np.asarray(likelihood.marginal.quantile(params, {}, jnp.asarray(logits), q))
        exact = np.maximum(expected.ppf(q), 0)
        assert np.mean(found == exact) > 0.9  # float32 may end one count away where q is nearly the end of a step
        np.testing.assert_allclose(found, exact, atol=1)
