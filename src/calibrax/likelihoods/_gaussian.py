"""Gaussian decoders whose variance is constant, shared and learned, or emitted by the network (section 3.1)."""

import math

import jax
import jax.numpy as jnp
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._axes import Axis
from calibrax.likelihoods._base import (
    Family,
    Link,
    apply_link,
    from_family,
    scaled,
    shared_scale,
    soft_clip,
)
from calibrax.likelihoods._checks import check_link, check_number, shown
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

MAX_LOG_WEIGHT = 80.0  # of the weight of a gradient: exp(80) is a float32


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

    Example:
      >>> likelihood = gaussian(0.1)
      >>> nll, stats = likelihood.nll({}, {}, outputs, x)  # outputs and x [B, ..., C], nll [B]
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

    Returns:
      A `Likelihood` with one output per channel, without params or state.

    Raises:
      ValueError: if beta is not positive or the link is unknown.

    Example:
      >>> likelihood = beta_gaussian(0.01)  # σ = 0.0707
      >>> nll, stats = likelihood.nll({}, {}, outputs, x)  # outputs and x [B, ..., C], nll [B]

    References:
      Section 3.1, "Connection to β-VAE"; Table 1.
    """
    check_number("beta", beta, low=0)
    return gaussian(math.sqrt(beta / 2), link=link)


@constructor
def shared_sigma(axis: Axis = None, initial: float = 1.0, *, link: Link = "sigmoid") -> Likelihood:
    """A Gaussian whose standard deviation is learned by gradient descent: one for everything, or one per `axis`.

    `params` is `{"log_sigma": ...}`, of the shape of the event without the axes that share a σ: [] for one σ, [C] for
    one per channel. It is not clipped: section 3.1 finds that unnecessary here.

    Adam moves log σ by about its learning rate per step, for example by 0.001. On data whose errors are far from 1,
    start near their root mean square.

    Args:
      axis: what shares a σ, as for `optimal_sigma_nll`: None, `"pixel"`, `"channel"`, or axes of a batch, which include
        axis 0, because examples share a learned σ.
      initial: the σ before training, in the data's units, positive.
      link: as for `gaussian`.

    Returns:
      A `Likelihood` with one output per channel, its mean, without state.

    Raises:
      ValueError: if the axis or link is unknown, the axis leaves the batch out, or `initial` is not positive.

    Example:
      >>> likelihood = shared_sigma()
      >>> params, state = likelihood.init((8, 8, 3))
      >>> nll, stats = likelihood.nll(params, state, outputs, x)
      >>> float(params["log_sigma"])
      0.0

    References:
      Equations (2) and (3), "Shared σ-VAE".
    """
    return shared_scale(gaussian_family(link), "log_sigma", link, axis, initial)


@constructor
def pixel_sigma(
    min_log_sigma: float = -6.0,
    max_log_sigma: float | None = None,
    *,
    link: Link = "sigmoid",
    beta_nll: float = 0.0,
    faithful: bool = False,
) -> Likelihood:
    """A Gaussian whose network emits a mean and a log standard deviation for each sub-pixel.

    Channels of `outputs`: C means, then C log standard deviations, soft-clipped.

    Where σ is large, the nll hardly corrects the mean, and the network may explain a poor mean by a large σ. For that
    reason, two options change gradients. They change no value: the nll stays that of the Gaussian, and comparable.

    Args:
      min_log_sigma: lower bound; section 3.1 has -6.
      max_log_sigma: upper bound, or None.
      link: as for `gaussian`, applied to the means.
      beta_nll: β of the β-NLL, from 0 to 1. The gradients of each sub-pixel's nll are multiplied by σ^{2β}, which is
        held constant. 0: those of the nll; 1: the mean is trained as by the squared error.
      faithful: the gradient with respect to the mean is that of half the squared error, mean - x. That with respect to
        log σ is unchanged, and does not reach the mean. In the paper σ trains no layer that the mean uses. To have that
        too, stop the gradient in the network, where it branches.

    Returns:
      A `Likelihood` with two outputs per channel, without params or state.

    Raises:
      ValueError: if the bounds cross, the link is unknown, beta_nll is not a number from 0 to 1, faithful is not a
        bool, or both options are given.

    Example:
      >>> likelihood = pixel_sigma()
      >>> likelihood.output_channels(3)
      6
      >>> emitted = jnp.concatenate([outputs, outputs], axis=-1)  # means, then log σ
      >>> nll, stats = likelihood.nll({}, {}, emitted, x)

    References:
      Equation (1); the soft clip of section 3.1. `beta_nll`: Seitzer et al. 2022, equation (5). `faithful`: Stirn et
      al. 2023, "Faithful heteroscedastic regression with neural networks".
    """
    check_number("min_log_sigma", min_log_sigma)
    if max_log_sigma is not None:
        check_number("max_log_sigma", max_log_sigma, low=min_log_sigma)
    check_number("beta_nll", beta_nll, low=0, high=math.nextafter(1, 2), closed=True)
    if not isinstance(faithful, bool):
        raise ValueError(f"faithful is {shown(faithful)}; expected True or False")
    if faithful and beta_nll:
        raise ValueError(f"beta_nll is {beta_nll}; expected 0 with faithful=True, which trains the mean by itself")

    def split(params, state, outputs):
        mean, log_sigma = jnp.split(widen(outputs), 2, axis=-1)
        mean, log_sigma = apply_link(link, mean), soft_clip(log_sigma, min_log_sigma, max_log_sigma)
        power = 1.0 if faithful else beta_nll
        if power:
            # The gradients by mean and log σ are elementwise: to multiply those is to multiply that of each term.
            weight = jnp.exp(jnp.minimum(2 * power * log_sigma, MAX_LOG_WEIGHT))
            mean = scale_gradient(mean, weight)
            log_sigma = log_sigma if faithful else scale_gradient(log_sigma, weight)
        return mean, log_sigma

    return from_family(gaussian_family(link), split, outputs_per_channel=2)


@jax.custom_jvp
def scale_gradient(value: jax.Array, weight: jax.Array) -> jax.Array:
    """The value itself, whose gradient is multiplied by the weight; the weight has none."""
    del weight
    return value


@scale_gradient.defjvp
def _scale_gradient_jvp(primals, tangents):
    return primals[0], primals[1] * tangents[0]


def gaussian_family(link: Link) -> Family:
    """N(mean, σ²) with parameters mean and log_sigma; it has a mass per level if the data has a range."""
    check_link(link)
    of_levels = discretized_gaussian_nll if link == "sigmoid" else None
    by_value = of_location_and_scale(normal_cdf, normal_quantile, variance=1.0)
    return Family(
        gaussian_nll, lambda mean, log_sigma: mean, scaled(jax.random.normal), of_levels, is_normal=True, **by_value
    )
