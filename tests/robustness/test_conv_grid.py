"""Convolutions, as they run on CPUs and natively, equal Flax's on a grid of kernels, strides, paddings and channels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

from calibrax.models import conv, conv_transpose, layers

# kernel, stride, padding, input channels, output channels, height, width
CASES = [
    (3, 1, 1, 3, 8, 7, 6),
    (4, 2, 1, 8, 6, 8, 10),
    (4, 2, 1, 8, 6, 9, 7),
    (5, 2, 2, 6, 32, 14, 11),
    (5, 1, 2, 32, 3, 6, 7),
    (6, 2, 2, 16, 8, 7, 5),
    (6, 2, 0, 1, 8, 9, 8),
    (3, 3, 0, 5, 1, 9, 10),
    (2, 3, 0, 5, 6, 8, 7),
    (1, 1, 0, 4, 4, 3, 3),
    (7, 4, 3, 2, 5, 13, 12),
]


def flax_conv(case):
    kernel, stride, padding, _, features, _, _ = case
    module = nn.Conv(features, (kernel, kernel), (stride, stride), [(padding, padding)] * 2, use_bias=False)
    return lambda x, weight: module.apply({"params": {"kernel": weight}}, x)


def flax_conv_transpose(case):
    kernel, stride, padding, _, features, _, _ = case
    pad = kernel - 1 - padding
    module = nn.ConvTranspose(features, (kernel, kernel), (stride, stride), [(pad, pad)] * 2, use_bias=False)
    return lambda x, weight: module.apply({"params": {"kernel": jnp.flip(weight, (0, 1))}}, x)


def value_and_gradients(form, x, weight):
    @jax.jit
    def run(x, weight):
        y, gradients = jax.vjp(form, x, weight)
        return y, *gradients(jnp.sin(jnp.arange(y.size, dtype=y.dtype).reshape(y.shape)))

    return run(x, weight)


@pytest.mark.parametrize("case", CASES)
@pytest.mark.parametrize(("form", "flax_form"), [(conv, flax_conv), (conv_transpose, flax_conv_transpose)])
def test_equal_to_flax_in_values_and_gradients(case, form, flax_form, monkeypatch):
    kernel, stride, padding, channels, features, height, width = case
    rng = np.random.default_rng(0)
    x = rng.normal(size=(4, height, width, channels)).astype(np.float32)
    weight = rng.normal(size=(kernel, kernel, channels, features)).astype(np.float32) / (kernel * channels**0.5)
    theirs = value_and_gradients(flax_form(case), x, weight.astype(np.float32))
    for on_cpu in (True, False):
        monkeypatch.setattr(layers, "_on_cpu", lambda value=on_cpu: value)
        ours = value_and_gradients(lambda x, w: form(x, w, stride, padding), x, weight.astype(np.float32))
        for one, other in zip(ours, theirs, strict=True):
            assert one.shape == other.shape
            np.testing.assert_allclose(one, other, atol=1e-5 * float(jnp.max(jnp.abs(other))))
