"""What every likelihood shares: the `Likelihood` record, families of distributions, links, masks and sums."""

import functools
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float

from calibrax.likelihoods._checks import check_data, check_event_shape, check_levels, check_number, data_shape

PyTree = Any
Stats = dict[str, jax.Array]
Link = Literal["sigmoid", "identity"]
Mask = Bool[Array, "B ..."] | None


class Likelihood(NamedTuple):
    """A decoding distribution p(x | outputs) as pure functions.

    B is the batch, `event_shape` the shape of one example, last axis the channels. `outputs` are unconstrained reals
    of a decoder, `[B, ..., output_channels(C)]`; `x` is `[B, ..., C]`, float in the data's range or uint8 in 0..255
    (read as x / 255).

    Attributes:
      init: `(event_shape) -> (params, state)`: what gradient descent trains and what is averaged, `{}` where nothing.
      nll: `(params, state, outputs, x, train=True, axis_name=None, mask=None) -> (nll, stats)`: nll `[B]`, at least
        float32, nats, summed over the event; stats a flat dict of arrays. `train=True` takes this batch's statistics,
        `train=False` the running average in `state`. `axis_name` names the mapped axis over which the batch is spread.
        `mask` is True where x is observed, of x's shape or with a last axis of 1; `masked` passes it.
      update: `(state, stats) -> state`: the running average after this batch.
      mean: `(params, state, outputs) -> E[x | outputs]`, `[B, ..., C]` in the data's range.
      sample: `(key, params, state, outputs) -> x`, a draw in the data's units. A density on the real line may draw
        outside [0, 1]; clip for display.
      output_channels: `(channels) -> int`, how many values the decoder emits for each position.
      discretized_nll: `(params, state, outputs, x, mask=None) -> [B]`, -log P in nats of the 256-level image, by the
        same distribution integrated over bins of width 1/255; None where the distribution says nothing about them.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    nll: Callable[..., tuple[jax.Array, Stats]]
    update: Callable[[PyTree, Stats], PyTree]
    mean: Callable[[PyTree, PyTree, PyTree], PyTree]
    sample: Callable[[jax.Array, PyTree, PyTree, PyTree], PyTree]
    output_channels: Callable[[int], int]
    discretized_nll: Callable[..., jax.Array] | None = None


def check_likelihood(name: str, value: Any) -> None:
    """Raise ValueError where a combinator is given something else."""
    if not isinstance(value, Likelihood):
        raise ValueError(f"{name} is a {type(value).__name__}; expected a Likelihood, such as optimal_sigma()")


def soft_clip(
    log_sigma: Float[Array, "..."], low: float | None = None, high: float | None = None
) -> Float[Array, "..."]:
    """Bound smoothly from above by `high`, then from below by `low`.

    λ := high - softplus(high - λ); λ := low + softplus(λ - low). Nearly the identity far inside the bounds, though
    not exactly: at λ = low + 3 it adds 0.05.

    Args:
      log_sigma: any shape.
      low: lower bound, or None for none.
      high: upper bound, or None for none.

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


def compute_dtype(*arrays: jax.typing.ArrayLike) -> jnp.dtype:
    """float64 if one of the arrays has it and JAX's x64 mode is on, else float32; Python numbers do not widen."""
    wide = any(getattr(array, "dtype", None) == jnp.float64 for array in arrays)
    return jnp.dtype(jnp.float64 if wide and jax.config.read("jax_enable_x64") else jnp.float32)


def as_unit(x: jax.typing.ArrayLike, dtype: Any) -> jax.Array:
    """Data as floats: uint8 levels become level / 255, floats are taken as they are."""
    x = jnp.asarray(x)
    if x.dtype == jnp.uint8:
        return _level_over_255(x, dtype)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"x has dtype {x.dtype}; expected uint8 in 0..255 or a float dtype")
    return x.astype(dtype)


def _level_over_255(level: jax.Array, dtype: Any) -> jax.Array:
    """level / 255 rounded once, as NumPy has it; XLA divides by a constant with its rounded inverse.

    1/255 = 257/65535, and 1/65535 = 2^-16 + 2^-32 + 2^-48 + ...: the products are exact, the smallest are added first.
    """
    wide = (level.astype(jnp.int32) * 257).astype(dtype)
    return wide * 2.0**-16 + (wide * 2.0**-32 + (wide * 2.0**-48 + wide * 2.0**-64))


def as_level(x: jax.typing.ArrayLike, levels: int = 256) -> jax.Array:
    """Data as int32 levels 0..levels-1: the nearest to (levels - 1)·x for x in [0, 1], uint8 being x = level / 255.

    What lies outside [0, 1] counts as the nearer end.
    """
    x = jnp.asarray(x)
    if x.dtype == jnp.uint8 and levels == 256:
        return x.astype(jnp.int32)
    unit = as_unit(x, compute_dtype(x))
    return jnp.clip(jnp.round(unit * (levels - 1)), 0, levels - 1).astype(jnp.int32)


