"""`mixture` against the sum over components, and `zero_inflated` against SciPy and mpmath."""

import re

import chex
import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from compiled import compiled
from jax.scipy.special import gammaln
from scipy import stats
from scipy.special import expit, log_softmax, logsumexp

import calibrax as cx
from calibrax.likelihoods._residual import sum_event

RNG = np.random.default_rng(0)


def poisson_nll(x, log_rate, *, mask=None):
    x = jnp.where(mask, x, 0) if mask is not None else x
    x = x.astype(log_rate.dtype)
    of_count = jnp.where(x > 0, gammaln(x + 1), 0.0)  # log Γ(1) is not exactly 0 in float32
    return sum_event(jnp.exp(log_rate) - x * log_rate + of_count, mask), {}


POISSON = cx.from_family(
    cx.Family(
        poisson_nll,
        jnp.exp,
        lambda key, log_rate: jax.random.poisson(key, jnp.exp(log_rate)).astype(log_rate.dtype),
        variance=jnp.exp,
        is_discrete=True,
    ),
    lambda params, state, outputs: (outputs,),
)
LOG_NORMAL = cx.transformed(cx.optimal_sigma(link="identity"), cx.log)


# Mixtures


def numpy_mixture(outputs, x, components, over):
    """Of Gaussians that emit means and log standard deviations."""
    outputs, x = np.float64(outputs), np.float64(x)
    log_weights = outputs[..., :components]
    axes = tuple(range(1, x.ndim - 1))
    log_weights = log_softmax(log_weights if over == "position" else log_weights.mean(axes), -1)
    blocks = outputs[..., components:].reshape(*x.shape[:-1], components, 2, x.shape[-1])
    log_sigma = blocks[..., 1, :]
    log_sigma = np.logaddexp(0, log_sigma + 6) - 6  # the soft clip
    each = stats.norm(blocks[..., 0, :], np.exp(log_sigma)).logpdf(x[..., None, :]).sum(-1)  # [B, ..., K]
    if over == "event":
        return -logsumexp(log_weights + each.sum(axes), -1)
    return -logsumexp(log_weights + each, -1).sum(axes)


@pytest.mark.parametrize("over", ["position", "event"])
@pytest.mark.parametrize("event", [(3,), (4, 5, 2), ()])
def test_a_mixture_of_gaussians_against_numpy(over, event):
    likelihood = compiled(cx.mixture(cx.pixel_sigma(link="identity"), 3, over))
    channels = event[-1] if event else 1
    outputs = jnp.asarray(RNG.normal(size=(6, *event[:-1], likelihood.output_channels(channels))), jnp.float32)
    x = jnp.asarray(RNG.normal(size=(6, *event)), jnp.float32)
    nll, found = likelihood.nll(*likelihood.init(event), outputs, x)
    expected = numpy_mixture(outputs, x.reshape(6, *(event or (1,))), 3, over)
    np.testing.assert_allclose(nll, expected, rtol=1e-5, atol=1e-5)
    assert {name: stat.shape for name, stat in found.items()} == {"component/mse": (3,), "component/log_sigma": (3,)}
    with jax.enable_x64(True):
        wide = likelihood.nll({}, {}, np.float64(outputs), np.float64(x))[0]
        np.testing.assert_allclose(wide, expected, rtol=1e-10)


@pytest.mark.parametrize("over", ["position", "event"])
def test_one_component_is_the_likelihood_itself(over):
    for inner in (cx.shared_sigma(), cx.logistic_mixture(2), cx.bernoulli()):
        likelihood = compiled(cx.mixture(inner, 1, over))
        x = jnp.asarray(RNG.random((5, 4, 3)), jnp.float32)
        outputs = jnp.asarray(RNG.normal(size=(5, 4, inner.output_channels(3))), jnp.float32)
        params, state = inner.init((4, 3))
        expected, _ = jax.jit(inner.nll)(params, state, outputs, x)
        mixed = jnp.concatenate([jnp.ones((5, 4, 1)), outputs], -1)
        np.testing.assert_allclose(jax.jit(likelihood.nll)(*likelihood.init((4, 3)), mixed, x)[0], expected, rtol=1e-5)
        mean = jax.jit(likelihood.mean)(*likelihood.init((4, 3)), mixed)
        np.testing.assert_allclose(mean, inner.mean(params, state, outputs), rtol=1e-5)


