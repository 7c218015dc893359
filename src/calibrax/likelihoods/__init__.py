"""Decoding distributions as pure functions, and the formulas under them."""

from calibrax.likelihoods._angles import optimal_von_mises, optimal_von_mises_nll, von_mises, von_mises_nll
from calibrax.likelihoods._base import Family, from_family, soft_clip
from calibrax.likelihoods._batched import batched, framewise
from calibrax.likelihoods._bernoulli import bernoulli, bernoulli_nll, continuous_bernoulli, continuous_bernoulli_nll
from calibrax.likelihoods._calibrate import calibrate
from calibrax.likelihoods._categorical import bitwise_categorical, bitwise_categorical_nll, categorical, categorical_nll
from calibrax.likelihoods._categorical_head import categorical_nll_from_features
from calibrax.likelihoods._combinators import joint, masked, tempered
from calibrax.likelihoods._counts import (
    binomial,
    binomial_nll,
    negative_binomial,
    negative_binomial_nll,
    poisson,
    poisson_nll,
)
from calibrax.likelihoods._discretized import (
    discretized_gaussian,
    discretized_gaussian_nll,
    discretized_logistic,
    discretized_logistic_nll,
)
from calibrax.likelihoods._from_distribution import from_distribution
from calibrax.likelihoods._gaussian import beta_gaussian, gaussian, gaussian_nll, pixel_sigma, shared_sigma
from calibrax.likelihoods._heavy_tailed import laplace, laplace_nll, student_t, student_t_nll
from calibrax.likelihoods._interval import interval
from calibrax.likelihoods._logistic_mixture import logistic_mixture, logistic_mixture_nll
from calibrax.likelihoods._mixture import mixture, zero_inflated
from calibrax.likelihoods._optimal import optimal_laplace, optimal_laplace_nll, optimal_sigma, optimal_sigma_nll
from calibrax.likelihoods._start import start_from
from calibrax.likelihoods._transformed import Bijector, affine, log, logit, symlog, transformed
from calibrax.likelihoods._two_hot import two_hot, two_hot_nll
from calibrax.likelihoods._value import Likelihood, Marginal

__all__ = [
    "Bijector",
    "Family",
    "Likelihood",
    "Marginal",
    "affine",
    "batched",
    "bernoulli",
    "bernoulli_nll",
    "beta_gaussian",
    "binomial",
    "binomial_nll",
    "bitwise_categorical",
    "bitwise_categorical_nll",
    "calibrate",
    "categorical",
    "categorical_nll",
    "categorical_nll_from_features",
    "continuous_bernoulli",
    "continuous_bernoulli_nll",
    "discretized_gaussian",
    "discretized_gaussian_nll",
    "discretized_logistic",
    "discretized_logistic_nll",
    "framewise",
    "from_distribution",
    "from_family",
    "gaussian",
    "gaussian_nll",
    "interval",
    "joint",
    "laplace",
    "laplace_nll",
    "log",
    "logistic_mixture",
    "logistic_mixture_nll",
    "logit",
    "masked",
    "mixture",
    "negative_binomial",
    "negative_binomial_nll",
    "optimal_laplace",
    "optimal_laplace_nll",
    "optimal_sigma",
    "optimal_sigma_nll",
    "optimal_von_mises",
    "optimal_von_mises_nll",
    "pixel_sigma",
    "poisson",
    "poisson_nll",
    "shared_sigma",
    "soft_clip",
    "start_from",
    "student_t",
    "student_t_nll",
    "symlog",
    "tempered",
    "transformed",
    "two_hot",
    "two_hot_nll",
    "von_mises",
    "von_mises_nll",
    "zero_inflated",
]
