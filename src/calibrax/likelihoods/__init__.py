"""Decoding distributions as pure functions, and the formulas under them."""

from calibrax.likelihoods._base import Likelihood, soft_clip
from calibrax.likelihoods._bernoulli import (
    bernoulli,
    bernoulli_nll,
    continuous_bernoulli,
    continuous_bernoulli_nll,
)
from calibrax.likelihoods._calibrate import calibrate
from calibrax.likelihoods._discretized import discretized_gaussian_nll
from calibrax.likelihoods._gaussian import beta_gaussian, gaussian, gaussian_nll, pixel_sigma, shared_sigma
from calibrax.likelihoods._heavy_tailed import laplace, laplace_nll, student_t, student_t_nll
from calibrax.likelihoods._optimal import optimal_sigma, optimal_sigma_nll

__all__ = [
    "Likelihood",
    "bernoulli",
    "bernoulli_nll",
    "beta_gaussian",
    "calibrate",
    "continuous_bernoulli",
    "continuous_bernoulli_nll",
    "discretized_gaussian_nll",
    "gaussian",
    "gaussian_nll",
    "laplace",
    "laplace_nll",
    "optimal_sigma",
    "optimal_sigma_nll",
    "pixel_sigma",
    "shared_sigma",
    "soft_clip",
    "student_t",
    "student_t_nll",
]
