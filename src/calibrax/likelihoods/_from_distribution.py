"""Any distribution of NumPyro, Distrax or TensorFlow Probability as a likelihood."""

import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from calibrax.likelihoods._base import NoMeanError, PyTree, with_channels
from calibrax.likelihoods._checks import (
    broadcast_mask,
    broadcast_parameter,
    check_data,
    check_event_shape,
    check_levels,
    data_shape,
)
from calibrax.likelihoods._residual import as_unit, hidden_as_zero, sum_event, widen
from calibrax.likelihoods._value import Likelihood, Marginal, constructor


@constructor
def from_distribution(
    make: Callable[..., Any],
    *,
    outputs_per_channel: int = 1,
    outputs_per_position: int = 0,
    init_params: Callable[[], PyTree] = dict,
    is_discrete: bool = False,
) -> Likelihood:
    """A `Likelihood` of any distribution of NumPyro, Distrax or TensorFlow Probability (on JAX).

    The nll is minus its `log_prob`, summed over those axes of the event that are batch axes of the distribution. No
    library is imported here; what counts are the methods.

    Args:
      make: `(outputs) -> distribution` or `(outputs, params) -> distribution`: applies links to what the decoder emits,
        `[B, ..., outputs]` in float32 at least, and splits it. The distribution's `batch_shape` and `event_shape`
        together are the shape of x, `[B, ..., C]`. A function of a module makes the likelihood picklable.
      outputs_per_channel: how many values the decoder emits per channel.
      outputs_per_position: how many more values it emits per position.
      init_params: makes the parameters that gradient descent trains.
      is_discrete: whether x are counts or labels: any integer dtype, uint8 included, then means the integers
        themselves, and `transformed` and `zero_inflated` take the log_prob for that of a mass.

    Returns:
      A `Likelihood` without a running average or stats. `mean`, `sample` and what `interval` needs are those of the
      distribution, where it has them. Masks work if the distribution has an empty `event_shape`, so that there is a
      log_prob for each value.

    Raises:
      ValueError: if make is not a function, or a number is not an integer in range; at trace time, if shapes do not
        match, x has another dtype, or a mask meets a distribution of whole events.

    Example:
      >>> def gamma(outputs):
      ...     return numpyro.distributions.Gamma(*jnp.split(jnp.exp(outputs), 2, axis=-1))
      >>> likelihood = from_distribution(gamma, outputs_per_channel=2)
    """
    if not callable(make):
        raise ValueError(f"make is a {type(make).__name__}; expected a function of outputs that returns a distribution")
    check_levels("outputs_per_channel", outputs_per_channel, low=1)
    check_levels("outputs_per_position", outputs_per_position, low=0)
    layout = outputs_per_channel, outputs_per_position
    takes_params = _takes_two(make)

    def init(event_shape):
        check_event_shape(event_shape)
        return init_params(), {}

    def distribution_of(params, outputs):
        """The distribution, whose shape is checked, and whether outputs are those of single numbers, [B]."""
        shape = data_shape(outputs, *layout, axes=1)
        outputs = widen(outputs)
        of_numbers = outputs.ndim == 1 and layout == (1, 0)
        if of_numbers:
            outputs, shape = outputs[:, None], (*shape, 1)
        made = make(outputs, params) if takes_params else make(outputs)
        found = (*made.batch_shape, *made.event_shape)
        if found != shape:
            parts = f"batch_shape {tuple(made.batch_shape)} and event_shape {tuple(made.event_shape)}"
            raise ValueError(f"make returns a distribution of {parts}; expected {shape} together, the shape of x")
        return made, outputs, of_numbers

    def as_data(made, x, dtype, mask):
        """x in the dtype that the distribution takes; a hidden value becomes a draw, which is in the support."""
        x = hidden_as_zero(x, mask)
        x = _as_counts(x, getattr(made, "dtype", None), dtype) if is_discrete else as_unit(x, dtype)
        if mask is None:
            return x
        draw = jax.lax.stop_gradient(_sample(made, jax.random.key(0)))
        return jnp.where(broadcast_mask(mask, x.shape), x, draw.astype(x.dtype))

    def log_prob(params, outputs, x, mask=None):
        """[B, ...]: without the axes of `event_shape`."""
        check_data(x, (*outputs.shape[:-1], data_shape(outputs, *layout)[-1]))
        made, outputs, _ = distribution_of(params, outputs)
        if mask is not None and len(made.event_shape):
            kind = f"a {type(made).__name__} with event_shape {tuple(made.event_shape)}"
            raise ValueError(f"mask is given for {kind}; expected event_shape (), which has a log_prob for each value")
        return made.log_prob(as_data(made, x, outputs.dtype, mask)).astype(outputs.dtype)

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        del train, axis_name
        outputs, x, mask = with_channels(outputs, x, mask)
        return -sum_event(log_prob(params, outputs, x, mask), mask), {}

    def of_distribution(function):
        """`function(distribution)`, an array in x's shape."""

        def of_outputs(params, state, outputs, *args):
            made, outputs, of_numbers = distribution_of(params, outputs)
            result = jnp.asarray(function(made, *args)).astype(outputs.dtype)
            return result[:, 0] if of_numbers else result

        return of_outputs

    def mean(params, state, outputs):
        try:
            return of_distribution(_mean)(params, state, outputs)
        except NotImplementedError as error:
            name = getattr(make, "__name__", "make")
            raise NoMeanError(
                f"the distribution of {name} has no mean; expected one that has, or use sample"
            ) from error

    def sample(key, params, state, outputs):
        return of_distribution(lambda made: _sample(made, key))(params, state, outputs)

    def output_channels(channels):
        check_levels("channels", channels, low=1)
        return outputs_per_position + outputs_per_channel * channels

    def of_value(function):
        """A function of distribution and value, of data [B] too."""

        def of_outputs(params, state, outputs, x):
            of_numbers = jnp.ndim(x) == 1
            outputs, x, _ = with_channels(outputs, x, None)
            result = function(params, outputs, x)
            return result[:, 0] if of_numbers else result

        return of_outputs

    def nll_of_each(params, outputs, x):
        loss = -log_prob(params, outputs, x)
        if loss.shape != jnp.shape(x):
            raise ValueError(f"make returns a distribution with one log_prob for {jnp.shape(x)[loss.ndim :]} values")
        return loss

    def cdf(params, outputs, x):
        made, outputs, _ = distribution_of(params, outputs)
        return _call(made, "cdf", as_data(made, x, outputs.dtype, None)).astype(outputs.dtype)

    def quantile(params, outputs, q):
        made, outputs, _ = distribution_of(params, outputs)
        name = "icdf" if hasattr(made, "icdf") else "quantile"
        shape = *made.batch_shape, *made.event_shape
        q = jnp.broadcast_to(broadcast_parameter("q", q, shape, outputs.dtype), shape)
        return _call(made, name, q).astype(outputs.dtype)

    return Likelihood(
        init=init,
        nll=nll,
        update=lambda state, stats: state,
        mean=mean,
        sample=sample,
        output_channels=output_channels,
        marginal=Marginal(
            nll=of_value(nll_of_each),
            cdf=of_value(cdf),
            quantile=of_value(quantile),
            variance=of_distribution(lambda made: _property(made, "variance")),
            mode=of_distribution(lambda made: _property(made, "mode")),
            is_discrete=is_discrete,
        ),
    )


