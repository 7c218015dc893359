"""Log masses of the bins of levels under a Gaussian or a logistic, without cancellation for any width of a bin.

Levels 0..L-1 stand for level / (L - 1) in [0, 1]. The bin of a level is everything within half a level of it; the
first bin also holds all below, the last all above, so that the masses sum to 1.
"""

import functools
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

from calibrax.likelihoods._residual import HALF_LOG_2PI, minus_abs
from calibrax.likelihoods._special import clenshaw

MAX_LOG_WIDTH = 38.0  # (255·e^38)² is still a float32; a wider bin is treated as one of that width
TAIL_CENTER = 3.0  # of the variable (z - 3) / (z + 3) of a tail's polynomial: the best fit at low degrees


def side_of(level: jax.Array, levels: int) -> jax.Array:
    """-1 for the first level, whose bin is open below; 1 for the last, whose bin is open above; else 0."""
    return jnp.where(level == 0, -1, jnp.where(level == levels - 1, 1, 0))


@jax.custom_jvp
def log_normal_bin(error: jax.Array, log_width: jax.Array, side: jax.Array) -> jax.Array:
    """log of the mass of N(0, 1) between (error - 1/2)·w and (error + 1/2)·w, or beyond one of them.

    `error` is level minus mean, in levels; log w, the width of a bin in standard deviations, broadcasts against it.
    `side` is that of `side_of`, of error's shape; an open bin has all the mass on that side. The derivatives are
    written by hand: automatic ones would differentiate the series and the tails term by term.
    """
    return _normal_bin(error, log_width, side)[0]


@log_normal_bin.defjvp
def _log_normal_bin_jvp(primals, tangents):
    value, by_error, by_log_width = _normal_bin(*primals)
    return value, by_error * tangents[0] + by_log_width * tangents[1]


def log_logistic_bin(error: jax.Array, log_width: jax.Array, side: jax.Array) -> jax.Array:
    """The same for the standard logistic: log(σ(hi) - σ(lo)) = log σ(hi) + log σ(-lo) + log(1 - exp(lo - hi)).

    The first two are -softplus(-hi) and -softplus(lo). softplus(a) = max(a, 0) + log(1 + e^-|a|), and the logarithms
    of the two merge into one, of (1 + e)(1 + f) = 1 + e + f + e·f. Beyond an open end the softplus and the last term
    are absent.
    """
    width = jnp.exp(jnp.minimum(log_width, MAX_LOG_WIDTH))
    below, above = -(error + 0.5) * width, (error - 0.5) * width  # -hi and lo
    linear = jnp.where(side > 0, 0.0, jnp.maximum(below, 0.0)) + jnp.where(side < 0, 0.0, jnp.maximum(above, 0.0))
    exp_below = jnp.where(side > 0, 0.0, jnp.exp(minus_abs(below)))
    exp_above = jnp.where(side < 0, 0.0, jnp.exp(minus_abs(above)))
    between = jnp.where(side == 0, _log_one_minus_exp(log_width, width), 0.0)
    return between - linear - jnp.log1p(exp_below + exp_above + exp_below * exp_above)


def _log_one_minus_exp(log_width: jax.Array, width: jax.Array) -> jax.Array:
    """log(1 - exp(-w)); for a small w, which may have underflowed to 0, from log w."""
    small = log_width < -7  # the series log w - w/2 + w²/24 - w⁴/2880 ...: what is left out is under 1e-15
    return jnp.where(small, log_width + width * (width / 24 - 0.5), jnp.log(-jnp.expm1(-jnp.where(small, 1.0, width))))


def expected_level(upper_tail: Callable[[jax.Array], jax.Array], like: jax.Array, levels: int) -> jax.Array:
    """E[level] / (L - 1) = sum_i P(level >= i) / (L - 1), exact, in memory that does not grow with L.

    `upper_tail` maps a boundary i - 1/2 in levels to the probability above it, with the shape and dtype of `like`.
    """

    def add(i, total):
        return total + upper_tail(jnp.asarray(i, like.dtype) + 0.5)

    return lax.fori_loop(0, levels - 1, add, jnp.zeros_like(like)) / (levels - 1)


