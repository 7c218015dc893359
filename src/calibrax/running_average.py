"""A debiased exponential moving average as a pytree: `init`, `update`, `value`.

With weights w_t and decay d, the average of values v_t after T updates is sum_t d^(T-t) w_t v_t / sum_t d^(T-t) w_t.
Numerator and denominator are kept apart, so the value needs no bias correction and is exact from the first update on.

An average is a plain dict, so that any tool that saves dicts of arrays carries it:
  total: shape of the value, float32: the sum of weighted values.
  weight: shape of the value, float32: the sum of weights, 0 before the first update.
"""

from collections.abc import Mapping, Sequence
from typing import Any, TypeGuard

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike

RunningAverage = Mapping[str, Any]


def init(shape: Sequence[int] = ()) -> dict[str, jax.Array]:
    """An average of nothing yet.

    Args:
      shape: of the values, () for numbers.

    Returns:
      {"total": zeros, "weight": zeros}, both of this shape, float32.

    Raises:
      ValueError: if that is not a shape.

    Example:
      >>> average = init((3,))
    """
    if not isinstance(shape, Sequence) or not all(isinstance(n, int | np.integer) and n >= 0 for n in shape):
        raise ValueError(f"shape is {shape!r}; expected a tuple of ints from 0, such as () or (28, 28, 1)")
    return {"total": jnp.zeros(tuple(shape), jnp.float32), "weight": jnp.zeros(tuple(shape), jnp.float32)}


def is_average(node: Any) -> TypeGuard[RunningAverage]:
    """Whether a node of a likelihood's state is an average.

    Args:
      node: anything.

    Returns:
      True for a dict of the arrays `total` and `weight`.

    Example:
      >>> is_average(init()), is_average({})
      (True, False)
    """
    if not isinstance(node, Mapping) or set(node) != {"total", "weight"}:
        return False
    return not any(isinstance(leaf, Mapping) for leaf in node.values())


def update(average: RunningAverage, value: ArrayLike, *, decay: float, weight: ArrayLike = 1.0) -> dict[str, jax.Array]:
    """The average after one more value.

    Args:
      average: the average so far.
      value: an array of the shape of the average.
      decay: in [0, 1); how much of the past each update keeps.
      weight: how much the value counts relative to other updates; a number, or one per entry.

    Returns:
      The new average; nothing is mutated.

    Raises:
      ValueError: if decay is a number outside [0, 1), the average is not one, or shapes do not match.

    Example:
      >>> average = update(update(init(), 1.0, decay=0.5), 4.0, decay=0.5)
      >>> float(value(average, initial=0.0))  # (0.5 · 1 + 1 · 4) / 1.5
      3.0
    """
    if isinstance(decay, int | float | np.integer | np.floating):
        decay = float(decay)  # a NumPy scalar would turn the average to its own dtype
        if not 0 <= decay < 1:
            raise ValueError(f"decay is {decay}; expected a number in [0, 1)")
    _check(average)
    shape = jnp.shape(average["weight"])
    if jnp.shape(value) != shape:
        raise ValueError(f"value has shape {jnp.shape(value)}; expected {shape}, that of the average")
    if jnp.shape(weight) not in ((), shape):
        raise ValueError(f"weight has shape {jnp.shape(weight)}; expected a number, or one for each entry of {shape}")
    gain = (1.0 - decay) * jnp.broadcast_to(jnp.asarray(weight, jnp.float32), shape)
    total = decay * average["total"] + gain * jnp.asarray(value, jnp.float32)
    return {"total": total, "weight": decay * average["weight"] + gain}


def value(average: RunningAverage, *, initial: float) -> jax.Array:
    """The averaged value. Never 0/0.

    Args:
      average: as of `init` or `update`.
      initial: the value of entries that were never updated.

    Returns:
      An array of the shape of the average, float32.

    Raises:
      ValueError: if the average is not one.

    Example:
      >>> float(value(init(), initial=1.0))
      1.0
    """
    _check(average)
    total, weight = jnp.asarray(average["total"]), jnp.asarray(average["weight"])
    started = weight > 0
    return jnp.where(started, total / jnp.where(started, weight, 1.0), initial)


def _check(average: Any) -> None:
    if not is_average(average):
        held = f"a dict with {', '.join(map(str, average))}" if isinstance(average, Mapping) else type(average).__name__
        raise ValueError(f"average is {held}; expected a dict of arrays 'total' and 'weight'")
