"""Bernoulli decoders: intensities taken as probabilities, and the continuous Bernoulli, which normalises."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._base import Family, apply_link, draw, from_family
from calibrax.likelihoods._checks import check_range, check_unit_range
from calibrax.likelihoods._quantiles import like
from calibrax.likelihoods._residual import Mask, Stats, as_unit, sum_event, unit_data, widen
from calibrax.likelihoods._value import Likelihood, constructor

# B_2n / (2n)! of the Bernoulli numbers: coth(l/2) / 2 - 1/l = sum_n c_n l^(2n - 1). At |l| = 1 eight terms leave 1e-13.
_COTH = (
    1 / 12, -1 / 720, 1 / 30240, -1 / 1209600, 1 / 47900160,
    -691 / 1307674368000, 1 / 74724249600, -3617 / 10670622842880000,
)  # fmt: skip
_LOG_SINHC = tuple(c / (2 * n) for n, c in enumerate(_COTH, start=1))  # its integral: log(sinh(l/2) / (l/2)) / l²


def bernoulli_nll(
    x: Num[Array, "B ..."], logits: Float[Array, "B ..."], *, mask: Mask = None
) -> tuple[Float[Array, " B"], Stats]:
    """Binary cross-entropy -x log p - (1 - x) log(1 - p) with p = sigmoid(logits), summed over the event.

    All terms are non-negative, so that nothing cancels where the fit is good. For x strictly between 0 and 1 this is a
    cross-entropy, not the negative log of a normalised density.

    Args:
      x: [B, ...] bool, integers 0 and 1, floats in [0, 1], or uint8 read as x / 255.
      logits: [B, ...], same shape.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; no stats.

    Raises:
      ValueError: if shapes differ, or x is of another dtype or range. The values of x are checked outside of `jit`.

    Example:
      >>> nll, _ = bernoulli_nll(jnp.ones((2, 3)), jnp.zeros((2, 3)))  # 3 log 2 each

    References:
      Gulrajani et al. 2017, the "Bernoulli VAE" of Table 2.
    """
    if jnp.issubdtype(jnp.result_type(x), jnp.integer) and jnp.result_type(x) != jnp.uint8:
        check_range(x, 0, 1, "0 and 1, floats in [0, 1], or uint8 levels 0..255")
        x = jnp.asarray(x, jnp.bool_)
    x, logits = unit_data(x, logits, mask)
    check_unit_range(x)
    # log(1 + exp(-|l|)) + |l|·(1 - x or x): one exponential, of a negative number.
    positive = logits > 0  # not abs: its gradient at logit 0 is 0
    nll = jnp.log1p(jnp.exp(jnp.where(positive, -logits, logits))) + logits * jnp.where(positive, 1 - x, -x)
    return sum_event(nll, mask), {}


@constructor
def bernoulli() -> Likelihood:
    """Independent Bernoulli variables, for binary data or for intensities in [0, 1] taken as probabilities.

    Returns:
      A `Likelihood` with one output per channel, its logit, without params or state. `sample` draws 0 or 1.

    Example:
      >>> likelihood = bernoulli()
      >>> nll, stats = likelihood.nll({}, {}, outputs, x > 0.5)

    References:
      The "Bernoulli VAE" of Tables 2, 3 and 4.
    """

    def sample(key, logits):
        prob = apply_link("sigmoid", logits)
        return jax.random.bernoulli(key, prob).astype(prob.dtype)

    def mean(logits):
        return apply_link("sigmoid", logits)

    def of_zero(logits):
        return apply_link("sigmoid", -widen(logits))

    def cdf(x, logits):
        x = as_unit(x, of_zero(logits).dtype)
        return jnp.where(x < 0, 0.0, jnp.where(x < 1, of_zero(logits), 1.0))

    def quantile(q, logits):
        zero = of_zero(logits)
        return (like(jnp.asarray(q, zero.dtype), zero) > zero).astype(zero.dtype)

    def mode(logits):
        return (widen(logits) > 0).astype(widen(logits).dtype)

    by_value = {"cdf": cdf, "quantile": quantile, "variance": lambda logits: mean(logits) * of_zero(logits)}
    family = Family(bernoulli_nll, mean, sample, mode=mode, is_discrete=True, **by_value)
    return from_family(family, lambda params, state, outputs: (outputs,))


def continuous_bernoulli_nll(
    x: Num[Array, "B ..."], logits: Float[Array, "B ..."], *, mask: Mask = None
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log density of the continuous Bernoulli: binary cross-entropy with the constant that normalises it.

    p(x) = exp(l·x)·l / (exp(l) - 1) on [0, 1] for the logit l. Its log normaliser, log((exp(l) - 1) / l), is l/2 plus
    an even function of l. That function is computed as a power series near 0, where the closed form is 0/0.

    Args:
      x: [B, ...] floats in [0, 1], uint8 read as x / 255, or bool.
      logits: [B, ...], same shape.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32, of either sign; no stats.

    Raises:
      ValueError: if shapes differ, or x is of another dtype or range. The values of x are checked outside of `jit`.

    Example:
      >>> nll, _ = continuous_bernoulli_nll(jnp.full((2, 3), 0.3), jnp.zeros((2, 3)))  # uniform: 0

    References:
      Loaiza-Ganem and Cunningham 2019. Not in the paper.
    """
    x, logits = unit_data(x, logits, mask)
    check_unit_range(x)
    small, near, far = _near_and_far(logits)
    of_near = near * (0.5 - x) + jnp.square(near) * _polynomial(jnp.square(near), _LOG_SINHC)
    # exp(l·x) is largest at the end to which l points: measured from there, nothing cancels.
    of_far = far * jnp.where(logits > 0, 1 - x, x) + jnp.log(-jnp.expm1(-far) / far)
    return sum_event(jnp.where(small, of_near, of_far), mask), {}


