"""Convolutions with PyTorch's geometry and initialisation that are fast on CPUs as well as on accelerators.

XLA's CPU gradients of strided and transposed convolutions run many times slower than its forward ones. Here, on a CPU,
every one of them is made of stride-1 and forward convolutions: a transposed convolution as small convolutions to the
phases of its output, a kernel gradient as a correlation with the smaller image as a dilated window. On
accelerators the native operations run. Values and gradients are equal to rounding.

Shapes: images NHWC, kernels [kh, kw, in, out]. Padding is symmetric, in pixels.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from flax import linen as nn
from jax import lax

FEW_CHANNELS = 4  # outputs or inputs, up to which blocks of output pixels beat a plain convolution
IMAGE = ("NHWC", "HWIO", "NHWC")


def conv(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0, *, native: bool | None = None
) -> jax.Array:
    """A convolution (cross-correlation), equal to `torch.nn.functional.conv2d`.

    Args:
      x: [B, H, W, in].
      kernel: [kh, kw, in, out].
      stride: in both directions.
      padding: zeros on every side.
      native: True for XLA's own gradients, False for those built for CPUs; by default by the platform.

    Returns:
      [B, (H + 2·padding - kh) // stride + 1, ..., out].
    """
    return (_native_conv if _use_native(native) else _conv)(x, kernel, stride, padding)


def conv_transpose(
    x: jax.Array, kernel: jax.Array, stride: int = 1, padding: int = 0, *, native: bool | None = None
) -> jax.Array:
    """A transposed convolution, equal to `torch.nn.functional.conv_transpose2d`.

    Input pixel i adds kernel[a] to output pixel stride·i + a - padding. Torch's weight [in, out, kh, kw] is this
    kernel with its axes moved; `flax.linen.ConvTranspose` has the same kernel flipped in both directions.

    Args:
      x: [B, H, W, in].
      kernel: [kh, kw, in, out].
      stride: in both directions.
      padding: cropped from every side of the result.
      native: as in `conv`.

    Returns:
      [B, (H - 1)·stride + kh - 2·padding, ..., out].
    """
    size = tuple((n - 1) * stride + k - 2 * padding for n, k in zip(x.shape[1:3], kernel.shape[:2], strict=True))
    form = _native_conv_transpose if _use_native(native) else _conv_transpose
    return form(x, kernel, stride, padding, size)


def _use_native(native: bool | None) -> bool:
    return jax.default_backend() != "cpu" if native is None else native


def _native_conv(x, kernel, stride, padding):
    return lax.conv_general_dilated(x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=IMAGE)


def _native_conv_transpose(x, kernel, stride, padding, size):
    pads = []
    for n, k, out in zip(x.shape[1:3], kernel.shape[:2], size, strict=True):
        low = k - 1 - padding
        pads.append((low, out + k - 1 - low - ((n - 1) * stride + 1)))
    return lax.conv_general_dilated(
        x, jnp.flip(kernel, (0, 1)), (1, 1), pads, lhs_dilation=(stride, stride), dimension_numbers=IMAGE
    )


def _computed_once(x):
    """Keeps XLA from computing an activation anew, element by element, in each of the transpositions that read it."""
    return lax.optimization_barrier(x)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def _conv(x, kernel, stride, padding):
    return _forward(x, kernel, stride, padding)


def _conv_forward(x, kernel, stride, padding):
    x = _computed_once(x)
    return _forward(x, kernel, stride, padding), (x, kernel)


def _conv_backward(stride, padding, saved, grad):
    x, kernel = saved
    grad = _computed_once(grad)
    grad_x = _by_phases(grad, kernel.swapaxes(2, 3), stride, padding, x.shape[1:3])
    return grad_x, _kernel_gradient(x, grad, stride, padding, kernel.shape[:2])


_conv.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3, 4))
def _conv_transpose(x, kernel, stride, padding, size):
    return _by_phases(x, kernel, stride, padding, size)


def _conv_transpose_forward(x, kernel, stride, padding, size):
    x = _computed_once(x)
    return _by_phases(x, kernel, stride, padding, size), (x, kernel)


def _conv_transpose_backward(stride, padding, size, saved, grad):
    del size
    x, kernel = saved
    grad = _computed_once(grad)
    grad_x = _forward(grad, kernel.swapaxes(2, 3), stride, padding)
    return grad_x, _kernel_gradient(grad, x, stride, padding, kernel.shape[:2]).swapaxes(2, 3)


_conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)


def _forward(x, kernel, stride, padding):
    """The convolution itself; of few channels, in pairs of output pixels."""
    if stride == 1 and x.shape[3] <= FEW_CHANNELS:
        return _in_blocks(x, kernel, [(padding, padding)] * 2, (1, 2))
    return _native_conv(x, kernel, stride, padding)


def _by_phases(x, kernel, stride, padding, size):
    """A transposed convolution, cropped or extended to `size`, as stride-1 convolutions to the phases of its output.

    Without padding, output pixel stride·m + r meets the taps stride·t + r, each at input pixel m - t. The padding moves
    m as far as the stride divides it; the rest is cropped. Where all phases r have as many taps, they are channels of
    one convolution, otherwise each has its own.
    """
    moved, crop = divmod(padding, stride)
    rounded = tuple(-(-(n + crop) // stride) for n in size)
    if all(k % stride == 0 for k in kernel.shape[:2]):
        y = _phase(x, _phases_as_channels(kernel, stride), moved, rounded)
        interleaved = y.reshape(*y.shape[:3], stride, stride, kernel.shape[3]).swapaxes(2, 3)
    else:
        phases = [
            [_phase(x, kernel[row::stride, column::stride], moved, rounded) for column in range(stride)]
            for row in range(stride)
        ]
        rows = [jnp.stack(columns, axis=3) for columns in phases]  # [B, m, m, stride, C] each
        interleaved = jnp.stack(rows, axis=2)
    # [B, m, stride, m, stride, C]
    full = interleaved.reshape(x.shape[0], rounded[0] * stride, rounded[1] * stride, kernel.shape[3])
    return full[:, crop : crop + size[0], crop : crop + size[1]]


def _phases_as_channels(kernel, stride):
    """[kh, kw, in, out] -> [kh / stride, kw / stride, in, stride · stride · out], the taps of a phase together."""
    kh, kw, channels, out = kernel.shape
    split = kernel.reshape(kh // stride, stride, kw // stride, stride, channels, out)
    return split.transpose(0, 2, 4, 1, 3, 5).reshape(kh // stride, kw // stride, channels, stride * stride * out)


def _phase(x, taps, moved, size):
    """Output pixel m, of `size`, meets tap t at input pixel m + moved - t: [B, *size, C]."""
    if 0 in taps.shape:  # a kernel smaller than the stride leaves phases without a tap
        return jnp.zeros((x.shape[0], *size, taps.shape[3]), x.dtype)
    pads = []
    for n, k, m in zip(x.shape[1:3], taps.shape[:2], size, strict=True):
        low = k - 1 - moved
        pads.append((low, m + k - 1 - low - n))
    block = (4, 4) if taps.shape[3] <= FEW_CHANNELS else (1, 1)
    return _in_blocks(x, jnp.flip(taps, (0, 1)), pads, block)


def _in_blocks(x, kernel, pads, block):
    """A stride-1 convolution; a block of output pixels, (rows, columns), as channels of one window.

    It does block times as many outputs for each of (k + block - 1)² taps: more arithmetic, much of it with zeros, but
    less time where gathering the windows is what takes it, as with few channels.
    """
    kh, kw, channels, out = kernel.shape
    rows, columns = block
    size = [n + sum(pad) - k + 1 for n, pad, k in zip(x.shape[1:3], pads, (kh, kw), strict=True)]
    shifts = [
        jnp.pad(kernel, ((i, rows - 1 - i), (j, columns - 1 - j), (0, 0), (0, 0)))
        for i in range(rows)
        for j in range(columns)
    ]
    blocks = jnp.stack(shifts, axis=3).reshape(kh + rows - 1, kw + columns - 1, channels, rows * columns * out)
    pads = [(low, high + -n % m) for (low, high), n, m in zip(pads, size, block, strict=True)]
    y = lax.conv_general_dilated(x, blocks, block, pads, dimension_numbers=IMAGE)
    spread = y.reshape(*y.shape[:3], rows, columns, out).swapaxes(2, 3)
    return spread.reshape(len(x), rows * y.shape[1], columns * y.shape[2], out)[:, : size[0], : size[1]]


def _kernel_gradient(large, small, stride, padding, size):
    """sum over examples and pixels i of large[stride·i + a - padding] small[i]: [kh, kw, channels, channels]."""
    pads = [
        (padding, (n - 1) * stride + k - m - padding)
        for m, n, k in zip(large.shape[1:3], small.shape[1:3], size, strict=True)
    ]
    # Transposed here and not by dimension numbers, which XLA does not bring into its fast order in the body of a loop.
    y = lax.conv_general_dilated(
        large.transpose(3, 1, 2, 0),
        small.transpose(1, 2, 0, 3),
        (1, 1),
        pads,
        rhs_dilation=(stride, stride),
        dimension_numbers=IMAGE,
    )
    return y.transpose(1, 2, 0, 3)


def add_bias(y: jax.Array, bias: jax.Array, *, native: bool | None = None) -> jax.Array:
    """y + bias over the last axis, [B, H, W, C] and [C]; on a CPU with a gradient that XLA sums faster.

    Args:
      y: [B, H, W, C].
      bias: [C].
      native: as in `conv`.
    """
    return _plus(y, bias) if _use_native(native) else _add_bias(y, bias)


def _plus(y, bias):
    return y + bias.reshape(1, 1, 1, -1)


_add_bias = jax.custom_vjp(_plus)


def _add_bias_backward(_, grad):
    flat = grad.reshape(-1, grad.shape[3])
    return grad, jnp.ones(len(flat), grad.dtype) @ flat  # a matrix product: XLA's own sum takes ten times as long


_add_bias.defvjp(lambda y, bias: (_plus(y, bias), None), _add_bias_backward)


def uniform_fan_in(fan_in: int) -> Callable[..., jax.Array]:
    """PyTorch's default for convolutions and linear layers: uniform in ±1/sqrt(fan_in), kernel and bias alike."""
    bound = fan_in**-0.5

    def init(key, shape, dtype=jnp.float32):
        return jax.random.uniform(key, shape, dtype, -bound, bound)

    return init


class Conv(nn.Module):
    """A convolution with PyTorch's geometry and default initialisation: `conv` plus a bias.

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
    def __call__(self, x):
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        # torch counts the second axis of its weight, which in a transposed convolution is the output.
        fan_in = self.kernel_size**2 * (self.features if self.transpose else x.shape[-1])
        kernel = self.param("kernel", uniform_fan_in(fan_in), shape)
        bias = self.param("bias", uniform_fan_in(fan_in), (self.features,))
        dtype = self.dtype or x.dtype
        form = conv_transpose if self.transpose else conv
        y = form(x.astype(dtype), kernel.astype(dtype), self.stride, self.padding)
        return add_bias(y, bias.astype(dtype))


class ConvTranspose(Conv):
    """A transposed convolution with PyTorch's geometry and default initialisation: `conv_transpose` plus a bias."""

    transpose: bool = True


class Dense(nn.Module):
    """A linear layer with PyTorch's default initialisation.

    Attributes:
      features: outputs.
      dtype: of the computation; None for that of the input. Parameters are float32.
    """

    features: int
    dtype: Any = None

    @nn.compact
    def __call__(self, x):
        init = uniform_fan_in(x.shape[-1])
        kernel = self.param("kernel", init, (x.shape[-1], self.features))
        bias = self.param("bias", init, (self.features,))
        dtype = self.dtype or x.dtype
        return x.astype(dtype) @ kernel.astype(dtype) + bias.astype(dtype).reshape((1,) * (x.ndim - 1) + (-1,))
