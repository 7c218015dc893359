"""Decoders of counts: Poisson, negative binomial and binomial.

Logarithms of factorials are as large as x·log x, and would cancel almost all of the nll near a good fit. Every nll here
is therefore the sum of non-negative parts, after Loader (2000): what the best parameters would cost, in which the
factorials are Stirling's formula and its error S of `stirling_error`, and the deviance from those parameters, which is
made of w - log(1 + w) for relative distances w.
"""

import math
from typing import Literal

import jax
import jax.numpy as jnp
from jax.scipy.special import betainc, gammainc
from jax.typing import ArrayLike
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._base import Family, draw, from_family, shared_scale
from calibrax.likelihoods._checks import check_levels, shown
from calibrax.likelihoods._quantiles import level_quantile
from calibrax.likelihoods._residual import Mask, Stats, count_data, minus_abs, sum_event, widen
from calibrax.likelihoods._special import minus_log1p, stirling_error, stirling_error_from_1
from calibrax.likelihoods._value import Likelihood, constructor

MAX_LOG_MEAN = 60.0  # exp(60) times the values of an event is a float32; above it an nll goes on linearly
MAX_LOG_DISPERSION = 40.0  # in size; beyond, the distribution hardly changes, and products would leave float32
LARGE_RATE = 1e3  # where JAX's sampler has x·log(rate) - log(x!) with an error of 1e-3, which grows with the rate
LARGEST = 1e37  # a float32
NUM_COUNTS = 2**24  # float32 has all whole numbers up to here; quantiles go no further

Dispersion = Literal["shared", "channel", "emitted"]