@pytest.mark.parametrize("over", ["position", "event"])
def test_moments_of_samples_and_of_levels(over):
    likelihood = compiled(cx.mixture(cx.pixel_sigma(link="identity"), 3, over))
    outputs = jnp.asarray(RNG.normal(size=(1, 2, 14 + 1)), jnp.float32)[..., : likelihood.output_channels(2)]
    many = jnp.broadcast_to(outputs, (5_000, *outputs.shape[1:]))
    draws = np.float64(jax.jit(likelihood.sample)(jax.random.key(0), {}, {}, many))
    mean, variance = likelihood.mean({}, {}, outputs)[0], likelihood.marginal.variance({}, {}, outputs)[0]
    assert np.max(np.abs(draws.mean(0) - mean) / draws.std(0)) * np.sqrt(5_000) < 4.5
    np.testing.assert_allclose(draws.var(0), variance, rtol=0.1)
    below = likelihood.marginal.cdf({}, {}, many, jnp.full(draws.shape, 0.3))[0]
    np.testing.assert_allclose((draws <= 0.3).mean(0), below, atol=0.03)
    # The draws of an example share its component: their mean nll is least under that mixture.
    own = np.mean(likelihood.nll({}, {}, many, jnp.asarray(draws, jnp.float32))[0])
    other = cx.mixture(cx.pixel_sigma(link="identity"), 3, "event" if over == "position" else "position")
    assert own < np.mean(other.nll({}, {}, many, jnp.asarray(draws, jnp.float32))[0])
    discrete = cx.mixture(cx.categorical(4), 2, over)
    outputs = jnp.asarray(RNG.normal(size=(16, 2, 1 * discrete.output_channels(1))), jnp.float32)[:1]
    every = jnp.asarray(np.stack(np.meshgrid(*[np.arange(4)] * 2, indexing="ij"), -1).reshape(16, 2, 1))
    nll, _ = discrete.nll({}, {}, jnp.broadcast_to(outputs, (16, *outputs.shape[1:])), every)
    np.testing.assert_allclose(logsumexp(-np.float64(nll)), 0, atol=1e-5)


def test_each_component_learns_its_own_scale():
    """Data of two widths around the same mean: the two learned σ become those widths."""
    likelihood = compiled(cx.mixture(cx.shared_sigma(link="identity"), 2))
    x = jnp.concatenate([0.1 * jax.random.normal(jax.random.key(0), (400, 1)), 3 * jax.random.normal(
        jax.random.key(1), (400, 1))])  # fmt: skip
    outputs = jnp.zeros((800, 4))
    params, _ = likelihood.init((1,))
    assert params["log_sigma"].shape == (2,)
    params = {"log_sigma": jnp.array([-0.5, 0.5])}

    @jax.jit
    def descend(_, params):
        grads = jax.grad(lambda params: jnp.mean(likelihood.nll(params, {}, outputs, x)[0]))(params)
        return jax.tree.map(lambda leaf, grad: leaf - 0.3 * grad, params, grads)

    params = jax.lax.fori_loop(0, 400, descend, params)
    np.testing.assert_allclose(np.exp(params["log_sigma"]), [0.1, 3.0], rtol=0.1)


def test_extreme_logits_and_far_data_stay_finite():
    likelihood = compiled(cx.mixture(cx.pixel_sigma(link="identity"), 3))
    outputs = jnp.asarray(RNG.normal(size=(4, 15)), jnp.float32)[..., : likelihood.output_channels(2)]
    for scale in (0.0, 1e2, 1e4):
        chex.assert_tree_all_finite(
            jax.value_and_grad(lambda o: jnp.sum(likelihood.nll({}, {}, o, jnp.full((4, 2), 1e3))[0]))(scale * outputs)
        )


