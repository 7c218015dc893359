"""Checks of settings at construction and of shapes at trace time. Each raises a one-line `ValueError`.

The message has the form `name is value; expected ...`.
"""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer


def shown(value: Any) -> str:
    """`repr(value)` on one line; the `repr` of an array may have several."""
    return " ".join(repr(value).split())


def is_integer(number: Any) -> TypeGuard[int]:
    return isinstance(number, int | np.integer) and not isinstance(number, bool)


def check_link(link: str) -> None:
    if not isinstance(link, str) or link not in ("sigmoid", "identity"):
        raise ValueError(
            f"link is {shown(link)}; expected 'sigmoid' for data in [0, 1] or 'identity' for data without a range"
        )


def check_number(
    name: str, number: Any, *, low: float = -math.inf, high: float = math.inf, closed: bool = False
) -> None:
    """Accept a finite real number strictly between the bounds; with `closed`, the lower bound itself too."""
    kind = isinstance(number, int | float | np.floating | np.integer) and not isinstance(number, bool)
    if isinstance(number, np.generic):
        number = number.item()  # a comparison with a NumPy scalar may overflow in its dtype
    inside = kind and abs(number) <= sys.float_info.max  # false for NaN and for integers too large for a float
    inside = inside and (low <= number if closed else low < number) and number < high
    if not inside:
        bounds = f"{'[' if closed else '('}{low}, {high})"
        raise ValueError(f"{name} is {shown(number)}; expected a number in {bounds}")


def check_levels(name: str, number: Any, *, low: int = 2, high: int = 2**24) -> None:
    """Accept an integer from low to high; float32 cannot tell more than 2^24 levels apart."""
    if not (is_integer(number) and low <= number <= high):
        raise ValueError(f"{name} is {shown(number)}; expected an integer from {low} to {high}")


def check_event_shape(event_shape: Any) -> tuple[int, ...]:
    """`event_shape` as a tuple of positive ints; that of a single number, (), as one channel, (1,)."""
    good = isinstance(event_shape, Sequence) and not isinstance(event_shape, str)
    good = good and all(is_integer(n) and n > 0 for n in event_shape)
    if not good:
        raise ValueError(f"event_shape is {shown(event_shape)}; expected a tuple of positive ints such as (28, 28, 3)")
    return tuple(int(n) for n in event_shape) or (1,)


def check_shape(name: str, array: jax.typing.ArrayLike, expected: Sequence[int]) -> None:
    if jnp.shape(array) != tuple(expected):
        raise ValueError(f"{name} has shape {jnp.shape(array)}; expected {tuple(expected)}")


def check_data(x: jax.typing.ArrayLike, shape: Sequence[int]) -> None:
    """Accept data of this shape with at least one value."""
    check_shape("x", x, shape)
    if 0 in shape:
        raise ValueError(f"x has shape {tuple(shape)}; expected at least one value")


def broadcast_mask(mask: jax.typing.ArrayLike, shape: Sequence[int]) -> jax.Array:
    """The mask in the shape of x: it broadcasts to x by NumPy's rules, or is [B, T] for x [B, T, ...]."""
    mask, shape = jnp.asarray(mask), tuple(shape)
    if mask.dtype != jnp.bool_:
        raise ValueError(f"mask has dtype {mask.dtype}; expected bool, True where x is observed")
    if mask.ndim == 2 and mask.shape == shape[:2]:
        return jnp.broadcast_to(mask.reshape(*shape[:2], *(1 for _ in shape[2:])), shape)
    if not broadcasts(mask.shape, shape):
        steps = f", or {shape[:2]}" if len(shape) > 2 else ""
        raise ValueError(f"mask has shape {mask.shape}; expected one that broadcasts to {shape}, that of x{steps}")
    return jnp.broadcast_to(mask.reshape((1,) * (len(shape) - mask.ndim) + mask.shape), shape)