def hide(x: jax.typing.ArrayLike, mask: Mask) -> jax.Array:
    """x with 0 where the mask is False, so that what stands there, NaN included, reaches nothing."""
    return jnp.asarray(x) if mask is None else jnp.where(mask, x, jnp.zeros((), jnp.asarray(x).dtype))


def apply_link(link: Link, outputs: jax.Array) -> jax.Array:
    """The decoder's reals as a mean: in [0, 1] by a sigmoid, or unchanged; float32 at least."""
    outputs = jnp.asarray(outputs)
    outputs = outputs.astype(compute_dtype(outputs))
    return jax.nn.sigmoid(outputs) if link == "sigmoid" else outputs


def floor_scale(log_scale: jax.Array) -> jax.Array:
    """A log scale no smaller than the least whose inverse is a finite float: 0 times that is 0, and so is its gradient.

    Gradient descent leads there on black images: a mean of exactly 0 fits them, and nothing else holds a scale up.
    """
    dtype = np.dtype(log_scale.dtype)
    return jnp.maximum(log_scale, -np.nextafter(np.log(np.finfo(dtype).max), dtype.type(0)))


def softplus(x: jax.Array) -> jax.Array:
    """log(1 + exp(x)) from one exponential of a negative number; its gradient is the sigmoid, 1/2 at 0."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(minus_abs(x)))


def minus_abs(x: jax.Array) -> jax.Array:
    """-|x| with a gradient of 0 at 0, to go with the 1/2 of `maximum`; that of `abs` is 1 there in some JAX."""
    return jnp.minimum(x, -x)


def sum_event(values: jax.Array, mask: Mask = None) -> jax.Array:
    """[B, ...] -> [B], over what is observed."""
    kept = values if mask is None else jnp.where(mask, values, 0.0)
    return jnp.sum(kept, axis=tuple(range(1, values.ndim)))


def sum_event_and_constant(values: jax.Array, constant: jax.Array, mask: Mask = None) -> jax.Array:
    """[B, ...] -> [B]: the sum of values + constant, the latter broadcast.

    Two sums: XLA's CPU backend takes twice as long for one with the broadcast inside.
    """
    return sum_event(values, mask) + sum_event(jnp.broadcast_to(constant, values.shape), mask)


def mean_observed(values: jax.Array, mask: Mask = None) -> jax.Array:
    """The mean of what is observed, []; 0 where nothing is."""
    if mask is None:
        return jnp.mean(values)
    seen = jnp.broadcast_to(mask, values.shape)
    return jnp.sum(jnp.where(seen, values, 0.0)) / jnp.maximum(jnp.sum(seen, dtype=values.dtype), 1.0)


class Family(NamedTuple):
    """A family of distributions over data, as functions of its parameters: what a decoder's outputs become.

    Attributes:
      nll: `(x, *parameters, mask=None) -> (nll, stats)`, a pure function such as `gaussian_nll`.
      mean: `(*parameters) -> E[x]`, in the data's range.
      sample: `(key, *parameters) -> x`.
      discretized_nll: `(x, *parameters, mask=None) -> (nll, stats)` of the 256-level image, or None.
    """

    nll: Callable[..., tuple[jax.Array, Stats]]
    mean: Callable[..., jax.Array]
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
      parameters: `(params, state, outputs) -> ` its parameters: links, clips and splits of what the decoder emits.
      outputs_per_channel: what the decoder emits for each channel.
      outputs_per_position: what it emits besides, once a position.
      init_params: makes the parameters that gradient descent trains.
    """

    def init(event_shape):
        check_event_shape(event_shape)
        return init_params(), {}

    shape_of = functools.partial(
        data_shape, outputs_per_channel=outputs_per_channel, outputs_per_position=outputs_per_position
    )

    def checked_parameters(params, state, outputs):
        shape_of(outputs, axes=1)
        return parameters(params, state, jnp.asarray(outputs))

    def nll(params, state, outputs, x, train=True, axis_name=None, mask=None):
        del train, axis_name  # nothing here depends on the batch
        check_data(x, mask, shape_of(outputs))
        return family.nll(x, *checked_parameters(params, state, outputs), mask=mask)

    def discretized_nll(params, state, outputs, x, mask=None):
        check_data(x, mask, shape_of(outputs))
        assert family.discretized_nll is not None
        return family.discretized_nll(x, *checked_parameters(params, state, outputs), mask=mask)[0]

    def output_channels(channels):
        check_levels("channels", channels, low=1)
        return outputs_per_position + outputs_per_channel * channels

    return Likelihood(
        init=init,
        nll=nll,
        update=lambda state, stats: state,
        mean=lambda params, state, outputs: family.mean(*checked_parameters(params, state, outputs)),
        sample=lambda key, params, state, outputs: family.sample(key, *checked_parameters(params, state, outputs)),
        output_channels=output_channels,
        discretized_nll=None if family.discretized_nll is None else discretized_nll,
    )