def poisson_nll(
    x: Num[Array, "B ..."], log_rate: Float[Array, "B ..."], *, mask: Mask = None
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log probability of counts under a Poisson distribution.

    The sum of rate - x·log_rate + log(x!) over the event.

    Args:
      x: [B, ...] counts: integers of any dtype (uint8 included, which is not read as x / 255), floats that are whole
        numbers, or bool. In float32, counts above 2^24 are rounded.
      log_rate: [B, ...], log of the rate, which is mean and variance. Above 60 the nll goes on linearly in `log_rate`.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; no stats.

    Raises:
      ValueError: if shapes differ or x is complex; outside of `jit`, if a value is negative or not a whole number.

    Example:
      >>> nll, _ = poisson_nll(jnp.array([[0, 3]]), jnp.zeros((1, 2)))  # 2 + log 6

    References:
      Loader 2000, "Fast and accurate computation of binomial probabilities". Not in the paper.
    """
    x, log_rate = count_data(x, log_rate, mask)
    return sum_event(_poisson(log_rate, x), mask), {}


@jax.custom_jvp
def _poisson(log_rate: jax.Array, x: jax.Array) -> jax.Array:
    """With w = (rate - x) / x: x·(w - log(1 + w)) + log(2πx)/2 + S(x), or the rate if x is 0."""
    rate, beyond = _mean_of(log_rate)
    count = jnp.maximum(x, 1.0)
    log_count = jnp.log(count)
    deviance = count * minus_log1p((rate - count) / count + rate / count * beyond, log_rate - log_count)
    best = 0.5 * (log_count + math.log(2 * math.pi)) + stirling_error_from_1(count)[0]
    return jnp.where(x > 0, deviance + best, rate * (1 + beyond))


@_poisson.defjvp
def _poisson_jvp(primals, tangents):
    rate, _ = _mean_of(primals[0])
    return _poisson(*primals), (rate - primals[1]) * tangents[0]


def _mean_of(log_mean: jax.Array) -> tuple[jax.Array, jax.Array]:
    """The mean, its logarithm bounded from above, and how far beyond that bound the logarithm is."""
    return jnp.exp(jnp.minimum(log_mean, MAX_LOG_MEAN)), jnp.maximum(log_mean - MAX_LOG_MEAN, 0.0)


@constructor
def poisson() -> Likelihood:
    """Poisson counts, whose network emits the log rate.

    Returns:
      A `Likelihood` with one output per channel, without params or state. x is counts, as for `poisson_nll`. `mean` is
      the rate, at most e^60. `sample` draws floats that are whole numbers (float32 has all of those up to 2^24); for
      rates above 1000 by a normal approximation that is corrected for the skewness.

    Example:
      >>> nll, stats = poisson().nll({}, {}, jnp.zeros((4, 3)), counts)  # outputs are log rates

    References:
      Not in the paper.
    """

    def quantile(q, log_rate):
        def upper_tail(edge):  # P(count > edge)
            return gammainc(edge + 0.5, _mean_of(log_rate)[0])

        return level_quantile(upper_tail, q, log_rate, NUM_COUNTS)

    def mean(log_rate):
        return _mean_of(log_rate)[0]

    family = Family(poisson_nll, mean, _sample_poisson, quantile=quantile, is_discrete=True)
    return from_family(family, lambda params, state, outputs: (widen(outputs),))


def _sample_poisson(key: jax.Array, log_rate: jax.Array) -> jax.Array:
    """Draws as floats: an int32 has no room for large ones."""
    rate, _ = _mean_of(log_rate)
    large = rate > LARGE_RATE
    key_exact, key_normal = jax.random.split(key)
    exact = draw(jax.random.poisson, _threefry(key_exact), jnp.where(large, 1.0, rate)).astype(rate.dtype)
    # The first terms of the Cornish-Fisher expansion: moments of a standard normal z, plus the skewness 1/√rate.
    z = jax.random.normal(key_normal, rate.shape, rate.dtype)
    return jnp.where(large, jnp.round(rate + jnp.sqrt(rate) * z + (jnp.square(z) - 1) / 6), exact)


def _threefry(key: jax.Array) -> jax.Array:
    """A key of the one generator for which JAX has a Poisson sampler, drawn from a key of any."""
    return jax.random.wrap_key_data(jax.random.bits(key, (2,), jnp.uint32), impl="threefry2x32")


def negative_binomial_nll(
    x: Num[Array, "B ..."], log_mean: Float[Array, "B ..."], log_dispersion: ArrayLike, *, mask: Mask = None
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log probability of counts under a negative binomial of mean m and variance m + m²/r.

    The sum of log Γ(r) + log(x!) - log Γ(x + r) + (x + r)·log(m + r) - r·log r - x·log m over the event. It tends to
    the Poisson distribution as the dispersion r grows.

    Args:
      x: [B, ...] counts, as for `poisson_nll`.
      log_mean: [B, ...], log m.
      log_dispersion: log r, broadcasts against `log_mean`; what is outside of -40 to 40 counts as the nearest of them.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; stats `log_dispersion` [], its mean.

    Raises:
      ValueError: as for `poisson_nll`.

    Example:
      >>> nll, stats = negative_binomial_nll(counts, outputs, 0.0)

    References:
      Loader 2000. Not in the paper. r is the "size" of R and the inverse of the α of NB2 regression.
    """
    x, log_mean, log_dispersion = count_data(x, log_mean, mask, log_dispersion=log_dispersion)
    log_dispersion = jnp.clip(log_dispersion, -MAX_LOG_DISPERSION, MAX_LOG_DISPERSION)
    nll = _negative_binomial(log_mean, log_dispersion, x)
    return sum_event(nll, mask), {"log_dispersion": jnp.mean(log_dispersion)}


@jax.custom_jvp
def _negative_binomial(log_mean: jax.Array, log_dispersion: jax.Array, x: jax.Array) -> jax.Array:
    return _negative_binomial_parts(log_mean, log_dispersion, x)[0]


@_negative_binomial.defjvp
def _negative_binomial_jvp(primals, tangents):
    value, by_log_mean, by_log_dispersion = _negative_binomial_parts(*primals)
    return value, by_log_mean * tangents[0] + by_log_dispersion * tangents[1]


def _negative_binomial_parts(log_mean, log_dispersion, x) -> tuple[jax.Array, jax.Array, jax.Array]:
    """The value, and its derivatives by log m and by log r.

    With log Γ(y + 1) = (y + 1/2)·log y - y + log(2π)/2 + S(y), and Γ(x + r)/Γ(r) = r/(x + r)·Γ(x + r + 1)/Γ(r + 1), the
    best of all m for x > 0, m = x, costs (log(1 + x/r) + log(2πx))/2 + S(x) + S(r) - S(x + r).

    The deviance is r·(u - log(1 + u)) + x·(w - log(1 + w)), where 1 + u = (x + r)/(m + r) and 1 + w = (m/x)·(1 + u).
    With δ = (m - x)/(m + r), u is -δ and w is r·δ/x: neither is a difference of nearly equal numbers, unless m and x
    are.

    By log m the derivative is r·δ. By log r the deviance has r·(u - log(1 + u)), and the rest has
    -x/(2(x + r)) - κ(r) + r/(x + r)·κ(x + r) with κ(y) = -y·S'(y).
    """
    mean, beyond = _mean_of(log_mean)
    r = jnp.exp(log_dispersion)
    some = x > 0
    count = jnp.maximum(x, 1.0)
    log_count, total, sum_of_means = jnp.log(count), x + r, mean + r
    error_r, slope_r = stirling_error(r)  # of the dispersion's own shape, which may be that of one number
    error_total, slope_total = stirling_error_from_1(jnp.maximum(total, 1.0))  # it is at least 1 if x is

    delta = (mean - x) / sum_of_means
    log_ratio = jnp.log(total / sum_of_means) - beyond  # log(1 + u)
    by_dispersion = r * minus_log1p(-delta, log_ratio)
    of_count = count * minus_log1p(r * delta / count, log_mean - log_count + log_ratio)
    best = 0.5 * (jnp.log1p(jnp.minimum(count / r, LARGEST)) + log_count + math.log(2 * math.pi))
    best = best + stirling_error_from_1(count)[0] + error_r - error_total
    # As x tends to 0, x·(w - log(1 + w)) tends to x·w = r·δ, and what is best to 0.
    value = by_dispersion + jnp.where(some, of_count + best, r * delta)

    of_best = r / total * slope_total - slope_r - 0.5 * x / total
    return value, r * delta, by_dispersion + jnp.where(some, of_best, 0.0)


@constructor
def negative_binomial(dispersion: Dispersion = "shared") -> Likelihood:
    """Counts of mean m and variance m + m²/r, for counts that vary more than a Poisson distribution allows.

    Channels of `outputs`: C log means; if the dispersion is emitted, then C log dispersions, log r.

    Args:
      dispersion: where r comes from. `"shared"`: one for everything, and `"channel"`: one per channel, learned by
        gradient descent as `params`, `{"log_dispersion": []}` or `[C]`, initially 0; `"emitted"`: one per value, which
        the network emits.

    Returns:
      A `Likelihood` with one output per channel, or two. x is counts, as for `poisson_nll`. `mean` and `sample` are as
      for `poisson`.

    Raises:
      ValueError: if the dispersion is another word.

    Example:
      >>> likelihood = negative_binomial()
      >>> params, state = likelihood.init((3,))
      >>> nll, stats = likelihood.nll(params, state, jnp.zeros((4, 3)), counts)  # outputs are log means

    References:
      Not in the paper.
    """
    source = check_source("dispersion", dispersion)

    def sample(key, log_mean, log_dispersion):
        key_rate, key_count = jax.random.split(key)
        log_dispersion = jnp.clip(log_dispersion, -MAX_LOG_DISPERSION, MAX_LOG_DISPERSION)
        r = jnp.broadcast_to(jnp.exp(log_dispersion), log_mean.shape).astype(log_mean.dtype)
        # A Poisson distribution whose rate is m·G/r, G of a gamma distribution. For a small r, G underflows.
        gamma = draw(lambda key, r: jax.random.loggamma(key, r, r.shape, r.dtype), key_rate, r)
        return _sample_poisson(key_count, log_mean + gamma - log_dispersion)

    def mean(log_mean, log_dispersion):
        return _mean_of(log_mean)[0]

    def quantile(q, log_mean, log_dispersion):
        r = jnp.broadcast_to(jnp.exp(log_dispersion), log_mean.shape).astype(log_mean.dtype)

        def upper_tail(edge):  # P(count > edge)
            return betainc(edge + 0.5, r, jax.nn.sigmoid(log_mean - log_dispersion))

        return level_quantile(upper_tail, q, log_mean, NUM_COUNTS)

    family = Family(negative_binomial_nll, mean, sample, quantile=quantile, is_discrete=True)
    if source == "emitted":

        def split(params, state, outputs):
            return tuple(jnp.split(widen(outputs), 2, axis=-1))

        return from_family(family, split, outputs_per_channel=2)
    return shared_scale(family, "log_dispersion", "identity", None if source == "shared" else "channel")


def check_source(name: str, source: str) -> str:
    """Accept where a decoder's second parameter comes from."""
    if not isinstance(source, str) or source not in ("shared", "channel", "emitted"):
        raise ValueError(f"{name} is {shown(source)}; expected 'shared', 'channel' or 'emitted'")
    return source


def binomial_nll(
    x: Num[Array, "B ..."], logits: Float[Array, "B ..."], total: int, *, mask: Mask = None
) -> tuple[Float[Array, " B"], Stats]:
    """Negative log probability of x successes in `total` trials, summed over the event.

    The sum of -log(n over x) - x·log p - (n - x)·log(1 - p), where n is the total and p = sigmoid(logits).

    Args:
      x: [B, ...] counts from 0 to the total: integers of any dtype (uint8 included, which is not read as x / 255),
        floats that are whole numbers, or bool.
      logits: [B, ...], same shape.
      total: n, an integer from 1 to 2^24, which float32 holds exactly.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; no stats.

    Raises:
      ValueError: if shapes differ, x is complex, or the total is out of range; outside of `jit`, if a value is not a
        whole number from 0 to the total.

    Example:
      >>> nll, _ = binomial_nll(jnp.array([[0, 16]]), jnp.zeros((1, 2)), 16)  # 32 log 2

    References:
      Loader 2000. Not in the paper.
    """
    check_levels("total", total, low=1)
    x, logits = count_data(x, logits, mask, total=total)
    return sum_event(_binomial(logits, x, jnp.asarray(total, x.dtype)), mask), {}


@jax.custom_jvp
def _binomial(logits: jax.Array, x: jax.Array, total: jax.Array) -> jax.Array:
    return _binomial_parts(logits, x, total)[0]


@_binomial.defjvp
def _binomial_jvp(primals, tangents):
    value, by_logits = _binomial_parts(*primals)
    return value, by_logits * tangents[0]


def _binomial_parts(logits, x, total) -> tuple[jax.Array, jax.Array]:
    """The value, and its derivative by the logits, d = n·p - x.

    The deviance is x·(w - log(1 + w)) for w = d/x, and (n - x)·(v - log(1 + v)) for v = -d/(n - x). The best p, x/n,
    costs log(2π·x·(n - x)/n)/2 + S(x) + S(n - x) - S(n). As x tends to 0, x·(w - log(1 + w)) tends to n·p, and the cost
    of the best p to 0; at x = n likewise. Of p and 1 - p the smaller is exp(-|logit|) / (1 + exp(-|logit|)).
    """
    likely = logits > 0
    odds = jnp.exp(minus_abs(logits))
    log_larger = -jnp.log1p(odds)
    larger = total / (1 + odds)
    smaller = odds * larger
    rest = total - x
    distance = jnp.where(likely, rest - smaller, smaller - x)
    log_p = log_larger + jnp.minimum(logits, 0.0)
    log_q = log_larger - jnp.maximum(logits, 0.0)
    some, others = jnp.maximum(x, 1.0), jnp.maximum(rest, 1.0)
    log_some, log_others = jnp.log(some / total), jnp.log(others / total)
    of_some = some * minus_log1p(distance / some, log_p - log_some)
    of_others = others * minus_log1p(-distance / others, log_q - log_others)
    of_some = jnp.where(x > 0, of_some, jnp.where(likely, larger, smaller))
    of_others = jnp.where(rest > 0, of_others, jnp.where(likely, smaller, larger))
    best = 0.5 * (log_some + log_others + jnp.log(2 * math.pi * total)) - stirling_error_from_1(total)[0]
    best = best + stirling_error_from_1(some)[0] + stirling_error_from_1(others)[0]
    return of_some + of_others + jnp.where((x > 0) & (rest > 0), best, 0.0), distance


@constructor
def binomial(total: int) -> Likelihood:
    """Counts of successes in a number of trials, whose network emits the logit of a success.

    Args:
      total: the number of trials, an integer from 1 to 2^24.

    Returns:
      A `Likelihood` with one output per channel, without params or state. x is counts from 0 to the total, as for
      `binomial_nll`. `mean` is total·sigmoid(logit); `sample` draws floats that are whole numbers.

    Raises:
      ValueError: if the total is out of range.

    Example:
      >>> nll, stats = binomial(16).nll({}, {}, jnp.zeros((4, 3)), counts)  # outputs are logits

    References:
      Not in the paper.
    """
    check_levels("total", total, low=1)

    def nll(x, logits, *, mask=None):
        return binomial_nll(x, logits, total, mask=mask)

    def sample(key, logits):
        # JAX's sampler loses the digits of 1 - p for p near 1; it gets the smaller of the two.
        smaller = jax.nn.sigmoid(minus_abs(logits))
        less = draw(lambda key, prob: jax.random.binomial(key, total, prob, dtype=prob.dtype), key, smaller)
        return jnp.where(logits > 0, total - less, less)

    def mean(logits):
        return total * jax.nn.sigmoid(logits)

    def quantile(q, logits):
        def upper_tail(edge):  # P(count > edge)
            return betainc(edge + 0.5, total - edge + 0.5, jax.nn.sigmoid(logits))

        return level_quantile(upper_tail, q, logits, total + 1)

    family = Family(nll, mean, sample, quantile=quantile, is_discrete=True)
    return from_family(family, lambda params, state, outputs: (widen(outputs),))
