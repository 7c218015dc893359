"""Densities on [0, 1] turned into distributions over levels: one bin per level, the outer two open-ended (Table 5)."""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._base import Family, scaled, shared_scale
from calibrax.likelihoods._bins import expected_level, log_logistic_bin, log_normal_bin, side_of
from calibrax.likelihoods._checks import broadcast_parameter, check_levels
from calibrax.likelihoods._quantiles import like, logistic_quantile, normal_quantile
from calibrax.likelihoods._residual import Mask, Stats, compute_dtype, floor_scale, level_data, mean_observed, sum_event
from calibrax.likelihoods._value import Likelihood, constructor


def discretized_gaussian_nll(
    x: Num[Array, "B ..."], mean: Float[Array, "B ..."], log_sigma: ArrayLike, *, levels: int = 256, mask: Mask = None
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log probability of levels under N(mean, σ²) integrated over the bin of each level.

    Level i owns [(i - 1/2) / 255, (i + 1/2) / 255]; level 0 also everything below, level 255 everything above, so the
    256 probabilities sum to 1. Exact for any σ: a narrow bin is not a difference of distribution functions here.

    Args:
      x: [B, ...] integer levels, or floats in [0, 1] rounded to the nearest level.
      mean: [B, ...], in the [0, 1] range.
      log_sigma: log standard deviation in the [0, 1] range, broadcasts against `mean`.
      levels: how many, at least 2.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; stats `mse` [] and `log_sigma` [].

    Raises:
      ValueError: if shapes do not match, x is of another dtype or range, or levels is not an integer of at least 2.

    Example:
      >>> nll, stats = discretized_gaussian_nll(images, jax.nn.sigmoid(outputs), -3.0)

    References:
      Table 5; Salimans et al. 2017, section 2.1, for the open ends.
    """
    return _nll(log_normal_bin, "log_sigma", x, mean, log_sigma, levels, mask)


def discretized_logistic_nll(
    x: Num[Array, "B ..."], mean: Float[Array, "B ..."], log_scale: ArrayLike, *, levels: int = 256, mask: Mask = None
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log probability of levels under a logistic distribution integrated over the bin of each level.

    log(σ(hi) - σ(lo)) is computed as log σ(hi) + log σ(-lo) + log(1 - exp(lo - hi)), which is exact at any distance.

    Args:
      x, mean, levels, mask: as for `discretized_gaussian_nll`.
      log_scale: log of the scale s in the [0, 1] range, broadcasts against `mean`; the standard deviation is π·s/√3.

    Returns:
      nll [B], nats, at least float32; stats `mse` [] and `log_scale` [].

    Raises:
      ValueError: as for `discretized_gaussian_nll`.

    Example:
      >>> nll, stats = discretized_logistic_nll(images, jax.nn.sigmoid(outputs), -3.0)

    References:
      Table 5; Kingma et al. 2016, appendix; Salimans et al. 2017, section 2.1.
    """
    return _nll(log_logistic_bin, "log_scale", x, mean, log_scale, levels, mask)


@constructor
def discretized_gaussian(levels: int = 256) -> Likelihood:
    """A Gaussian over levels: the network emits its mean, and gradient descent learns one standard deviation.

    `params` is `{"log_sigma": []}`, initially 0, in the [0, 1] range.

    Args:
      levels: how many, at least 2.

    Returns:
      A `Likelihood` with one output per channel, the logit of the Gaussian's mean. `mean` is the expected level;
      `sample` draws levels, as multiples of 1 / (levels - 1).

    Raises:
      ValueError: if levels is not an integer of at least 2.

    Example:
      >>> params, state = discretized_gaussian().init((8, 8, 3))
      >>> nll, stats = discretized_gaussian().nll(params, state, outputs, x)

    References:
      Table 5.
    """
    return _over_levels(
        discretized_gaussian_nll, "log_sigma", lambda z: ndtr(-z), normal_quantile, jax.random.normal, levels
    )


@constructor
def discretized_logistic(levels: int = 256) -> Likelihood:
    """A logistic over levels: the network emits its mean, and gradient descent learns one scale.

    `params` is `{"log_scale": []}`, initially 0, in the [0, 1] range. The rest is as for `discretized_gaussian`.

    Args:
      levels: how many, at least 2.

    Returns:
      A `Likelihood` with one output per channel, without state.

    Raises:
      ValueError: if levels is not an integer of at least 2.

    Example:
      >>> params, state = discretized_logistic().init((8, 8, 3))
      >>> nll, stats = discretized_logistic().nll(params, state, outputs, x)

    References:
      Table 5.
    """
    noise = jax.random.logistic
    return _over_levels(
        discretized_logistic_nll, "log_scale", lambda z: jax.nn.sigmoid(-z), logistic_quantile, noise, levels
    )


def to_nearest_level(x: jax.Array, levels: int) -> jax.Array:
    """Reals to the nearest of the levels i / (levels - 1) in [0, 1]."""
    return jnp.clip(jnp.round(x * (levels - 1)), 0, levels - 1) / (levels - 1)


def _nll(log_bin: Callable, name: str, x, mean, log_scale, levels: int, mask: Mask):
    """nll and stats by the log masses of bins; `name` is that of the log scale."""
    check_levels("levels", levels)
    dtype = compute_dtype(mean, log_scale)  # x is exact as integer levels, whatever its dtype
    mean = jnp.asarray(mean, dtype)
    level = level_data(x, mean.shape, levels, mask)
    log_scale = broadcast_parameter(name, log_scale, mean.shape, dtype)
    error = level.astype(dtype) - (levels - 1) * mean  # in levels, which float32 holds exactly
    log_prob = log_bin(error, -log_scale - math.log(levels - 1), side_of(level, levels))
    mse = mean_observed(jnp.square(error / (levels - 1)), mask)
    return -sum_event(log_prob, mask), {"mse": mse, name: jnp.mean(log_scale)}


def _over_levels(
    nll: Callable, name: str, upper_tail: Callable, quantile: Callable, noise: Callable, levels: int
) -> Likelihood:
    """A decoder over levels whose network emits the location, and whose log scale is the parameter `name`.

    `upper_tail` is z -> P(Z > z) of the standard distribution, `quantile` (q, dtype) -> z, and `noise` draws from it,
    as `jax.random.normal` does.
    """
    check_levels("levels", levels)
    nll = functools.partial(nll, levels=levels)

    def above(edge, mean, log_scale):
        """The probability of what lies above a boundary between levels."""
        rate = jnp.exp(-floor_scale(log_scale)).astype(mean.dtype) / (levels - 1)  # the width of a level, in scales
        return upper_tail((edge - (levels - 1) * mean) * rate)

    def expectation(mean, log_scale):
        return expected_level(lambda edge: above(edge, mean, log_scale), mean, levels)

    def cdf(x, mean, log_scale):
        level = level_data(x, mean.shape, levels).astype(mean.dtype)
        return jnp.where(level == levels - 1, 1.0, 1 - above(level + 0.5, mean, log_scale))

    def level_at(q, mean, log_scale):  # rounding keeps the order of values, and with it their quantiles
        z = like(quantile(q, mean.dtype), mean)
        return to_nearest_level(mean + jnp.exp(log_scale).astype(mean.dtype) * z, levels)

    def sample(key, mean, log_scale):
        return to_nearest_level(scaled(noise)(key, mean, log_scale), levels)

    of_levels = nll if levels == 256 else None
    family = Family(nll, expectation, sample, of_levels, cdf=cdf, quantile=level_at, is_discrete=True)
    return shared_scale(family, name, "sigmoid")
