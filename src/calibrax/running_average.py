"""A debiased exponential moving average as a pytree: `init`, `update`, `value`.

With weights w_t and decay d, the average of values v_t after T updates is sum_t d^(T-t) w_t v_t / sum_t d^(T-t) w_t.
Numerator and denominator are kept apart, so the value needs no bias correction and is exact from the first update on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import ArrayLike


class RunningAverage(NamedTuple):
    """Numerator and denominator of a weighted mean; both are linear in the averaged values."""

    total: jax.Array  # shape of the value, float32: sum of weighted values
    weight: jax.Array  # shape of the value, float32: sum of weights, 0 before the first update


def init(shape: Sequence[int] = ()) -> RunningAverage:
    """An average of nothing yet, for values of the given shape; raises ValueError if that is not a shape."""
    if not isinstance(shape, Sequence) or not all(isinstance(n, int | np.integer) and n >= 0 for n in shape):
        raise ValueError(f"shape is {shape!r}; expected a tuple of ints from 0, such as () or (28, 28, 1)")
    return RunningAverage(jnp.zeros(tuple(shape), jnp.float32), jnp.zeros(tuple(shape), jnp.float32))


def update(average: RunningAverage, value: ArrayLike, *, decay: float, weight: ArrayLike = 1.0) -> RunningAverage:
    """The average after one more value.

    Args:
      average: the average so far.
      value: an array of the shape of the average.
      decay: in [0, 1); how much of the past each update keeps.
      weight: how much the value counts relative to other updates; a number, or one per entry.

    Returns:
      The new average; nothing is mutated.

    Raises:
      ValueError: if decay is a number outside [0, 1), or shapes do not match.
    """
    if isinstance(decay, int | float | np.integer | np.floating) and not 0 <= decay < 1:
        raise ValueError(f"decay is {decay}; expected a number in [0, 1)")
    shape = average.weight.shape
    if jnp.shape(value) != shape:
        raise ValueError(f"value has shape {jnp.shape(value)}; expected {shape}, that of the average")
    if jnp.shape(weight) not in ((), shape):
        raise ValueError(f"weight has shape {jnp.shape(weight)}; expected a number, or one for each entry of {shape}")
    gain = (1.0 - decay) * jnp.broadcast_to(jnp.asarray(weight, jnp.float32), shape)
    total = decay * average.total + gain * jnp.asarray(value, jnp.float32)
    return RunningAverage(total, decay * average.weight + gain)


def value(average: RunningAverage, *, initial: float) -> jax.Array:
    """The averaged value, or `initial` for entries that were never updated. Never 0/0."""
    started = average.weight > 0
    return jnp.where(started, average.total / jnp.where(started, average.weight, 1.0), initial)
