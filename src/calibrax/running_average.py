"""A debiased exponential moving average as a pytree: `init`, `update`, `value`.

With weights w_t the average after T updates is sum_t d^(T-t) w_t v_t / sum_t d^(T-t) w_t. Numerator and denominator
are kept apart, so the value needs no bias correction, has no warm-up, and is exact from the first update on.
"""

from collections.abc import Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp

ArrayLike = jax.typing.ArrayLike


class RunningAverage(NamedTuple):
    """Numerator and denominator of a weighted mean; both are linear in what was averaged."""

    total: jax.Array  # shape of the value, float32: sum of weighted values
    weight: jax.Array  # shape of the value, float32: sum of weights, 0 where nothing was averaged yet


def init(shape: Sequence[int] = ()) -> RunningAverage:
    """An average of nothing yet, for values of the given shape."""
    return RunningAverage(jnp.zeros(tuple(shape), jnp.float32), jnp.zeros(tuple(shape), jnp.float32))


def update(average: RunningAverage, value: ArrayLike, *, decay: float, weight: ArrayLike = 1.0) -> RunningAverage:
    """The average after one more value.

    Args:
      average: the average so far.
      value: shape of the average.
      decay: in [0, 1); how much of the past each update keeps.
      weight: what the value counts for, relative to other updates; a number, or one for each entry.

    Returns:
      The new average; nothing is mutated.
    """
    gain = (1.0 - decay) * jnp.broadcast_to(jnp.asarray(weight, jnp.float32), average.weight.shape)
    return RunningAverage(
        decay * average.total + gain * jnp.asarray(value, jnp.float32),
        decay * average.weight + gain,
    )


def value(average: RunningAverage, *, initial: float) -> jax.Array:
    """The averaged value, or `initial` where nothing was averaged yet. Never 0/0."""
    started = average.weight > 0
    return jnp.where(started, average.total / jnp.where(started, average.weight, 1.0), initial)
