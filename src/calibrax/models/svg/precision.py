"""In which precision to compute what half precision is too coarse for."""

from typing import Any

import jax.numpy as jnp


def at_least_float32(dtype: Any) -> Any:
    """float64 for float64, else float32; None, the default of a layer's dtype, is float32."""
    return jnp.float64 if dtype is not None and jnp.dtype(dtype) == jnp.float64 else jnp.float32
