"""Convolutions in plain NumPy with PyTorch's geometry, one tap of the kernel at a time, in the dtype of the input.

Images are [B, H, W, C], kernels [kh, kw, in, out].
"""

import numpy as np


def _taps(kernel_shape, size, stride):
    """Every tap, and the pixels of the larger image that it meets for the `size` pixels of the smaller one."""
    for a, b in np.ndindex(*kernel_shape[:2]):
        yield a, b, slice(a, a + size[0] * stride, stride), slice(b, b + size[1] * stride, stride)


def conv(x, kernel, stride=1, padding=0):
    x = np.pad(x, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    size = [(n - k) // stride + 1 for n, k in zip(x.shape[1:3], kernel.shape[:2], strict=True)]
    return sum(x[:, rows, columns] @ kernel[a, b] for a, b, rows, columns in _taps(kernel.shape, size, stride))


def conv_transpose(x, kernel, stride=1, padding=0):
    size = [(n - 1) * stride + k - 2 * padding for n, k in zip(x.shape[1:3], kernel.shape[:2], strict=True)]
    return _scattered(x, kernel, stride, padding, size)


def conv_gradients(x, kernel, grad, stride=1, padding=0):
    """Gradients of sum(grad · conv(x, kernel)) with respect to x and kernel."""
    return _scattered(grad, kernel.swapaxes(2, 3), stride, padding, x.shape[1:3]), _correlated(
        x, grad, kernel.shape, stride, padding
    )


def conv_transpose_gradients(x, kernel, grad, stride=1, padding=0):
    """Gradients of sum(grad · conv_transpose(x, kernel)) with respect to x and kernel."""
    swapped = kernel.swapaxes(2, 3)
    grad_kernel = _correlated(grad, x, swapped.shape, stride, padding).swapaxes(2, 3)
    return conv(grad, swapped, stride, padding), grad_kernel


def _scattered(x, kernel, stride, padding, size):
    reach = [
        max((n - 1) * stride + k, m + 2 * padding) for n, k, m in zip(x.shape[1:3], kernel.shape[:2], size, strict=True)
    ]
    y = np.zeros((len(x), *reach, kernel.shape[3]), x.dtype)
    for a, b, rows, columns in _taps(kernel.shape, x.shape[1:3], stride):
        y[:, rows, columns] += x @ kernel[a, b]
    return y[:, padding : padding + size[0], padding : padding + size[1]]


def _correlated(large, small, kernel_shape, stride, padding):
    large = np.pad(large, [(0, 0), (padding, padding), (padding, padding), (0, 0)])
    grad = np.zeros(kernel_shape, large.dtype)
    for a, b, rows, columns in _taps(kernel_shape, small.shape[1:3], stride):
        grad[a, b] = np.einsum("bijc,bijo->co", large[:, rows, columns], small)
    return grad
