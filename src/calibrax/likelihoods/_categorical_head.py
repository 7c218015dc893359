"""The last linear layer fused with the soft-max over levels, so that the logits of an image never exist at once."""

import math

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float, Num

from calibrax.likelihoods._categorical import cross_entropy
from calibrax.likelihoods._checks import check_levels, check_shape
from calibrax.likelihoods._residual import Mask, Stats, compute_dtype, level_data, sum_event

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

    The logits are computed for one chunk of positions at a time, and again in the gradient: all 256 logits per
    sub-pixel of one 1024×1024×3 image would take 3 GiB, and their gradient as much. What remains in memory is the
    gradient by the features.

    Args:
      x: [B, ..., C] integer levels 0..L-1, or floats in [0, 1] rounded to the nearest of L levels.
      features: [B, ..., F], the last hidden layer of the network.
      kernel: [F, C·L], the logits of channel 0 first, as for `categorical`.
      bias: [C·L].
      max_chunk_logits: how many logits a chunk may have; a chunk is at least one position per example.
      mask: True where x is observed, or None.

    Returns:
      nll [B], nats, at least float32; no stats. Differentiable by features, kernel and bias.

    Raises:
      ValueError: if shapes do not match, or x is of another dtype or range, as for `categorical_nll`.

    Example:
      >>> nll, _ = categorical_nll_from_features(images, features, params["kernel"], params["bias"])
    """
    for name, array, axes in (("x", x, 2), ("features", features, 2), ("kernel", kernel, 2), ("bias", bias, 1)):
        if jnp.ndim(array) < axes:
            raise ValueError(f"{name} has shape {jnp.shape(array)}; expected {axes} or more axes")
    channels = x.shape[-1]
    check_shape("kernel", kernel, (features.shape[-1], bias.shape[-1]))
    check_shape("bias", bias, (kernel.shape[-1],))
    if bias.shape[0] % channels:
        raise ValueError(f"kernel has {bias.shape[0]} columns; expected a multiple of the {channels} channels of x")
    levels = bias.shape[0] // channels
    check_levels("the number of logits", levels)
    check_levels("max_chunk_logits", max_chunk_logits, low=1, high=2**31)
    level = level_data(x, (*features.shape[:-1], channels), levels, mask)
    dtype = compute_dtype(features, kernel, bias)

    @jax.checkpoint  # the gradient keeps no logits: it computes those of a chunk again
    def nll_of_chunk(chunk):
        level, features = chunk  # [B, P, C] and [B, P, F]
        features = features.reshape(-1, features.shape[-1]).astype(dtype)
        logits = features @ kernel.astype(dtype) + bias.astype(dtype)[None]
        return cross_entropy(logits.reshape(-1, channels, levels), level.reshape(-1, channels)).reshape(level.shape)

    # A chunk has the same positions of every example, so that devices which share the batch share every chunk.
    num_examples, num_positions = level.shape[0], math.prod(level.shape[1:-1])
    size = min(max(1, max_chunk_logits // (num_examples * bias.shape[0])), num_positions)
    size = 1 << (size.bit_length() - 1)  # divides most images; otherwise the positions are padded
    excess = -num_positions % size

    def chunks(array):
        array = array.reshape(num_examples, num_positions, -1)
        if excess:
            array = jnp.pad(array, ((0, 0), (0, excess), (0, 0)))
        return array.reshape(num_examples, -1, size, array.shape[-1]).swapaxes(0, 1)

    nll = lax.map(nll_of_chunk, (chunks(level), chunks(features))).swapaxes(0, 1)
    nll = nll.reshape(num_examples, -1, channels)[:, :num_positions]
    return sum_event(nll.reshape(x.shape), mask), {}


def head_logits(features: jax.Array, kernel: jax.Array, bias: jax.Array) -> jax.Array:
    """All logits of a batch at once, [B, ..., C·L] in the dtype of the features, for means and samples."""
    check_features(features)
    check_shape("kernel", kernel, (features.shape[-1], bias.shape[-1]))
    bias = bias.astype(features.dtype).reshape((1,) * (features.ndim - 1) + (-1,))
    return features @ kernel.astype(features.dtype) + bias


def check_features(features: jax.Array) -> None:
    if jnp.ndim(features) < 2:
        raise ValueError(f"features has shape {jnp.shape(features)}; expected [B, ..., F]")


def check_channels(x: jax.Array, channels: int) -> None:
    if jnp.shape(x)[-1:] != (channels,):
        raise ValueError(f"x has shape {jnp.shape(x)}; expected {channels} channels, the last axis")
