"""Decoders whose tails are heavier than a Gaussian's: Student-t and Laplace."""

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
    draw,
    from_family,
    scaled,
    shared_scale,
    soft_clip,
)
from calibrax.likelihoods._checks import check_link, check_number
from calibrax.likelihoods._quantiles import (
    laplace_cdf,
    laplace_quantile,
    of_location_and_scale,
    student_t_cdf,
    student_t_quantile,
)
from calibrax.likelihoods._residual import (
    HALF_LOG_2PI,
    Mask,
    Stats,
    as_unit,
    floor_scale,
    mean_observed,
    minus_abs,
    residual,
    softplus,
    sum_event,
    sum_event_and_constant,
    widen,
)
from calibrax.likelihoods._value import Likelihood, constructor

MIN_LOG_SCALE = -6.0  # section 3.1's floor of log σ
MIN_DF = 1.0  # of an emitted df: above it the mean exists
FAR = 1e4  # beyond this many scales log1p(z²) is 2·log z to float32, and z² may overflow


def student_t_nll(
    x: Num[Array, "B ..."], mean: Float[Array, "B ..."], log_scale: ArrayLike, df: ArrayLike, *, mask: Mask = None
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log density of Student's t with location `mean`, a scale s, and degrees of freedom ν.

    The sum of (ν + 1)/2·log(1 + z²/ν) + log s + log(πν)/2 - log Γ((ν + 1)/2) + log Γ(ν/2) over the event, where
    z = (x - mean) / s.

    Args:
      x: [B, ...] float data, or uint8 read as x / 255, or bool.
      mean: [B, ...], same shape: the location, which is the mean if ν > 1.
      log_scale: log of the scale s, broadcasts against `mean`; s is the standard deviation only in the limit of
        large ν.
      df: ν > 0, broadcasts against `mean`.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; stats `mse`, `log_scale` and `df` [], their means.

    Raises:
      ValueError: if shapes do not match, x has another dtype, or df is a number that is not positive.

    Example:
      >>> nll, stats = student_t_nll(jnp.zeros((2, 3)), jnp.zeros((2, 3)), 0.0, 4.0)

    References:
      Takahashi et al. 2018; the "Student-t VAE" of Table 2.
    """
    if isinstance(df, int | float):
        check_number("df", df, low=0)
    error, log_scale, df = residual(x, mean, mask, log_scale=log_scale, df=df)
    log_scale = floor_scale(log_scale)
    # z² overflows long before its logarithm matters, so far out the tail is 2·log|z|. Each branch gets an argument
    # inside its own range, which keeps the gradient of the branch that is not taken finite.
    size = jnp.abs(error) * jnp.exp(-log_scale) / jnp.sqrt(df)  # |z| / √ν
    far = size > FAR
    near_log = jnp.log1p(jnp.square(jnp.where(far, 0.0, size)))
    tail = jnp.where(far, 2 * jnp.log(jnp.where(far, size, 1.0)), near_log)
    nll = 0.5 * (df + 1) * tail + log_scale + _log_normaliser(df)
    stats = {"mse": mean_observed(jnp.square(error), mask), "log_scale": jnp.mean(log_scale), "df": jnp.mean(df)}
    return sum_event(nll, mask), stats


@constructor
def student_t(df: float | None = None, *, link: Link = "sigmoid", min_log_scale: float = MIN_LOG_SCALE) -> Likelihood:
    """A Student-t whose network emits location and scale for each sub-pixel, and the degrees of freedom unless given.

    Channels of `outputs`: C locations, C log scales, soft-clipped from below, and if df is None C reals r with
    ν = 1 + softplus(r), so that the mean exists.

    Args:
      df: degrees of freedom, the same everywhere; None to let the network emit them.
      link: `"sigmoid"` for data in [0, 1], `"identity"` for data without a range; applied to the location.
      min_log_scale: lower bound of the log scale.

    Returns:
      A `Likelihood` with three outputs per channel, two if df is given, without params or state. If df <= 1 the
      distribution has no mean, and `mean` is its location. `sample` may leave [0, 1].

    Raises:
      ValueError: if df is not positive, the bound is not a number, or the link is unknown.

    Example:
      >>> likelihood = student_t(df=4)
      >>> likelihood.output_channels(3)  # locations, log scales
      6

    References:
      Takahashi et al. 2018, which emits all three; the "Student-t VAE" of Table 2.
    """
    check_link(link)
    check_number("min_log_scale", min_log_scale)
    if df is not None:
        check_number("df", df, low=0)
    outputs_per_channel = 3 if df is None else 2

    def split(params, state, outputs):
        wide = widen(outputs)
        location, log_scale, *raw = jnp.split(wide, outputs_per_channel, axis=-1)
        freedom = MIN_DF + softplus(raw[0]) if df is None else jnp.asarray(df, wide.dtype)
        return apply_link(link, location), soft_clip(log_scale, min_log_scale), freedom

    def sample(key, location, log_scale, freedom):
        freedom = jnp.broadcast_to(freedom, location.shape)
        noise = draw(lambda key, freedom: jax.random.t(key, freedom, freedom.shape, freedom.dtype), key, freedom)
        return location + jnp.exp(log_scale) * noise

    def cdf(x, location, log_scale, freedom):
        z = (as_unit(x, location.dtype) - location) * jnp.exp(-log_scale)
        return student_t_cdf(z, jnp.broadcast_to(freedom, location.shape))

    def quantile(q, location, log_scale, freedom):
        return location + jnp.exp(log_scale) * student_t_quantile(q, jnp.broadcast_to(freedom, location.shape))

    def variance(location, log_scale, freedom):
        finite = freedom > 2  # from 1 to 2 it is infinite; below, it does not exist
        return jnp.where(finite, jnp.exp(2 * log_scale) * freedom / jnp.where(finite, freedom - 2, 1.0), jnp.inf)

    def centre(location, log_scale, freedom):
        return location

    family = Family(student_t_nll, centre, sample, cdf=cdf, quantile=quantile, variance=variance, mode=centre)
    return from_family(family, split, outputs_per_channel=outputs_per_channel)


def laplace_nll(
    x: Num[Array, "B ..."], mean: Float[Array, "B ..."], log_scale: ArrayLike, *, mask: Mask = None
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log density of a Laplace distribution: the sum of |x - mean| / s + log(2s) over the event.

    Args:
      x: [B, ...] float data, or uint8 read as x / 255, or bool.
      mean: [B, ...], same shape.
      log_scale: log of the scale s, the mean absolute deviation; broadcasts against `mean`.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; stats `mae`, `mse` and `log_scale` [], their means.

    Raises:
      ValueError: if shapes do not match or x has another dtype.

    Example:
      >>> nll, stats = laplace_nll(jnp.zeros((2, 3)), jnp.zeros((2, 3)), 0.0)  # 3 log 2 each
    """
    error, log_scale = residual(x, mean, mask, log_scale=log_scale)
    log_scale = floor_scale(log_scale)
    nll = sum_event_and_constant(-minus_abs(error) * jnp.exp(-log_scale), log_scale + math.log(2), mask)
    mae, mse = mean_observed(jnp.abs(error), mask), mean_observed(jnp.square(error), mask)
    return nll, {"mae": mae, "mse": mse, "log_scale": jnp.mean(log_scale)}


LAPLACE = Family(
    laplace_nll,
    lambda mean, log_scale: mean,
    scaled(jax.random.laplace),
    **of_location_and_scale(laplace_cdf, laplace_quantile, variance=2.0),
)


@constructor
def laplace(axis: Axis = None, initial: float = 1.0, *, link: Link = "sigmoid") -> Likelihood:
    """A Laplace distribution whose scale is learned by gradient descent: one for everything, or one per `axis`.

    `params` is `{"log_scale": ...}`, of the shape of the event without the axes that share a scale.

    Args:
      axis: what shares a scale, as for `shared_sigma`.
      initial: the scale before training, in the data's units, positive.
      link: `"sigmoid"` for data in [0, 1], `"identity"` for data without a range.

    Returns:
      A `Likelihood` with one output per channel, its mean, without state. `sample` may leave [0, 1].

    Raises:
      ValueError: as for `shared_sigma`.

    Example:
      >>> params, state = laplace(initial=0.1).init((8, 8, 3))
      >>> nll, stats = laplace(initial=0.1).nll(params, state, outputs, x)
    """
    return shared_scale(LAPLACE, "log_scale", link, axis, initial)


def _log_normaliser(df: jax.Array) -> jax.Array:
    """log(πν)/2 - log Γ((ν + 1)/2) + log Γ(ν/2), which tends to log(2π)/2.

    The difference of the two logarithms of Γ would cancel for large ν. Their ratio Γ(w + 1/2) / Γ(w), w = ν/2, is
    √w·exp(-1/(8w) + 1/(192w³) - ...) by its asymptotic series, which is accurate from w = 4 on. So the series is taken
    at w + 4 and brought back by the recurrence Γ(w + 1) = w·Γ(w):
    Γ(w + 1/2) / Γ(w) = Γ(w + 9/2) / Γ(w + 4) · Π_k (w + k) / (w + k + 1/2), k = 0..3.
    """
    w = 0.5 * df
    shifted = w + 4
    inverse = 1 / shifted
    square = jnp.square(inverse)
    series = inverse * (-1 / 8 + square * (1 / 192 + square * (-1 / 640 + square * (17 / 14336 - square * 31 / 18432))))
    back = sum(jnp.log1p(0.5 / (w + k)) for k in range(4))
    # log(πν)/2 = log(2π)/2 + log(w)/2, and log(w)/2 - log(w + 4)/2 = -log1p(4/w)/2.
    return HALF_LOG_2PI - 0.5 * jnp.log1p(4 / w) - series + back