def _takes_two(make: Callable[..., Any]) -> bool:
    """Whether `make(outputs, params)` is a valid call."""
    try:
        inspect.signature(make).bind(None, None)
    except TypeError:
        return False
    return True


def _as_counts(x: jax.Array, own: Any, dtype: Any) -> jax.Array:
    """Counts in a distribution's own dtype; where it does not tell, as NumPyro's do not, integers are int32."""
    if jnp.issubdtype(x.dtype, jnp.floating):
        return x.astype(dtype) if own is None or jnp.issubdtype(own, jnp.floating) else jnp.round(x).astype(own)
    return x.astype(jnp.int32 if own is None else own)


def _is_numpyro(distribution: Any) -> bool:
    return any(base.__module__.partition(".")[0] == "numpyro" for base in type(distribution).__mro__)


def _sample(distribution: Any, key: jax.Array) -> jax.Array:
    return distribution.sample(key) if _is_numpyro(distribution) else distribution.sample(seed=key)


def _mean(distribution: Any) -> jax.Array:
    return _property(distribution, "mean")


def _property(distribution: Any, name: str) -> Any:
    """A property of NumPyro's distributions, which is a method of the others'."""
    value: Any = getattr(distribution, name, None)
    if value is None:
        raise NotImplementedError(name)
    return value() if callable(value) else value


def _call(distribution: Any, name: str, value: jax.Array) -> jax.Array:
    function: Any = getattr(distribution, name, None)
    if function is None:
        raise NotImplementedError(name)
    return function(value)
