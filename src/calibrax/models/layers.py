"""Convolutions and linear layers with PyTorch's geometry and, by default, its initialisation.

`flax.linen.ConvTranspose` has another padding and a flipped kernel, and Flax's convolutions are slow on CPUs: there the
functions of `calibrax.models.cpu_conv` run in their place, on accelerators XLA's own.

Shapes: images [B, H, W, C], kernels [kh, kw, in, out]. Padding is symmetric, in pixels.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

from calibrax.likelihoods import soft_clip
from calibrax.models import cpu_conv

LOG_VAR_BOUND = 20.0  # exp(20) is finite; within ±15 the soft clip moves nothing that float32 shows

Initializer = Callable[..., jax.Array]  # (key, shape), or (key, shape, dtype) for biases


def conv(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0) -> jax.Array:
    """A convolution (cross-correlation), equal to `torch.nn.functional.conv2d`.

    Args:
      x: [B, H, W, in].
      kernel: [kh, kw, in, out].
      stride: in both directions.
      padding: zeros on every side.

    Returns:
      [B, (H + 2·padding - kh) // stride + 1, ..., out].
    """
    if _on_cpu():
        return cpu_conv.conv(x, kernel, stride, padding)
    pads = [(padding, padding)] * 2
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=cpu_conv.IMAGE)


def conv_transpose(x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0) -> jax.Array:
    """A transposed convolution, equal to `torch.nn.functional.conv_transpose2d`.

    Input pixel i adds kernel[a] to output pixel stride·i + a - padding. Torch's weight [in, out, kh, kw] is this
    kernel with its axes moved; `flax.linen.ConvTranspose` has the same kernel flipped in both directions.

    Args:
      x: [B, H, W, in].
      kernel: [kh, kw, in, out].
      stride: in both directions.
      padding: cropped from every side of the result.

    Returns:
      [B, (H - 1)·stride + kh - 2·padding, ..., out].
    """
    if _on_cpu():
        return cpu_conv.conv_transpose(x, kernel, stride, padding)
    pads = [(k - 1 - padding, k - 1 - padding) for k in kernel.shape[:2]]
    flipped, dilation = jnp.flip(kernel, (0, 1)), (stride, stride)
    return lax.conv_general_dilated(x, flipped, (1, 1), pads, lhs_dilation=dilation, dimension_numbers=cpu_conv.IMAGE)


def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """y [B, H, W, C] plus bias [C]."""
    return cpu_conv.add_bias(y, bias) if _on_cpu() else y + bias.reshape(1, 1, 1, -1)


def moments(x: jax.Array, axes: Sequence[int], axis_name: str | None = None) -> tuple[jax.Array, jax.Array, int]:
    """Mean and biased variance over these axes of the global batch, and the number of values of each.

    The squares are taken about the mean, as a difference of raw moments would lose digits.
    """
    count = math.prod(x.shape[axis] for axis in axes)
    mean = jnp.mean(x, axes, keepdims=True)
    if axis_name is not None:
        mean, count = lax.pmean(mean, axis_name), count * lax.axis_size(axis_name)
    variance = jnp.mean(jnp.square(x - mean), axes)
    if axis_name is not None:
        variance = lax.pmean(variance, axis_name)
    return mean.reshape(variance.shape), variance, count


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def uniform_fan_in(fan_in: int) -> Initializer:
    """PyTorch's default for convolutions and linear layers, kernel and bias alike: uniform in ±1/sqrt(fan_in)."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


def normal_init(std: float) -> Initializer:
    """N(0, std²).

    The numbers are cut from a vector whose length is a power of two. XLA compiles a generator once per length, and a
    deep model has hundreds of parameters.
    """

    def init(key, shape):
        size = math.prod(shape)
        return std * jax.random.normal(key, (1 << (size - 1).bit_length(),), jnp.float32)[:size].reshape(shape)

    return init


def torch_init(fan_in: int) -> tuple[Initializer, Initializer]:
    """PyTorch's default initialisers of kernel and bias."""
    return uniform_fan_in(fan_in), uniform_fan_in(fan_in)


class Conv(nn.Module):
    """A convolution with PyTorch's geometry: `conv` or `conv_transpose` plus a bias.

    Attributes:
      features: output channels.
      kernel_size: height and width of the square kernel.
      stride: in both directions.
      padding: zeros on every side, or what a transposed convolution crops.
      transpose: whether the convolution is transposed.
      dtype: of the computation; None for that of the input. Parameters are float32.
      initializers: from the fan-in to the initialisers of kernel and bias; PyTorch's default without it.
    """

    features: int
    kernel_size: int
    stride: int = 1
    padding: int = 0
    transpose: bool = False
    dtype: Any = None
    initializers: Callable[[int], tuple[Initializer, Initializer]] = torch_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., H, W, in] -> [..., H', W', features]."""
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        # torch counts the second axis of its weight, which in a transposed convolution is the output.
        kernel_init, bias_init = self.initializers(
            self.kernel_size**2 * (self.features if self.transpose else x.shape[-1])
        )
        kernel = self.param("kernel", kernel_init, shape)
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        dtype = self.dtype or x.dtype
        form = conv_transpose if self.transpose else conv
        images = x.astype(dtype).reshape(-1, *x.shape[-3:])
        y = add_bias(form(images, kernel.astype(dtype), self.stride, self.padding), bias.astype(dtype))
        return y.reshape(*x.shape[:-3], *y.shape[1:])


class ConvTranspose(Conv):
    """A transposed convolution with PyTorch's geometry: `conv_transpose` plus a bias.

    Attributes:
      features, kernel_size, stride, padding, dtype, initializers: as in `Conv`.
    """

    transpose: bool = True


class Dense(nn.Module):
    """A linear layer.

    Attributes:
      features: outputs.
      dtype: of the computation; None for that of the input. Parameters are float32.
      initializers: as in `Conv`.
    """

    features: int
    dtype: Any = None
    initializers: Callable[[int], tuple[Initializer, Initializer]] = torch_init

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """[..., in] -> [..., features]."""
        kernel_init, bias_init = self.initializers(x.shape[-1])
        kernel = self.param("kernel", kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", bias_init, (self.features,), jnp.float32)
        dtype = self.dtype or x.dtype
        return x.astype(dtype) @ kernel.astype(dtype) + bias.astype(dtype).reshape((1,) * (x.ndim - 1) + (-1,))


def bounded(log_var: jax.Array) -> jax.Array:
    """A network's log variance, bounded softly at ±20, so that every KL stays finite."""
    return soft_clip(log_var, -LOG_VAR_BOUND, LOG_VAR_BOUND)
