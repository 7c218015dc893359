"""Densities on [0, 1] turned into distributions over 256 levels: one bin a level, the outer two open-ended."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax.scipy.special import log_ndtr
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._base import Stats, as_level, broadcast_parameter, check_shape, compute_dtype, sum_event

HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)

# Positive half of the 8-point Gauss-Legendre rule; its integrand here is even after folding.
_NODES, _WEIGHTS = (half[4:] for half in np.polynomial.legendre.leggauss(8))


def discretized_gaussian_nll(
    x: Num[Array, "B ..."], mean: Float[Array, "B ..."], log_sigma: jax.typing.ArrayLike
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log probability of 8-bit levels under N(mean, σ²) integrated over each level's bin.

    Level i owns [(i - 1/2) / 255, (i + 1/2) / 255]; level 0 also everything below, level 255 everything above, so the
    256 probabilities sum to 1.

    Args:
      x: [B, ...] uint8 levels, or floats in [0, 1] rounded to the nearest level.
      mean: [B, ...], in the [0, 1] range.
      log_sigma: log standard deviation in the [0, 1] range, broadcasts against `mean`.

    Returns:
      nll [B], nats, at least float32; stats `mse` [] and `log_sigma` [].

    Raises:
      ValueError: if shapes do not match or x is neither uint8 nor float.

    References:
      Table 5; Salimans et al. 2017, section 2.1, for the open ends.
    """
    dtype = compute_dtype(mean, log_sigma)
    check_shape("x", x, mean.shape)
    mean = jnp.asarray(mean, dtype)
    log_sigma = broadcast_parameter("log_sigma", log_sigma, mean.shape, dtype)
    level = as_level(x)
    error = level.astype(dtype) - 255 * mean  # in levels, which float32 holds exactly
    per_level = jnp.exp(-log_sigma) / 255
    center, half_width = error * per_level, jnp.broadcast_to(0.5 * per_level, mean.shape)
    log_prob = jnp.where(
        level == 0,
        log_ndtr(center + half_width),
        jnp.where(level == 255, log_ndtr(half_width - center), _log_normal_mass(center, half_width)),
    )
    return -sum_event(log_prob), {"mse": jnp.mean(jnp.square(error / 255)), "log_sigma": jnp.mean(log_sigma)}


def _log_normal_mass(center: jax.Array, half_width: jax.Array) -> jax.Array:
    """log ∫ φ over [center - h, center + h], in units of σ, without cancellation for any h.

    A narrow bin is h times an average of φ, which Gauss-Legendre takes exactly to float32; a wide one is a difference
    of tail probabilities that are far apart. Each branch gets arguments inside its own range, so that the gradient of
    the one not taken stays finite.
    """
    distance = jnp.abs(center)  # the mass is even in the centre; the upper tail keeps relative accuracy
    narrow = half_width * (distance + 1) < 1

    safe = jnp.where(narrow, distance, 0.0)
    h = jnp.where(narrow, half_width, 0.5)
    average = sum(
        w * jnp.exp(-0.5 * jnp.square(h * u)) * jnp.cosh(safe * h * u)
        for u, w in zip(_NODES.tolist(), _WEIGHTS.tolist(), strict=True)
    )
    of_narrow = jnp.log(2 * h) - HALF_LOG_2PI - 0.5 * jnp.square(safe) + jnp.log(average)

    distance = jnp.where(narrow, 0.0, distance)
    h = jnp.where(narrow, 1.0, half_width)
    upper = log_ndtr(h - distance)
    of_wide = upper + jnp.log1p(-jnp.exp(log_ndtr(-h - distance) - upper))
    return jnp.where(narrow, of_narrow, of_wide)
