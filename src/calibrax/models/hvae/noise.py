"""Random numbers of an example, decided by its own key, the purpose and the layer alone.

Results therefore depend neither on the place of an example in the batch nor on the number of devices.

Everything is drawn as a vector and reshaped, as XLA's CPU backend compiles the generator of a vector ten times faster
than that of an array with several axes.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

POSTERIOR, PRIOR, DROPOUT = 0, 1, 2  # the purposes, folded into an example's key


def layer_noise(keys: jax.Array, purpose: int, shapes: Sequence[tuple[int, ...]]) -> list[jax.Array]:
    """Standard normal noise for every layer, [B, *shape] each, float32, from the examples' keys [B].

    The noise of one purpose, POSTERIOR or PRIOR, is independent of that of the other.
    """
    ends = np.cumsum([math.prod(shape) for shape in shapes])
    draw = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, purpose), (int(ends[-1]),), jnp.float32))
    parts = jnp.split(draw(keys), ends[:-1], axis=1)
    return [part.reshape(-1, *shape) for part, shape in zip(parts, shapes, strict=True)]


def dropout_masks(keys: jax.Array, layer: int, shape: tuple[int, ...], rate: float) -> jax.Array:
    """[B, *shape], bool, False with probability `rate`: the elements of one layer that dropout sets to zero."""

    def draw(key):
        key = jax.random.fold_in(jax.random.fold_in(key, DROPOUT), layer)
        return jax.random.bernoulli(key, 1 - rate, (math.prod(shape),))

    return jax.vmap(draw)(keys).reshape(-1, *shape)
