"""GECO meets its tolerance, with the σ at which probabilistic PCA has that error; and its update, by hand."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from toy import fit_linear_vae

import calibrax as cx
from experiments.geco import geco

D, LATENTS, N = 12, 3, 1000


def low_dimensional():
    """Gaussian data of three large variances, with noise in all twelve dimensions."""
    rng = np.random.default_rng(0)
    loadings = np.linalg.qr(rng.normal(size=(D, LATENTS)))[0] * [3.0, 2.5, 2.0]
    x = rng.normal(size=(N, LATENTS)) @ loadings.T + 0.4 * rng.normal(size=(N, D))
    return (x - x.mean(axis=0)).astype(np.float32)


def ppca_error(eigenvalues, variance):
    """E|x - x̂|²/D of the optimal linear VAE with a constant variance and a sample of z: min(σ², λ) along each axis that
    has a latent, λ along the others."""
    kept = np.sort(eigenvalues)[::-1][:LATENTS]
    return (np.minimum(kept, variance).sum() + eigenvalues.sum() - kept.sum()) / D


@pytest.mark.parametrize("tolerance", [0.5, 0.7])
def test_a_linear_vae_meets_the_tolerance_at_the_sigma_of_probabilistic_pca(tolerance):
    x = low_dimensional()
    eigenvalues = np.linalg.eigvalsh(x.T @ x / N)
    # The error grows with σ². Where all latents are in use, its D-fold is the sum of the other λ plus 3σ².
    sigma = math.sqrt((D * tolerance**2 - np.sort(eigenvalues)[: D - LATENTS].sum()) / LATENTS)
    assert ppca_error(eigenvalues, sigma**2) == pytest.approx(tolerance**2, rel=1e-6)

    state, metrics = fit_linear_vae(x, geco(tolerance, link="identity"), LATENTS, num_steps=2500)
    assert math.sqrt(np.mean(metrics["mse"][-200:])) == pytest.approx(tolerance, rel=0.02)
    assert math.exp(np.mean(metrics["log_sigma"][-200:])) == pytest.approx(sigma, rel=0.03)
    assert math.exp(state.likelihood_state["log_sigma"]) == pytest.approx(sigma, rel=0.03)


def test_the_multiplier_follows_algorithm_1():
    likelihood = geco(0.2, rate=0.05, decay=0.9)
    _, state = likelihood.init((4,))
    errors, multiplier = [0.05, 0.03, 0.001, 0.002], 1.0
    for step, mse in enumerate(errors, start=1):
        state = likelihood.update(state, {"mse": jnp.float32(mse)})
        weights = 0.9 ** np.arange(step)[::-1]
        constraint = np.average(errors[:step], weights=weights) - 0.04
        multiplier *= math.exp(0.05 * min(constraint / 0.04, 1))
        assert math.exp(state["log_sigma"]) == pytest.approx(1 / math.sqrt(2 * multiplier), rel=1e-5)
    assert multiplier < math.exp(0.05)  # it rose, and then fell


def test_an_error_far_above_the_tolerance_moves_sigma_by_the_rate_and_down_to_a_floor():
    likelihood = geco(0.01, rate=2.0)
    _, state = likelihood.init((4,))
    sigmas = []
    for _ in range(8):
        state = likelihood.update(state, {"mse": jnp.float32(1.0)})
        sigmas.append(float(state["log_sigma"]))
    start = -0.5 * math.log(2)
    np.testing.assert_allclose(sigmas, np.maximum(start - np.arange(1, 9), -6), rtol=1e-6)


def test_the_loss_is_the_weighted_error_and_the_kl():
    """Its gradient is that of λ·|x - x̂|², and σ gets none."""
    likelihood = geco(0.1)
    rng = np.random.default_rng(0)
    outputs, x = (jnp.asarray(rng.uniform(size=(2, 3, 4)), jnp.float32) for _ in range(2))
    state = {**likelihood.init((3, 4))[1], "log_sigma": jnp.float32(math.log(0.3))}
    grads = jax.grad(lambda outputs: jnp.sum(likelihood.nll({}, state, outputs, x)[0]))(outputs)
    weighted = jax.grad(lambda outputs: jnp.sum(jnp.square(x - jax.nn.sigmoid(outputs))) / (2 * 0.09))(outputs)
    np.testing.assert_allclose(grads, weighted, rtol=1e-5)
    assert likelihood.init((3, 4))[0] == {}


def test_its_state_is_the_same_on_every_device_and_calibrate_refuses_it():
    likelihood = geco(0.1)
    params, state = likelihood.init((3,))
    x = jnp.asarray(np.random.default_rng(0).uniform(size=(8, 2, 3)), jnp.float32)
    outputs = jnp.zeros_like(x)

    def step(outputs, x):
        return likelihood.update(state, likelihood.nll(params, state, outputs, x, axis_name="i")[1])

    mapped = jax.vmap(step, axis_name="i")(outputs, x)
    whole = likelihood.update(state, likelihood.nll(params, state, outputs.reshape(16, 3), x.reshape(16, 3))[1])
    np.testing.assert_allclose(mapped["mse"]["total"], np.full(8, whole["mse"]["total"]), rtol=1e-6)
    np.testing.assert_allclose(mapped["log_sigma"], np.full(8, whole["log_sigma"]), rtol=1e-6)
    with pytest.raises(
        ValueError, match=r"likelihood has an array of shape \(\) in its state; expected running averages"
    ):
        cx.calibrate(likelihood, params, [(outputs[0], x[0])])


def test_equal_calls_are_equal_and_name_the_tolerance():
    assert geco(0.05) == geco(0.05) != geco(0.07)
    assert repr(geco(0.05)) == "geco(0.05)"
