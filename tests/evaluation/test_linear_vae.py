"""The σ from which on a linear VAE encodes nothing, beside probabilistic PCA and a linear VAE that was trained."""

import math

import jax
import numpy as np
import pytest
from toy import fit_linear_vae

import calibrax as cx
from calibrax.data import load
from calibrax.evaluation import collapse_sigma, measure_information
from calibrax.evaluation.metrics.linear_vae import principal_variances

VARIANCES = np.array([0.5, 0.2, 0.05, 0.01, 0.01, 0.01, 0.01, 0.01])


def drawn(variances=VARIANCES, num=500, seed=0):
    """Examples whose covariance has exactly these eigenvalues, up to rounding."""
    rng = np.random.default_rng(seed)
    white = rng.normal(size=(num, len(variances)))
    white -= white.mean(axis=0)
    white = math.sqrt(num) * np.linalg.qr(white)[0]  # the identity as its covariance
    axes = np.linalg.qr(rng.normal(size=(len(variances), len(variances))))[0]
    return white * np.sqrt(variances) @ axes.T + rng.normal(size=len(variances))


def test_a_known_covariance():
    assert collapse_sigma(drawn()) == pytest.approx(math.sqrt(0.5), rel=1e-5)
    assert collapse_sigma(drawn().astype(np.float32).reshape(-1, 2, 2, 2)) == pytest.approx(math.sqrt(0.5), rel=1e-5)
    np.testing.assert_allclose(principal_variances(drawn(), 3), VARIANCES[:3], rtol=1e-5)
    np.testing.assert_allclose(principal_variances(drawn(), 9), VARIANCES, rtol=1e-4)


@pytest.mark.parametrize("shape", [(300, 6, 5, 3), (40, 9, 8, 3)], ids=["more images than values", "more values"])
def test_images_beside_the_eigenvalues_of_the_full_covariance(shape):
    x = load("street-digits", num_train=shape[0], num_test=1, image_size=shape[1:3]).train
    assert x.shape == shape
    covariance = np.cov(x.reshape(len(x), -1).T / 255, bias=True)
    expected = np.linalg.eigvalsh(covariance)[::-1]
    np.testing.assert_allclose(principal_variances(x, 20), expected[:20], rtol=1e-3)
    assert collapse_sigma(x) == pytest.approx(math.sqrt(expected[0]), rel=1e-5)
    assert collapse_sigma(np.float32(x) / 255) == pytest.approx(math.sqrt(expected[0]), rel=1e-5)
    assert collapse_sigma(x) == collapse_sigma(x)


def test_few_or_equal_examples():
    assert collapse_sigma(np.full((50, 4, 4, 1), 7, np.uint8)) == 0
    assert collapse_sigma(np.ones((1, 4))) == 0
    assert collapse_sigma(np.array([0, 255, 0, 255], np.uint8)) == pytest.approx(0.5)


@pytest.mark.parametrize(
    ("examples", "match"), [(np.zeros((0, 4)), "examples is empty"), ([[1.0, math.inf], [0.0, 1.0]], "not finite")]
)
def test_bad_examples_are_refused(examples, match):
    with pytest.raises(ValueError, match=match):
        collapse_sigma(np.asarray(examples))


def ppca_posterior(x, sigma, latent_dim):
    """Mean and log variance of q(z|x) of probabilistic PCA at this σ (Tipping and Bishop 1999, eq. 7)."""
    centred = x - x.mean(axis=0)
    variances, axes = (part[..., ::-1][..., :latent_dim] for part in np.linalg.eigh(centred.T @ centred / len(x)))
    weights = axes * np.sqrt(np.maximum(variances - sigma**2, 0))
    precision = weights.T @ weights + sigma**2 * np.eye(latent_dim)
    posterior = np.linalg.inv(precision)
    log_var = np.broadcast_to(np.log(sigma**2 * np.diag(posterior)), (len(x), latent_dim))
    return centred @ weights @ posterior, log_var


def test_probabilistic_pca_encodes_something_below_this_sigma_and_nothing_above():
    x = drawn()
    for factor, active in ((1.02, 0), (0.98, 1), (0.6, 2)):
        sigma = factor * collapse_sigma(x)
        found = measure_information(*ppca_posterior(x, sigma, 4), key=jax.random.key(0), num_draws=2)
        rate = 0.5 * np.log(np.maximum(VARIANCES / sigma**2, 1)).sum()
        assert found.num_active == active == np.sum(sigma**2 < VARIANCES)
        assert found.rate == pytest.approx(rate, abs=1e-5)


@pytest.mark.parametrize("factor", [1.25, 0.8])
def test_a_trained_linear_vae_encodes_something_below_this_sigma_and_nothing_above(factor):
    x = drawn(num=256).astype(np.float32)
    likelihood = cx.gaussian(factor * collapse_sigma(x), link="identity")
    state, _ = fit_linear_vae(x, likelihood, num_latents=2, num_steps=2000)
    variance_of_mean = np.var(x @ np.asarray(state.params["model"]["mean"]["kernel"]), axis=0)
    assert (variance_of_mean > 0.01).sum() == (factor < 1)  # active units
    assert variance_of_mean.sum() == pytest.approx(max(0, 1 - factor**2), abs=0.02)
