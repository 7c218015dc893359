"""Distribution functions and quantiles of the families: of a location and a scale, and of levels."""

import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.scipy.special import betainc, ndtr, ndtri

from calibrax.likelihoods._checks import broadcast_parameter
from calibrax.likelihoods._residual import as_unit, floor_scale, minus_abs

Quantity = Callable[..., jax.Array]
NUM_BISECTIONS = 64  # of log t between the bounds below; beyond the precision of float64
LOG_T = (-40.0, 80.0)
MANY = {"float32": 30.0, "float64": 1e5}  # degrees of freedom from which Hill's expansion is the more accurate


def tail_of(q: Any, dtype: Any) -> tuple[jax.Array, jax.Array]:
    """-1 for a probability q below 1/2, else 1; and the tail min(q, 1 - q), exact for a known number q."""
    if not isinstance(q, jax.Array):
        q = np.asarray(q, np.float64)  # on the host: in float32, 1 - 0.9999 has an error of 3e-4
        return jnp.asarray(np.where(q < 0.5, -1, 1), dtype), jnp.asarray(np.minimum(q, 1 - q), dtype)
    q = q.astype(dtype)
    return jnp.where(q < 0.5, -1.0, 1.0).astype(dtype), jnp.minimum(q, 1 - q)


def normal_quantile(q: Any, dtype: Any) -> jax.Array:
    side, tail = tail_of(q, dtype)
    return -side * ndtri(tail)


def laplace_quantile(q: Any, dtype: Any) -> jax.Array:
    side, tail = tail_of(q, dtype)
    return -side * jnp.log(2 * tail)


def logistic_quantile(q: Any, dtype: Any) -> jax.Array:
    side, tail = tail_of(q, dtype)
    return side * (jnp.log1p(-tail) - jnp.log(tail))


def normal_cdf(z: jax.Array) -> jax.Array:
    return ndtr(z)


def laplace_cdf(z: jax.Array) -> jax.Array:
    tail = 0.5 * jnp.exp(minus_abs(z))
    return jnp.where(z > 0, 1 - tail, tail)


def of_location_and_scale(cdf: Quantity, quantile: Quantity, variance: float) -> dict[str, Any]:
    """The entries of a `Family` with parameters location and log scale, from those of the standard distribution.

    `cdf` is z -> P(Z <= z), `quantile` (q, dtype) -> z. The distribution is symmetric with its mode at 0.
    """

    def scale_of(location, log_scale):
        log_scale = broadcast_parameter("log_scale", log_scale, location.shape, location.dtype)
        return jnp.exp(floor_scale(log_scale))

    return {
        "cdf": lambda x, m, log_s: cdf((as_unit(x, m.dtype) - m) / scale_of(m, log_s)),
        "quantile": lambda q, m, log_s: m + scale_of(m, log_s) * like(quantile(q, m.dtype), m),
        "variance": lambda m, log_s: jnp.broadcast_to(variance * jnp.square(scale_of(m, log_s)), m.shape),
        "mode": lambda m, log_s: m,
    }


def like(q: jax.Array, array: jax.Array) -> jax.Array:
    """A number, or an array that broadcasts to `array`, in the rank of `array`."""
    return broadcast_parameter("q", q, array.shape, array.dtype)


def student_t_cdf(t: jax.Array, df: jax.Array) -> jax.Array:
    """P(T <= t), from the smaller of the mass within |t| and the mass beyond it, so that neither cancels."""
    within, beyond = _within_and_beyond(jnp.abs(t), df)
    upper = 0.5 * jnp.where(beyond < 0.5, 2 - beyond, 1 + within)
    lower = 0.5 * jnp.where(beyond < 0.5, beyond, 1 - within)
    return jnp.where(t > 0, upper, lower)


def student_t_quantile(q: Any, df: jax.Array) -> jax.Array:
    """The inverse of `student_t_cdf`, by bisection of log |t|."""
    side, tail = tail_of(q, df.dtype)
    side, beyond = like(side, df), like(2 * tail, df)

    def halve(_, bounds):
        low, high = bounds
        middle = 0.5 * (low + high)
        found_within, found_beyond = _within_and_beyond(jnp.exp(middle), df)
        too_far = jnp.where(beyond < 0.5, found_beyond < beyond, found_within > 1 - beyond)
        return jnp.where(too_far, low, middle), jnp.where(too_far, middle, high)

    low, high = lax.fori_loop(0, NUM_BISECTIONS, halve, tuple(jnp.full_like(df, bound) for bound in LOG_T))
    return side * jnp.where(beyond == 1, 0.0, jnp.where(beyond == 0, jnp.inf, jnp.exp(0.5 * (low + high))))


def _within_and_beyond(t: jax.Array, df: jax.Array) -> tuple[jax.Array, jax.Array]:
    """P(|T| < t) and P(|T| > t) for t >= 0.

    They are incomplete beta functions of t²/(ν + t²) and ν/(ν + t²). JAX's is not accurate for large ν, for which
    Hill's expansion has a Gaussian z with P(|Z| > z) = P(|T| > t), to float32 from ν = 30 on and better for larger ν.
    """
    size = t / jnp.sqrt(df)
    far = size > 1
    small = jnp.where(far, 1 / jnp.where(far, size, 1.0), size)  # its square is the odds of one of the two
    part = jnp.square(small) / (1 + jnp.square(small))  # at most 1/2, so that nothing was lost in it
    half, half_df = jnp.full_like(df, 0.5), 0.5 * jnp.minimum(df, MANY[df.dtype.name])
    of_part = betainc(jnp.where(far, half_df, half), jnp.where(far, half, half_df), part)
    z = _hill(jnp.minimum(size, 1e15), df) / math.sqrt(2)
    many = df > MANY[df.dtype.name]
    within = jnp.where(many, lax.erf(z), jnp.where(far, 1 - of_part, of_part))
    return within, jnp.where(many, lax.erfc(z), jnp.where(far, of_part, 1 - of_part))


def _hill(size: jax.Array, df: jax.Array) -> jax.Array:
    """The Gaussian z as far out as |t| = size·√ν is. Hill 1970, "Algorithm 395: Student's t-distribution"."""
    a = jnp.maximum(df, 2.0) - 0.5
    b = 48 * jnp.square(a)
    square = a * jnp.log1p(jnp.square(size))
    correction = 4 * square**3 + 33 * square**2 + 240 * square + 855
    correction = correction / (10 * b * (1 + (0.8 * square**2 + 100) / b))
    return jnp.sqrt(square) * (1 + (square + 3 - correction) / b)


def level_quantile(upper_tail: Quantity, q: Any, shape_of: jax.Array, levels: int) -> jax.Array:
    """The smallest of the levels 0..L-1 with P(level <= it) >= q, by bisection.

    `upper_tail` maps a boundary i - 1/2 to the probability above it, with the shape and dtype of `shape_of`.
    """
    dtype = shape_of.dtype
    if isinstance(q, jax.Array):
        above = like(1 - q.astype(dtype), shape_of)
    else:
        above = like(jnp.asarray(1 - np.asarray(q, np.float64), dtype), shape_of)
    # Rounding of a probability must not push the result to the next level, where q is the end of one exactly.
    above = above + 4 * jnp.finfo(dtype).eps
    level = jnp.zeros_like(shape_of)
    for bit in reversed(range((levels - 1).bit_length())):
        candidate = level + 2.0**bit
        beyond = (candidate <= levels - 1) & (upper_tail(candidate - 0.5) > above)
        level = jnp.where(beyond, candidate, level)
    return level
