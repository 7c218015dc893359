"""Layers of SVG: weights from N(0, 0.02²) and zero biases, as `utils.init_weights` of edenton/svg draws them."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn

from calibrax.models.hvae.noise import normal_init
from calibrax.models.layers import conv, conv_transpose
from calibrax.models.svg.batch_norm import BatchNorm

WEIGHT_STD = 0.02


def leaky_relu(x: jax.Array) -> jax.Array:
    """x, or 0.2·x where negative."""
    return nn.leaky_relu(x, 0.2)


class Conv(nn.Module):
    """A convolution or a transposed one: `calibrax.models.layers.conv` or `conv_transpose`, plus a bias.

    Attributes:
      features: output channels.
      kernel_size: height and width of the square kernel.
      stride: in both directions.
      padding: zeros on every side, or what a transposed convolution crops.
      transpose: a transposed convolution.
      dtype: of the computation; None for that of the input. Parameters are float32.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    transpose: bool = False
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., H, W, in] -> [..., H', W', features]."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", normal_init(WEIGHT_STD), shape)
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        dtype = self.dtype or x.dtype
        form = conv_transpose if self.transpose else conv
        images = x.astype(dtype).reshape(-1, *x.shape[-3:])
        y = form(images, kernel.astype(dtype), self.stride, self.padding) + bias.astype(dtype).reshape(1, 1, 1, -1)
        return y.reshape(*x.shape[:-3], *y.shape[1:])


class Dense(nn.Module):
    """A linear layer.

    Attributes:
      features: outputs.
      dtype: of the computation; None for that of the input. Parameters are float32.
    """

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[B, in] -> [B, features]."""
        kernel = self.param("kernel", normal_init(WEIGHT_STD), (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,), jnp.float32)
        dtype = self.dtype or x.dtype
        return x.astype(dtype) @ kernel.astype(dtype) + bias.astype(dtype).reshape(1, -1)


class ConvBlock(nn.Module):
    """A convolution, batch normalisation, an activation.

    Attributes:
      features, kernel_size, stride, padding, transpose, dtype: as in `Conv`.
      activation: the last function.
      axis_name: as in `BatchNorm`.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    transpose: bool = False
    activation: Callable[[jax.Array], jax.Array] = leaky_relu
    dtype: Any = None
    axis_name: str | None = None

    @nn.compact
    def __call__(self, x: jax.Array, running: bool = False) -> jax.Array:
        """[B, H, W, in] -> [B, H', W', features], or both with time before; `running` as in `BatchNorm`."""
        conv_layer = Conv(
            self.features, self.kernel_size, self.stride, self.padding, self.transpose, self.dtype, name="conv"
        )
        return self.activation(BatchNorm(self.axis_name, name="norm")(conv_layer(x), running))


def max_pool(x: jax.Array) -> jax.Array:
    """The largest of every 2×2 pixels; [..., H, W, C] -> [..., H/2, W/2, C]."""
    *lead, height, width, channels = x.shape
    return jnp.max(x.reshape(*lead, height // 2, 2, width // 2, 2, channels), axis=(-4, -2))


def upsample(x: jax.Array) -> jax.Array:
    """Every pixel twice in both directions; [..., H, W, C] -> [..., 2H, 2W, C]."""
    *lead, height, width, channels = x.shape
    wide = jnp.broadcast_to(x[..., :, None, :, None, :], (*lead, height, 2, width, 2, channels))
    return wide.reshape(*lead, 2 * height, 2 * width, channels)