@constructor
def continuous_bernoulli() -> Likelihood:
    """The continuous Bernoulli on [0, 1]: the normalised density behind intensities taken as probabilities.

    Returns:
      A `Likelihood` with one output per channel, its logit, without params or state. `mean` is the mean of the
      distribution, not the sigmoid of the logit; `sample` stays in [0, 1].

    Example:
      >>> likelihood = continuous_bernoulli()
      >>> nll, stats = likelihood.nll({}, {}, outputs, x)

    References:
      Loaiza-Ganem and Cunningham 2019. Not in the paper.
    """

    def mean(logits):
        small, near, far = _near_and_far(logits)
        of_near = 0.5 + near * _polynomial(jnp.square(near), _COTH)
        of_far = -1 / jnp.expm1(-far) - 1 / far  # for a positive logit
        return jnp.where(small, of_near, jnp.where(logits > 0, of_far, 1 - of_far))

    def quantile(q, logits):
        uniform = like(jnp.asarray(q, logits.dtype), logits)
        size = jnp.abs(logits)
        tiny = size < 1e-3  # there the inverse of the distribution function is u - l·u·(1 - u) / 2 to 1e-7
        safe = jnp.where(tiny, 1.0, size)
        uniform = jnp.where(logits > 0, 1 - uniform, uniform)
        of_tiny = uniform * (1 - 0.5 * size * (1 - uniform))
        inverse = -jnp.log1p(uniform * jnp.expm1(-safe)) / safe
        from_zero = jnp.clip(jnp.where(tiny, of_tiny, inverse), 0, 1)
        return jnp.where(logits > 0, 1 - from_zero, from_zero)

    def sample(key, logits):
        return draw(
            lambda key, logits: quantile(jax.random.uniform(key, logits.shape, logits.dtype), logits), key, logits
        )

    family = Family(continuous_bernoulli_nll, mean, sample, quantile=quantile)
    return from_family(family, lambda params, state, outputs: (widen(outputs),))


def _near_and_far(logits: jax.Array) -> tuple[jax.Array, jax.Array, jax.Array]:
    """Whether |l| < 1; l where that holds, else 0; and |l| where it does not, else 2. Each is safe in its branch."""
    small = jnp.abs(logits) < 1
    return small, jnp.where(small, logits, 0.0), jnp.where(small, 2.0, jnp.abs(logits))


def _polynomial(x: jax.Array, coefficients: Sequence[float]) -> jax.Array:
    """sum_k coefficients[k] x^k by Horner's rule."""
    total = jnp.full_like(x, coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        total = total * x + coefficient
    return total
