"""What a model offers to training and evaluation, and what the models share to offer it.

A model is a Flax Linen module. Training and evaluation call these methods by `model.apply(variables, ..., method=...)`;
a module of a user's own that has them serves everywhere in place of the models here.

Every model:

- `model(x, key, train=False) -> Forward(outputs, kl)`. `x` is [B, ...], floats in [0, 1] or uint8. `key` is one key, or
  B keys, one per example; an example's noise depends on its own key alone.
- `generate(key, num, temperature=1.0) -> outputs` for `num` draws from the prior (not in video models, which predict).
- `latent_shapes`, a property: the shapes of one example's latents, one per layer.

Some models:

- `encode(x) -> (mean, log_var)` and `decode(z) -> outputs`, where the posterior is a single Gaussian. Without them `kl`
  is that of the one draw, log q(z | x) - log p(z).
- `target(x)`: what the outputs are scored against, where it is not x itself.
- `axis_name`, an attribute: the mapped axis over which the batch is spread; training sets it under
  `pmap` and `shard_map`.
- variable collections besides `params`, such as the `batch_stats` of batch norm: training carries them along.

Video models:

- `n_past`, an attribute: the number of frames that the model is given.
- `predict(x_past, key, num_frames, to_image, temperature=1.0) -> outputs` for the frames after the given ones.
- `observe(x_past, key) -> memory` and `imagine(memory, noise, to_image) -> (memory, outputs)`: one frame per call.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp


class Forward(NamedTuple):
    """A model's result for a batch.

    Attributes:
      outputs: [B, ..., output_channels], the decoder's unconstrained reals, float32.
      kl: [B], nats, float32; [B, L] from a model with L layers of latents.
    """

    outputs: jax.Array
    kl: jax.Array


def is_single(key: jax.Array) -> bool:
    """Whether this is one key, not an array of keys."""
    return key.ndim == (0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else 1)


def split_keys(key: jax.Array, batch_size: int) -> jax.Array:
    """[B] keys, one per example: split from a single key, or the given [B] keys (legacy uint32: [2] or [B, 2]).

    Raises:
      ValueError: if the number of keys is neither 1 nor B.
    """
    if is_single(key):
        return jax.random.split(key, batch_size)
    if key.shape[0] != batch_size:
        raise ValueError(f"key holds {key.shape[0]} keys; expected one, or {batch_size}, one for each example")
    return key


def check_images(x: jax.Array, image_shape: Sequence[int]) -> None:
    """Raise ValueError unless x is a batch of images of this shape."""
    if x.shape[1:] != tuple(image_shape):
        raise ValueError(f"x has shape {x.shape}; expected {('B', *image_shape)}, the model's image_shape")


def check_temperature(temperature: jax.typing.ArrayLike) -> None:
    """Raise ValueError for a negative or non-finite number; a traced temperature is taken as it is."""
    if isinstance(temperature, int | float) and not 0 <= temperature < math.inf:
        raise ValueError(f"temperature is {temperature}; expected a number from 0")


def check_positive(**settings: Any) -> None:
    """Raise ValueError unless every setting is a positive whole number."""
    for name, value in settings.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; expected a positive whole number")
