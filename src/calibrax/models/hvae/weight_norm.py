"""Weight-normalised layers whose gain and bias come from the first batch.

A layer's weight is g·v/‖v‖, the norm taken for each output channel. `init` draws v from N(0, 0.05²), runs the layer on
the batch it is given with g = 1 and b = 0, and sets g and b such that every channel of the output has mean 0 and
standard deviation 0.01 over that batch. The layers of a model initialise in the order in which they are called, each
on what the ones before it emit after their own initialisation: call `init` with a real training batch. Under `pmap`
the batch is the global one if the layer knows the axis, under `jit` on sharded arrays without further ado.

References:
  Salimans and Kingma 2016, section 3; constants from vlievin/biva-pytorch (ba37aca), `biva/layers/convolution.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from calibrax.models.hvae.noise import normal_init
from calibrax.models.layers import conv, conv_transpose

DIRECTION_STD = 0.05
OUTPUT_STD = 0.01
EPSILON = 1e-8  # added to the variance


class WeightNormConv(nn.Module):
    """A weight-normalised convolution with "SAME" padding, or its transpose.

    A stride divides height and width, rounding up; a transposed layer multiplies them by it. Of an odd padding the
    larger part goes to the bottom and the right: 7 before and 8 after for a 16×16 kernel.

    Attributes:
      features: output channels.
      kernel_size: height and width of the square kernel.
      stride: in both directions.
      transpose: a transposed convolution; input pixel i adds kernel[a] to output pixel stride·i + a - crop.
      dtype: of the computation; None for that of the input. Parameters are float32.
      axis_name: the mapped axis over which `init`'s batch is spread, if any.

    Raises:
      ValueError: if the kernel of a transposed layer is smaller than its stride.
    """

    features: int
    kernel_size: int
    stride: int = 1
    transpose: bool = False
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, H, W, in] -> [B, H', W', features]."""
        if self.transpose and self.kernel_size < self.stride:
            raise ValueError(f"kernel_size is {self.kernel_size}; expected at least the stride, {self.stride}")
        x = x.astype(self.dtype or x.dtype)
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        direction = _unit(self.param("v", normal_init(DIRECTION_STD), shape))
        first = self._whole(x, direction) if self.is_initializing() else None
        g, b = _gain_and_bias(self, first)
        g_of_channel = g.reshape(1, 1, 1, -1)
        y = self._whole(x, direction * g_of_channel) if first is None else first * g_of_channel.astype(x.dtype)
        if self.transpose:
            start = (self.kernel_size - self.stride) // 2
            rows, columns = (slice(start, start + n * self.stride) for n in x.shape[1:3])
            y = y[:, rows, columns]
        return y + b.astype(y.dtype).reshape(1, 1, 1, -1)

    def _whole(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """Without bias, and a transposed layer without its crop: the first batch's statistics count the border."""
        kernel = kernel.astype(x.dtype)
        if self.transpose:
            return conv_transpose(x, kernel, self.stride)
        total = [max((-(-n // self.stride) - 1) * self.stride + self.kernel_size - n, 0) for n in x.shape[1:3]]
        symmetric = min(total) // 2
        rest = [(n // 2 - symmetric, n - n // 2 - symmetric) for n in total]
        return conv(jnp.pad(x, [(0, 0), *rest, (0, 0)]), kernel, self.stride, symmetric)


class WeightNormDense(nn.Module):
    """A weight-normalised linear layer.

    Attributes:
      features: outputs.
      dtype, axis_name: as in `WeightNormConv`.
    """

    features: int
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, in] -> [B, features]."""
        x = x.astype(self.dtype or x.dtype)
        direction = _unit(self.param("v", normal_init(DIRECTION_STD), (x.shape[-1], self.features)))
        g, b = _gain_and_bias(self, x @ direction.astype(x.dtype) if self.is_initializing() else None)
        return x @ (direction * g.reshape(1, -1)).astype(x.dtype) + b.astype(x.dtype).reshape(1, -1)


def _unit(v: jax.Array) -> jax.Array:
    return v / jnp.sqrt(jnp.sum(jnp.square(v), axis=tuple(range(v.ndim - 1)), keepdims=True))


def _gain_and_bias(layer: Any, first: jax.Array | None) -> tuple[jax.Array, jax.Array]:
    """The parameters g and b [features]; `first` is what the layer gives for g = 1 and b = 0, in `init` alone."""
    g = b = jnp.zeros(layer.features)  # Flax compares shapes with these once the parameters exist
    if first is not None:
        mean, variance = _moments(first.astype(jnp.float32), layer.axis_name)
        g = OUTPUT_STD / jnp.sqrt(variance + EPSILON)
        b = -mean * g
    return layer.param("g", lambda _: g), layer.param("b", lambda _: b)


def _moments(y: jax.Array, axis_name: str | None) -> tuple[jax.Array, jax.Array]:
    """Mean and unbiased variance of each channel over the global batch and space.

    The mean first and the squares about it second: their difference from raw moments would cost digits.
    """
    axes = tuple(range(y.ndim - 1))
    count = y.size // y.shape[-1]
    mean = jnp.mean(y, axes, keepdims=True)
    if axis_name is not None:
        mean = lax.pmean(mean, axis_name)
        count *= lax.psum(1, axis_name)
    spread = jnp.mean(jnp.square(y - mean), axes)
    if axis_name is not None:
        spread = lax.pmean(spread, axis_name)
    # A single value, as one example gives a linear layer, has no variance: EPSILON is left.
    return mean.reshape(-1), spread * (count / max(count - 1, 1))
