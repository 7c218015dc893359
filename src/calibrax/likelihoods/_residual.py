"""What surrounds the formula of every nll: data and parameters on the way in, sums over the event on the way out.

`residual` and `unit_data` are the preamble of densities, `level_data` that of distributions over levels, `count_data`
that of distributions over counts.
"""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.typing import ArrayLike
from jaxtyping import Array, Bool

from calibrax.likelihoods._checks import (
    broadcast_mask,
    broadcast_parameter,
    check_counts,
    check_data,
    check_range,
    check_unit_range,
)

Mask = Bool[Array, "B ..."] | None
Stats = dict[str, jax.Array]
HALF_LOG_2PI = 0.5 * math.log(2 * math.pi)


def residual(x: ArrayLike, mean: ArrayLike, mask: Mask = None, **scales: ArrayLike) -> tuple[jax.Array, ...]:
    """x - mean and the scales of `unit_data`, for densities that depend on x by its distance from the mean.

    Example:
      >>> error, log_sigma = residual(x, mean, mask, log_sigma=log_sigma)
    """
    x, mean, *arrays = unit_data(x, mean, mask, **scales)
    return x - mean, *arrays


def unit_data(x: ArrayLike, mean: ArrayLike, mask: Mask = None, **scales: ArrayLike) -> tuple[jax.Array, ...]:
    """x as floats (see `as_unit`), mean and each scale, as arrays of one dtype whose shapes are checked.

    `mean` is the parameter that has x's shape: a mean, a location or logits. Each scale broadcasts against it and gets
    its rank. The dtype is float64 if one of the arguments is, else float32. Where the mask is False, x becomes 0, so
    that what stands there, NaN included, reaches nothing.
    """
    dtype = compute_dtype(x, mean, *scales.values())
    mean = jnp.asarray(mean, dtype)
    check_data(x, mean.shape)
    arrays = [broadcast_parameter(name, scale, mean.shape, dtype) for name, scale in scales.items()]
    return observed_data(x, dtype, mask), mean, *arrays


def observed_data(x: ArrayLike, dtype: Any, mask: Mask = None) -> jax.Array:
    """x as floats (see `as_unit`). Where the mask is False it becomes 0, whatever stands there."""
    return as_unit(hidden_as_zero(x, mask), dtype)


def level_data(x: ArrayLike, shape: tuple[int, ...], levels: int, mask: Mask = None) -> jax.Array:
    """Data of this shape as int32 levels 0..levels-1. Hidden values become level 0.

    Integers are levels, and so is uint8. Floats in [0, 1] become the nearest level to (levels - 1)·x, False the first
    level and True the last. Outside of the range the nearest end counts, except that known values far outside are an
    error: they are not in the units that the caller believes.
    """
    check_data(x, shape)
    x = hidden_as_zero(x, mask)
    if jnp.issubdtype(x.dtype, jnp.integer):
        check_range(x, 0, levels - 1, f"levels 0 to {levels - 1}, or floats in [0, 1]")
        return jnp.clip(x, 0, min(levels - 1, jnp.iinfo(x.dtype).max)).astype(jnp.int32)
    unit = as_unit(x, compute_dtype(x))
    check_unit_range(unit)
    return jnp.clip(jnp.round(unit * (levels - 1)), 0, levels - 1).astype(jnp.int32)


def count_data(
    x: ArrayLike, log_mean: ArrayLike, mask: Mask = None, *, total: int | None = None, **scales: ArrayLike
) -> tuple[jax.Array, ...]:
    """Counts as floats, a parameter of the shape of x, and others that broadcast against it, as for `unit_data`.

    Integers of any dtype are counts, uint8 included: no range says what 255 would be a part of. So are floats that are
    whole numbers; bool is 0 and 1. Known values that are no counts, or exceed the total, are an error. Hidden values
    become 0.
    """
    dtype = compute_dtype(x, log_mean, *scales.values())
    log_mean = jnp.asarray(log_mean, dtype)
    check_data(x, log_mean.shape)
    arrays = [broadcast_parameter(name, scale, log_mean.shape, dtype) for name, scale in scales.items()]
    x = hidden_as_zero(x, mask)
    if jnp.issubdtype(x.dtype, jnp.complexfloating):
        raise ValueError(f"x has dtype {x.dtype}; expected counts: integers, bool, or floats that are whole numbers")
    check_counts(x, total)
    return x.astype(dtype), log_mean, *arrays


