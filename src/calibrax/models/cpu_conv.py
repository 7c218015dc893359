"""Convolutions that XLA's CPU backend runs well, in values and gradients.

XLA's CPU backend is fast at forward convolutions of images in the order [B, H, W, C]. Its own gradients of strided and
transposed convolutions are many times slower: with `flax.linen.Conv` and `flax.linen.ConvTranspose`, which use them, a
training step of `ConvVAE` takes 19 times as long. Here every convolution and gradient is made of fast convolutions:

- A transposed convolution, which is also the gradient of a convolution with respect to its input, becomes stride-1
  convolutions to the phases of its output (`_by_phases`).
- A kernel gradient becomes a correlation whose window is the smaller image, dilated (`_kernel_gradient`).
- A convolution of few channels computes a block of output pixels at once (`_in_blocks`).
- The gradients of a transposed convolution to many channels are matrix products (`_gradients_by_windows`).

`calibrax.models.layers` chooses between these functions and XLA's own. The two are equal up to rounding. Timings of
each step, and what was tried without success, are in benchmarks/README.md.

Shapes: images [B, H, W, C], kernels [kh, kw, in, out]. Padding is symmetric, in pixels.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax

FEW_CHANNELS = 4  # up to this many inputs or outputs, blocks of output pixels are faster than a plain convolution
MANY_CHANNELS = 128  # from so many outputs on, matrix products are faster than convolutions of the output's gradient
IMAGE = ("NHWC", "HWIO", "NHWC")


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """The same function as `layers.conv`."""
    return _forward(x, kernel, stride, padding)


def _conv_forward(x, kernel, stride, padding):
    x = _computed_once(x)
    return _forward(x, kernel, stride, padding), (x, kernel)


def _conv_backward(stride, padding, saved, grad):
    x, kernel = saved
    grad = _computed_once(grad)
    grad_x = _by_phases(grad, kernel.swapaxes(2, 3), stride, padding, x.shape[1:3])
    return grad_x, _kernel_gradient(x, grad, stride, padding, kernel.shape[:2])


conv.defvjp(_conv_forward, _conv_backward)


@functools.partial(jax.custom_vjp, nondiff_argnums=(2, 3))
def conv_transpose(x: jax.Array, kernel: jax.Array, stride: int, padding: int) -> jax.Array:
    """The same function as `layers.conv_transpose`."""
    size = tuple((n - 1) * stride + k - 2 * padding for n, k in zip(x.shape[1:3], kernel.shape[:2], strict=True))
    return _by_phases(x, kernel, stride, padding, size)


def _conv_transpose_forward(x, kernel, stride, padding):
    x = _computed_once(x)
    return conv_transpose(x, kernel, stride, padding), (x, kernel)


def _conv_transpose_backward(stride, padding, saved, grad):
    x, kernel = saved
    if stride == 1 and grad.shape[3] >= MANY_CHANNELS:
        return _gradients_by_windows(x, kernel, padding, grad)
    grad = _computed_once(grad)
    grad_x = _forward(grad, kernel.swapaxes(2, 3), stride, padding)
    # The output gradient is the larger image here, and the kernel's channels come out exchanged.
    return grad_x, _kernel_gradient(grad, x, stride, padding, kernel.shape[:2]).swapaxes(2, 3)


conv_transpose.defvjp(_conv_transpose_forward, _conv_transpose_backward)


def _computed_once(x):
    """Makes XLA store an activation.

    Without the barrier XLA fuses the activation function into each of the transpositions that read its result, and
    computes it again, element by element, in every one.
    """
    return lax.optimization_barrier(x)


def _forward(x, kernel, stride, padding):
    """The convolution itself; with few input channels, in pairs of output pixels."""
    if stride == 1 and x.shape[3] <= FEW_CHANNELS:
        return _in_blocks(x, kernel, [(padding, padding)] * 2, (1, 2))
    return lax.conv_general_dilated(x, kernel, (stride, stride), [(padding, padding)] * 2, dimension_numbers=IMAGE)


def _by_phases(x, kernel, stride, padding, size):
    """A transposed convolution, cropped or extended to `size`, as stride-1 convolutions to the phases of its output.

    XLA's own form puts zeros between the input pixels, and then multiplies by most of them. Phase r of the output is
    its pixels stride·m + r. Without padding these meet the taps stride·t + r alone, each at input pixel m - t, which
    is a stride-1 convolution without zeros. Padding moves m by padding // stride; the remainder is cropped. If every
    phase has equally many taps, all phases are channels of one convolution, otherwise each phase has its own.
    """
    moved, crop = divmod(padding, stride)
    rounded = tuple(-(-(n + crop) // stride) for n in size)
    kh, kw, channels, out = kernel.shape
    if kh % stride == kw % stride == 0:
        taps = kernel.reshape(kh // stride, stride, kw // stride, stride, channels, out).transpose(0, 2, 4, 1, 3, 5)
        y = _phase(x, taps.reshape(kh // stride, kw // stride, channels, stride * stride * out), moved, rounded)
        interleaved = y.reshape(*y.shape[:3], stride, stride, out).swapaxes(2, 3)
    else:
        phases = [
            [_phase(x, kernel[row::stride, column::stride], moved, rounded) for column in range(stride)]
            for row in range(stride)
        ]
        rows = [jnp.stack(columns, axis=3) for columns in phases]  # [B, m, m, stride, C] each
        interleaved = jnp.stack(rows, axis=2)
    # [B, m, stride, m, stride, C]
    full = interleaved.reshape(x.shape[0], rounded[0] * stride, rounded[1] * stride, out)
    return full[:, crop : crop + size[0], crop : crop + size[1]]


def _phase(x, taps, moved, size):
    """[B, *size, C]: output pixel m meets tap t at input pixel m + moved - t."""
    if 0 in taps.shape:  # a kernel smaller than the stride leaves phases without a tap
        return jnp.zeros((x.shape[0], *size, taps.shape[3]), x.dtype)
    pads = []
    for n, k, m in zip(x.shape[1:3], taps.shape[:2], size, strict=True):
        low = k - 1 - moved
        pads.append((low, m + k - 1 - low - n))
    block = (4, 4) if taps.shape[3] <= FEW_CHANNELS else (1, 1)
    return _in_blocks(x, jnp.flip(taps, (0, 1)), pads, block)


def _in_blocks(x, kernel, pads, block):
    """A stride-1 convolution that computes a block of output pixels, (rows, columns), as the channels of one window.

    With few channels, XLA spends its time on gathering windows, not on arithmetic. A block shares one window of
    (k + block - 1)² taps. That is more arithmetic, much of it with zeros, and still takes less time: 13 ms instead of
    34 for the last layer of `ConvVAE`.
    """
    kh, kw, channels, out = kernel.shape
    rows, columns = block
    size = [n + sum(pad) - k + 1 for n, pad, k in zip(x.shape[1:3], pads, (kh, kw), strict=True)]
    # One copy of the kernel per pixel of the block, moved to the taps that this pixel meets.
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
    """The sum over examples and pixels i of large[stride·i + a - padding] small[i]: [kh, kw, channels, channels]."""
    pads = [
        (padding, (n - 1) * stride + k - m - padding)
        for m, n, k in zip(large.shape[1:3], small.shape[1:3], size, strict=True)
    ]
    # The batch takes the place of the channels, and the reverse. Dimension numbers could say so without a transpose,
    # but in the body of a loop XLA does not bring other orders into its fast one: the step took 35 times as long.
    y = lax.conv_general_dilated(
        large.transpose(3, 1, 2, 0),
        small.transpose(1, 2, 0, 3),
        (1, 1),
        pads,
        rhs_dilation=(stride, stride),
        dimension_numbers=IMAGE,
    )
    return y.transpose(1, 2, 0, 3)


def _gradients_by_windows(x, kernel, padding, grad):
    """The gradients of a transposed convolution of stride 1, image by image, as products with windows of the input.

    With more output than input channels, the gradient of the output is the largest array by far: with 256 levels for
    each of three channels, 308 MB per batch. Here it is read once, in the order in which it was computed.
    """
    kh, kw, _, out = kernel.shape
    pads = [(kh - 1 - padding,) * 2 + (0,), (kw - 1 - padding,) * 2 + (0,), (0, 0, 0)]
    weights = jnp.flip(kernel, (0, 1)).reshape(-1, out)  # in the order of the windows

    def windows(image):
        """[H W, kh kw channels]: what each output pixel sees."""
        padded = lax.pad(image, jnp.zeros((), image.dtype), pads)
        height, width = grad.shape[1:3]
        taps = [padded[i : i + height, j : j + width] for i in range(kh) for j in range(kw)]
        return jnp.concatenate(taps, axis=2).reshape(height * width, -1)

    def one_image(total, pair):
        image, image_grad = pair
        seen, to_image = jax.vjp(windows, image)
        flat = image_grad.reshape(-1, out)
        product = jnp.matmul(seen.T, flat, preferred_element_type=total.dtype)
        return total + product, to_image(flat @ weights.T)[0]

    # Of the gradient's kind, so that under `shard_map` the sum differs between devices from the start.
    zeros = jnp.zeros_like(grad, np.promote_types(weights.dtype, np.float32), weights.shape)
    total, grad_x = lax.scan(one_image, zeros, (x, grad))
    return grad_x, jnp.flip(total.reshape(kernel.shape), (0, 1)).astype(kernel.dtype)


@jax.custom_vjp
def add_bias(y: jax.Array, bias: jax.Array) -> jax.Array:
    """The same function as `layers.add_bias`."""
    return y + bias.reshape(1, 1, 1, -1)


def _add_bias_backward(_, grad):
    flat = grad.reshape(-1, grad.shape[3])
    return grad, jnp.ones(len(flat), grad.dtype) @ flat  # a matrix product: XLA's own sum takes ten times as long


add_bias.defvjp(lambda y, bias: (add_bias(y, bias), None), _add_bias_backward)
