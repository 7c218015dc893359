"""Special functions that the formulas need and JAX lacks, without cancellation, to the precision of the dtype."""

import functools
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

NODES = np.cos(np.pi * (np.arange(200) + 0.5) / 200)  # of a Chebyshev fit, in (-1, 1)
SMALL_CONCENTRATION = 4.0  # below it I1/I0 is fitted in κ², above it in 1/κ
NEWTON_STEPS = 4  # from 10 % off: 1e-2, 1e-4, 1e-8, 1e-16


def clenshaw(coefficients: Sequence[float], q: jax.Array) -> jax.Array:
    """A series of Chebyshev polynomials in q, which is in [-1, 1]."""
    last, now = jnp.zeros_like(q), jnp.full_like(q, coefficients[-1])
    for coefficient in coefficients[-2:0:-1]:
        last, now = now, 2 * q * now - last + coefficient
    return q * now - last + coefficients[0]


def minus_log1p(w: jax.Array, log1p: jax.Array) -> jax.Array:
    """w - log(1 + w), which is 0 at w = 0 and positive elsewhere, given log(1 + w) for w away from 0.

    For |w| < 1/2 by the series of log(1 + w) = 2·atanh(s), s = w / (2 + w): since w - 2s = w·s, the difference is
    s·(w - 2·(s²/3 + s⁴/5 + ...)).
    """
    near = jnp.abs(w) < 0.5
    small = jnp.where(near, w, 0.0)
    s = small / (2 + small)
    square = jnp.square(s)
    num_terms = 7 if w.dtype == jnp.float32 else 15  # |s| <= 1/3
    total = jnp.full_like(s, 1 / (2 * num_terms + 1))
    for n in range(2 * num_terms - 1, 1, -2):
        total = total * square + 1 / n
    return jnp.where(near, s * (small - 2 * square * total), w - log1p)