def compute_dtype(*arrays: ArrayLike) -> jnp.dtype:
    """float64 if one of the arrays has it and JAX's x64 mode is on, else float32; Python numbers do not widen."""
    wide = any(getattr(array, "dtype", None) == jnp.float64 for array in arrays)
    return jnp.dtype(jnp.float64 if wide and jax.config.read("jax_enable_x64") else jnp.float32)


def widen(outputs: ArrayLike) -> jax.Array:
    """A decoder's outputs in float32, or in float64 if they are float64."""
    outputs = jnp.asarray(outputs)
    return outputs.astype(compute_dtype(outputs))


def as_unit(x: ArrayLike, dtype: Any) -> jax.Array:
    """Data as floats: uint8 levels become level / 255, False and True become 0 and 1, and floats keep their value."""
    x = jnp.asarray(x)
    if x.dtype == jnp.uint8:
        # level / 255 rounded once, as NumPy has it; XLA divides by a constant by multiplying with its rounded inverse.
        # 1/255 = 257/65535, and 1/65535 = 2^-16 + 2^-32 + 2^-48 + ...: the products are exact, and the smallest are
        # added first.
        wide = (x.astype(jnp.int32) * 257).astype(dtype)
        return wide * 2.0**-16 + (wide * 2.0**-32 + (wide * 2.0**-48 + wide * 2.0**-64))
    if x.dtype != jnp.bool_ and not jnp.issubdtype(x.dtype, jnp.floating):
        accepted = "uint8 (read as x / 255), bool (0 and 1) or a float dtype"
        raise ValueError(f"x has dtype {x.dtype}; expected {accepted}; pass other integers as x.astype(jnp.float32)")
    return x.astype(dtype)


def hidden_as_zero(x: ArrayLike, mask: Mask) -> jax.Array:
    """x with 0 where the mask is False."""
    if mask is None:
        return jnp.asarray(x)
    if isinstance(x, np.ndarray) and not isinstance(mask, Tracer):
        # On the host, because a NaN that is hidden must not reach a device in which `jax_debug_nans` looks for it.
        return jnp.asarray(np.where(broadcast_mask(mask, x.shape), x, np.zeros((), x.dtype)))
    x = jnp.asarray(x)
    return jnp.where(broadcast_mask(mask, x.shape), x, jnp.zeros((), x.dtype))


def floor_scale(log_scale: jax.Array) -> jax.Array:
    """A log scale floored so that its inverse is a finite float: 0 times that is 0, and so is the gradient.

    On black images gradient descent reaches that floor: a mean of exactly 0 fits them, and nothing else holds the
    scale up.
    """
    dtype = np.dtype(log_scale.dtype)
    return jnp.maximum(log_scale, -np.nextafter(np.log(np.finfo(dtype).max), dtype.type(0)))


def softplus(x: jax.Array) -> jax.Array:
    """log(1 + exp(x)) from one exponential of a negative number; its gradient is the sigmoid, 1/2 at 0."""
    return jnp.maximum(x, 0.0) + jnp.log1p(jnp.exp(minus_abs(x)))


def minus_abs(x: jax.Array) -> jax.Array:
    """-|x| with a gradient of 0 at 0, to go with the 1/2 of `maximum`; in some versions of JAX that of `abs` is 1."""
    return jnp.minimum(x, -x)


def sum_event(values: jax.Array, mask: Mask = None) -> jax.Array:
    """[B, ...] -> [B]: the sum over what is observed of each event."""
    kept = values if mask is None else jnp.where(broadcast_mask(mask, values.shape), values, 0.0)
    return jnp.sum(kept, axis=tuple(range(1, values.ndim)))


def sum_event_and_constant(values: jax.Array, constant: jax.Array, mask: Mask = None) -> jax.Array:
    """[B, ...] -> [B]: the sum of values + constant, where the constant broadcasts against the values.

    Taken as two sums: XLA's CPU backend takes twice as long for one with the broadcast inside.
    """
    return sum_event(values, mask) + sum_event(jnp.broadcast_to(constant, values.shape), mask)


def mean_observed(values: jax.Array, mask: Mask = None) -> jax.Array:
    """The mean over what is observed, []; 0 where nothing is."""
    if mask is None:
        return jnp.mean(values)
    seen = broadcast_mask(mask, values.shape)
    return jnp.sum(jnp.where(seen, values, 0.0)) / jnp.maximum(jnp.sum(seen, dtype=values.dtype), 1.0)
