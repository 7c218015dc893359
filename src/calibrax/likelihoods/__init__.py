"""Decoding distributions as pure functions, and the formulas under them."""

from calibrax.likelihoods._base import Likelihood, soft_clip
from calibrax.likelihoods._bernoulli import bernoulli, bernoulli_nll
from calibrax.likelihoods._calibrate import calibrate
from calibrax.likelihoods._discretized import discretized_gaussian_nll
from calibrax.likelihoods._gaussian import beta_gaussian, gaussian, gaussian_nll, pixel_sigma, shared_sigma
from calibrax.likelihoods._optimal import optimal_sigma, optimal_sigma_nll

__all__ = [
    "Likelihood",
    "bernoulli",
    "bernoulli_nll",
    "beta_gaussian",
    "calibrate",
    "discretized_gaussian_nll",
    "gaussian",
    "gaussian_nll",
    "optimal_sigma",
    "optimal_sigma_nll",
    "pixel_sigma",
    "shared_sigma",
    "soft_clip",
]
