"""Bounds of mutual information and marginal KL, for encoders whose true values have a closed form."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import integrate, stats
from scipy.special import logsumexp

import calibrax as cx
from calibrax.evaluation import Trained
from calibrax.evaluation.metrics import gaussian_mixture, information
from calibrax.evaluation.metrics.gaussian_mixture import blocks
from calibrax.evaluation.metrics.information import (
    encode_all,
    held_out,
    measure_information,
    monte_carlo,
)
from calibrax.models.conv_vae import ConvVAE

KEY = jax.random.key(0)
N, D = 2000, 5  # of most tests, so that they share what is compiled


def linear_gaussian(num=N, size=D, seed=0):
    """x ~ N(0, Λ), q(z|x) = N(Ax + b, S): m = N(b, AΛAᵀ + S), so I and KL(m || p) are those of Gaussians."""
    rng = np.random.default_rng(seed)
    a = rng.normal(size=(size, size)) * 0.5
    spread = np.sqrt([3.0, 2.0, 1.0, 0.5, 0.1])
    shift = np.linspace(-0.5, 0.5, size)
    variance = np.linspace(0.2, 0.8, size)
    mean = (rng.normal(size=(num, size)) * spread) @ a.T + shift
    cov = (a * spread**2) @ a.T + np.diag(variance)
    truth = {
        "information": 0.5 * (np.linalg.slogdet(cov)[1] - np.log(variance).sum()),
        "kl": 0.5 * (np.trace(cov) + shift @ shift - size - np.linalg.slogdet(cov)[1]),
        "kl_per_dimension": 0.5 * (np.diag(cov) + shift**2 - 1 - np.log(np.diag(cov))),
    }
    return mean, np.broadcast_to(np.log(variance), mean.shape), truth


def matching_encoder(variance, num, seed=0):
    """Means spread so that m is the prior exactly: KL(m || p) = 0 and I = the rate = -Σ log(variance) / 2."""
    mean = np.random.default_rng(seed).normal(size=(num, len(variance))) * np.sqrt(1 - variance)
    return mean, np.broadcast_to(np.log(variance), mean.shape)


def test_bounds_bracket_the_truth():
    mean, log_var, truth = linear_gaussian()
    info = measure_information(mean, log_var, key=KEY)
    assert info.num_draws == info.num_examples == N
    assert truth["kl"] > 1  # a mismatch worth the name
    for name in ("plain", "dimension_wise", "moment_matched", "held_out"):
        estimate = getattr(info, name)
        upper = estimate.marginal_kl_bound == "upper"
        assert upper == (name == "plain")
        assert estimate.mutual_information_bound == ("lower" if upper else "upper")
        # What the draw of the N examples moves: the truth is the population's, 4 standard errors of each.
        room = 4 * (info.rate_stderr + estimate.marginal_kl_stderr + estimate.mutual_information_stderr)
        for value, true in ((estimate.marginal_kl, truth["kl"]), (estimate.mutual_information, truth["information"])):
            above = value - true if upper == (true == truth["kl"]) else true - value
            assert above > -room
    for tight in (info.plain, info.moment_matched, info.held_out):  # m is Gaussian, I is small
        np.testing.assert_allclose(tight.marginal_kl, truth["kl"], atol=0.2)
        np.testing.assert_allclose(tight.mutual_information, truth["information"], atol=0.2)
    np.testing.assert_allclose(info.kl_per_dimension, truth["kl_per_dimension"], atol=0.08)
    np.testing.assert_allclose(info.dimension_wise.marginal_kl, info.kl_per_dimension.sum(), rtol=1e-6)
    assert truth["kl"] - truth["kl_per_dimension"].sum() > 0.5  # the total correlation, which it misses


def test_the_parts_add_up_to_the_rate():
    mean, log_var, _ = linear_gaussian()
    info = measure_information(mean, log_var, key=KEY)
    exact = 0.5 * np.sum(mean**2 + np.exp(log_var) - 1 - log_var, axis=1)
    np.testing.assert_allclose(info.rate, exact.mean(), rtol=1e-5)
    np.testing.assert_allclose(info.rate_stderr, exact.std(ddof=1) / math.sqrt(N), rtol=1e-4)
    for name in ("dimension_wise", "moment_matched"):
        estimate = getattr(info, name)
        np.testing.assert_allclose(estimate.mutual_information + estimate.marginal_kl, info.rate, rtol=1e-6)
    for name in ("plain", "held_out"):
        estimate = getattr(info, name)
        total = estimate.mutual_information + estimate.marginal_kl
        assert abs(total - info.rate) < 4 * (estimate.mutual_information_stderr + estimate.marginal_kl_stderr)


@pytest.mark.parametrize("width", [0.6, 0.1, 0.02, 0.001])
def test_the_plain_estimate_shows_its_cap(width):
    """The table of rates 3 to 60 with a true marginal KL of 0: the plain estimate makes the excess a marginal KL."""
    num = N
    variance = np.array([width**2] * 8 + [0.9] * 4)
    info = measure_information(*matching_encoder(variance, num), key=KEY)
    truth = -0.5 * np.log(variance).sum()
    assert info.cap == math.log(num)
    assert info.plain.mutual_information <= info.cap + 1e-5
    assert info.plain.marginal_kl >= info.rate - info.cap - 4 * info.plain.marginal_kl_stderr
    assert info.plain.mutual_information < truth + 0.3
    assert info.near_cap == (truth > info.cap)
    if truth > info.cap:
        assert info.cap_fraction > 0.95
    np.testing.assert_allclose(info.dimension_wise.marginal_kl, 0, atol=0.1 if width > 0.05 else 15 / (num * width))
    np.testing.assert_allclose(info.moment_matched.marginal_kl, 0, atol=0.1)
    np.testing.assert_allclose(info.held_out.marginal_kl, 0, atol=0.1)
    np.testing.assert_allclose(info.held_out.mutual_information, truth, rtol=0.02, atol=0.15)


def test_the_fitted_density_is_tight_if_m_is_not_gaussian():
    """Two clusters: KL(m || p) by quadrature; a Gaussian of the same moments is nearly the prior."""
    offset, variance = 0.95, 0.05
    mean = np.zeros((N, D))
    mean[:, 0] = np.where(np.arange(N) % 2, offset, -offset)
    log_var = np.zeros((N, D))
    log_var[:, 0] = math.log(variance)

    def integrand(z):
        density = 0.5 * sum(stats.norm.pdf(z, centre, math.sqrt(variance)) for centre in (-offset, offset))
        return density * (math.log(density) - stats.norm.logpdf(z))

    truth = integrate.quad(integrand, -4, 4)[0]
    info = measure_information(mean, log_var, key=KEY)
    assert info.moment_matched.marginal_kl < 0.01
    assert truth > 0.5
    assert info.num_active == 1
    for estimate in (info.held_out, info.dimension_wise, info.plain):
        assert abs(estimate.marginal_kl - truth) < 4 * estimate.marginal_kl_stderr + 0.03
        np.testing.assert_allclose(estimate.mutual_information, math.log(2), atol=0.06)  # which cluster


def test_identical_and_disjoint_posteriors():
    mean, log_var = np.full((64, 2), 1.5), np.full((64, 2), -1.0)
    same = monte_carlo(mean, log_var, key=KEY, num_draws=4000)
    kl = 0.5 * 2 * (1.5**2 + math.exp(-1) - 1 + 1)
    np.testing.assert_allclose(same.plain.mutual_information, 0, atol=1e-5)
    assert abs(same.plain.marginal_kl - kl) < 4 * same.plain.marginal_kl_stderr
    mean = np.arange(64.0)[:, None] * np.ones(2)
    apart = monte_carlo(mean, np.full((64, 2), -12.0), key=KEY, num_draws=64)
    np.testing.assert_allclose(apart.plain.mutual_information, math.log(64), rtol=1e-6)


def test_mixture_densities_against_scipy():
    rng = np.random.default_rng(1)
    mean, log_var = rng.normal(size=(23, 3)), rng.normal(size=(23, 3))
    z, own = rng.normal(size=(11, 3)) * 2, rng.integers(0, 23, 11)
    log_q = stats.norm.logpdf(z[:, None], mean, np.exp(0.5 * log_var))
    visible = np.arange(23) != own[:, None]
    expected = logsumexp(log_q.sum(2), axis=1, b=visible)
    by_dimension = logsumexp(log_q, axis=1, b=visible[..., None])
    for size in (1, 4, 23, 40):
        single = (array.astype(np.float32) for array in (z, mean, log_var))
        z_blocks, *others = (blocks(array, size) for array in single)
        indices = (blocks(values.astype(np.int32), size, fill) for values, fill in ((own, -2), (np.arange(23), -1)))
        own_blocks, all_blocks = indices
        together, each = information._log_mixture_of_others(z_blocks, own_blocks, *others, all_blocks)
        np.testing.assert_allclose(together.reshape(-1)[:11], expected, rtol=1e-5)
        np.testing.assert_allclose(each.reshape(-1, 3)[:11], by_dimension, rtol=1e-5, atol=1e-5)


def test_the_result_does_not_depend_on_the_block_size(monkeypatch):
    mean, log_var, _ = linear_gaussian(300)
    monkeypatch.setattr(information, "COMPONENTS", (2,))
    results, fits = [], []
    for size in (1000, 17):
        monkeypatch.setattr(information, "BLOCK_SIZE", size)
        monkeypatch.setattr(gaussian_mixture, "BLOCK_SIZE", size)
        results.append(monte_carlo(mean, log_var, key=KEY, num_draws=200))
        fits.append(held_out(mean, log_var, key=KEY))
    for parts in zip(*results, strict=True):
        numbers = [[x for x in part if not isinstance(x, str)] for part in parts]
        np.testing.assert_allclose(*numbers, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(fits[0].marginal_kl, fits[1].marginal_kl, rtol=1e-3)


def test_temporaries_do_not_grow_with_the_data():
    def temporaries(num_blocks):
        block = jnp.zeros((num_blocks, 64, 8))
        index = jnp.zeros((num_blocks, 64), jnp.int32)
        compiled = information._log_mixture_of_others.lower(block, index, block, block, index).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    small = temporaries(4)
    assert 0 < small < 8 * 4 * 64 * 64 * 8
    assert temporaries(400) <= 1.05 * small


def test_more_draws_than_examples_and_fewer():
    mean, log_var, truth = linear_gaussian()
    for num_draws in (2, 150, 4000):
        estimate = monte_carlo(mean, log_var, key=KEY, num_draws=num_draws).plain
        assert abs(estimate.mutual_information - truth["information"]) < 5 * estimate.mutual_information_stderr + 0.3
    few, many = (monte_carlo(mean, log_var, key=KEY, num_draws=n).plain.marginal_kl_stderr for n in (100, 4000))
    assert many < few / 4


def test_active_units_are_those_whose_mean_varies():
    mean = np.random.default_rng(0).normal(size=(N, D)) * [1.0, 0.2, 0.09, 0.05, 0.0]
    info = measure_information(mean, np.zeros_like(mean), key=KEY)
    assert info.num_active == 2
    np.testing.assert_allclose(info.variance_of_mean, mean.var(axis=0), rtol=1e-4)


def test_encode_all_is_the_encoder_on_every_image():
    model = ConvVAE(image_shape=(4, 4, 1), output_channels=1, latent_dim=3, features=2)
    images = np.random.default_rng(0).integers(0, 256, (11, 4, 4, 1), dtype=np.uint8)
    params = jax.jit(model.init)(jax.random.key(1), images, jax.random.key(2))["params"]
    expected = jax.jit(lambda params, x: model.apply({"params": params}, x, method="encode"))(params, images)
    encoded = encode_all(Trained(model, cx.gaussian(), {"model": params}, {}), images, batch_size=4)
    for array, reference in zip(encoded, expected, strict=True):
        assert isinstance(array, np.ndarray)
        assert array.dtype == np.float32
        np.testing.assert_allclose(array, reference, rtol=1e-5, atol=1e-6)


ZEROS = np.zeros((20, 2))
measure = functools.partial(measure_information, key=KEY)
UNTRAINED = Trained(ConvVAE((8, 8, 1), 1), cx.gaussian(), {"model": {}}, {})


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: measure(np.zeros(5), np.zeros(5)), r"mean has shape \(5,\); expected \[N, D\]"),
        (lambda: measure(np.zeros((3, 2)), np.zeros((3, 2))), r"mean has shape \(3, 2\); expected"),
        (lambda: measure(ZEROS, ZEROS[:, :1]), r"log_var has shape \(20, 1\); expected \(20, 2\)"),
        (lambda: measure(ZEROS, ZEROS + np.nan), "log_var has 40 values that are not finite"),
        (lambda: measure(ZEROS, ZEROS, num_draws=1), "num_draws is 1; expected 2 or more"),
        (lambda: encode_all(UNTRAINED, np.zeros((0, 8, 8, 1))), "examples is empty; expected"),
    ],
)
def test_bad_arguments_raise_one_line(call, message):
    with pytest.raises(ValueError, match=message) as caught:
        call()
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("x64")
def test_x64_mode_changes_nothing():
    """Other code may have switched it on; what is computed in float32 stays float32."""
    mean, log_var, truth = linear_gaussian(600)
    info = measure_information(mean, log_var, key=KEY, num_draws=100)
    np.testing.assert_allclose(info.moment_matched.marginal_kl, truth["kl"], atol=0.3)
    np.testing.assert_allclose(info.held_out.marginal_kl, truth["kl"], atol=0.5)


def test_a_held_out_density_never_promises_more_than_there_is(monkeypatch):
    """Even an overfitted density, of few examples and many components, is evaluated on other draws."""
    monkeypatch.setattr(information, "COMPONENTS", (16, 100))
    variance = np.full(10, 0.5)
    for seed in range(5):
        bound = held_out(*matching_encoder(variance, 60, seed), key=jax.random.key(seed))
        assert -0.2 < bound.marginal_kl < 4 * bound.marginal_kl_stderr + 1e-9  # the prior, where nothing is better
        assert math.isfinite(bound.mutual_information)
