"""Gaussian decoders whose variance is constant, shared and learned, or emitted by the network (section 3.1)."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._base import (
    Family,
    Link,
    apply_link,
    from_family,
    scaled,
    shared_scale,
    soft_clip,
)
from calibrax.likelihoods._checks import check_link, check_number
from calibrax.likelihoods._discretized import discretized_gaussian_nll
from calibrax.likelihoods._quantiles import normal_cdf, normal_quantile, of_location_and_scale
from calibrax.likelihoods._residual import (
    HALF_LOG_2PI,
    Mask,
    Stats,
    floor_scale,
    mean_observed,
    residual,
    sum_event_and_constant,
    widen,
)
from calibrax.likelihoods._value import Likelihood, constructor


def gaussian_nll(
    x: Num[Array, "B ..."], mean: Float[Array, "B ..."], log_sigma: ArrayLike, *, mask: Mask = None
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log density of N(x; mean, σ²), with the full constant.

    The sum of ((x - mean) / σ)² / 2 + log σ + log(2π) / 2 over the event.

    Args:
      x: [B, ...] float data, or uint8 read as x / 255, or bool.
      mean: [B, ...], same shape.
      log_sigma: log standard deviation, broadcasts against `mean` (NumPy's rules).
      mask: True where x is observed, of a shape that broadcasts to x, or [B, T] for x [B, T, ...]; or None.

    Returns:
      nll [B], nats, at least float32; stats `mse` [] and `log_sigma` [], their means over everything.

    Raises:
      ValueError: if shapes do not match or x has another dtype.

    Example:
      >>> nll, stats = gaussian_nll(jnp.zeros((2, 3)), jnp.zeros((2, 3)), 0.0)  # 3 log(2π) / 2 each

    References:
      Equations (2) and (3).
    """
    error, log_sigma = residual(x, mean, mask, log_sigma=log_sigma)
    log_sigma = floor_scale(log_sigma)
    nll = sum_event_and_constant(0.5 * jnp.square(error * jnp.exp(-log_sigma)), log_sigma + HALF_LOG_2PI, mask)
    return nll, {"mse": mean_observed(jnp.square(error), mask), "log_sigma": jnp.mean(log_sigma)}


@constructor
def gaussian(sigma: float = 1.0, *, link: Link = "sigmoid") -> Likelihood:
    """A Gaussian of constant standard deviation; 1 is the "Gaussian VAE" of the tables, the bare MSE loss.

    Args:
      sigma: standard deviation in the data's units, positive.
      link: `"sigmoid"` for data in [0, 1], `"identity"` for data without a range.

    Returns:
      A `Likelihood` with one output per channel, without params or state.

    Raises:
      ValueError: if sigma is not positive or the link is unknown.
    """
    check_number("sigma", sigma, low=0)
    log_sigma = math.log(sigma)
    return from_family(gaussian_family(link), lambda params, state, outputs: (apply_link(link, outputs), log_sigma))


@constructor
def beta_gaussian(beta: float, *, link: Link = "sigmoid") -> Likelihood:
    """The β-VAE as a likelihood: a Gaussian of constant variance σ² = β/2, with weight 1 on the KL.

    This is the objective SSE + β·KL of the paper's tables, divided by β, plus the constant that makes it a bound.

    Args:
      beta: the weight that the KL would have had, positive.
      link: as for `gaussian`.

    Raises:
      ValueError: if beta is not positive or the link is unknown.

    References:
      Section 3.1, "Connection to β-VAE"; Table 1.
    """
    check_number("beta", beta, low=0)
    return gaussian(math.sqrt(beta / 2), link=link)


@constructor
def shared_sigma(*, link: Link = "sigmoid") -> Likelihood:
    """A Gaussian with one standard deviation for everything, learned by gradient descent.

    `params` is `{"log_sigma": []}`, initially 0. It is not clipped: section 3.1 finds that unnecessary here.

    Raises:
      ValueError: if the link is unknown.

    References:
      Equations (2) and (3), "Shared σ-VAE".
    """
    return shared_scale(gaussian_family(link), "log_sigma", link)


@constructor
def pixel_sigma(
    min_log_sigma: float = -6.0, max_log_sigma: float | None = None, *, link: Link = "sigmoid"
) -> Likelihood:
    """A Gaussian whose network emits a mean and a log standard deviation for each sub-pixel.

    Channels of `outputs`: C means, then C log standard deviations, soft-clipped.

    Args:
      min_log_sigma: lower bound; section 3.1 has -6.
      max_log_sigma: upper bound, or None.
      link: as for `gaussian`, applied to the means.

    Returns:
      A `Likelihood` with two outputs per channel, without params or state.

    Raises:
      ValueError: if the bounds cross or the link is unknown.

    References:
      Equation (1); the soft clip of section 3.1.
    """
    check_number("min_log_sigma", min_log_sigma)
    if max_log_sigma is not None:
        check_number("max_log_sigma", max_log_sigma, low=min_log_sigma)

    def split(params, state, outputs):
        mean, log_sigma = jnp.split(widen(outputs), 2, axis=-1)
        return apply_link(link, mean), soft_clip(log_sigma, min_log_sigma, max_log_sigma)

    return from_family(gaussian_family(link), split, outputs_per_channel=2)


def gaussian_family(link: Link) -> Family:
    """N(mean, σ²) with parameters mean and log_sigma; it has a mass per level if the data has a range."""
    check_link(link)
    of_levels = discretized_gaussian_nll if link == "sigmoid" else None
    by_value = of_location_and_scale(normal_cdf, normal_quantile, variance=1.0)
    return Family(
        gaussian_nll, lambda mean, log_sigma: mean, scaled(jax.random.normal), of_levels, is_normal=True, **by_value
    )
