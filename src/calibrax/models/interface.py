"""Random keys of a batch: one for each example, whose noise depends on nothing else."""

import jax
import jax.numpy as jnp


def is_single(key: jax.Array) -> bool:
    """Whether this is one key, not an array of keys."""
    return key.ndim == (0 if jnp.issubdtype(key.dtype, jax.dtypes.prng_key) else 1)


def example_keys(key: jax.Array, batch_size: int) -> jax.Array:
    """`batch_size` keys from one key, or the keys themselves where there are that many.

    Args:
      key: one key, or [B] keys (legacy uint32 keys: [2] or [B, 2]).
      batch_size: B.

    Raises:
      ValueError: if the number of keys is neither 1 nor B.
    """
    if is_single(key):
        return jax.random.split(key, batch_size)
    if key.shape[0] != batch_size:
        raise ValueError(f"key holds {key.shape[0]} keys; expected one, or {batch_size}, one for each example")
    return key