def stirling_error(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """S(y) = log Γ(y + 1) - (y + 1/2)·log y + y - log(2π)/2 for y > 0, which tends to 1/(12y); and -y·S'(y).

    Below y = 1 by S(y) = S(y + 1) + (y + 1/2)·log(1 + 1/y) - 1.
    """
    small = y < 1
    value, slope = stirling_error_from_1(jnp.where(small, y + 1, y))
    below = jnp.where(small, y, 1.0)
    log_ratio = jnp.log1p(1 / below)
    # By the product rule, -y·S'(y) = y/(y + 1)·(-(y + 1)·S'(y + 1)) + (y + 1/2)/(y + 1) - y·log(1 + 1/y).
    slope_below = (below * slope + below + 0.5) / (below + 1) - below * log_ratio
    return jnp.where(small, value + (below + 0.5) * log_ratio - 1, value), jnp.where(small, slope_below, slope)


def stirling_error_from_1(y: jax.Array) -> tuple[jax.Array, jax.Array]:
    """S(y) and -y·S'(y) of `stirling_error` for y >= 1: both are 1/y times a Chebyshev series in 1/y."""
    inverse = 1 / y
    value, slope = (inverse * clenshaw(series, 2 * inverse - 1) for series in _stirling_series(y.dtype.name))
    return value, slope


@functools.cache
def _stirling_series(dtype: str) -> tuple[list[float], list[float]]:
    """Chebyshev coefficients of y·S(y) and of -y²·S'(y) in 2/y - 1."""
    y = 2 / (1 + NODES)
    # From y = 15 on by the asymptotic series, whose terms are B_2n / (2n·(2n - 1)·z^(2n - 1)). Below it is taken at
    # y + 15 and brought back to y, one by one.
    few = y < 15
    z = np.where(few, y + 15, y)
    from scipy import special  # here, because it takes longer to import than this library

    bernoulli = special.bernoulli(16)
    value = sum(bernoulli[n] / (n * (n - 1) * z ** (n - 1)) for n in range(2, 17, 2))
    slope = sum(bernoulli[n] / (n * z**n) for n in range(2, 17, 2))  # -S'
    for k in reversed(range(15)):
        log_ratio = np.log1p(1 / (y + k))
        value += np.where(few, (y + k + 0.5) * log_ratio - 1, 0.0)
        slope += np.where(few, (y + k + 0.5) / ((y + k) * (y + k + 1)) - log_ratio, 0.0)
    degree = 6 if dtype == "float32" else 20
    return _fit(y * value, degree), _fit(y**2 * slope, degree)


def _fit(values: np.ndarray, degree: int) -> list[float]:
    return np.polynomial.chebyshev.chebfit(NODES, values, degree).tolist()


@jax.custom_jvp
def log_i0e(log_kappa: jax.Array) -> jax.Array:
    """log(exp(-κ)·I0(κ)) as a function of log κ. Its derivative, -κ·(1 - I1(κ)/I0(κ)), does not cancel for large κ."""
    return jnp.log(jax.scipy.special.i0e(jnp.exp(log_kappa)))


@log_i0e.defjvp
def _log_i0e_jvp(primals, tangents):
    return log_i0e(*primals), -scaled_variance(jnp.exp(primals[0])) * tangents[0]


def scaled_variance(kappa: jax.Array) -> jax.Array:
    """κ·(1 - I1(κ)/I0(κ)): κ times the circular variance of a von Mises distribution. It rises from 0 to 1/2.

    Below κ = 4, I1/I0 is κ times a Chebyshev series in κ²; above, the whole is one in 1/κ. To 1e-6 in float32.
    """
    small = kappa < SMALL_CONCENTRATION
    of_small, of_large = _bessel_series(kappa.dtype.name)
    low = jnp.where(small, kappa, 1.0)
    ratio = low * clenshaw(of_small, 2 * jnp.square(low / SMALL_CONCENTRATION) - 1)
    high = clenshaw(of_large, 2 * SMALL_CONCENTRATION / jnp.where(small, SMALL_CONCENTRATION, kappa) - 1)
    return jnp.where(small, low * (1 - ratio), high)


@functools.cache
def _bessel_series(dtype: str) -> tuple[list[float], list[float]]:
    """Chebyshev coefficients of I1(κ)/(κ·I0(κ)) in 2(κ/4)² - 1, and of κ·(1 - I1(κ)/I0(κ)) in 8/κ - 1."""
    from scipy import special

    unit = (1 + NODES) / 2
    kappa = SMALL_CONCENTRATION * np.sqrt(unit)
    ratio = special.i1e(kappa) / (kappa * special.i0e(kappa))
    # 1 - I1/I0 is accurate where it is not small; from κ = 50 on, I1/I0 = A(κ) is a series in 1/κ, whose coefficients
    # follow from A' = 1 - A/κ - A².
    kappa = SMALL_CONCENTRATION / unit
    terms = [1.0]
    for n in range(1, 15):
        terms.append(((n - 2) * terms[n - 1] - sum(terms[i] * terms[n - i] for i in range(1, n))) / 2)
    series = -sum(term * kappa ** (1.0 - n) for n, term in enumerate(terms) if n)
    scaled = np.where(kappa < 50, kappa * (1 - special.i1e(kappa) / special.i0e(kappa)), series)
    degrees = (13, 10) if dtype == "float32" else (32, 34)
    return _fit(ratio, degrees[0]), _fit(scaled, degrees[1])


@jax.jit  # outside of `jit` a loop would be compiled at every call
def log_concentration_of(variance: jax.Array) -> jax.Array:
    """log κ of the von Mises distribution whose circular variance 1 - I1(κ)/I0(κ) is given, strictly between 0 and 1.

    Newton's method for κ·(1 - I1/I0) = κ·variance, from an approximation that is within 10 %. In float32 κ is exact to
    2e-6, plus what one rounding of the variance changes: 1e-7 / (1 - variance), where κ tends to 0.

    References:
      The start: Banerjee et al. 2005, R·(2 - R²) / (1 - R²) with R = 1 - variance.
    """
    length, fixed = 1 - variance, lax.stop_gradient(variance)

    def excess(kappa, variance):
        return scaled_variance(kappa) - kappa * variance

    def excess_and_slope(kappa):
        return jax.jvp(lambda kappa: excess(kappa, fixed), (kappa,), (jnp.ones_like(kappa),))

    def newton(_, kappa):
        value, slope = excess_and_slope(kappa)
        return kappa - value / slope

    start = lax.stop_gradient(length * (2 - jnp.square(length)) / (variance * (2 - variance)))
    kappa = lax.stop_gradient(lax.fori_loop(0, NEWTON_STEPS, newton, start))
    slope = lax.stop_gradient(excess_and_slope(kappa)[1])
    return jnp.log(kappa - excess(kappa, variance) / slope)  # a last step, through which the gradient flows
