"""Densities on [0, 1] turned into distributions over levels: one bin a level, the outer two open-ended (Table 5)."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax.scipy.special import ndtr
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._base import (
    Family,
    Likelihood,
    Mask,
    Stats,
    apply_link,
    as_level,
    compute_dtype,
    floor_scale,
    from_family,
    hide,
    mean_observed,
    sum_event,
)
from calibrax.likelihoods._bins import expected_level, log_logistic_bin, log_normal_bin, side_of
from calibrax.likelihoods._checks import broadcast_parameter, check_data, check_levels, entry


def discretized_gaussian_nll(
    x: Num[Array, "B ..."],
    mean: Float[Array, "B ..."],
    log_sigma: jax.typing.ArrayLike,
    *,
    levels: int = 256,
    mask: Mask = None,
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log probability of levels under N(mean, σ²) integrated over each level's bin.

    Level i owns [(i - 1/2) / 255, (i + 1/2) / 255]; level 0 also everything below, level 255 everything above, so the
    256 probabilities sum to 1. Exact for any σ: a narrow bin is not a difference of distribution functions here.

    Args:
      x: [B, ...] uint8 levels, or floats in [0, 1] rounded to the nearest level.
      mean: [B, ...], in the [0, 1] range.
      log_sigma: log standard deviation in the [0, 1] range, broadcasts against `mean`.
      levels: how many, at least 2; with another number than 256, uint8 x is rounded to the nearest of them.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; stats `mse` [] and `log_sigma` [].

    Raises:
      ValueError: if shapes do not match, x is neither uint8 nor float, or levels is not an integer of at least 2.

    Example:
      >>> nll, stats = discretized_gaussian_nll(images, jax.nn.sigmoid(outputs), -3.0)

    References:
      Table 5; Salimans et al. 2017, section 2.1, for the open ends.
    """
    log_prob, error, log_sigma = _log_prob(log_normal_bin, "log_sigma", x, mean, log_sigma, levels, mask)
    return -sum_event(log_prob, mask), {"mse": mean_observed(jnp.square(error), mask), "log_sigma": jnp.mean(log_sigma)}


def discretized_logistic_nll(
    x: Num[Array, "B ..."],
    mean: Float[Array, "B ..."],
    log_scale: jax.typing.ArrayLike,
    *,
    levels: int = 256,
    mask: Mask = None,
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log probability of levels under a logistic distribution integrated over each level's bin.

    log(σ(hi) - σ(lo)) is taken as log σ(hi) + log σ(-lo) + log(1 - exp(lo - hi)), which is exact at any distance.

    Args:
      x, mean, levels, mask: as in `discretized_gaussian_nll`.
      log_scale: log of the scale s in the [0, 1] range, broadcasts against `mean`; the standard deviation is π·s/√3.

    Returns:
      nll [B], nats, at least float32; stats `mse` [] and `log_scale` [].

    Raises:
      ValueError: as `discretized_gaussian_nll`.

    References:
      Table 5; Kingma et al. 2016, appendix; Salimans et al. 2017, section 2.1.
    """
    log_prob, error, log_scale = _log_prob(log_logistic_bin, "log_scale", x, mean, log_scale, levels, mask)
    return -sum_event(log_prob, mask), {"mse": mean_observed(jnp.square(error), mask), "log_scale": jnp.mean(log_scale)}


def discretized_gaussian(levels: int = 256) -> Likelihood:
    """A Gaussian over levels, its mean emitted by the network, with one standard deviation learned by gradient descent.

    `params` is `{"log_sigma": []}`, initially 0, in the [0, 1] range.

    Args:
      levels: how many, at least 2.

    Returns:
      A `Likelihood` with one output a channel, the logit of the Gaussian's mean. `mean` is that of the level; `sample`
      draws levels, as multiples of 1 / (levels - 1).

    Raises:
      ValueError: if levels is not an integer of at least 2.

    References:
      Table 5.
    """

    def upper_tail(z):
        return ndtr(-z)

    def noise(key, shape, dtype):
        return jax.random.normal(key, shape, dtype)

    return _shared_scale(discretized_gaussian_nll, "log_sigma", upper_tail, noise, levels)


def discretized_logistic(levels: int = 256) -> Likelihood:
    """A logistic over levels, its mean emitted by the network, with one scale learned by gradient descent.

    `params` is `{"log_scale": []}`, initially 0, in the [0, 1] range. Otherwise as `discretized_gaussian`.

    References:
      Table 5.
    """

    def upper_tail(z):
        return jax.nn.sigmoid(-z)

    def noise(key, shape, dtype):
        return jax.random.logistic(key, shape, dtype)

    return _shared_scale(discretized_logistic_nll, "log_scale", upper_tail, noise, levels)


def to_nearest_level(x: jax.Array, levels: int) -> jax.Array:
    """Reals to the nearest of the levels i / (levels - 1) in [0, 1]."""
    return jnp.clip(jnp.round(x * (levels - 1)), 0, levels - 1) / (levels - 1)


def _log_prob(log_bin: Callable, name: str, x, mean, log_scale, levels: int, mask: Mask):
    """log P of each level; the error of the mean in the [0, 1] range; and the scale as an array that broadcasts."""
    dtype = compute_dtype(mean, log_scale)
    mean = jnp.asarray(mean, dtype)
    check_data(x, mask, mean.shape)
    check_levels("levels", levels)
    log_scale = broadcast_parameter(name, log_scale, mean.shape, dtype)
    level = as_level(hide(x, mask), levels)
    error = level.astype(dtype) - (levels - 1) * mean  # in levels, which float32 holds exactly
    log_prob = log_bin(error, -log_scale - math.log(levels - 1), side_of(level, levels))
    return log_prob, error / (levels - 1), log_scale


def _shared_scale(nll: Callable, name: str, upper_tail: Callable, noise: Callable, levels: int) -> Likelihood:
    """A decoder over levels whose network emits the location, and whose scale is the parameter `name`."""
    check_levels("levels", levels)

    def of_levels(x, mean, log_scale, mask=None):
        return nll(x, mean, log_scale, levels=levels, mask=mask)

    def expectation(mean, log_scale):
        rate = jnp.exp(-floor_scale(log_scale)).astype(mean.dtype) / (levels - 1)  # of a level, in scales
        return expected_level(lambda edge: upper_tail((edge - (levels - 1) * mean) * rate), mean, levels)

    def sample(key, mean, log_scale):
        draw = mean + jnp.exp(log_scale).astype(mean.dtype) * noise(key, mean.shape, mean.dtype)
        return to_nearest_level(draw, levels)

    return from_family(
        Family(of_levels, expectation, sample, of_levels if levels == 256 else None),
        lambda params, state, outputs: (apply_link("sigmoid", outputs), entry("params", params, name)),
        init_params=lambda: {name: jnp.zeros((), jnp.float32)},
    )
