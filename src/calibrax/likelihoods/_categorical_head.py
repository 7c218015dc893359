"""The last linear layer and the soft-max over levels as one, so that the logits of an image never exist at once."""

import functools
from typing import Any

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._base import Mask, Stats, as_level, compute_dtype, hide, sum_event
from calibrax.likelihoods._categorical import cross_entropy
from calibrax.likelihoods._checks import check_data, check_levels, check_shape

MAX_CHUNK_LOGITS = 4 * 2**20  # 16 MiB in float32: large enough for matrix products, small beside any image


def categorical_nll_from_features(
    x: Num[Array, "B ... C"],
    features: Float[Array, "B ... F"],
    kernel: Float[Array, "F N"],
    bias: Float[Array, " N"],
    *,
    max_chunk_logits: int = MAX_CHUNK_LOGITS,
    mask: Mask = None,
) -> tuple[Float[Array, " B"], Stats]:
    """`categorical_nll` of `features @ kernel + bias`, in memory that does not grow with the image.

    The logits are made for a chunk of positions at a time, in the gradient once more: 256 logits a sub-pixel of one
    1024×1024×3 image would be 3 GiB, and their gradient as much. What remains is the gradient by the features.

    Args:
      x: [B, ..., C] uint8 levels, or floats in [0, 1] rounded to the nearest of L levels.
      features: [B, ..., F], of the network's last hidden layer.
      kernel: [F, C·L], the logits of channel 0 first, as `categorical` has them.
      bias: [C·L].
      max_chunk_logits: how many logits to have at a time, at least; chunks are whole positions.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; no stats. Differentiable once, by features, kernel and bias.

    Raises:
      ValueError: if shapes do not match, or x is neither uint8 nor float.

    Example:
      >>> nll, _ = categorical_nll_from_features(images, features, params["kernel"], params["bias"])
    """
    for name, array, axes in (("x", x, 2), ("features", features, 2), ("kernel", kernel, 2), ("bias", bias, 1)):
        if jnp.ndim(array) < axes:
            raise ValueError(f"{name} has shape {jnp.shape(array)}; expected {axes} or more axes")
    channels = x.shape[-1]
    check_data(x, mask, (*features.shape[:-1], channels))
    check_shape("kernel", kernel, (features.shape[-1], bias.shape[-1]))
    check_shape("bias", bias, (kernel.shape[-1],))
    if bias.shape[0] % channels:
        raise ValueError(f"kernel has {bias.shape[0]} columns; expected a multiple of the {channels} channels of x")
    levels = bias.shape[0] // channels
    check_levels("the number of logits", levels)
    check_levels("max_chunk_logits", max_chunk_logits, low=1, high=2**31)
    level = as_level(hide(x, mask), levels)
    size = min(max(1, max_chunk_logits // bias.shape[0]), level.size // channels)  # in positions
    flat: Any = _fused(level.reshape(-1, channels), features.reshape(-1, features.shape[-1]), kernel, bias, size)
    return sum_event(flat.reshape(x.shape), mask), {}


@functools.partial(jax.custom_vjp, nondiff_argnums=(4,))
def _fused(level, features, kernel, bias, size):
    """-log p of each value: [N, C] levels and [N, F] features -> [N, C], `size` positions at a time."""
    num, dtype = len(level), compute_dtype(features, kernel, bias)

    def add_chunk(i, nll):
        start, _ = _chunk(i, size, num)
        here = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
        part = cross_entropy(_logits(here(level), here(features), kernel, bias), here(level))
        return lax.dynamic_update_slice_in_dim(nll, part, start, 0)

    return lax.fori_loop(0, -(-num // size), add_chunk, jnp.zeros(level.shape, dtype))


def _fused_forward(level, features, kernel, bias, size):
    return _fused(level, features, kernel, bias, size), (level, features, kernel, bias)


def _fused_backward(size, saved, grad):
    level, features, kernel, bias = saved
    num, dtype = len(level), compute_dtype(features, kernel, bias)

    def add_chunk(i, grads):
        by_features, by_kernel, by_bias = grads
        start, fresh = _chunk(i, size, num)
        here = functools.partial(lax.dynamic_slice_in_dim, start_index=start, slice_size=size)
        logits = _logits(here(level), here(features), kernel, bias)
        (slope,) = jax.vjp(lambda logits: cross_entropy(logits, here(level)), logits)[1](here(grad))
        slope = slope.reshape(size, -1)
        part = (slope @ kernel.T.astype(dtype)).astype(features.dtype)
        counted = jnp.where(fresh[:, None], slope, 0.0)
        return (
            lax.dynamic_update_slice_in_dim(by_features, part, start, 0),
            by_kernel + here(features).T.astype(dtype) @ counted,
            by_bias + jnp.sum(counted, 0),
        )

    zeros = (jnp.zeros_like(features), jnp.zeros(kernel.shape, dtype), jnp.zeros(bias.shape, dtype))
    by_features, by_kernel, by_bias = lax.fori_loop(0, -(-num // size), add_chunk, zeros)
    return None, by_features, by_kernel.astype(kernel.dtype), by_bias.astype(bias.dtype)


_fused.defvjp(_fused_forward, _fused_backward)


def _chunk(i, size, num):
    """Where chunk i starts, and which of its rows no chunk before had: the last one reaches back to be whole."""
    start = jnp.minimum(i * size, num - size)
    return start, start + jnp.arange(size) >= i * size


def _logits(level, features, kernel, bias):
    """[n, F] -> [n, C, L], at least float32."""
    dtype = compute_dtype(features, kernel, bias)
    flat = features.astype(dtype) @ kernel.astype(dtype) + bias.astype(dtype)[None]
    return flat.reshape(*level.shape, -1)
