"""What a decoder is made of: the `Likelihood` record, families of distributions, links and scales."""

from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from calibrax.likelihoods._checks import (
    broadcast_parameter,
    check_data,
    check_event_shape,
    check_levels,
    check_link,
    check_number,
    data_shape,
    entry,
)
from calibrax.likelihoods._residual import Stats, widen
from calibrax.likelihoods._residual import as_unit as as_unit  # for callers outside this package

PyTree = Any
Link = Literal["sigmoid", "identity"]


class NoMeanError(ValueError):
    """The distribution has no mean. A caller that can do without it, such as one that saves figures, catches this."""


class Likelihood(NamedTuple):
    """A decoding distribution p(x | outputs) as pure functions.

    B is the batch and `event_shape` the shape of one example, whose last axis is the channels. `outputs` are what the
    decoder network emits: unconstrained reals, `[B, ..., output_channels(C)]`. `x` is `[B, ..., C]`, float in the
    data's range or uint8 in 0..255 (read as x / 255).

    Attributes:
      init: `(event_shape) -> (params, state)`: what gradient descent trains, and what is averaged; `{}` for nothing.
      nll: `(params, state, outputs, x, train=True, axis_name=None, mask=None) -> (nll, stats)`: nll `[B]`, at least
        float32, nats, summed over the event; stats a flat dict of arrays. `train=True` uses the statistics of this
        batch, `train=False` the running average in `state`. `axis_name` is the mapped axis over which the batch is
        spread. `mask` is True where x is observed, of x's shape or with a last axis of 1; `masked` passes it.
      update: `(state, stats) -> state`: the running average after this batch.
      mean: `(params, state, outputs) -> E[x | outputs]`, `[B, ..., C]` in the data's range; raises `NoMeanError`, a
        ValueError, if the distribution has none.
      sample: `(key, params, state, outputs) -> x`, a draw in the data's units. A density on the real line may draw
        values outside [0, 1]; clip them for display.
      output_channels: `(channels) -> int`: how many values the decoder emits per position.
      discretized_nll: `(params, state, outputs, x, mask=None) -> [B]`: -log P in nats of the 256-level image, by the
        same distribution integrated over bins of width 1/255. None if the distribution assigns them no mass.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    nll: Callable[..., tuple[jax.Array, Stats]]
    update: Callable[[PyTree, Stats], PyTree]
    mean: Callable[[PyTree, PyTree, PyTree], PyTree]
    sample: Callable[[jax.Array, PyTree, PyTree, PyTree], PyTree]
    output_channels: Callable[[int], int]
    discretized_nll: Callable[..., jax.Array] | None = None


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
    """

    nll: Callable[..., tuple[jax.Array, Stats]]
    mean: Callable[..., jax.Array] | None
    sample: Callable[..., jax.Array]
    discretized_nll: Callable[..., tuple[jax.Array, Stats]] | None = None


def from_family(
    family: Family,
    parameters: Callable[[PyTree, PyTree, jax.Array], tuple[jax.typing.ArrayLike, ...]],
    *,
    outputs_per_channel: int = 1,
    outputs_per_position: int = 0,
    init_params: Callable[[], PyTree] = dict,
) -> Likelihood:
    """A `Likelihood` without a running average.

    Args:
      family: the distribution.
      parameters: `(params, state, outputs) -> ` the parameters of the family: applies links and clips to what the
        decoder emits, and splits it.
      outputs_per_channel: how many values the decoder emits per channel.
      outputs_per_position: how many more values it emits per position.
      init_params: makes the parameters that gradient descent trains.
    """

    def init(event_shape):
        check_event_shape(event_shape)
        return init_params(), {}

    def checked_parameters(params, state, outputs):
        data_shape(outputs, outputs_per_channel, outputs_per_position, axes=1)
        return parameters(params, state, jnp.asarray(outputs))

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        del train, axis_name  # nothing here depends on the batch
        check_data(x, mask, data_shape(outputs, outputs_per_channel, outputs_per_position))
        return family.nll(x, *checked_parameters(params, state, outputs), mask=mask)

    def discretized_nll(params, state, outputs, x, mask=None):
        check_data(x, mask, data_shape(outputs, outputs_per_channel, outputs_per_position))
        assert family.discretized_nll is not None
        return family.discretized_nll(x, *checked_parameters(params, state, outputs), mask=mask)[0]

    def mean(params, state, outputs):
        if family.mean is None:
            name = getattr(family.nll, "__name__", "nll")
            raise NoMeanError(f"the distribution of {name} has no mean; expected one that has, or use sample")
        return family.mean(*checked_parameters(params, state, outputs))

    def output_channels(channels):
        check_levels("channels", channels, low=1)
        return outputs_per_position + outputs_per_channel * channels

    return Likelihood(
        init=init,
        nll=nll,
        update=lambda state, stats: state,
        mean=mean,
        sample=lambda key, params, state, outputs: family.sample(key, *checked_parameters(params, state, outputs)),
        output_channels=output_channels,
        discretized_nll=None if family.discretized_nll is None else discretized_nll,
    )


def shared_scale(family: Family, name: str, link: Link) -> Likelihood:
    """A `Likelihood` with one scale for everything, learned by gradient descent.

    The family has two parameters: what the network emits, after the link, and a log scale. `params` is `{name: []}`,
    the log scale, initially 0.
    """
    check_link(link)
    return from_family(
        family,
        lambda params, state, outputs: (apply_link(link, outputs), entry("params", params, name)),
        init_params=lambda: {name: jnp.zeros((), jnp.float32)},
    )


def scaled(noise: Callable[..., jax.Array]) -> Callable[..., jax.Array]:
    """`(key, mean, log_scale) -> mean + exp(log_scale)·noise`, for noise such as `jax.random.normal`."""

    def sample(key, mean, log_scale):
        log_scale = broadcast_parameter("log_scale", log_scale, mean.shape, mean.dtype)
        return mean + jnp.exp(log_scale) * noise(key, mean.shape, mean.dtype)

    return sample


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

    Raises:
      ValueError: if a bound is not a finite number, or `low >= high`.

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
