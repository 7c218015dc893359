"""The last linear layer fused with the soft-max over levels, so that the logits of an image never exist at once."""

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
      max_chunk_logits: how many logits a chunk may have; a chunk is at least one position.
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

    def nll_of_position(position):
        level, features = position  # [C] and [F]
        logits = features.astype(dtype) @ kernel.astype(dtype) + bias.astype(dtype)
        return cross_entropy(logits.reshape(channels, levels), level)

    # With `checkpoint` the gradient keeps no logits: it computes those of a chunk again.
    size = min(max(1, max_chunk_logits // bias.shape[0]), level.size // channels)  # in positions
    size = 1 << (size.bit_length() - 1)  # divides most images; a remainder would cost a copy of the features
    positions = level.reshape(-1, channels), features.reshape(-1, features.shape[-1])
    nll = lax.map(jax.checkpoint(nll_of_position), positions, batch_size=size)
    return sum_event(nll.reshape(x.shape), mask), {}