@pytest.mark.parametrize("over", ["position", "event"])
def test_hidden_values_are_integrated_out(over):
    likelihood = cx.mixture(cx.pixel_sigma(link="identity"), 3, over)
    outputs = jnp.asarray(RNG.normal(size=(5, 4, likelihood.output_channels(2))), jnp.float32)
    x, mask = RNG.normal(size=(5, 4, 2)).astype(np.float32), RNG.random((5, 4, 2)) > 0.4
    mask[1] = False

    def loss(outputs, x):
        return jnp.sum(likelihood.nll({}, {}, outputs, x, mask=mask)[0])

    expected = jax.value_and_grad(loss)(outputs, np.where(mask, x, np.float32(0)))
    with jax.debug_nans(True):
        found = jax.value_and_grad(loss)(outputs, np.where(mask, x, np.float32(np.nan)))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    assert not np.any(found[1][1])
    assert likelihood.nll({}, {}, outputs, x, mask=mask)[0][1] == 0
    if over == "position":  # the density of the first channel alone, by hiding the second
        first = cx.mixture(cx.pixel_sigma(link="identity"), 3)
        kept = np.r_[0:3, 3, 5, 7, 9, 11, 13]
        nll = likelihood.nll({}, {}, outputs, x, mask=np.array([True, False]))[0]
        np.testing.assert_allclose(nll, first.nll({}, {}, outputs[..., kept], x[..., :1])[0], rtol=1e-5)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: cx.mixture(cx.gaussian(), 0), "components is 0; expected an integer from 1"),
        (lambda: cx.mixture(cx.gaussian(), 2.5), "components is 2.5; expected an integer from 1"),
        (lambda: cx.mixture(cx.gaussian(), 2, "image"), "over is 'image'; expected 'position' or 'event'"),
        (
            lambda: cx.mixture(cx.batched(cx.gaussian()), 2),
            "likelihood is batched(gaussian()); expected one batch axis",
        ),
        (
            lambda: cx.mixture(cx.optimal_sigma(), 2).init((3,)),
            "likelihood is optimal_sigma(), which has a running average; expected one without, such as shared_sigma()",
        ),
        (
            lambda: cx.mixture(cx.gaussian(), 2).nll({}, {}, jnp.ones((4, 7)), jnp.ones((4, 3))),
            "outputs has 7 channels; expected 2 and a multiple of 2",
        ),
        (
            lambda: cx.zero_inflated(cx.mixture(POISSON, 2)),
            "likelihood is mixture(",
        ),
        (lambda: cx.zero_inflated("poisson"), "likelihood is a str; expected a Likelihood"),
    ],
)
def test_mistakes_are_one_line(make, message):
    with pytest.raises(ValueError, match=f"^{re.escape(message)}[^\n]*$"):
        make()


# Point masses at 0


@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.uint8])
def test_zero_inflated_counts_against_scipy(dtype):
    likelihood = compiled(cx.zero_inflated(POISSON))
    x = RNG.integers(0, 4, (50, 4)).astype(dtype)
    logits, log_rate = RNG.normal(size=(2, 50, 4))
    outputs = jnp.asarray(np.concatenate([logits, log_rate], -1), jnp.float32)
    zero = expit(logits)
    mass = zero * (x == 0) + (1 - zero) * stats.poisson(np.exp(log_rate)).pmf(x)
    nll, _ = likelihood.nll({}, {}, outputs, jnp.asarray(x))
    np.testing.assert_allclose(nll, -np.log(mass).sum(1), rtol=1e-5)
    mean, variance = likelihood.mean({}, {}, outputs), likelihood.marginal.variance({}, {}, outputs)
    rate = np.exp(log_rate)
    np.testing.assert_allclose(mean, (1 - zero) * rate, rtol=1e-5)
    np.testing.assert_allclose(variance, (1 - zero) * (rate + zero * rate**2), rtol=1e-5)
    draws = jax.vmap(lambda key: likelihood.sample(key, {}, {}, outputs))(jax.random.split(jax.random.key(0), 4000))
    assert np.max(np.abs(draws.mean(0) - mean) / np.sqrt(variance / 4000)) < 5


def test_zero_inflation_is_exact_at_the_extremes():
    """Of a 0 whose probability is near 1, near 0 and in between, values and gradients against mpmath."""
    logits = np.float32([-90, -40, -17, -3, 0, 2, 17, 40, 90])
    log_rates = np.float32([-30, -17, -5, 0, 1, 4])
    grid = np.stack(np.meshgrid(logits, log_rates, indexing="ij"), -1).reshape(-1, 2)

    def nll(outputs):
        return cx.zero_inflated(POISSON).nll({}, {}, outputs, jnp.zeros((len(grid), 1)))[0]

    found = nll(jnp.asarray(grid))
    grads = jax.grad(lambda outputs: jnp.sum(nll(outputs)))(jnp.asarray(grid))
    with mpmath.workdps(60):
        for row, (logit, log_rate) in enumerate(grid.tolist()):
            odds, rate = mpmath.exp(logit), mpmath.exp(log_rate)
            zero, of_zero = odds / (1 + odds), mpmath.exp(-rate)
            mass = zero + (1 - zero) * of_zero
            by_logit = -zero * (1 - zero) * (1 - of_zero) / mass
            by_log_rate = (1 - zero) * of_zero * rate / mass
            np.testing.assert_allclose(found[row], float(-mpmath.log(mass)), rtol=1e-5, atol=1e-37)
            np.testing.assert_allclose(grads[row], [float(by_logit), float(by_log_rate)], rtol=2e-5, atol=1e-36)


