"""Decoders whose tails are heavier than a Gaussian's: Student-t and Laplace."""

import math

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._base import (
    Family,
    Likelihood,
    Link,
    Mask,
    Stats,
    apply_link,
    as_unit,
    compute_dtype,
    floor_scale,
    from_family,
    hide,
    mean_observed,
    minus_abs,
    soft_clip,
    softplus,
    sum_event,
    sum_event_and_constant,
)
from calibrax.likelihoods._checks import broadcast_parameter, check_data, check_link, check_number, data_shape, entry

MIN_LOG_SCALE = -6.0  # section 3.1's floor of log σ
MIN_DF = 1.0  # of an emitted df: the mean exists above it
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)
FAR = 1e4  # beyond this many scales log1p(z²) is 2·log z to float32, and z² may overflow


def student_t_nll(
    x: Num[Array, "B ..."],
    mean: Float[Array, "B ..."],
    log_scale: jax.typing.ArrayLike,
    df: jax.typing.ArrayLike,
    *,
    mask: Mask = None,
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log density of Student's t with location `mean`, a scale, and degrees of freedom ν.

    Sums (ν + 1)/2·log(1 + z²/ν) + log s + log(πν)/2 - log Γ((ν + 1)/2) + log Γ(ν/2) over the event, z = (x - mean) / s.

    Args:
      x: [B, ...] float data, or uint8 read as x / 255.
      mean: [B, ...], same shape: the location, which is the mean where ν > 1.
      log_scale: log of the scale s, broadcasts against `mean`; s is the standard deviation only as ν grows.
      df: ν > 0, broadcasts against `mean`.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; stats `mse`, `log_scale` and `df` [], their means.

    Raises:
      ValueError: if shapes do not match, x is neither uint8 nor float, or df is a number that is not positive.

    Example:
      >>> nll, stats = student_t_nll(jnp.zeros((2, 3)), jnp.zeros((2, 3)), 0.0, 4.0)

    References:
      Takahashi et al. 2018; the "Student-t VAE" of Table 2.
    """
    if isinstance(df, int | float):
        check_number("df", df, low=0)
    dtype = compute_dtype(x, mean, log_scale, df)
    mean = jnp.asarray(mean, dtype)
    check_data(x, mask, mean.shape)
    log_scale = floor_scale(broadcast_parameter("log_scale", log_scale, mean.shape, dtype))
    df = broadcast_parameter("df", df, mean.shape, dtype)
    error = as_unit(hide(x, mask), dtype) - mean
    size = jnp.abs(error) * jnp.exp(-log_scale) / jnp.sqrt(df)
    far = size > FAR
    near_log = jnp.log1p(jnp.square(jnp.where(far, 0.0, size)))
    tail = jnp.where(far, 2 * jnp.log(jnp.where(far, size, 1.0)), near_log)
    nll = 0.5 * (df + 1) * tail + log_scale + _log_normaliser(df)
    stats = {"mse": mean_observed(jnp.square(error), mask), "log_scale": jnp.mean(log_scale), "df": jnp.mean(df)}
    return sum_event(nll, mask), stats


def student_t(df: float | None = None, *, link: Link = "sigmoid", min_log_scale: float = MIN_LOG_SCALE) -> Likelihood:
    """A Student-t whose network emits location and scale for each sub-pixel, and the degrees of freedom too.

    Channels of `outputs`: C locations, C log scales, soft-clipped from below, and where df is None C reals r with
    ν = 1 + softplus(r), so that the mean exists.

    Args:
      df: degrees of freedom, the same everywhere; None for the network's.
      link: `"sigmoid"` for data in [0, 1], `"identity"` for data without a range; of the location.
      min_log_scale: lower bound of the log scale.

    Returns:
      A `Likelihood` with three outputs a channel, two where df is given, without params or state. Where df <= 1 the
      distribution has no mean, and `mean` is its location. `sample` may leave [0, 1].

    Raises:
      ValueError: if df is not positive, the bound not a number, or the link unknown.

    References:
      Takahashi et al. 2018, which emits all three; the "Student-t VAE" of Table 2.
    """
    check_link(link)
    check_number("min_log_scale", min_log_scale)
    if df is not None:
        check_number("df", df, low=0)
    outputs_per_channel = 3 if df is None else 2

    def split(params, state, outputs):
        channels = data_shape(outputs, outputs_per_channel)[-1]
        wide = outputs.astype(compute_dtype(outputs))
        log_scale = soft_clip(wide[..., channels : 2 * channels], min_log_scale)
        emitted = MIN_DF + softplus(wide[..., 2 * channels :]) if df is None else jnp.asarray(df, wide.dtype)
        return apply_link(link, outputs[..., :channels]), log_scale, emitted

    def sample(key, location, log_scale, freedom):
        freedom = jnp.broadcast_to(freedom, location.shape)
        return location + jnp.exp(log_scale) * jax.random.t(key, freedom, location.shape, location.dtype)

    family = Family(student_t_nll, lambda location, log_scale, freedom: location, sample)
    return from_family(family, split, outputs_per_channel=outputs_per_channel)


def laplace_nll(
    x: Num[Array, "B ..."], mean: Float[Array, "B ..."], log_scale: jax.typing.ArrayLike, *, mask: Mask = None
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log density of a Laplace distribution, |x - mean| / s + log(2s), summed over the event.

    Args:
      x: [B, ...] float data, or uint8 read as x / 255.
      mean: [B, ...], same shape.
      log_scale: log of the scale s, the mean absolute deviation; broadcasts against `mean`.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; stats `mae`, `mse` and `log_scale` [], their means.

    Raises:
      ValueError: if shapes do not match or x is neither uint8 nor float.
    """
    dtype = compute_dtype(x, mean, log_scale)
    mean = jnp.asarray(mean, dtype)
    check_data(x, mask, mean.shape)
    log_scale = floor_scale(broadcast_parameter("log_scale", log_scale, mean.shape, dtype))
    error = as_unit(hide(x, mask), dtype) - mean
    nll = sum_event_and_constant(-minus_abs(error) * jnp.exp(-log_scale), log_scale + math.log(2), mask)
    mae, mse = mean_observed(jnp.abs(error), mask), mean_observed(jnp.square(error), mask)
    return nll, {"mae": mae, "mse": mse, "log_scale": jnp.mean(log_scale)}


def laplace(*, link: Link = "sigmoid") -> Likelihood:
    """A Laplace distribution with one scale for everything, learned by gradient descent.

    `params` is `{"log_scale": []}`, initially 0.

    Args:
      link: `"sigmoid"` for data in [0, 1], `"identity"` for data without a range.

    Returns:
      A `Likelihood` with one output a channel, its mean, without state. `sample` may leave [0, 1].

    Raises:
      ValueError: if the link is unknown.
    """
    check_link(link)
    return from_family(
        LAPLACE,
        lambda params, state, outputs: (apply_link(link, outputs), entry("params", params, "log_scale")),
        init_params=lambda: {"log_scale": jnp.zeros((), jnp.float32)},
    )


def _sample_laplace(key, mean, log_scale):
    log_scale = broadcast_parameter("log_scale", log_scale, mean.shape, mean.dtype)
    return mean + jnp.exp(log_scale) * jax.random.laplace(key, mean.shape, mean.dtype)


LAPLACE = Family(laplace_nll, lambda mean, log_scale: mean, _sample_laplace)


def _log_normaliser(df: jax.Array) -> jax.Array:
    """log(πν)/2 - log Γ((ν + 1)/2) + log Γ(ν/2), tending to log(2π)/2, without a difference of large logarithms.

    Γ(w + 1/2) / Γ(w) at w = ν/2 is taken at w + 4 by its asymptotic series, and brought back by the recurrence of Γ:
    Γ(w + 1/2) / Γ(w) = Γ(w + 9/2) / Γ(w + 4) · Π_k (w + k) / (w + k + 1/2), k = 0..3.
    """
    w = 0.5 * df
    shifted = w + 4
    inverse = 1 / shifted
    square = jnp.square(inverse)
    series = inverse * (-1 / 8 + square * (1 / 192 + square * (-1 / 640 + square * (17 / 14336 - square * 31 / 18432))))
    back = sum(jnp.log1p(0.5 / (w + k)) for k in range(4))
    return HALF_LOG_2PI - 0.5 * jnp.log1p(4 / w) - series + back