def _normal_bin(error, log_width, side) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The log mass, and its derivatives by error and by log_width.

    By symmetry a bin can be mirrored to lie above the mean: an inner bin then lies between lo and hi, `distance` away,
    and each of the outer two beyond lo. The mass of a narrow bin is φ(center)·width times a power series. That of any
    other bin is a difference of two tail probabilities, which are far apart, so that nothing cancels. Each form gets
    arguments inside its own range, which keeps the form that is not taken finite.
    """
    width = jnp.exp(jnp.minimum(log_width, MAX_LOG_WIDTH))
    outer = side != 0
    sign = jnp.where(outer, side, jnp.where(error < 0, -1, 1)).astype(error.dtype)
    distance = sign * error
    half = jnp.broadcast_to(0.5 * width, error.shape)
    narrow = ~outer & (half * (distance * width + 1) < 1)  # where the series of `_bin_average` converges fast

    near = jnp.where(narrow, distance * width, 0.0)
    average, by_near, by_log_half = _bin_average(near, jnp.where(narrow, half, 0.5))
    lo, hi = (jnp.where(narrow, n, (distance + shift) * width) for n, shift in ((1.0, -0.5), (2.0, 0.5)))
    beyond, outside, at_lo, at_hi = _tail_difference(lo, hi, outer)

    # A narrow bin: log(width·φ(near)·average). Another above the mean (lo > 0): log(exp(-lo²/2)·beyond). Around it:
    # log(1 - outside).
    of_narrow = log_width - HALF_LOG_2PI - 0.5 * jnp.square(near)
    of_wide = jnp.where(lo > 0, -0.5 * jnp.square(lo), jnp.log1p(-outside))
    log_mass = jnp.where(narrow, of_narrow, of_wide) + jnp.log(jnp.where(narrow, average, beyond))

    by_distance = jnp.where(narrow, by_near - near, at_hi - at_lo)
    by_log_width = jnp.where(narrow, near * (by_near - near) + 1 + by_log_half, hi * at_hi - lo * at_lo)
    return log_mass, sign * width * by_distance, by_log_width


def _bin_average(center, half) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The average of φ(t) / φ(center) over t within `half` of the centre, for half·(center + 1) < 1.

    φ(center + u) / φ(center) = exp(-center·u - u²/2) = sum_n (-u)^n He_n(center) / n!, the generating function of the
    Hermite polynomials. Averaged over |u| < half, odd powers vanish: sum_k half^2k He_2k(center) / (2k + 1)!.
    Also returns the derivatives of the average's logarithm by the centre and by log half.
    """
    num_terms = 6 if center.dtype == jnp.float32 else 10  # what is left out is under 1 / 13!, or 1 / 21!
    step, square = half * center, jnp.square(half)
    even, odd = jnp.ones_like(center), step  # half^n He_n(center), n = 0 and 1
    average, by_center, by_log_half = even, jnp.zeros_like(center), jnp.zeros_like(center)
    for n in range(2, 2 * num_terms, 2):
        even = step * odd - (n - 1) * square * even
        scale = 1 / math.factorial(n + 1)
        average += scale * even
        by_center += scale * n * odd
        by_log_half += scale * n * even
        odd = step * even - n * square * odd
    return average, half * by_center / average, by_log_half / average


def _tail_difference(lo, hi, outer) -> tuple[jax.Array, jax.Array, jax.Array, jax.Array]:
    """The mass between lo and hi, or beyond lo where `outer`, and the density at lo and at hi over that mass.

    Returns:
      beyond: for lo > 0 the mass as a multiple of exp(-lo²/2), which may underflow; else 1.
      outside: for lo <= 0 the mass outside of the bin, 1 minus that inside; else 0.
      at_lo, at_hi: the densities over the mass.
    """
    above = lo > 0
    size = jnp.abs(lo)
    tail_lo, tail_hi = _scaled_tail(size), _scaled_tail(hi)
    fall = jnp.where(above, 0.5 * (lo - hi) * (lo + hi), -0.5 * jnp.square(hi))
    fall = jnp.where(outer, 0.0, jnp.exp(jnp.where(outer, 0.0, fall)))  # the density at hi over that at lo (or at 0)
    density_lo = jnp.where(above, 1.0, jnp.exp(-0.5 * jnp.square(size)))
    beyond = jnp.where(above, 0.5 * (tail_lo - fall * tail_hi), 1.0)
    outside = jnp.where(above, 0.0, 0.5 * (density_lo * tail_lo + fall * tail_hi))
    scale = (2 * math.pi) ** -0.5 / (beyond - outside)
    return beyond, outside, density_lo * scale, fall * scale


def _scaled_tail(z: jax.Array) -> jax.Array:
    """2·exp(z²/2)·P(Z > z) for z >= 0, which falls like 1/z: a Chebyshev series, to the precision of the dtype."""
    coefficients = _tail_coefficients(10 if z.dtype == jnp.float32 else 32)
    q = jnp.clip((z - TAIL_CENTER) / (z + TAIL_CENTER), -1, 1)
    return clenshaw(coefficients, q) / (z + 1)


@functools.cache
def _tail_coefficients(degree: int) -> tuple[float, ...]:
    """Coefficients of (z + 1)·erfcx(z / sqrt 2) in Chebyshev polynomials of (z - 3) / (z + 3), fitted at 400 nodes."""
    from scipy.special import erfcx  # here, because it takes longer to import than this library

    q = np.cos(np.pi * (np.arange(400) + 0.5) / 400)
    z = TAIL_CENTER * (1 + q) / (1 - q)
    return tuple(np.polynomial.chebyshev.chebfit(q, (z + 1) * erfcx(z / math.sqrt(2)), degree).tolist())