def test_a_zero_inflated_density_is_a_hurdle():
    """The computed σ is that of the logs of what is not 0; `calibrate` gives the same."""
    x = np.where(RNG.random((60, 2)) < 0.4, 0, np.exp(RNG.normal(size=(60, 2)))).astype(np.float32)
    logits, centre = RNG.normal(size=(2, 60, 2))
    outputs = jnp.asarray(np.concatenate([logits, centre], -1), jnp.float32)
    likelihood = compiled(cx.zero_inflated(LOG_NORMAL))
    params, state = likelihood.init((2,))
    nll, found = likelihood.nll(params, state, outputs, jnp.asarray(x))
    positive = x > 0
    logs = np.log(np.where(positive, np.float64(x), 1))
    sigma = np.sqrt(np.mean(np.square(logs - centre)[positive]))
    np.testing.assert_allclose(np.exp(found["log_sigma"]), sigma, rtol=1e-5)
    density = np.log(1 - expit(logits)) + stats.norm(centre, sigma).logpdf(logs) - logs
    np.testing.assert_allclose(nll, -np.where(positive, density, np.log(expit(logits))).sum(1), rtol=1e-5)
    # The batch has 0 too where the decoder alone refuses it.
    parts = [(outputs[:20], x[:20]), (outputs[20:], x[20:])]
    state = likelihood.update(state, found)
    with pytest.raises(ValueError, match="expected positive numbers; zero_inflated takes a density and zeros"):
        LOG_NORMAL.nll(params, state, outputs[:, 2:], jnp.asarray(x))
    exact = cx.calibrate(likelihood, params, parts)
    np.testing.assert_allclose(cx.running_average.value(exact["mse"], initial=np.nan), sigma**2, rtol=1e-5)
    mean = likelihood.mean(params, state, outputs)
    np.testing.assert_allclose(mean, expit(-logits) * np.exp(centre + sigma**2 / 2), rtol=1e-4)


@pytest.mark.parametrize("inner", [POISSON, LOG_NORMAL], ids=["counts", "density"])
def test_hidden_values_of_zero_inflated_never_matter(inner):
    likelihood = compiled(cx.zero_inflated(inner))
    x = np.where(RNG.random((6, 3)) < 0.4, 0, RNG.integers(1, 5, (6, 3))).astype(np.float32)
    mask = RNG.random((6, 3)) > 0.3
    mask[2] = False
    outputs = jnp.asarray(RNG.normal(size=(6, 6)), jnp.float32)
    params, state = likelihood.init((3,))

    def loss(outputs, x):
        return jnp.sum(likelihood.nll(params, state, outputs, x, mask=mask)[0])

    expected = jax.value_and_grad(loss)(outputs, np.where(mask, x, np.float32(0)))
    with jax.debug_nans(True):
        for hidden in (np.nan, -1.0, 7.0):
            found = jax.value_and_grad(loss)(outputs, np.where(mask, x, np.float32(hidden)))
            jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-6), found, expected)
    assert not np.any(found[1][2])


def test_they_nest_and_are_values():
    likelihood = cx.batched(cx.masked(cx.mixture(cx.zero_inflated(cx.bernoulli()), 2)))
    outputs = jnp.asarray(RNG.normal(size=(3, 4, likelihood.output_channels(2))), jnp.float32)
    x = jnp.asarray(RNG.integers(0, 2, (3, 4, 2)), jnp.float32)
    nll, _ = likelihood.nll({}, {}, outputs, (x, np.arange(4) < 3 * np.ones((3, 4))))
    alone, _ = cx.mixture(cx.zero_inflated(cx.bernoulli()), 2).nll({}, {}, outputs[:, 0], x[:, 0])
    np.testing.assert_allclose(nll[:, 0], alone, rtol=1e-6)
    assert not np.any(nll[:, 3])
    assert cx.mixture(cx.bernoulli(), 2) == cx.mixture(cx.bernoulli(), components=2)
    assert repr(cx.zero_inflated(cx.bernoulli())) == "zero_inflated(bernoulli())"
