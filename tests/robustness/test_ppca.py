"""A linear VAE with the optimal σ finds probabilistic PCA's closed-form noise variance."""

import numpy as np
from toy import fit_linear_vae

import calibrax as cx
from calibrax import running_average

D, LATENTS, N = 12, 3, 4000


def gaussian_data():
    rng = np.random.default_rng(0)
    loadings = np.linalg.qr(rng.normal(size=(D, LATENTS)))[0] * [3.0, 2.0, 1.2]
    x = rng.normal(size=(N, LATENTS)) @ loadings.T + 0.4 * rng.normal(size=(N, D)) + rng.normal(size=D)
    return x.astype(np.float32)


def test_optimal_sigma_recovers_the_ppca_noise_variance():
    x = gaussian_data()
    eigenvalues = np.linalg.eigvalsh(np.cov(x.T, bias=True))
    closed_form = eigenvalues[: D - LATENTS].mean()  # Tipping and Bishop 1999, eq. 8

    state, metrics = fit_linear_vae(x, cx.optimal_sigma(link="identity"), LATENTS, num_steps=3000)
    variance = running_average.value(state.likelihood_state["mse"], initial=np.nan)
    np.testing.assert_allclose(variance, closed_form, rtol=0.02)
    # The bound is tight there: the average ELBO is the PPCA log-likelihood.
    model_cov = np.concatenate([np.full(D - LATENTS, closed_form), eigenvalues[D - LATENTS :]])
    nll = 0.5 * (D * np.log(2 * np.pi) + np.log(model_cov).sum() + D)
    np.testing.assert_allclose(np.mean(metrics["loss"][-200:]), nll, rtol=0.005)
