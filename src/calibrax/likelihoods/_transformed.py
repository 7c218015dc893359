"""Likelihoods of transformed data, and the bijectors that transform them: nats stay those of the data as they came."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.scipy.special import ndtr
from jax.typing import ArrayLike

from calibrax.likelihoods._base import check_likelihood, with_channels
from calibrax.likelihoods._checks import broadcast_mask, broadcast_parameter, check_range, shown
from calibrax.likelihoods._residual import compute_dtype, observed_data
from calibrax.likelihoods._value import Likelihood, Marginal, Value, constructor


class _BijectorFunctions(NamedTuple):
    forward: Callable[[jax.Array], jax.Array]
    inverse: Callable[[jax.Array], jax.Array]
    log_derivative: Callable[[jax.Array], jax.Array]
    mean_of_normal: Callable[[jax.Array, jax.Array], jax.Array] | None = None
    call: Any = None


class Bijector(Value, _BijectorFunctions):
    """A strictly increasing function from data x to the u that a likelihood sees, elementwise.

    A bijector is a value, as a likelihood is: of functions of a module, it is equal to another of the same functions,
    and pickles.

    Attributes:
      forward: x -> u.
      inverse: u -> x, for any u that the likelihood may draw, 0 included.
      log_derivative: x -> log du/dx, in x's shape.
      mean_of_normal: (mean, variance) -> E[inverse(u)] for a Gaussian u; None if it has no closed form.
      call: the constructor and the arguments that made it, or None.

    Example:
      >>> cube_root = Bijector(jnp.cbrt, lambda u: u**3, lambda x: -jnp.log(3 * jnp.cbrt(x) ** 2))
    """

    __slots__ = ()

    def __repr__(self) -> str:
        return next((name for name, known in BUILT_IN.items() if known == self), super().__repr__())


@constructor
def transformed(likelihood: Likelihood, bijector: Bijector) -> Likelihood:
    """The distribution of x for which bijector(x) has the given likelihood.

    The nll is that of u = bijector(x) minus the log-derivatives log du/dx of an event: it stays in nats of the data as
    they came, and comparable to that of other decoders. Of a distribution over levels or counts the nll is that of u:
    masses do not change.

    Data mean what they mean elsewhere, before the bijector: uint8 is level / 255, in [0, 1], and bool is 0 and 1.
    Images in [-1, 1] are floats, x = level / 127.5 - 1.

    Args:
      likelihood: of one array; in a `joint`, transform its parts.
      bijector: `symlog`, `affine(loc, scale)`, `logit`, `log`, or a `Bijector` of one's own functions.

    Returns:
      A `Likelihood` of x. `sample` is in the units of x. `mean` is E[x] for `affine`, and for `log` and `symlog` of a
      Gaussian; elsewhere it is the transformed centre, x = inverse(E[u]): the median where u is symmetric.
      `discretized_nll` is that of u: of the image whose 256 levels are inverse(i / 255), for example i / 127.5 - 1 for
      `affine(-1, 2)`. Params, state and stats (`mse`, `log_sigma`) are in the units of u.

    Raises:
      ValueError: if one is not a `Likelihood` or not a `Bijector`; at trace time, if shapes do not match; outside of
        `jit`, if x leaves the bijector's domain.

    Example:
      >>> states = transformed(optimal_sigma(link="identity"), affine(train.mean(0), train.std(0)))
      >>> images = transformed(optimal_sigma(), affine(-1, 2))  # in [-1, 1]
    """
    check_likelihood("likelihood", likelihood)
    if not isinstance(bijector, Bijector):
        kind = f"{shown(bijector)}: a {type(bijector).__name__}"
        raise ValueError(f"bijector is {kind}; expected a Bijector, such as symlog or affine(loc, scale)")
    by_u = likelihood.marginal
    is_discrete = by_u.is_discrete

    def to_u(outputs, x, mask=None):
        """Outputs, u and mask as the likelihood takes them, and the sum of the log-derivatives of each event."""
        if not jax.tree_util.all_leaves([x]):
            hint = "transform the parts of a joint, and use masked outside"
            raise ValueError(f"x is a {type(x).__name__}; expected an array; {hint}")
        outputs, x, mask = with_channels(outputs, x, mask)
        x = observed_data(x, compute_dtype(x, outputs), mask)
        if mask is not None:  # what is hidden becomes a value inside the domain
            seen = broadcast_mask(mask, x.shape)
            x = jnp.where(seen, x, bijector.inverse(jnp.zeros_like(x)))
        u = bijector.forward(x)
        if is_discrete or u.shape != x.shape:  # another shape is an error, which the likelihood finds
            return outputs, u, mask, 0.0
        log_derivative = bijector.log_derivative(x)
        if mask is not None:
            log_derivative = jnp.where(seen, log_derivative, 0.0)
        log_derivative = jnp.broadcast_to(log_derivative, x.shape)
        return outputs, u, mask, jnp.sum(log_derivative, tuple(range(likelihood.batch_ndim, x.ndim)))

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        outputs, u, mask, log_derivative = to_u(outputs, x, mask)
        given = {} if mask is None else {"mask": mask}  # a likelihood from elsewhere need not know it
        loss, stats = likelihood.nll(params, state, outputs, u, train=train, axis_name=axis_name, **given)
        return loss - log_derivative, stats

    def discretized_nll(params, state, outputs, x, mask=None):
        assert likelihood.discretized_nll is not None
        outputs, u, mask, _ = to_u(outputs, x, mask)
        given = {} if mask is None else {"mask": mask}
        return likelihood.discretized_nll(params, state, outputs, u, **given)

    def mean(params, state, outputs):
        centre = likelihood.mean(params, state, outputs)
        if not by_u.is_normal or by_u.variance is None or bijector.mean_of_normal is None:
            return _of_channels(bijector.inverse, centre)
        return bijector.mean_of_normal(centre, by_u.variance(params, state, outputs))

    def sample(key, params, state, outputs):
        return _of_channels(bijector.inverse, likelihood.sample(key, params, state, outputs))

    return likelihood._replace(
        nll=nll,
        mean=mean,
        sample=sample,
        discretized_nll=None if likelihood.discretized_nll is None else discretized_nll,
        marginal=_transformed_marginal(by_u, bijector),
    )


def _transformed_marginal(by_u: Any, bijector: Bijector) -> Marginal:
    """The marginal of x. The variance, the mode and being Gaussian stay only if the bijector is affine."""

    def of_value(function):  # of x
        def of_x(params, state, outputs, x):
            x = observed_data(x, compute_dtype(x, outputs))
            return function(params, state, outputs, _of_channels(bijector.forward, x))

        return of_x

    def to_value(function):  # from u to x
        return lambda *args: _of_channels(bijector.inverse, function(*args))

    def nll(params, state, outputs, x):
        loss = of_value(by_u.nll)(params, state, outputs, x)
        if by_u.is_discrete:
            return loss
        return loss - _of_channels(bijector.log_derivative, observed_data(x, compute_dtype(x, outputs)))

    def variance(*args):  # of an affine bijector: times the square of dx/du
        of_u = by_u.variance(*args)
        return of_u * _of_channels(lambda u: jnp.exp(-2 * bijector.log_derivative(u)), of_u)

    is_affine = bijector.call is not None and bijector.call.function is affine
    changed = {
        "nll": nll,
        "cdf": of_value(by_u.cdf),
        "quantile": to_value(by_u.quantile),
        "variance": variance if is_affine else None,
        "mode": to_value(by_u.mode) if is_affine else None,
    }
    known = {name: function if getattr(by_u, name) is not None else None for name, function in changed.items()}
    return Marginal(**known, is_discrete=by_u.is_discrete, is_normal=by_u.is_normal and is_affine)


def _of_channels(function: Callable[[jax.Array], jax.Array], values: jax.Array) -> jax.Array:
    """An elementwise function of values; single numbers [B] get an axis of one channel for it."""
    return function(values[:, None])[:, 0] if jnp.ndim(values) == 1 else function(values)


@constructor
def affine(loc: ArrayLike, scale: ArrayLike) -> Bijector:
    """x = loc + scale·u, u being what the likelihood sees: standardised data, or images in [-1, 1].

    Args:
      loc: a number, or an array that broadcasts to x, such as one number per channel; a data set's mean.
      scale: positive, of the same kind; a data set's standard deviation.

    Returns:
      A `Bijector` for `transformed`.

    Raises:
      ValueError: if the entries of one are not finite, or of scale not positive; at trace time, if a shape does not
        broadcast to that of x.

    Example:
      >>> likelihood = transformed(optimal_sigma(), affine(-1, 2))  # images in [-1, 1]
    """
    for name, value, expected in (("loc", loc, "finite numbers"), ("scale", scale, "positive finite numbers")):
        if isinstance(value, Tracer):
            continue
        known = np.asarray(value)
        good = np.issubdtype(known.dtype, np.floating) or np.issubdtype(known.dtype, np.integer)
        if not good or not np.all(np.isfinite(known)) or (name == "scale" and not np.all(known > 0)):
            raise ValueError(f"{name} is {shown(value)}; expected {expected}")

    def parameter(name, value, like):
        return broadcast_parameter(name, value, like.shape, like.dtype)

    def forward(x):
        return (x - parameter("loc", loc, x)) / parameter("scale", scale, x)

    def inverse(u):
        return parameter("loc", loc, u) + parameter("scale", scale, u) * u

    def log_derivative(x):
        return jnp.broadcast_to(-jnp.log(parameter("scale", scale, x)), x.shape)

    return Bijector(forward, inverse, log_derivative)


def _log_max(dtype: Any) -> np.ndarray:
    """The largest u whose exponential is finite."""
    kind = np.dtype(dtype).type
    return np.nextafter(np.log(np.finfo(kind).max), kind(0))


def _exp(u: jax.Array) -> jax.Array:
    return jnp.exp(jnp.minimum(u, _log_max(u.dtype)))


def _symlog(x: jax.Array) -> jax.Array:
    return jnp.sign(x) * jnp.log1p(jnp.abs(x))


def _symexp(u: jax.Array) -> jax.Array:
    return jnp.sign(u) * jnp.expm1(jnp.minimum(jnp.abs(u), _log_max(u.dtype)))


def _symlog_log_derivative(x: jax.Array) -> jax.Array:
    return -jnp.log1p(jnp.abs(x))


def _symexp_of_normal(mean: jax.Array, variance: jax.Array) -> jax.Array:
    """E[(exp(u) - 1)·[u > 0]] - E[(exp(-u) - 1)·[u < 0]], the expectations of two halves of a log-normal."""
    sigma = jnp.sqrt(variance)
    standard = mean / sigma
    above = _exp(0.5 * variance + mean) * ndtr(sigma + standard) - ndtr(standard)
    below = _exp(0.5 * variance - mean) * ndtr(sigma - standard) - ndtr(-standard)
    return above - below


def _log(x: jax.Array) -> jax.Array:
    check_range(x, np.finfo(x.dtype).tiny, math.inf, "positive numbers; zero_inflated takes a density and zeros")
    return jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))


def _log_log_derivative(x: jax.Array) -> jax.Array:
    return -jnp.log(jnp.maximum(x, jnp.finfo(x.dtype).tiny))


def _exp_of_normal(mean: jax.Array, variance: jax.Array) -> jax.Array:
    return _exp(mean + 0.5 * variance)


def _logit(x: jax.Array) -> jax.Array:
    x = _inside_unit(x)
    return jnp.log(x) - jnp.log1p(-x)


def _sigmoid(u: jax.Array) -> jax.Array:
    return jax.nn.sigmoid(u)  # a function of this module pickles by its name


def _logit_log_derivative(x: jax.Array) -> jax.Array:
    x = _inside_unit(x)
    return -jnp.log(x) - jnp.log1p(-x)


def _inside_unit(x: jax.Array) -> jax.Array:
    low, high = np.finfo(x.dtype).tiny, 1 - np.finfo(x.dtype).epsneg
    check_range(x, low, high, "numbers between 0 and 1, themselves excluded")
    return jnp.clip(x, low, high)


symlog = Bijector(_symlog, _symexp, _symlog_log_derivative, _symexp_of_normal)
"""u = sign(x)·log(1 + |x|): for values of any size and sign, as DreamerV3 has it. With a Gaussian u, E[x] is known."""

log = Bijector(_log, _exp, _log_log_derivative, _exp_of_normal)
"""u = log x, for positive x; inside `jit`, others count as the smallest positive float. A Gaussian u is a log-normal
x, whose mean is exp(E[u] + σ²/2)."""

logit = Bijector(_logit, _sigmoid, _logit_log_derivative)
"""u = log(x / (1 - x)), for x strictly between 0 and 1; inside `jit`, others count as the nearest float between."""

BUILT_IN = {"symlog": symlog, "log": log, "logit": logit}  # for their `repr`
