"""What a decoder is made of: families of distributions, links and scales."""

import functools
import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from calibrax.likelihoods._axes import Axis, learned_axes, reduced_axes
from calibrax.likelihoods._checks import (
    broadcast_parameter,
    check_data,
    check_event_shape,
    check_levels,
    check_link,
    check_number,
    check_shape,
    data_shape,
    entry,
)
from calibrax.likelihoods._residual import Mask, Stats, widen
from calibrax.likelihoods._residual import as_unit as as_unit  # for callers outside this package
from calibrax.likelihoods._value import Likelihood, Marginal, constructor

PyTree = Any
Link = Literal["sigmoid", "identity"]


class NoMeanError(ValueError):
    """The distribution has no mean. A caller that can do without it, such as one that saves figures, catches this."""


def check_likelihood(name: str, value: Any) -> None:
    """Raise a ValueError unless the value is a `Likelihood`."""
    if not isinstance(value, Likelihood):
        raise ValueError(f"{name} is a {type(value).__name__}; expected a Likelihood, such as optimal_sigma()")


class Family(NamedTuple):
    """A family of distributions over data, as functions of its parameters.

    Attributes:
      nll: `(x, *parameters, mask=None) -> (nll, stats)`: a pure function such as `gaussian_nll`.
      mean: `(*parameters) -> E[x]`, in the data's range. None if the distribution has no mean (Cauchy); the
        likelihood's `mean` then raises `NoMeanError`, and everything else works.
      sample: `(key, *parameters) -> x`.
      discretized_nll: `(x, *parameters, mask=None) -> (nll, stats)` of the 256-level image, or None.
      cdf: `(x, *parameters) -> P(value <= x)` of each value, or None.
      quantile: `(q, *parameters)`: the smallest value with P(value <= it) >= q, for a number or array q; or None.
      variance: `(*parameters)` -> that of each value, or None.
      mode: `(*parameters)` -> the likeliest value, or None.
      is_discrete: whether `nll` is minus the log of a probability rather than of a density.
      is_normal: whether the distribution is Gaussian.
    """

    nll: Callable[..., tuple[jax.Array, Stats]]
    mean: Callable[..., jax.Array] | None
    sample: Callable[..., jax.Array]
    discretized_nll: Callable[..., tuple[jax.Array, Stats]] | None = None
    cdf: Callable[..., jax.Array] | None = None
    quantile: Callable[..., jax.Array] | None = None
    variance: Callable[..., jax.Array] | None = None
    mode: Callable[..., jax.Array] | None = None
    is_discrete: bool = False
    is_normal: bool = False