def mask_of_each(x: Any, mask: Any) -> Any:
    """Masks of several modalities as a dict like x, also where one mask is given for all of them."""
    if mask is None or not isinstance(x, Mapping) or isinstance(mask, Mapping):
        return mask
    return {name: mask_of_each(part, mask) for name, part in x.items()}


def broadcasts(shape: Sequence[int], to: Sequence[int]) -> bool:
    """Whether an array of a shape broadcasts to another shape, and not beyond it."""
    try:
        return np.broadcast_shapes(tuple(shape), tuple(to)) == tuple(to)
    except ValueError:
        return False


def check_range(x: Any, low: float, high: float, expected: str) -> None:
    """Refuse data with values outside [low, high]. Values that are not known, as inside `jit`, pass."""
    values = _known(x)
    if not values.size:
        return
    smallest, largest = values.min(), values.max()
    if smallest < low or largest > high:
        raise ValueError(f"x has values from {smallest:g} to {largest:g}; expected {expected}")


def check_counts(x: Any, total: int | None = None) -> None:
    """Refuse known values that are not whole numbers from 0, or up to the total, if there is one."""
    values = _known(x)
    good = (values >= 0) & np.isfinite(values) & (values == np.floor(values))  # false for NaN
    good &= True if total is None else values <= total
    if not good.all():
        expected = "whole numbers from 0" + ("" if total is None else f" to {total}")
        raise ValueError(f"x has the value {values[~good][0]:g}; expected counts, {expected}")


def _known(x: Any) -> np.ndarray:
    """The values of x as a NumPy array; an empty one if they are not known here, as inside `jit`."""
    if isinstance(x, Tracer) or not getattr(x, "is_fully_addressable", True):
        return np.zeros(0)
    return np.asarray(x)  # not a computation of JAX, which inside `jit` would be traced


def check_unit_range(x: Any) -> None:
    """Refuse floats far outside of [0, 1], such as 0..255 or [-1, 1]. A resized image may overshoot a little."""
    check_range(x, -0.5, 2.0, "floats in [0, 1], or uint8 levels 0..255")


def data_shape(
    outputs: jax.typing.ArrayLike, outputs_per_channel: int, outputs_per_position: int = 0, axes: int = 2
) -> tuple[int, ...]:
    """The shape that x must have for these outputs, which have at least `axes` axes."""
    shape = jnp.shape(outputs)
    if len(shape) < axes:
        raise ValueError(f"outputs has shape {shape}; expected [B, ..., channels]")
    if jnp.iscomplexobj(outputs):
        raise ValueError(f"outputs has dtype {jnp.result_type(outputs)}; expected real numbers")
    channels, rest = divmod(shape[-1] - outputs_per_position, outputs_per_channel)
    if rest or channels < 1:
        more = f"{outputs_per_position} and " if outputs_per_position else ""
        raise ValueError(f"outputs has {shape[-1]} channels; expected {more}a multiple of {outputs_per_channel}")
    return (*shape[:-1], channels)


def broadcast_parameter(name: str, parameter: jax.typing.ArrayLike, shape: Sequence[int], dtype: Any) -> jax.Array:
    """The parameter as an array of the rank of `shape`; it must broadcast to `shape` and not beyond it."""
    parameter = jnp.asarray(parameter, dtype)
    shape = tuple(shape)
    if not broadcasts(parameter.shape, shape):
        raise ValueError(f"{name} has shape {parameter.shape}; expected one that broadcasts to {shape}")
    return parameter.reshape((1,) * (len(shape) - parameter.ndim) + parameter.shape)


def entry(name: str, tree: Any, key: str) -> Any:
    """`tree[key]`, where `tree` is the params, the state or the stats of a likelihood."""
    if not isinstance(tree, Mapping):
        raise ValueError(f"{name} is a {type(tree).__name__}; expected a dict with {key!r}")
    if key not in tree:
        raise ValueError(f"{name} has keys {list(tree)}; expected {key!r}")
    return tree[key]
