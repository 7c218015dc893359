"""Calibrated decoders for VAEs and world models in JAX: likelihoods that weigh themselves against the KL."""

from calibrax import likelihoods, objectives, running_average
from calibrax.likelihoods import (
    Likelihood,
    bernoulli,
    beta_gaussian,
    calibrate,
    continuous_bernoulli,
    gaussian,
    laplace,
    optimal_sigma,
    pixel_sigma,
    shared_sigma,
    soft_clip,
    student_t,
)

__version__ = "0.1.0"

__all__ = [
    "Likelihood",
    "__version__",
    "bernoulli",
    "beta_gaussian",
    "calibrate",
    "continuous_bernoulli",
    "gaussian",
    "laplace",
    "likelihoods",
    "objectives",
    "optimal_sigma",
    "pixel_sigma",
    "running_average",
    "shared_sigma",
    "soft_clip",
    "student_t",
]