@constructor
def from_family(
    family: Family,
    parameters: Callable[[PyTree, PyTree, jax.Array], tuple[jax.typing.ArrayLike, ...]],
    *,
    outputs_per_channel: int = 1,
    outputs_per_position: int = 0,
    init_params: Callable[[], PyTree] = dict,
) -> Likelihood:
    """A `Likelihood` without a running average, of any family of distributions.

    Args:
      family: the distribution.
      parameters: `(params, state, outputs) -> tuple`, the parameters of the family: applies links and clips to what the
        decoder emits, and splits it.
      outputs_per_channel: how many values the decoder emits per channel.
      outputs_per_position: how many more values it emits per position.
      init_params: makes the parameters that gradient descent trains.

    Returns:
      A `Likelihood` with `outputs_per_channel`·C + `outputs_per_position` outputs.

    Example:
      >>> family = Family(nll=cx.likelihoods.gaussian_nll, mean=lambda mean, log_sigma: mean, sample=None)
      >>> likelihood = from_family(family, lambda params, state, outputs: (outputs, -1.0))  # σ = exp(-1)
      >>> nll, stats = likelihood.nll({}, {}, outputs, x)
    """

    def init(event_shape):
        check_event_shape(event_shape)
        return init_params(), {}

    def of_outputs(function, params, state, outputs):
        """`function` of the family's parameters."""
        data_shape(outputs, outputs_per_channel, outputs_per_position, axes=1)
        outputs = jnp.asarray(outputs)
        if outputs.ndim == 1 and (outputs_per_channel, outputs_per_position) == (1, 0):  # of single numbers
            return function(*parameters(params, state, outputs[:, None]))[..., 0]
        return function(*parameters(params, state, outputs))

    def nll_by(function, params, state, outputs, x, mask):
        """`function` of x and the family's parameters, after a check of shapes."""
        outputs, x, mask = with_channels(outputs, x, mask)
        check_data(x, data_shape(outputs, outputs_per_channel, outputs_per_position))
        return of_outputs(lambda *args: function(x, *args, mask=mask), params, state, outputs)

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        del train, axis_name  # nothing here depends on the batch
        return nll_by(family.nll, params, state, outputs, x, mask)

    def discretized_nll(params, state, outputs, x, mask=None):
        return nll_by(family.discretized_nll, params, state, outputs, x, mask)[0]

    def mean(params, state, outputs):
        if family.mean is None:
            name = getattr(family.nll, "__name__", "nll")
            raise NoMeanError(f"the distribution of {name} has no mean; expected one that has, or use sample")
        return of_outputs(family.mean, params, state, outputs)

    def sample(key, params, state, outputs):
        return of_outputs(functools.partial(family.sample, key), params, state, outputs)

    def output_channels(channels):
        check_levels("channels", channels, low=1)
        return outputs_per_position + outputs_per_channel * channels

    def of_each(function):
        """A function of the family as one of params, state, outputs and, if it takes one, a value x or q."""

        def of_each_value(params, state, outputs, *value):
            of_numbers = bool(value) and jnp.ndim(value[0]) == 1
            if of_numbers:
                outputs, *value = with_channels(outputs, value[0], None)[:2]
            result = of_outputs(functools.partial(function, *value), params, state, outputs)
            return result[:, 0] if of_numbers else result

        return of_each_value

    def nll_of_each(x, *parameters):
        """The nll of events of one value each."""
        losses, _ = family.nll(x.reshape(-1, 1), *(_by_value(parameter, x.shape) for parameter in parameters))
        return losses.reshape(x.shape)

    def nll_of_checked(params, state, outputs, x):
        check_data(x, x.shape[:1] if jnp.ndim(x) == 1 else data_shape(outputs, outputs_per_channel))
        return of_each(nll_of_each)(params, state, outputs, jnp.asarray(x))

    by_value = Marginal(
        None, family.cdf, family.quantile, family.variance, family.mode, family.is_discrete, family.is_normal
    ).map(of_each)
    if not outputs_per_position:  # else the channels of a position have something in common
        by_value = by_value._replace(nll=nll_of_checked)

    return Likelihood(
        init=init,
        nll=nll,
        update=lambda state, stats: state,
        mean=mean,
        sample=sample,
        output_channels=output_channels,
        discretized_nll=None if family.discretized_nll is None else discretized_nll,
        marginal=by_value,
    )


def _by_value(parameter: jax.typing.ArrayLike, shape: tuple[int, ...]) -> jax.typing.ArrayLike:
    """A parameter of values in this shape as one of events of a single value: [N, 1], and any axes beyond the shape."""
    if jnp.ndim(parameter) == 0:
        return parameter
    parameter = jnp.asarray(parameter)
    missing, own = max(len(shape) - parameter.ndim, 0), parameter.shape[len(shape) :]
    parameter = parameter.reshape((1,) * missing + parameter.shape)
    return jnp.broadcast_to(parameter, (*shape, *own)).reshape(-1, 1, *own)


def with_channels(outputs: jax.Array, x: Any, mask: Mask) -> tuple[jax.Array, Any, Mask]:
    """Outputs, x and mask of single numbers, x [B], with an axis of one channel; those of other events unchanged."""
    if jnp.ndim(x) != 1:
        return outputs, x, mask
    outputs = jnp.asarray(outputs)
    if outputs.ndim in (1, 2) and outputs.shape[:1] != jnp.shape(x):
        raise ValueError(f"x has shape {jnp.shape(x)}; expected {outputs.shape[:1]}, one number per output")
    outputs = outputs[:, None] if outputs.ndim == 1 else outputs
    mask = None if mask is None else jnp.asarray(mask)[:, None] if jnp.ndim(mask) == 1 else mask
    return outputs, x[:, None], mask


