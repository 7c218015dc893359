"""Random numbers that belong to an example: its own key, the purpose and the layer decide them, nothing else.

The results of a model so depend on neither the place of an example in the batch nor the number of devices.

Everything is drawn as a vector and reshaped: on a CPU, XLA compiles a vector's generator ten times faster than one with
several axes.
"""

import math
from collections.abc import Sequence

import jax
import jax.numpy as jnp

# What an example's key is for.
POSTERIOR, PRIOR, DROPOUT = 0, 1, 2


def layer_noise(keys: jax.Array, purpose: int, shapes: Sequence[tuple[int, ...]]) -> list[jax.Array]:
    """Standard normal noise for every layer, [B, *shape] each, float32.

    Args:
      keys: [B], the examples' keys.
      purpose: POSTERIOR or PRIOR, of which the noise is independent.
      shapes: of each layer's latents.
    """
    sizes = [math.prod(shape) for shape in shapes]
    flat = jax.vmap(lambda key: jax.random.normal(jax.random.fold_in(key, purpose), (sum(sizes),), jnp.float32))(keys)
    ends = [sum(sizes[: layer + 1]) for layer in range(len(sizes))]
    return [flat[:, end - size : end].reshape(-1, *shape) for end, size, shape in zip(ends, sizes, shapes, strict=True)]


def dropout_masks(keys: jax.Array, layer: int, shape: tuple[int, ...], rate: float) -> jax.Array:
    """[B, *shape], bool, False with probability `rate`: the elements that dropout takes out in one layer."""

    def draw(key):
        key = jax.random.fold_in(jax.random.fold_in(key, DROPOUT), layer)
        return jax.random.bernoulli(key, 1 - rate, (math.prod(shape),))

    return jax.vmap(draw)(keys).reshape(-1, *shape)


def normal_init(std: float):
    """A Flax initialiser: N(0, std²).

    Cut from a vector whose length is a power of two: XLA compiles a generator once for each length, and a deep model
    has hundreds of parameters.
    """

    def init(key, shape):
        size = math.prod(shape)
        return std * jax.random.normal(key, (1 << (size - 1).bit_length(),), jnp.float32)[:size].reshape(shape)

    return init


def dropout(x: jax.Array, mask: jax.Array, rate: float) -> jax.Array:
    """x / (1 - rate) where the mask is True, else 0."""
    return jnp.where(mask, x / jnp.asarray(1 - rate, x.dtype), jnp.zeros((), x.dtype))
