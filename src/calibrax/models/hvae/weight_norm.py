"""Weight-normalised layers whose gain and bias come from the first batch, which `flax.linen.WeightNorm` cannot do.

A layer's weight is g·v/‖v‖, with one norm per output channel. `init` draws v from N(0, 0.05²), runs the layer on its
batch with g = 1 and b = 0, and then sets g and b so that every channel of the output has mean 0 and standard deviation
0.01 over that batch. The layers of a model initialise in the order of their calls, each on the outputs of the
initialised layers before it: call `init` with a real training batch. Under `pmap` that is the global batch if the layer
has `axis_name`; under `jit` on sharded arrays it is the global batch in any case.

References:
  Salimans and Kingma 2016, section 3; constants from vlievin/biva-pytorch (ba37aca), `biva/layers/convolution.py`.
"""

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.models.layers import conv, conv_transpose, moments, normal_init

DIRECTION_STD = 0.05
OUTPUT_STD = 0.01
EPSILON = 1e-8  # added to the variance


class WeightNormConv(nn.Module):
    """A weight-normalised convolution with "SAME" padding, or its transpose.

    A stride divides height and width and rounds up; a transposed layer multiplies them by the stride. The larger part
    of an odd padding goes to the bottom and the right: a 16×16 kernel pads 7 before and 8 after.

    Attributes:
      features: output channels.
      kernel_size: height and width of the square kernel.
      stride: in both directions.
      transpose: transposed, so that input pixel i adds kernel[a] to output pixel stride·i + a - crop.
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
        """The convolution before bias and crop: the first batch's statistics include the border that is cropped."""
        kernel = kernel.astype(x.dtype)
        if self.transpose:
            return conv_transpose(x, kernel, self.stride)
        total = [max((-(-n // self.stride) - 1) * self.stride + self.kernel_size - n, 0) for n in x.shape[1:3]]
        symmetric = min(total) // 2
        rest = [(n // 2 - symmetric, n - n // 2 - symmetric) for n in total]
        return conv(jnp.pad(x, [(0, 0), *rest, (0, 0)]), kernel, self.stride, symmetric)


class WeightNormDense(nn.Module):
    """A weight-normalised linear layer; the attributes are as in `WeightNormConv`."""

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
    """The parameters g and b [features]; `first` is the output with g = 1 and b = 0 during `init`, else None."""
    g = b = jnp.zeros(layer.features)  # once the parameters exist, Flax only compares shapes with these
    if first is not None:
        mean, variance, count = moments(first.astype(jnp.float32), tuple(range(first.ndim - 1)), layer.axis_name)
        # The unbiased variance. That of a single value, such as a linear layer's for one example, is 0.
        g = OUTPUT_STD / jnp.sqrt(variance * (count / max(count - 1, 1)) + EPSILON)
        b = -mean * g
    return layer.param("g", lambda _: g), layer.param("b", lambda _: b)