def shared_scale(
    family: Family,
    name: str,
    link: Link | Callable[[jax.Array], jax.Array],
    axis: Axis = None,
    initial: float = 1.0,
    *,
    outputs_per_channel: int = 1,
) -> Likelihood:
    """A `Likelihood` whose scale is learned by gradient descent, and is not the network's.

    The family has two parameters: what the network emits, after the link (a name, or a function of all outputs), and a
    log scale. `params` is `{name: ...}`, the log scale, of the shape of the event without the axes that share one;
    initially log(initial).
    """
    if not callable(link):
        check_link(link)
        link = functools.partial(apply_link, link)
    check_number("initial", initial, low=0)
    if axis == "image":
        learned_axes(axis, 2)
    reduced_axes(axis, 32)  # an unknown kind of axis fails here; one beyond the data's rank fails with data

    def shape_of(event_shape):
        axes = learned_axes(axis, len(event_shape) + 1)
        return tuple(n for i, n in enumerate(event_shape, start=1) if i not in axes)

    def parameters(params, state, outputs):
        log_scale = entry("params", params, name)
        check_shape(name, log_scale, shape_of(data_shape(outputs, outputs_per_channel)[1:]))
        if jnp.ndim(log_scale):
            log_scale = jnp.expand_dims(log_scale, learned_axes(axis, outputs.ndim))
        return link(outputs), log_scale

    def init(event_shape):
        return {name: jnp.full(shape_of(check_event_shape(event_shape)), math.log(initial), jnp.float32)}, {}

    return from_family(family, parameters, outputs_per_channel=outputs_per_channel)._replace(init=init)


def scaled(noise: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`(key, mean, log_scale) -> mean + exp(log_scale)·noise`, for noise such as `jax.random.normal`."""

    def sample(key, mean, log_scale):
        log_scale = broadcast_parameter("log_scale", log_scale, mean.shape, mean.dtype)
        return mean + jnp.exp(log_scale) * noise(key, mean.shape, mean.dtype)

    return sample


def draw(sampler: Callable[..., jax.Array], key: jax.Array, *parameters: jax.Array) -> jax.Array:
    """`sampler(key, *parameters)`, where the parameters may be sharded on a mesh with explicit axes.

    For samplers such as `jax.random.gamma`, `poisson`, `binomial` and `t`, which refuse such parameters.
    """
    return sharded_like(parameters[0], sampler, key, *parameters)


def sharded_like(array: jax.Array, function: Callable[..., jax.Array], *args: jax.Array) -> jax.Array:
    """`function(*args)`, sharded like the array, for functions that refuse arrays on a mesh with explicit axes.

    The compiler chooses the shardings inside of the function.
    """
    if not hasattr(jax.sharding, "auto_axes"):  # an older JAX, without explicit axes
        return function(*args)
    sharding = jax.typeof(array).sharding
    if jax.sharding.AxisType.Explicit not in sharding.mesh.axis_types:
        return function(*args)
    result: Any = jax.sharding.auto_axes(function, out_sharding=sharding)(*args)
    return result


def apply_link(link: Link, outputs: jax.Array) -> jax.Array:
    """The decoder's reals as a mean, in float32 at least: in [0, 1] by a sigmoid, or unchanged."""
    outputs = widen(outputs)
    return jax.nn.sigmoid(outputs) if link == "sigmoid" else outputs


def soft_clip(
    log_sigma: Float[Array, "..."], low: float | None = None, high: float | None = None
) -> Float[Array, "..."]:
    """Bound smoothly from above by `high`, then from below by `low`.

    λ := high - softplus(high - λ); λ := low + softplus(λ - low). Far inside the bounds this is nearly, but not exactly,
    the identity: at λ = low + 3 it adds 0.05.

    Args:
      log_sigma: any shape.
      low: lower bound, or None.
      high: upper bound, or None.

    Returns:
      An array of the same shape, strictly within the bounds, up to rounding.

    Raises:
      ValueError: if a bound is not a finite number, or `low >= high`.

    Example:
      >>> bool(soft_clip(jnp.array(-20.0), low=-6.0) >= -6.0)
      True

    References:
      Section 3.1, "Variance implementation details"; Chua et al. 2018.
    """
    for name, bound in (("low", low), ("high", high)):
        if bound is not None:
            check_number(name, bound)
    if low is not None and high is not None and low >= high:
        raise ValueError(f"low is {low}; expected a number under high = {high}")
    if high is not None:
        log_sigma = high - jax.nn.softplus(high - log_sigma)
    if low is not None:
        log_sigma = low + jax.nn.softplus(log_sigma - low)
    return log_sigma
